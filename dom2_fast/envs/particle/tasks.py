"""What each task is made of: entities, sizes, speeds, start positions, rewards, observations.

Numbers are those of the public OMAR fork of the multi-agent particle environment, which is where
the public datasets come from; stock PettingZoo/mpe2 differs in most of them. Stepping the physics
is `physics.py`.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dom2_fast.errors import Dom2Error

EPISODE_LENGTH = 25  # all tasks of OMAR's datasets

_OMAR = "OMAR (ICLR 2022, arXiv 2111.11188), appendix B.1"
# Returns that OMAR normalises with: (random, expert, source).
# spread_6_landmarks has no published pair, so it has no normalised score.
NORMALISATION: dict[str, tuple[float, float, str]] = {
    "simple_spread": (159.8, 516.8, _OMAR),
    "simple_tag": (-4.1, 185.6, _OMAR),
    "simple_world": (-6.8, 79.5, _OMAR),
}


@dataclass(frozen=True)
class View:
    """One moment of E environments, as the reward and observation functions see it."""

    pos: Tensor  # [E, N, 2], agents then landmarks
    vel: Tensor  # [E, n, 2]
    delta: Tensor  # [E, n, N, 2], entity minus agent
    dist: Tensor  # [E, n, N], huge between an agent and itself
    hit: Tensor  # [E, n, N], bool: closer than the sum of sizes
    others: Tensor  # [n, n - 1], indices of the other agents
    removed: Tensor | None  # [landmarks], bool: gives no reward


@dataclass(frozen=True)
class Task:
    name: str
    agents: int
    kinds: tuple[str, ...]  # one per entity, agents first
    sizes: tuple[float, ...]  # radius of each entity
    collides: tuple[bool, ...]
    gain: tuple[float, ...]  # force per unit of action, per agent
    max_speed: tuple[float, ...]  # per agent; inf where OMAR sets none
    # Lowest maximal speed of the "speed" shift. The paper's values are not known; chosen here so
    # that the shift costs a scripted greedy policy about a third of its return.
    v_min: float
    prey: bool = field(default=False)

    @property
    def entities(self) -> int:
        return len(self.kinds)

    @property
    def landmarks(self) -> int:
        return self.entities - self.agents

    @property
    def agent_names(self) -> list[str]:
        """Names as in OMAR and mpe2: predators `adversary_i`, everybody else `agent_i`."""
        if not self.prey:
            return [f"agent_{i}" for i in range(self.agents)]
        return [f"adversary_{i}" for i in range(self.agents - 1)] + ["agent_0"]


def _spread(name: str, agent_size: float, landmarks: int, v_min: float) -> Task:
    return Task(
        name=name,
        agents=3,
        kinds=("agent",) * 3 + ("landmark",) * landmarks,
        sizes=(agent_size,) * 3 + (0.05,) * landmarks,
        collides=(True,) * 3 + (False,) * landmarks,
        gain=(5.0,) * 3,
        max_speed=(float("inf"),) * 3,
        v_min=v_min,
    )


def _chase(name: str, prey_size: float, landmarks: dict[str, float], v_min: float) -> Task:
    kinds = tuple(kind.split("_")[0] for kind in landmarks)
    return Task(
        name=name,
        agents=4,
        kinds=("predator",) * 3 + ("prey", *kinds),
        sizes=(0.075,) * 3 + (prey_size, *landmarks.values()),
        collides=(True,) * 4 + tuple(kind == "obstacle" for kind in kinds),
        # OMAR multiplies by the acceleration twice: 3 * 3 for predators, 4 * 4 for the prey.
        gain=(9.0,) * 3 + (16.0,),
        max_speed=(1.0,) * 3 + (1.3,),
        v_min=v_min,
        prey=True,
    )


TASKS: dict[str, Task] = {
    "simple_spread": _spread("simple_spread", 0.15, landmarks=3, v_min=0.3),
    "simple_tag": _chase("simple_tag", 0.05, {"obstacle_0": 0.2, "obstacle_1": 0.2}, v_min=0.4),
    "simple_world": _chase(
        "simple_world",
        0.045,
        {"obstacle": 0.2, "food_0": 0.03, "food_1": 0.03, "forest_0": 0.3, "forest_1": 0.3},
        v_min=0.5,
    ),
    "spread_6_landmarks": _spread("spread_6_landmarks", 0.1, landmarks=6, v_min=0.5),
}


def get(name: str) -> Task:
    """Return a task by name; `Dom2Error` lists the names there are."""
    if name not in TASKS:
        raise Dom2Error(f"unknown environment {name!r}; choose one of: {', '.join(TASKS)}")
    return TASKS[name]


def initial_positions(task: Task, num_envs: int, generator: torch.Generator) -> Tensor:
    """Draw start positions [E, N, 2] in float64, so that every dtype starts from the same draw."""
    u = torch.rand(num_envs, task.entities, 2, generator=generator, dtype=torch.float64) * 2 - 1
    if task.name == "spread_6_landmarks":
        u[:, : task.agents] *= 0.1
        angle = torch.arange(task.landmarks, dtype=torch.float64) * (2 * torch.pi / task.landmarks)
        u[:, task.agents :] = torch.stack([angle.cos(), angle.sin()], dim=-1)
    elif task.prey:
        u[:, task.agents :] *= 0.9
    return u


def reward(task: Task, view: View) -> Tensor:
    """Rewards [E, n] of every agent, the prey included."""
    return _REWARDS[task.name](view, task.agents)


def score(task: Task, reward_sums: Tensor) -> Tensor:
    """Score [E] of episodes from each agent's summed rewards [G, E], as OMAR reports it.

    The spread tasks average over the agents. In tag and world all predators share their reward, so
    it is predator 0's; a prey in the last row is ignored.
    """
    accepted = {task.agents, task.agents - 1} if task.prey else {task.agents}
    if reward_sums.ndim != 2 or reward_sums.shape[0] not in accepted:
        raise Dom2Error(
            f"{task.name}: reward sums have shape [agents, episodes] with agents one of "
            f"{sorted(accepted)}, got {list(reward_sums.shape)}"
        )
    return reward_sums[0] if task.prey else reward_sums.mean(dim=0)


def solution(task: Task, view: View) -> tuple[Tensor, Tensor]:
    """Which set of landmarks the agents are at: (set [E], whether it solves the task [E] bool).

    The set is that of each agent's nearest landmark, removed ones included, whoever is at which:
    bit l is set for landmark l. It is a solution where each agent touches a landmark of its own
    that gives a reward.

    Raises:
        Dom2Error: a task other than spread_6_landmarks: it has one set to cover, or none.
    """
    if task.name != "spread_6_landmarks":
        raise Dom2Error(
            f"{task.name} has no several solutions to tell apart: spread_6_landmarks has, where "
            "3 agents choose among 6 landmarks"
        )
    n = task.agents
    nearest = view.dist[:, :, n:].argmin(dim=-1)  # [E, n]
    taken = torch.zeros_like(view.dist[:, 0, n:], dtype=torch.long).scatter_(1, nearest, 1)
    bits = 2 ** torch.arange(task.landmarks, device=taken.device)
    touches = view.hit[:, :, n:].gather(2, nearest[..., None])[..., 0]
    pays = touches if view.removed is None else touches & ~view.removed[nearest]
    return (taken * bits).sum(dim=1), pays.all(dim=1) & (taken.sum(dim=1) == n)


def observations(task: Task, view: View) -> tuple[Tensor, Tensor | None]:
    """Observations [G, E, obs], contiguous, of all but the prey, and the prey's [E, obs]."""
    n = task.agents
    own = torch.arange(n, device=view.others.device)
    # [E, n, ...] parts in OMAR's order: velocity, position, landmarks, other agents, extras.
    parts = [
        view.vel,
        view.pos[:, :n],
        view.delta[:, :, n:].flatten(2),
        view.delta[:, own[:, None], view.others].flatten(2),
    ]
    if not task.prey:
        # Two silent communication channels per other agent: always zero, but the data has them.
        parts.append(view.vel.new_zeros(()).expand(*view.vel.shape[:2], 2 * (n - 1)))
        return torch.cat(parts, dim=-1).transpose(0, 1).contiguous(), None
    after = []
    if task.name == "simple_world":
        forests = [i for i, kind in enumerate(task.kinds) if kind == "forest"]
        after = [view.hit[:, :, forests].to(view.pos.dtype) * 2 - 1]
    prey_vel = view.vel[:, n - 1 :].expand(-1, n - 1, -1)
    chasers = torch.cat([p[:, :-1] for p in parts] + [prey_vel] + [p[:, :-1] for p in after], -1)
    prey = torch.cat([p[:, -1] for p in parts + after], dim=-1)
    return chasers.transpose(0, 1).contiguous(), prey


