"""Trains our own prey for simple_tag and simple_world and measures a prey. Playing it is `prey.py`.

The physics is differentiable, so the prey's return against scripted chasers is maximised by
back-propagating through whole episodes (no critic). Contacts count as a step in the task's reward
and have no gradient; training replaces them by a sigmoid of the gap. Run:
`python -m dom2_fast.envs.prey_training --task simple_tag --out prey_simple_tag.npz`
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dom2_fast.envs import episode_score, make, tasks
from dom2_fast.errors import Dom2Error

CHASERS = ("uniform", "greedy", "lead")


def chase(env, kind: str, generator: torch.Generator, lead: float = 0.3) -> Tensor:
    """Scripted actions [E, 3, 2] of the predators in the present state of `env`.

    "uniform" ignores the prey, "greedy" runs at it, "lead" runs at where it will be `lead` time
    units later.
    """
    state = env.state().detach()
    if kind == "uniform":
        u = torch.rand(env.num_envs, 3, 2, generator=generator)
        return (u * 2 - 1).to(state.dtype)
    aim = state[:, 3:4, :2] + (lead * state[:, 3:4, 2:] if kind == "lead" else 0)
    gap = aim - state[:, :3, :2]
    # Full force along the larger axis: the strongest action in the direction of the prey.
    return gap / gap.abs().amax(dim=-1, keepdim=True).clamp(min=1e-6)


def caught(
    task: str, prey: str, kind: str, episodes: int = 1000, seed: int = 0, dtype=torch.float32
) -> tuple[float, float]:
    """Mean predator return and its standard error against a prey; "uniform" is a random prey."""
    generator = torch.Generator().manual_seed(seed)
    driven = prey == "uniform"
    env = make(task, episodes, seed, dtype, prey="external" if driven else prey)
    env.reset()
    total = 0.0
    for _ in range(env.episode_length):
        act = chase(env, kind, generator)
        if driven:
            u = torch.rand(episodes, 1, 2, generator=generator)
            act = torch.cat([act, (u * 2 - 1).to(dtype)], dim=1)
        total = total + env.step(act)[1].double()
    score = episode_score(total, task)
    return score.mean().item(), score.std().item() / math.sqrt(episodes)


class _Prey(nn.Module):
    def __init__(self, obs_dim: int, hidden: int = 64):
        super().__init__()
        self.fc1 = nn.Linear(obs_dim, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 2)

    def forward(self, obs: Tensor) -> Tensor:
        return self.fc3(self.fc2(self.fc1(obs).relu()).relu()).tanh()


def _smooth_return(env, prey: _Prey, kind: str, width: float, generator) -> Tensor:
    """Mean over episodes of the prey's return with contacts smoothed over `width`."""
    obs, total = env.reset(), 0.0
    world = env.task == "simple_world"
    reach = env.spec.sizes[0] + env.spec.sizes[3]
    for _ in range(env.episode_length):
        act = torch.cat([chase(env, kind, generator), prey(obs[-1])[:, None]], dim=1)
        obs, reward, _ = env.step(act)
        state = env.state()
        gap = (state[:, :3, :2] - state[:, 3:4, :2]).square().sum(-1).clamp(min=1e-12).sqrt()
        penalty = (5 if world else 10) * torch.sigmoid((reach - gap) / width).sum(-1)
        # The reward's own contact term has no gradient, so it may stay in.
        total = total + reward[:, -1] - penalty
    return total.mean()


def train(
    task: str,
    iterations: int = 1000,
    num_envs: int = 128,
    lr: float = 1e-3,
    width: float = 0.1,
    seed: int = 0,
    log_every: int = 100,
) -> dict[str, np.ndarray]:
    """Train a prey; returns its arrays in the layout that `prey.py` reads.

    Every number is tuned here. Chasers are "greedy" and "lead" in turn, so that the prey doesn't
    learn the weakness of one. Of the preys seen every `log_every` iterations the one with the best
    real return is kept.
    """
    if not tasks.get(task).prey:
        raise Dom2Error(f"{task} has no prey; choose simple_tag or simple_world")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    env = make(task, num_envs, seed, prey="external")
    prey = _Prey(env.obs_dims[-1])
    optim = torch.optim.Adam(prey.parameters(), lr)
    best = (-math.inf, {})
    for step in range(1, iterations + 1):
        optim.param_groups[0]["lr"] = lr * max(0.05, 1 - step / iterations)
        gain = _smooth_return(env, prey, ("greedy", "lead")[step % 2], width, generator)
        optim.zero_grad(set_to_none=True)
        (-gain).backward()
        nn.utils.clip_grad_norm_(prey.parameters(), 1.0)
        optim.step()
        if step % log_every == 0:
            score = _real_return(task, prey, seed=seed + 1)
            print(f"{task} step {step}: prey return {score:.1f}", file=sys.stderr)
            best = max(best, (score, arrays(prey)), key=lambda pair: pair[0])
    return best[1] or arrays(prey)


@torch.no_grad()
def _real_return(task: str, prey: _Prey, seed: int, episodes: int = 500) -> float:
    generator, total = torch.Generator().manual_seed(seed), 0.0
    for kind in ("greedy", "lead"):
        env = make(task, episodes, seed, prey="external")
        obs = env.reset()
        for _ in range(env.episode_length):
            act = torch.cat([chase(env, kind, generator), prey(obs[-1])[:, None]], dim=1)
            obs, reward, _ = env.step(act)
            total += reward[:, -1].mean().item() / 2
    return total


def arrays(prey: nn.Module) -> dict[str, np.ndarray]:
    """A trained prey in OMAR's layout; it doesn't normalise, so its BatchNorm is the identity."""
    dim = prey.fc1.in_features
    one, zero = np.ones(dim, np.float32), np.zeros(dim, np.float32)
    identity = {
        "in_fn.weight": one,
        "in_fn.bias": zero,
        "in_fn.running_mean": zero,
        "in_fn.running_var": one,
    }
    return identity | {k: v.detach().numpy().copy() for k, v in prey.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dom2_fast.envs.prey_training", description=__doc__
    )
    parser.add_argument("--task", required=True, choices=["simple_tag", "simple_world"])
    parser.add_argument("--out", type=Path, help="train, and write the prey here (.npz)")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", nargs="*", default=[], help="prey files to measure besides")
    args = parser.parse_args()
    if args.out is not None and args.out.exists():
        parser.error(f"{args.out} exists; move it away or choose another name")
    if args.out is not None:
        part = args.out.with_name(args.out.name + ".part")
        with open(part, "wb") as file:
            np.savez_compressed(file, **train(args.task, args.iterations, seed=args.seed))
        part.replace(args.out)
    for prey in ["uniform", *([str(args.out)] if args.out else ["bundled"]), *args.measure]:
        for kind in CHASERS:
            mean, error = caught(args.task, prey, kind, seed=1)
            print(f"{args.task}: {kind} chasers against {prey}: {mean:.1f} ± {error:.1f}")


if __name__ == "__main__":
    main()
