"""The prey of simple_tag and simple_world: a fixed network that belongs to the task.

Reads our own bundled file, OMAR's published `.pt`, or the same arrays as `.npz`. Training a prey is
`prey_training.py`.
"""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dom2_fast.errors import Dom2Error

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
_BN_EPS = 1e-5  # torch.nn.BatchNorm1d's, which OMAR uses


class PreyPolicy:
    """BatchNorm (as in evaluation) -> 64 ReLU -> 64 ReLU -> 2 tanh: OMAR's actor."""

    def __init__(self, arrays: dict[str, np.ndarray], dtype: torch.dtype, device="cpu"):
        w = {k: torch.as_tensor(arrays[k], dtype=dtype, device=device) for k in _KEYS}
        scale = w["in_fn.weight"] / (w["in_fn.running_var"] + _BN_EPS).sqrt()
        shift = w["in_fn.bias"] - w["in_fn.running_mean"] * scale
        # The normalisation is linear in evaluation, so it folds into the first layer.
        self._layers = [
            (w["fc1.weight"] * scale, w["fc1.bias"] + w["fc1.weight"] @ shift),
            (w["fc2.weight"], w["fc2.bias"]),
            (w["fc3.weight"], w["fc3.bias"]),
        ]

    def __call__(self, obs: Tensor) -> Tensor:
        """Actions [E, 2] in [-1, 1] for the prey's observations [E, obs]."""
        (w1, b1), (w2, b2), (w3, b3) = self._layers
        hidden = torch.addmm(b2, torch.addmm(b1, obs, w1.T).relu(), w2.T).relu()
        return torch.addmm(b3, hidden, w3.T).tanh()

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
        return cls(arrays, dtype, device)


def _forests(spec) -> int:
    return sum(kind == "forest" for kind in spec.kinds)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
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
    for key in _KEYS:
        if shape[key] != expected[key]:
            raise Dom2Error(
                f"{path}: {key} has shape {shape[key]}, a prey of {task} needs {expected[key]}"
            )
        if not np.isfinite(arrays[key]).all():
            raise Dom2Error(f"{path}: {key} holds NaN or infinite values")
