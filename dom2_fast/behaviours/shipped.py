"""Behaviour policies: small actors, one per agent, that collect data. Loading, not training.

They are trained by `training.py` and shipped in `dom2_fast/assets`, whose README holds
the commands.
"""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dom2_fast.envs.particle.prey import ASSETS
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write


def forward(layers: Iterable[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """G ReLU networks side by side, the last layer linear: [G, B, in] -> [G, B, out].

    Args:
        layers: (weight [G, in, out], bias [G, 1, out]) of each layer.
    """
    for i, (weight, bias) in enumerate(layers):
        x = torch.baddbmm(bias, x.relu() if i else x, weight)
    return x


class BehaviourPolicy:
    """Deterministic actors of all agents, evaluated as one batched product per layer.

    Args:
        layers: see `forward`; a tanh follows.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]]):
        self.layers = layers

    def __call__(self, obs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Actions [G, E, 2] in [-1, 1] for observations [G, E, obs]; nothing is drawn."""
        return forward(self.layers, obs).tanh()

    @property
    def obs_dims(self) -> list[int]:
        """Observation width of each agent."""
        groups, width, _ = self.layers[0][0].shape
        return [width] * groups


def noisy(policy: BehaviourPolicy, noise: float):
    """The policy with Gaussian noise of that standard deviation, clipped to [-1, 1]."""

    def act(obs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean = policy(obs)
        G, E, A = mean.shape
        drawn = torch.randn(E, G, A, generator=generator).transpose(0, 1)
        return (mean + noise * drawn).clamp(-1, 1)

    return act


def asset(task: str) -> Path:
    """Where the behaviours of a task are shipped."""
    return ASSETS / f"behaviour_{task}.npz"


def load(task: str) -> tuple[dict[str, BehaviourPolicy], float]:
    """Policies of a task by name (medium, expert, replay_0 ...) and their exploration noise.

    Raises:
        Dom2Error: no behaviours are shipped for the task, or the file is damaged.
    """
    path = asset(task)
    if not path.is_file():
        raise Dom2Error(
            f"no behaviour policies are shipped for {task}; only quality 'random' can be collected"
        )
    return read(path)


def read(path: Path) -> tuple[dict[str, BehaviourPolicy], float]:
    """Read a file written by `write`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: torch.from_numpy(file[key]) for key in file.files}
        noise = float(arrays.pop("noise"))
        names = sorted({key.split("/")[0] for key in arrays})
        depth = {name: sum(k.startswith(f"{name}/weight") for k in arrays) for name in names}
        policies = {
            name: BehaviourPolicy(
                [
                    (arrays[f"{name}/weight_{i}"].float(), arrays[f"{name}/bias_{i}"].float())
                    for i in range(depth[name])
                ]
            )
            for name in names
        }
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise Dom2Error(f"{path} can't be read as behaviour policies: {error}") from None
    return policies, noise


def write(
    path: Path, policies: dict[str, BehaviourPolicy], noise: float, half: bool = False
) -> None:
    """Write policies as one compressed `.npz` of float32 arrays, or float16 ones (no pickle)."""
    arrays = {"noise": np.float32(noise)}
    kind = np.float16 if half else np.float32
    for name, policy in policies.items():
        for i, (weight, bias) in enumerate(policy.layers):
            arrays[f"{name}/weight_{i}"] = weight.detach().cpu().numpy().astype(kind)
            arrays[f"{name}/bias_{i}"] = bias.detach().cpu().numpy().astype(kind)
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)
