"""Any PettingZoo `ParallelEnv` as an `Env`: E copies, stepped one after the other.

By the interface alone, so it works with PettingZoo 1.24 to 1.27 and with whatever has the same
methods. The other direction is `pettingzoo_face.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dom2_fast.envs.env import Obs, missing_members
from dom2_fast.errors import Dom2Error, whole_number

LONGEST = 10_000  # steps after which an episode must have ended, where nobody says how long it is
_MEMBERS = ("possible_agents", "observation_space", "action_space", "reset", "step")


def from_parallel_env(
    factory: Callable[..., Any],
    num_envs: int = 1,
    seed: int = 0,
    *,
    name: str | None = None,
    episode_length: int | None = None,
    **options,
) -> ParallelEnvAdapter:
    """E copies of a PettingZoo `ParallelEnv` as one `Env`.

    Agents are in the order of `possible_agents`. Observations are flattened to float32; actions in
    [-1, 1] are scaled to the bounds of the agent's action space. The score of an episode is the
    mean over the agents of their summed rewards.

    Args:
        factory: makes one copy; called E times with `options`.
        num_envs: E.
        seed: of the episodes; copy e of reset k is reset with a seed drawn from (seed, k, e).
        name: for error messages; by default the environment's own.
        episode_length: steps after which an episode is cut, where the environment doesn't end it
            itself. None: the environment must end its episodes within `LONGEST` steps.

    Raises:
        Dom2Error: the factory makes something else, or the same object twice; there are no agents;
            a space isn't a `Box`, an action space has no finite bounds or whole numbers only;
            agents differ in action width. While playing: agents that end at different steps,
            appear later or are missing; an observation that doesn't fit its space.
    """
    return ParallelEnvAdapter(
        factory, num_envs, seed, name=name, episode_length=episode_length, **options
    )


class ParallelEnvAdapter:
    """See `from_parallel_env`. Attributes: those of `Env`, and `terminal`, `agent_names`, `copies`.

    `terminal` [E] says whose episode ended with all agents terminated, not truncated. A copy that
    is done stands still, with reward 0, until `reset`.
    """

    def __init__(self, factory, num_envs, seed, *, name=None, episode_length=None, **options):
        if episode_length is not None:
            whole_number("episode_length", episode_length, 1)
        # Some environments have such an option themselves, which is then theirs.
        if episode_length is not None and "episode_length" in inspect.signature(factory).parameters:
            options["episode_length"] = episode_length
        first = factory(**options)
        said = getattr(first, "metadata", None) or {}
        self.name = name or str(said.get("name", type(first).__name__))
        self._check_kind(first)
        self.copies = [first]
        self.agent_names = [str(agent) for agent in first.possible_agents]
        self._agents = list(first.possible_agents)
        self._spaces = [_Space(first, agent, self.name) for agent in self._agents]
        self._check_widths()
        for _ in range(num_envs - 1):
            self.copies.append(factory(**options))
        if len({id(copy) for copy in self.copies}) != num_envs:
            raise Dom2Error(
                f"{self.name}: the factory gives the same object each time; it must make a new "
                "environment when called"
            )
        self.num_envs, self.num_agents = num_envs, len(self._agents)
        self.obs_dims = [space.obs_dim for space in self._spaces]
        self.act_dim = self._spaces[0].act_dim
        self._limit = episode_length
        self.episode_length = LONGEST if episode_length is None else episode_length
        self._seed, self._resets, self._steps = int(seed), 0, -1
        self.terminal = torch.zeros(num_envs, dtype=torch.bool)
        self._done = np.zeros(num_envs, bool)
        self._rows: list[np.ndarray] = [
            np.zeros((num_envs, width), np.float32) for width in self.obs_dims
        ]

    def _check_kind(self, env) -> None:
        wanted = "a factory without num_envs makes one PettingZoo ParallelEnv"
        if hasattr(env, "agent_selection"):
            raise Dom2Error(
                f"{self.name} is an AEC environment of PettingZoo; {wanted}: wrap it with "
                "pettingzoo.utils.aec_to_parallel"
            )
        if not missing_members(env):
            raise Dom2Error(
                f"{self.name} is an Env already, but its factory takes no num_envs: let it take "
                "num_envs and seed"
            )
        lacks = [member for member in _MEMBERS if not hasattr(env, member)]
        if lacks:
            raise Dom2Error(
                f"the factory {self.name} makes {type(env).__name__}, which lacks "
                f"{', '.join(lacks)}; {wanted}"
            )
        if not env.possible_agents:
            raise Dom2Error(f"{self.name} has no agents: possible_agents is empty")

    def _check_widths(self) -> None:
        widths = {space.act_dim for space in self._spaces}
        if len(widths) != 1:
            found = {n: s.act_dim for n, s in zip(self.agent_names, self._spaces, strict=True)}
            raise Dom2Error(
                f"{self.name}: agents differ in action width: {found}; all agents must have "
                "actions of one width"
            )

    def reset(self, seed: int | None = None) -> Obs:
        """Start E episodes; see `Env`."""
        if seed is not None:
            self._seed, self._resets = int(seed), 0
        source = np.random.SeedSequence([self._seed, self._resets])
        self._resets += 1
        self._steps = 0
        self._done[:] = False
        self.terminal = torch.zeros(self.num_envs, dtype=torch.bool)
        for e, (copy, own) in enumerate(
            zip(self.copies, source.generate_state(self.num_envs), strict=True)
        ):
            obs, _ = copy.reset(seed=int(own))
            self._check_agents(copy, "after reset")
            self._store(e, obs, "reset()")
        return self._observations()

    def step(self, act: Tensor) -> tuple[Obs, Tensor, Tensor]:
        """Advance every copy that isn't done; see `Env`."""
        actions = self._scaled(act)
        self._steps += 1
        reward = np.zeros((self.num_agents, self.num_envs), np.float32)
        for e, copy in enumerate(self.copies):
            if self._done[e]:
                continue
            given = {agent: actions[i][e] for i, agent in enumerate(self._agents)}
            obs, rewards, terminated, truncated, _ = copy.step(given)
            self._end(e, copy, terminated, truncated)
            self._store(e, obs, f"step {self._steps}")
            for i, agent in enumerate(self._agents):
                reward[i, e] = self._entry(rewards, agent, "reward", f"step {self._steps}")
        if self._limit is not None and self._steps >= self._limit:
            self._done[:] = True
        elif self._steps >= LONGEST and not self._done.all():
            raise Dom2Error(
                f"{self.name}: an episode has not ended after {LONGEST:,} steps; give "
                "episode_length, or let the environment end its episodes"
            )
        done = torch.from_numpy(self._done.copy())
        return self._observations(), torch.from_numpy(reward), done

    def score(self, reward_sums: Tensor) -> Tensor:
        """Mean over the agents, [E]."""
        return reward_sums.mean(dim=0)

    def close(self) -> None:
        """Close all copies."""
        for copy in self.copies:
            getattr(copy, "close", lambda: None)()

    def _end(self, e: int, copy, terminated: dict, truncated: dict) -> None:
        """Notes whether copy e is done; all of its agents end together or it is refused."""
        when = f"step {self._steps}"
        ends = {}
        for agent in self._agents:
            terminal = bool(self._entry(terminated, agent, "termination", when))
            ends[agent] = (terminal, bool(self._entry(truncated, agent, "truncation", when)))
        over = [agent for agent in self._agents if any(ends[agent])]
        if not over:
            self._check_agents(copy, f"after {when}")
            return
        if len(over) != self.num_agents:
            left = [str(agent) for agent in self._agents if agent not in over]
            raise Dom2Error(
                f"{self.name}: {', '.join(map(str, over))} ended at step {self._steps}, "
                f"{', '.join(left)} did not; only environments whose agents all end at the same "
                "step are accepted"
            )
        self._done[e] = True
        self.terminal[e] = all(terminal for terminal, _ in ends.values())

    def _check_agents(self, copy, when: str) -> None:
        present = list(getattr(copy, "agents", self._agents))
        added = [str(agent) for agent in present if agent not in self._agents]
        lacking = [str(agent) for agent in self._agents if agent not in present]
        if added or lacking:
            what = [f"{', '.join(added)} appeared"] if added else []
            what += [f"{', '.join(lacking)} is missing"] if lacking else []
            raise Dom2Error(
                f"{self.name}: {when} {' and '.join(what)}; only environments whose agents are all "
                f"there from the first step to the last are accepted: {', '.join(self.agent_names)}"
            )

    def _entry(self, values: dict, agent, what: str, when: str):
        if agent not in values:
            raise Dom2Error(f"{self.name}: {when} gave no {what} for {agent}, only for {[*values]}")
        return values[agent]

    def _store(self, e: int, obs: dict, when: str) -> None:
        for i, agent in enumerate(self._agents):
            value = np.asarray(self._entry(obs, agent, "observation", when), np.float32).ravel()
            if value.size != self.obs_dims[i]:
                raise Dom2Error(
                    f"{self.name}: {when} gave {agent} an observation of {value.size} numbers, its "
                    f"space has {self.obs_dims[i]}"
                )
            self._rows[i][e] = value

    def _observations(self) -> Obs:
        if len(set(self.obs_dims)) == 1:
            return torch.from_numpy(np.stack(self._rows))
        return [torch.from_numpy(rows.copy()) for rows in self._rows]

    def _scaled(self, act: Tensor) -> list[np.ndarray]:
        """Each agent's actions [E, *shape] within its bounds."""
        if self._steps < 0:
            raise Dom2Error(f"{self.name}: call reset() before step()")
        expected = (self.num_agents, self.num_envs, self.act_dim)
        values = torch.as_tensor(act).detach().cpu().double().numpy()
        if values.shape != expected:
            raise Dom2Error(
                f"{self.name}: actions have shape {list(expected)} (agents, environments, width), "
                f"got {list(values.shape)}"
            )
        largest = np.abs(values).max()
        if not largest <= 1 + 1e-6:  # NaN fails the comparison, too
            raise Dom2Error(
                f"{self.name}: actions must be finite and in [-1, 1], found magnitude {largest:g}; "
                "clip them first"
            )
        return [space.scaled(values[i]) for i, space in enumerate(self._spaces)]


