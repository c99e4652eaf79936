"""Trains our own prey for simple_tag and simple_world and measures a prey. Playing it is `prey.py`.

The physics is differentiable, so evading scripted chasers is learnt by back-propagating through
whole episodes (no critic). A contact is a jump in the reward and has no gradient; training replaces
it by a sigmoid of the gap. Run:
`python -m dom2_fast.behaviours.prey_training --task simple_tag --out prey_simple_tag.npz`
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dom2_fast.envs import make, play, reward_sums
from dom2_fast.envs.particle import tasks
from dom2_fast.envs.particle.tasks import bound
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write

CHASERS = ("uniform", "greedy", "lead")
# How dear leaving the arena is in training; tuned here. At 1 a prey spends half its time outside;
# at 4 simple_tag's learns to dodge inside, simple_world's only to be caught.
LEAVING = {"simple_tag": 4.0, "simple_world": 1.0}


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


def caught(
    task: str, prey: str, kind: str, episodes: int = 1000, seed: int = 0, dtype=torch.float32
) -> tuple[float, float]:
    """Mean predator return and its standard error against a prey; "uniform" is a random prey."""
    generator = torch.Generator().manual_seed(seed)
    driven = prey == "uniform"
    env = make(task, episodes, seed, dtype=dtype, prey="external" if driven else prey)

    def act(obs) -> Tensor:
        chasing = chase(env, kind, generator)
        if not driven:
            return chasing
        u = torch.rand(1, episodes, 2, generator=generator)
        return torch.cat([chasing, (u * 2 - 1).to(dtype)])

    score = env.score(reward_sums(env, act))
    return score.mean().item(), score.std().item() / math.sqrt(episodes)


class _Prey(nn.Module):
    def __init__(self, obs_dim: int, hidden: int = 64):
        super().__init__()
        self.fc1 = nn.Linear(obs_dim, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 2)

    def forward(self, obs: Tensor) -> Tensor:
        return self.fc3(self.fc2(self.fc1(obs).relu()).relu()).tanh()


def _evasion(env, prey: _Prey, kind: str, generator, width: float | None) -> Tensor:
    """Mean over episodes of 0.1 * distances - 10 * contacts - LEAVING * bound.

    That is simple_tag's prey reward with a dearer bound. simple_world's prey is trained on it too:
    its own reward is mostly food, and a prey that sits on food is easy to catch. With `width`,
    contacts are smoothed by a sigmoid.
    """
    reach = env.spec.sizes[0] + env.spec.sizes[3]
    total = 0.0
    for _ in play(env, lambda obs: torch.cat([chase(env, kind, generator), prey(obs[-1])[None]])):
        pos = env.state()[:, :4, :2]
        gap = (pos[:, :3] - pos[:, 3:]).square().sum(-1).clamp(min=1e-12).sqrt()
        contact = (gap < reach).float() if width is None else torch.sigmoid((reach - gap) / width)
        outside = LEAVING[env.task] * bound(pos[:, 3])
        total = total + 0.1 * gap.sum(-1) - 10 * contact.sum(-1) - outside
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
    score with real contacts is kept.
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
        gain = _evasion(env, prey, ("greedy", "lead")[step % 2], generator, width)
        optim.zero_grad(set_to_none=True)
        (-gain).backward()
        nn.utils.clip_grad_norm_(prey.parameters(), 1.0)
        optim.step()
        if step % log_every == 0:
            score = _score(task, prey, seed=seed + 1)
            print(f"{task} step {step}: score {score:.1f}", file=sys.stderr)
            best = max(best, (score, arrays(prey)), key=lambda pair: pair[0])
    return best[1] or arrays(prey)


@torch.no_grad()
def _score(task: str, prey: _Prey, seed: int, episodes: int = 500) -> float:
    generator = torch.Generator().manual_seed(seed)
    env = make(task, episodes, seed, prey="external")
    returns = [_evasion(env, prey, kind, generator, width=None) for kind in ("greedy", "lead")]
    return sum(returns).item() / 2


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
        prog="python -m dom2_fast.behaviours.prey_training", description=__doc__
    )
    parser.add_argument("--task", required=True, choices=["simple_tag", "simple_world"])
    parser.add_argument("--out", type=Path, help="train, and write the prey here (.npz)")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", nargs="*", default=[], help="prey files to measure besides")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are small
    if args.out is not None and args.out.exists():
        parser.error(f"{args.out} exists; move it away or choose another name")
    if args.out is not None:
        prey = train(args.task, args.iterations, seed=args.seed)
        with atomic_write(args.out) as file:
            np.savez_compressed(file, **prey)
    for prey in ["uniform", *([str(args.out)] if args.out else ["bundled"]), *args.measure]:
        for kind in CHASERS:
            mean, error = caught(args.task, prey, kind, seed=1)
            print(f"{args.task}: {kind} chasers against {prey}: {mean:.1f} ± {error:.1f}")


if __name__ == "__main__":
    main()
