"""MuJoCo tasks divided among agents, many copies stepped together; they need the extra `mujoco`.

The names are known without it: nothing of MuJoCo is imported before an environment is made.
"""

from __future__ import annotations

from functools import partial

from dom2_fast.envs import registry
from dom2_fast.envs.mujoco.scenarios import EPISODE_LENGTH, SCENARIOS
from dom2_fast.envs.mujoco.shifts import DRAWN, SHIFTS

MOST = 100  # copies at once where the caller doesn't say: a copy's data has up to a megabyte


def _make(
    name: str,
    num_envs: int = 1,
    seed: int = 0,
    threads: int | None = None,
    dtype=None,
    shift: str | None = None,
    joint: str = DRAWN,
):
    import torch

    from dom2_fast.envs.mujoco.physics import MujocoEnv

    dtype = torch.float32 if dtype is None else dtype
    return MujocoEnv(name, num_envs, seed, threads, dtype, shift, joint)


def _parallel_env(name: str, **options):
    from dom2_fast.envs.mujoco.pettingzoo_face import parallel_env

    return parallel_env(name, **options)


def register_all() -> None:
    """Make the tasks known to the registry."""
    for name, scenario in SCENARIOS.items():
        registry.register(
            name,
            partial(_make, name),
            normalisation=scenario.normalisation,
            shifts=SHIFTS,
            most=MOST,
            parallel_env=partial(_parallel_env, name),
            episode_length=EPISODE_LENGTH if scenario.healthy is None else None,
        )
