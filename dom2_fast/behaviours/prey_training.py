"""Trains our own prey of simple_tag and simple_world to the strength of OMAR's.

The physics is differentiable, so evading scripted chasers is learnt by back-propagating through
whole episodes (no critic). A contact is a jump in the reward and has no gradient; training replaces
it by a sigmoid of the gap. Such a prey is stronger than OMAR's, so its force is limited: to the
share at which its numbers (`prey_strength.py`) are nearest to those against OMAR's prey. Nothing of
OMAR's prey is used but these numbers. Run:
`python -m dom2_fast.behaviours.prey_training --task simple_tag --out prey_simple_tag.npz`
"""

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dom2_fast.behaviours import prey_strength
from dom2_fast.behaviours.prey_strength import OMAR, Strength, chase, known, measure
from dom2_fast.envs import make, play
from dom2_fast.envs.particle.prey import CHASERS, signed
from dom2_fast.envs.particle.tasks import bound
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write

VERSION = 2  # of the bundled preys; 1 used all its force and was too strong
FORCES = (0.15, 0.2, 0.23, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)  # limits tried
BLENDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)  # the shares of a second prey that are tried


class WrongStrength(Dom2Error):
    """What was trained hasn't OMAR's strength at any limit of its force."""


@dataclass(frozen=True)
class Stage:
    """A part of the training. Every number is tuned here.

    Attributes:
        iterations: gradient steps; the learning rate falls from 1e-3 to a twentieth of it.
        leaving: how dear leaving the arena is. At 1 a prey spends half its time outside; at 4
            simple_tag's learns to dodge inside, simple_world's only to be caught.
        chasers: met in turn, so that the prey doesn't learn the weakness of one.
        force: the share of its force that the prey has.
        leaving_calm, far, effort: among uniform predators, which OMAR's prey keeps away from and
            else rests: how dear leaving is, what distance is worth, how dear force is.
        best: keep the best prey seen, by the score with real contacts; else the last one.
    """

    iterations: int
    leaving: float
    chasers: tuple[str, ...] = ("greedy", "lead")
    force: float = 1.0
    leaving_calm: float = 0.0
    far: float = 0.1
    effort: float = 0.0
    best: bool = False


@dataclass(frozen=True)
class Recipe:
    """How a task's prey is made: a first stage, and two that go on from it and are then blended.

    The weights of the two are averaged, in the share that comes nearest to OMAR's strength. With
    one of them alone a prey keeps either calm or inside. Without them the first stage is the prey.
    """

    first: Stage
    two: tuple[Stage, Stage] | None = None


RECIPES = {
    "simple_tag": Recipe(
        Stage(1000, 4.0, best=True),
        (
            Stage(200, 4.0, CHASERS, 0.6, leaving_calm=4.0, far=2.5, effort=1.5),
            Stage(200, 4.0, CHASERS, 0.4, leaving_calm=8.0, far=2.5, effort=1.0),
        ),
    ),
    "simple_world": Recipe(Stage(1000, 1.0, best=True)),
}


class Prey(nn.Module):
    """OMAR's actor without its normalisation: actions [E, 2] for observations [E, obs]."""

    def __init__(self, obs_dim: int, hidden: int = 64):
        super().__init__()
        self.fc1 = nn.Linear(obs_dim, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 2)

    def forward(self, obs: Tensor) -> Tensor:
        return self.fc3(self.fc2(self.fc1(obs).relu()).relu()).tanh()


def limited(prey: Prey, force: float) -> Callable[[Tensor], Tensor]:
    """A prey that has that share of its force."""
    return lambda obs: force * prey(obs)


def _evasion(env, prey: Prey, stage: Stage, kind: str, generator, width: float | None) -> Tensor:
    """Mean over episodes of far * distances - 10 * contacts - leaving * bound - effort * force^2.

    Where predators hunt, far is 0.1 and force is free: that is simple_tag's prey reward with a
    dearer bound. simple_world's prey is trained on it too: its own reward is mostly food, and a
    prey that sits on food is easy to catch. With `width`, contacts are smoothed by a sigmoid.
    """
    calm = kind == "uniform"
    far, leaving = (stage.far, stage.leaving_calm) if calm else (0.1, stage.leaving)
    reach = env.spec.sizes[0] + env.spec.sizes[3]
    flee = limited(prey, stage.force)
    total = 0.0
    for step in play(env, lambda o: torch.cat([chase(env, kind, generator), flee(o[-1])[None]])):
        pos = env.state()[:, :4, :2]
        gap = (pos[:, :3] - pos[:, 3:]).square().sum(-1).clamp(min=1e-12).sqrt()
        contact = (gap < reach).float() if width is None else torch.sigmoid((reach - gap) / width)
        outside = leaving * bound(pos[:, 3])
        gain = far * gap.sum(-1) - 10 * contact.sum(-1) - outside
        if calm and stage.effort:
            gain = gain - stage.effort * (step.act[-1] / stage.force).square().sum(-1)
        total = total + gain
    return total.mean()