def _reward_spread(view: View, n: int) -> Tensor:
    nearest = view.dist[:, :, n:].amin(dim=1)  # [E, landmarks], to the nearest agent
    covered = (1 / nearest).clamp(max=10).sum(dim=-1, keepdim=True)
    return covered - 5 * view.hit[:, :, :n].sum(dim=-1)


def _reward_spread_6(view: View, n: int) -> Tensor:
    dist = view.dist[:, :, n:]
    if view.removed is not None:
        dist = dist.masked_fill(view.removed, float("inf"))
    nearest = dist.amin(dim=-1)  # [E, n], to the nearest landmark
    covered = (1 / nearest).clamp(max=10).sum(dim=-1, keepdim=True)
    return covered - 15 * view.hit[:, :, :n].sum(dim=-1)


def _chase_terms(view: View, n: int) -> tuple[Tensor, Tensor, Tensor]:
    chased = 0.1 * view.dist[:, : n - 1, n - 1].sum(dim=-1)
    contacts = view.hit[:, : n - 1, n - 1].sum(dim=-1)
    return chased, contacts, bound(view.pos[:, n - 1])


def bound(pos: Tensor) -> Tensor:
    """OMAR's cost [E] of leaving; per axis free to 0.9, a ramp to 1, exponential up to 10."""
    x = pos.abs()
    outside = (2 * x - 2).clamp(max=3).exp().clamp(max=10)
    return torch.where(x < 0.9, 0.0, torch.where(x < 1, 10 * (x - 0.9), outside)).sum(dim=-1)


def _reward_tag(view: View, n: int) -> Tensor:
    chased, contacts, outside = _chase_terms(view, n)
    predators = 10 * contacts - chased
    prey = chased - 10 * contacts - outside
    return torch.cat([predators[:, None].expand(-1, n - 1), prey[:, None]], dim=-1)


def _reward_world(view: View, n: int) -> Tensor:
    chased, contacts, outside = _chase_terms(view, n)
    food = slice(n + 1, n + 3)
    eaten = view.hit[:, n - 1, food].sum(dim=-1)
    # The sign of the last term is OMAR's: the prey is paid for its distance to the nearest food.
    hungry = 0.05 * view.dist[:, n - 1, food].amin(dim=-1)
    predators = 5 * contacts - chased
    prey = chased - 5 * contacts - 2 * outside + 2 * eaten + hungry
    return torch.cat([predators[:, None].expand(-1, n - 1), prey[:, None]], dim=-1)


_REWARDS = {
    "simple_spread": _reward_spread,
    "simple_tag": _reward_tag,
    "simple_world": _reward_world,
    "spread_6_landmarks": _reward_spread_6,
}
