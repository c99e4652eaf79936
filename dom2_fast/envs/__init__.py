"""Batched particle environments under the rules of the public OMAR datasets, and their shifts.

`make` gives E copies stepped together; `parallel_env` is the PettingZoo face of the same physics
(imported with PettingZoo when first asked for).
"""

import torch
from torch import Tensor

from dom2_fast.envs.particle import tasks
from dom2_fast.envs.particle.physics import SHIFTS, ParticleEnv
from dom2_fast.envs.particle.tasks import EPISODE_LENGTH, NORMALISATION
from dom2_fast.errors import Dom2Error

TASKS = tuple(tasks.TASKS)

__all__ = [
    "EPISODE_LENGTH", "NORMALISATION", "SHIFTS", "TASKS", "ParticleEnv", "episode_score", "make",
    "normalised_score", "parallel_env",
]  # fmt: skip


def __getattr__(name: str):
    if name == "parallel_env":
        from dom2_fast.envs.particle.pettingzoo_face import parallel_env

        return parallel_env
    raise AttributeError(f"module 'dom2_fast.envs' has no attribute {name!r}")


def make(
    task: str,
    num_envs: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    prey: str = "bundled",
    shift: str | None = None,
    v_min: float | None = None,
    removed_landmarks: tuple[int, ...] | None = None,
    device: str | torch.device = "cpu",
) -> ParticleEnv:
    """Make E environments of one task, stepped together.

    Args:
        task: one of `TASKS`.
        num_envs: E.
        seed: of the environment's own generator; the same seed gives the same episodes.
        dtype: of the physics, observations and rewards.
        prey: who drives the prey of simple_tag and simple_world: "bundled" (our network), the path
            of a network in OMAR's format (`.pt` or `.npz`), or "external" (the caller, as the last
            agent). Tasks without a prey accept "bundled" and "external" alike.
        shift: None; "speed" (each agent's maximal speed ~ U(v_min, 1), drawn at each reset; a prey
            keeps its own); "landmarks" (spread_6_landmarks only: some landmarks stay visible but
            give no reward).
        v_min: for shift "speed", in (0, 1]; the task's default is in `tasks.py`.
        removed_landmarks: for shift "landmarks"; by default 0, 2 and 4, every second one.
        device: where the tensors live. Starts are drawn on the CPU, so they don't depend on it.

    Raises:
        Dom2Error: unknown task or shift, a setting out of range, an unusable prey file.
    """
    return ParticleEnv(task, num_envs, seed, dtype, prey, shift, v_min, removed_landmarks, device)


def episode_score(reward_sums: Tensor, task: str) -> Tensor:
    """Score [E] of episodes from each agent's summed rewards [E, agents], as OMAR reports it.

    The spread tasks average over the agents. In tag and world all predators share their reward, so
    it is predator 0's; a prey in the last column is ignored.
    """
    spec = tasks.get(task)
    accepted = {spec.agents, spec.agents - 1} if spec.prey else {spec.agents}
    if reward_sums.ndim != 2 or reward_sums.shape[1] not in accepted:
        raise Dom2Error(
            f"{task}: reward sums have shape [episodes, agents] with agents one of "
            f"{sorted(accepted)}, got {list(reward_sums.shape)}"
        )
    return reward_sums[:, 0] if spec.prey else reward_sums.mean(dim=1)


def normalised_score(score: float | Tensor, task: str) -> float | Tensor | None:
    """100 * (score - random) / (expert - random); None for a task without published constants."""
    tasks.get(task)
    if task not in NORMALISATION:
        return None
    random, expert = NORMALISATION[task]
    return 100 * (score - random) / (expert - random)