def train(
    task: str,
    stage: Stage,
    start: Prey | None = None,
    num_envs: int = 128,
    lr: float = 1e-3,
    width: float = 0.1,
    seed: int = 0,
    log_every: int = 100,
) -> Prey:
    """Train a prey to evade: a new one, or one that goes on from `start`.

    Raises:
        Dom2Error: a task without prey; what the prey is to maximise isn't finite.
    """
    known(task)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    env = make(task, num_envs, seed, prey="external")
    prey = Prey(env.obs_dims[-1])
    if start is not None:
        prey.load_state_dict(start.state_dict())
    optim = torch.optim.Adam(prey.parameters(), lr)
    best = (-math.inf, {})
    for step in range(1, stage.iterations + 1):
        optim.param_groups[0]["lr"] = lr * max(0.05, 1 - step / stage.iterations)
        kind = stage.chasers[step % len(stage.chasers)]
        gain = _evasion(env, prey, stage, kind, generator, width)
        if not math.isfinite(gain.item()):
            raise Dom2Error(
                f"training diverged: a prey's gain is {gain.item()} in step {step}: lower lr, or "
                "the stage's numbers"
            )
        optim.zero_grad(set_to_none=True)
        (-gain).backward()
        nn.utils.clip_grad_norm_(prey.parameters(), 1.0)
        optim.step()
        if step % log_every == 0:
            score = _score(task, prey, stage, seed=seed + 1)
            print(f"{task} step {step}: score {score:.1f}", file=sys.stderr, flush=True)
            now = {key: value.clone() for key, value in prey.state_dict().items()}
            best = max(best, (score, now), key=lambda pair: pair[0])
    if stage.best and best[1]:
        prey.load_state_dict(best[1])
    return prey


def blended(one: Prey, two: Prey, share: float) -> Prey:
    """The prey whose weights are (1 - share) of the one's and share of the other's."""
    prey = Prey(one.fc1.in_features)
    second = two.state_dict()
    prey.load_state_dict(
        {key: (1 - share) * value + share * second[key] for key, value in one.state_dict().items()}
    )
    return prey


@torch.no_grad()
def _score(task: str, prey: Prey, stage: Stage, seed: int, episodes: int = 500) -> float:
    generator = torch.Generator().manual_seed(seed)
    env = make(task, episodes, seed, prey="external")
    kinds = stage.chasers
    returns = [_evasion(env, prey, stage, kind, generator, width=None) for kind in kinds]
    return sum(returns).item() / len(kinds)


def limit(
    task: str,
    preys: dict[str, Prey],
    forces: Sequence[float] = FORCES,
    episodes: int = 2000,
    seed: int = 1,
) -> tuple[Prey, float, dict[str, Strength]]:
    """The prey and the share of its force that are nearest to OMAR's strength, and their numbers.

    Args:
        preys: by a name to print.

    Raises:
        WrongStrength: none of them is within what is allowed.
    """
    best: tuple = (math.inf, None, 0.0, {})
    for (name, prey), force in itertools.product(preys.items(), forces):
        flee = limited(prey, force)
        measured = {kind: measure(task, flee, kind, episodes, seed) for kind in CHASERS}
        excess = prey_strength.excess(task, measured)
        numbers = ", ".join(f"{k} {s.score:.1f} ({s.inside:.2f})" for k, s in measured.items())
        print(f"{name}, force {force}: {numbers}; off by {excess:.2f}", file=sys.stderr, flush=True)
        best = min(best, (excess, prey, force, measured), key=lambda found: found[0])
    excess, prey, force, measured = best
    if excess > 1:
        raise WrongStrength(
            f"{task}: with {force} of its force the best prey is nearest to OMAR's strength, but "
            f"{excess:.2f} times as far from it as is allowed; train it otherwise"
        )
    return prey, force, measured


def candidates(task: str, first: Prey, seed: int = 0) -> dict[str, Prey]:
    """The preys whose force is to be limited, made of the recipe's first one."""
    two = RECIPES[task].two
    if two is None:
        return {task: first}
    one, other = (train(task, stage, first, seed=seed) for stage in two)
    return {f"{task}, blend {share}": blended(one, other, share) for share in BLENDS}


def arrays(prey: Prey, force: float, measured: dict[str, Strength]) -> dict[str, np.ndarray]:
    """A trained prey in OMAR's layout; it doesn't normalise, so its BatchNorm is the identity."""
    dim = prey.fc1.in_features
    one, zero = np.ones(dim, np.float32), np.zeros(dim, np.float32)
    made = {
        "in_fn.weight": one,
        "in_fn.bias": zero,
        "in_fn.running_mean": zero,
        "in_fn.running_var": one,
    }
    made |= {k: v.detach().numpy().copy() for k, v in prey.state_dict().items()}
    return signed(made, VERSION, [measured[kind].score for kind in CHASERS], force)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dom2_fast.behaviours.prey_training", description=__doc__
    )
    parser.add_argument("--task", required=True, choices=list(OMAR))
    parser.add_argument("--out", type=Path, required=True, help="file to write (.npz)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} exists; move it away or choose another name")
    torch.set_num_threads(1)  # the tensors are small
    try:
        first = train(args.task, RECIPES[args.task].first, seed=args.seed)
        preys = candidates(args.task, first, args.seed)
        prey, force, measured = limit(args.task, preys)
    except Dom2Error as error:
        sys.exit(f"error: {error}")
    with atomic_write(args.out) as file:
        np.savez_compressed(file, **arrays(prey, force, measured))
    print(prey_strength.table(args.task, str(args.out)))


if __name__ == "__main__":
    main()