class _Space:
    """One agent's spaces: flat widths, and the way from [-1, 1] to its action bounds."""

    def __init__(self, env, agent, name: str):
        obs, act = env.observation_space(agent), env.action_space(agent)
        for what, space in (("observation", obs), ("action", act)):
            if not (hasattr(space, "low") and hasattr(space, "high")):  # a Box of any gym
                raise Dom2Error(
                    f"{name}: the {what} space of {agent} is {space}; only Box is accepted"
                    + (" (continuous actions)" if what == "action" else "")
                )
        if not np.issubdtype(act.dtype, np.floating):
            raise Dom2Error(
                f"{name}: the action space of {agent} is {act}, of whole numbers; only continuous "
                "actions, a Box of a floating-point dtype, are accepted"
            )
        self.low, self.high = (np.asarray(x, np.float64) for x in (act.low, act.high))
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise Dom2Error(
                f"{name}: the action space of {agent} is {act}; actions in [-1, 1] are scaled to "
                "its bounds, so both must be finite"
            )
        self.shape, self.dtype = act.shape, act.dtype
        self.obs_dim, self.act_dim = int(np.prod(obs.shape)), int(np.prod(act.shape))

    def scaled(self, values: np.ndarray) -> np.ndarray:
        values = values.reshape(-1, *self.shape).clip(-1, 1)
        # Halves first, so that bounds of -1 and 1 leave an action as it is.
        middle, half = self.low / 2 + self.high / 2, self.high / 2 - self.low / 2
        return (middle + values * half).clip(self.low, self.high).astype(self.dtype)
