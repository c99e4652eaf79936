"""What an environment is: the protocol `Env`, and the one loop that plays it.

Evaluation, collection and the training of behaviours need nothing else of an environment. Names
are in `registry.py`; PettingZoo's environments become one in `pettingzoo_adapter.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dom2_fast.errors import Dom2Error

Obs = Tensor | list[Tensor]  # [G, E, O] where the agents' widths agree, else a list of [E, O_i]


class Env(Protocol):
    """E copies of one environment, stepped together; G agents act in each.

    Beside these members an environment may have

    * recording() -> dict: the present moment of the first copy, for the report to play back:
      `states` [entities, 4] (position and velocity in the plane), `sizes` [entities] (radii)
      and `kinds` [entities] (words, see `report/scene.py`); perhaps `links` [n, 2], pairs of
      entities that a line joins.
    * about() -> dict: what scores depend on beside the options, such as a prey's name; plain
      values, which go into the results of an evaluation.
    * terminal: [E] bool, of the copies that are done: which ended in a terminal state, rather
      than by a time limit. Without it, whoever is done before `episode_length` is terminal.
    * solution() -> (label [E] int, solved [E] bool): which of the task's several solutions each
      copy is at now, and whether it is one, for `runs.solutions`; `Dom2Error` where there
      are none.
    * contacts() -> [E]: how many pairs of the driven agents touch at present, for a diagnosis.
    * agent_names: list of G names; close(): frees what it holds.

    Attributes:
        num_envs: E.
        num_agents: G, the agents that the caller drives.
        obs_dims: observation width of each of them.
        act_dim: action width, the same for all; actions are in [-1, 1].
        episode_length: no episode has more steps.
    """

    num_envs: int
    num_agents: int
    obs_dims: list[int]
    act_dim: int
    episode_length: int

    def reset(self, seed: int | None = None) -> Obs:
        """Start E episodes: those of `seed`, or, without one, the next of the present seed."""
        ...

    def step(self, act: Tensor) -> tuple[Obs, Tensor, Tensor]:
        """Advance all copies by actions [G, E, A]: observations, reward [G, E], done [E] bool.

        A copy that is done stays done until `reset`. What it gives from then on counts for nothing.
        """
        ...

    def score(self, reward_sums: Tensor) -> Tensor:
        """What a paper reports as the return: [E] from each agent's summed rewards [G, E]."""
        ...


MEMBERS = (
    *("num_envs", "num_agents", "obs_dims", "act_dim", "episode_length"),
    *("reset", "step", "score"),
)


def missing_members(env) -> list[str]:
    """The members of `Env` that an object lacks."""
    return [name for name in MEMBERS if not hasattr(env, name)]


@dataclass(frozen=True)
class Step:
    """One step of all copies.

    Attributes:
        t: 0 for the first step of the episodes.
        obs, act: what was seen, and done then: act [G, E, A].
        reward: [G, E]; next_obs: what is seen after it; done: [E] bool.
        alive: [E] bool, the copies whose episode this step belongs to; False from the step after
            the one that ended it.
    """

    t: int
    obs: Obs
    act: Tensor
    reward: Tensor
    next_obs: Obs
    done: Tensor
    alive: Tensor


def play(env: Env, act: Callable[[Obs], Tensor], seed: int | None = None) -> Iterator[Step]:
    """One episode of every copy, step by step, until all are done.

    Args:
        act: gives actions [G, E, A] for observations.
        seed: of `env.reset`.

    Raises:
        Dom2Error: actions, rewards or `done` of another shape than `Env` says.
    """
    G, E = env.num_agents, env.num_envs
    obs = env.reset(seed=seed)
    if isinstance(obs, Tensor):
        _check("reset() gave observations", obs, (G, E, env.obs_dims[0]), "[G, E, O]")
    elif [tuple(o.shape) for o in obs] != [(E, width) for width in env.obs_dims]:
        raise Dom2Error(
            f"reset() gave observations of shapes {[list(o.shape) for o in obs]}; one [E, O_i] for "
            f"each agent is needed, E = {E} and O_i one of {list(env.obs_dims)}"
        )
    alive = None
    for t in range(env.episode_length):
        chosen = act(obs)
        _check("the policies gave actions", chosen, (G, E, env.act_dim), "[G, E, A]")
        next_obs, reward, done = env.step(chosen)
        _check("step() gave rewards", reward, (G, E), "[G, E]")
        _check("step() gave done", done, (E,), "[E]")
        if alive is None:
            alive = torch.ones_like(done, dtype=torch.bool)
        yield Step(t, obs, chosen, reward, next_obs, done, alive)
        alive = alive & ~done.bool()
        if not alive.any():
            return
        obs = next_obs


def terminal(env: Env, step: Step) -> Tensor:
    """[E] bool: whose episode this step ended in a terminal state, not at a time limit.

    To be asked right after the step, while the environment still is where it led.
    """
    ended = step.done & step.alive
    said = getattr(env, "terminal", None)
    if said is not None:
        return ended & said
    return ended if step.t + 1 < env.episode_length else torch.zeros_like(ended)


def random_policies(agents: int, act_dim: int = 2) -> Callable[..., Tensor]:
    """Uniform actions in [-1, 1]: the "random" of the normalised score."""

    def act(obs: Obs, generator: torch.Generator | None = None) -> Tensor:
        drawn = 2 * torch.rand(len(obs[0]), agents, act_dim, generator=generator) - 1
        return drawn.transpose(0, 1)  # [G, E, A]

    return act


def _check(what: str, tensor, shape: tuple[int, ...], letters: str) -> None:
    if tuple(getattr(tensor, "shape", ())) != shape:
        found = list(getattr(tensor, "shape", [])) or type(tensor).__name__
        raise Dom2Error(
            f"{what} of shape {found}; {letters} = {list(shape)} is needed "
            "(G agents, E copies of the environment)"
        )


def reward_sums(
    env: Env,
    act: Callable[[Obs], Tensor],
    seed: int | None = None,
    watch: Callable[[Step], None] = lambda step: None,
) -> Tensor:
    """Each agent's summed rewards [G, E] over one episode of every copy, float64; see `play`.

    `watch` is called after each step.
    """
    sums = torch.zeros(env.num_agents, env.num_envs, dtype=torch.float64)
    for step in play(env, act, seed):
        # Chosen, not multiplied: what a copy gives after its end may be anything, NaN too.
        sums += torch.where(step.alive, step.reward, 0.0).to(sums)
        watch(step)
    return sums
