"""The prey of simple_tag and simple_world: a fixed network that belongs to the task.

Reads our own bundled file, OMAR's published `.pt`, or the same arrays as `.npz`. Training a prey is
`behaviours/prey_training.py`. Scores are relative to the prey, so a file of ours says its version
and its strength: what scripted chasers score against it.
"""

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dom2_fast.errors import BROKEN_ARRAYS, Dom2Error

ASSETS = Path(__file__).resolve().parents[2] / "assets"
_KEYS = (
    "in_fn.weight",
    "in_fn.bias",
    "in_fn.running_mean",
    "in_fn.running_var",
    "fc1.weight",
    "fc1.bias",
    "fc2.weight",
    "fc2.bias",
    "fc3.weight",
    "fc3.bias",
)
_OWN = ("version", "strength", "force")  # what our own files hold besides
CHASERS = ("uniform", "greedy", "lead")  # who measures a prey: see behaviours/prey_strength.py
_BN_EPS = 1e-5  # torch.nn.BatchNorm1d's, which OMAR uses


class PreyPolicy:
    """BatchNorm (as in evaluation) -> 64 ReLU -> 64 ReLU -> 2 tanh: OMAR's actor.

    Our own files limit the force: their prey acts with that share of what it could.

    Attributes:
        name: what a table calls it: "bundled v2", or the path it was read from.
        strength: mean score of the predators against it by chaser (`CHASERS`); None where the file
            doesn't say.
    """

    name = ""
    strength: dict[str, float] | None = None

    def __init__(self, arrays: dict[str, np.ndarray], dtype: torch.dtype, device="cpu"):
        w = {k: torch.as_tensor(arrays[k], dtype=dtype, device=device) for k in _KEYS}
        scale = w["in_fn.weight"] / (w["in_fn.running_var"] + _BN_EPS).sqrt()
        shift = w["in_fn.bias"] - w["in_fn.running_mean"] * scale
        # The normalisation is linear in evaluation, so it folds into the first layer.
        self._force = float(arrays.get("force", 1.0))
        self._layers = [
            (w["fc1.weight"] * scale, w["fc1.bias"] + w["fc1.weight"] @ shift),
            (w["fc2.weight"], w["fc2.bias"]),
            (w["fc3.weight"], w["fc3.bias"]),
        ]

    def __call__(self, obs: Tensor) -> Tensor:
        """Actions [E, 2] in [-1, 1] for the prey's observations [E, obs]."""
        (w1, b1), (w2, b2), (w3, b3) = self._layers
        hidden = torch.addmm(b2, torch.addmm(b1, obs, w1.T).relu(), w2.T).relu()
        act = torch.addmm(b3, hidden, w3.T).tanh()
        return act if self._force == 1 else self._force * act

    @classmethod
    def open(cls, spec, prey: str | Path, dtype: torch.dtype, device) -> "PreyPolicy | None":
        """The prey of a task: None where the task has none or the caller drives it.

        `prey` is "bundled", "external", or the path of a `.pt` file as OMAR published it or of an
        `.npz` with the same arrays. `Dom2Error` says what is wrong with a file.
        """
        if str(prey) == "external" or (not spec.prey and str(prey) == "bundled"):
            return None
        if not spec.prey:
            raise Dom2Error(f"{spec.name} has no prey, so it can't use prey={str(prey)!r}")
        bundled = str(prey) == "bundled"
        path = ASSETS / f"prey_{spec.name}.npz" if bundled else Path(prey)
        if not path.is_file():
            raise Dom2Error(
                f"no prey file at {path}; prey is 'bundled', 'external' (drive it yourself), or "
                "the path of a .pt file as OMAR published it or of an .npz with the same arrays"
            )
        arrays = _read_pt(path) if path.suffix == ".pt" else _read_npz(path)
        _check(arrays, path, spec.name, 4 + 2 * (spec.landmarks + 3) + _forests(spec))
        made = cls(arrays, dtype, device)
        made.name = str(prey)
        if "version" in arrays:
            made.name += f" v{int(arrays['version'])}"
            made.strength = {
                chaser: round(float(score), 1)
                for chaser, score in zip(CHASERS, arrays["strength"], strict=True)
            }
        return made

    def about(self) -> dict:
        """What a table of scores has to say about the prey: `prey` and, if known, its strength."""
        known = {} if self.strength is None else {"prey_strength": self.strength}
        return {"prey": self.name, **known}


def signed(
    arrays: dict[str, np.ndarray], version: int, scores: list[float], force: float
) -> dict[str, np.ndarray]:
    """A prey's arrays with its version, its strength (scores as in `CHASERS`) and its force."""
    values = np.int64(version), np.array(scores, np.float32), np.float32(force)
    return arrays | dict(zip(_OWN, values, strict=True))


def _forests(spec) -> int:
    return sum(kind == "forest" for kind in spec.kinds)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (*BROKEN_ARRAYS, AttributeError) as error:
        raise Dom2Error(f"{path} can't be read as a prey .npz: {error}") from None


def _read_pt(path: Path) -> dict[str, np.ndarray]:
    try:
        # Weights only: a published file is somebody else's pickle, so it must not run code.
        content = torch.load(path, map_location="cpu", weights_only=True)
        policy = content["agent_params"][-1]["policy"]
        return {key: np.asarray(value) for key, value in policy.items()}
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise Dom2Error(f"{path} can't be read as OMAR's prey .pt: {reason}") from None
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Dom2Error(
            f"{path} holds no agent_params[-1]['policy'], where OMAR's files keep the prey"
        ) from None


def _check(arrays: dict[str, np.ndarray], path: Path, task: str, obs_dim: int) -> None:
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise Dom2Error(f"{path} lacks {', '.join(missing)}; a prey has {', '.join(_KEYS)}")
    own = [key for key in _OWN if key in arrays]
    if own and len(own) < len(_OWN):
        lacks = ", ".join(key for key in _OWN if key not in own)
        raise Dom2Error(f"{path} has {', '.join(own)} but lacks {lacks}: give all of them or none")
    if own and (arrays["strength"].shape != (len(CHASERS),) or not 0 < float(arrays["force"]) <= 1):
        raise Dom2Error(
            f"{path}: strength is a score for each of {', '.join(CHASERS)} and force is above 0 "
            f"and at most 1, got shape {arrays['strength'].shape} and {arrays['force']}"
        )
    shape = {key: arrays[key].shape for key in _KEYS}
    hidden = shape["fc1.bias"][0] if len(shape["fc1.bias"]) == 1 else 0
    expected = dict.fromkeys(_KEYS[:4], (obs_dim,)) | {
        "fc1.weight": (hidden, obs_dim),
        "fc1.bias": (hidden,),
        "fc2.weight": (hidden, hidden),
        "fc2.bias": (hidden,),
        "fc3.weight": (2, hidden),
        "fc3.bias": (2,),
    }
    width = shape["in_fn.weight"]
    if width != (obs_dim,):
        raise Dom2Error(
            f"{path}: this prey sees {' x '.join(map(str, width))} numbers, a prey of {task} sees "
            f"{obs_dim}: it is the prey of another task; give one that was trained for {task}"
        )
    for key in _KEYS:
        if shape[key] != expected[key]:
            raise Dom2Error(
                f"{path}: {key} has shape {shape[key]}, a prey of {task} needs {expected[key]}"
            )
        if not np.isfinite(arrays[key]).all():
            raise Dom2Error(f"{path}: {key} holds NaN or infinite values")
