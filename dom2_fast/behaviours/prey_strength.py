"""How strong a prey is: what scripted chasers score against it, and how often it stays inside.

Scores of tag and world are relative to their prey, so these numbers go with every table. Training
a prey is `prey_training.py`. Run:
`python -m dom2_fast.behaviours.prey_strength --task simple_tag bundled prey_of_omar.npz`
"""

import argparse
import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dom2_fast import envs
from dom2_fast.envs.particle import tasks
from dom2_fast.envs.particle.prey import CHASERS
from dom2_fast.errors import Dom2Error

# Measured here against OMAR's published prey: what a prey of its strength gives, in CHASERS' order.
OMAR = {
    "simple_tag": {"scores": (-4.1, 128.2, 185.5), "inside": (0.96, 0.84, 0.81)},
    "simple_world": {"scores": (-7.0, 71.3, 95.7), "inside": (0.70, 0.62, 0.63)},
}
TOLERANCE = 0.15  # of OMAR's scores
NOISE = 0.4  # standard error of 1,000 episodes with uniform predators: their score is near zero


class Strength(NamedTuple):
    """One chaser against a prey: mean score, its standard error, share of steps inside."""

    score: float
    error: float
    inside: float


def chase(env, kind: str, generator: torch.Generator, lead: float = 0.3) -> Tensor:
    """Scripted actions [3, E, 2] of the predators in the present state of `env`.

    "uniform" ignores the prey, "greedy" runs at it, "lead" runs at where it will be `lead` time
    units later.
    """
    state = env.state().detach()
    if kind == "uniform":
        u = torch.rand(env.num_envs, 3, 2, generator=generator)
        return (u * 2 - 1).to(state.dtype).transpose(0, 1)
    aim = state[:, 3:4, :2] + (lead * state[:, 3:4, 2:] if kind == "lead" else 0)
    gap = aim - state[:, :3, :2]
    # Full force along the larger axis: the strongest action in the direction of the prey.
    return (gap / gap.abs().amax(dim=-1, keepdim=True).clamp(min=1e-6)).transpose(0, 1)


@torch.no_grad()
def measure(
    task: str,
    prey: str | Callable[[Tensor], Tensor],
    kind: str,
    episodes: int = 1000,
    seed: int = 0,
) -> Strength:
    """One chaser of `CHASERS` against a prey.

    Args:
        prey: "bundled", a file, "uniform" (random actions), or a function that gives actions
            [E, 2] for the prey's observations [E, obs].
        episodes, seed: how many are played at once, and their seed.

    Raises:
        Dom2Error: a task without prey, an unknown chaser, an unusable file.
    """
    known(task)
    if kind not in CHASERS:
        raise Dom2Error(f"unknown chaser {kind!r}; choose one of: {', '.join(CHASERS)}")
    generator = torch.Generator().manual_seed(seed)
    driven = prey == "uniform" or callable(prey)
    env = envs.make(task, episodes, seed, prey="external" if driven else prey)
    inside = []

    def act(obs) -> Tensor:
        chasing = chase(env, kind, generator)
        if not driven:
            return chasing
        if callable(prey):
            flight = prey(obs[-1])
        else:
            flight = torch.rand(episodes, 2, generator=generator) * 2 - 1
        return torch.cat([chasing, flight[None]])

    def watch(step) -> None:
        inside.append((env.state()[:, 3, :2].abs().amax(dim=-1) < 1).double().mean().item())

    score = env.score(envs.reward_sums(env, act, watch=watch))
    error = score.std().item() / math.sqrt(episodes)
    return Strength(score.mean().item(), error, sum(inside) / len(inside))


def known(task: str) -> None:
    """Refuse a task without prey."""
    if not tasks.get(task).prey:
        raise Dom2Error(f"{task} has no prey; choose simple_tag or simple_world")


def excess(task: str, measured: dict[str, Strength]) -> float:
    """How far a prey is from OMAR's strength; at most 1 is accepted.

    The largest over the chasers of: the difference of the scores in units of `TOLERANCE` of OMAR's
    (for uniform predators, whose score is near zero, two standard errors of a difference more);
    and, where the prey is inside more seldom than OMAR's, 1 and more.
    """
    found = []
    for i, chaser in enumerate(CHASERS):
        wanted, got = OMAR[task]["scores"][i], measured[chaser]
        allowed = TOLERANCE * abs(wanted)
        if chaser == "uniform":
            allowed += 2 * math.sqrt(2) * NOISE
        found.append(abs(got.score - wanted) / allowed)
        missing = OMAR[task]["inside"][i] - got.inside
        found.append(1 + 100 * missing if missing > 0 else 0.0)
    return max(found)


def table(task: str, prey: str, episodes: int = 4000, seed: int = 1) -> str:
    """The lines that the command prints for one prey."""
    lines = []
    for chaser in CHASERS:
        s = measure(task, prey, chaser, episodes, seed)
        lines.append(
            f"{task}, {chaser} chasers against {prey}: {s.score:.1f} ± {s.error:.1f}, "
            f"inside {s.inside:.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dom2_fast.behaviours.prey_strength", description=__doc__
    )
    parser.add_argument("--task", required=True, choices=list(OMAR))
    parser.add_argument("prey", nargs="*", default=["bundled"], help='files, "bundled", "uniform"')
    parser.add_argument("--episodes", type=int, default=4000)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are small
    try:
        for prey in args.prey:
            print(table(args.task, prey, args.episodes))
    except Dom2Error as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
