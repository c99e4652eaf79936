"""Our environments as PettingZoo's `ParallelEnv`, one copy at a time.

For programs that speak PettingZoo. Training and evaluation use `dom2_fast.envs.make`, which steps
many copies at once. The particle tasks add pictures to this, see `particle/pettingzoo_face.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from pettingzoo import ParallelEnv

from dom2_fast.envs.env import Env, Obs
from dom2_fast.envs.registry import EnvSpec
from dom2_fast.errors import Dom2Error


class ParallelFace(ParallelEnv):
    """One copy of an `Env` behind PettingZoo's interface; see `envs.parallel_env`.

    Observations are float32, actions Box(-1, 1). Agents are called as the environment says
    (`agent_names`), else agent_0, agent_1 and so on. All of them end together: by truncation at
    `episode_length`, before it by termination (or as the environment's `terminal` says).
    """

    def __init__(self, name: str, env: Env):
        self._env = env
        self.metadata: dict[str, Any] = {
            "name": name,
            "render_modes": [],
            "is_parallelizable": True,
        }
        self.render_mode: str | None = None
        named = getattr(env, "agent_names", None)
        self.possible_agents = list(named or (f"agent_{i}" for i in range(env.num_agents)))
        self.agents: list[str] = []
        self.observation_spaces = {
            agent: Box(-np.inf, np.inf, (dim,), np.float32)
            for agent, dim in zip(self.possible_agents, env.obs_dims, strict=True)
        }
        self.action_spaces = {
            agent: Box(-1.0, 1.0, (env.act_dim,), np.float32) for agent in self.possible_agents
        }
        self.state_space = Box(-np.inf, np.inf, (sum(env.obs_dims),), np.float32)
        self._steps = 0
        self._obs: Obs | None = None

    def observation_space(self, agent: str) -> Box:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Box:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict | None = None):
        """Start an episode."""
        self._obs = self._start(seed, options or {})
        self._steps = 0
        self.agents = list(self.possible_agents)
        return self._by_agent(self._obs), {agent: {} for agent in self.agents}

    def _start(self, seed: int | None, options: dict) -> Obs:
        return self._env.reset(seed=seed)

    def _by_agent(self, obs: Obs) -> dict[str, np.ndarray]:
        rows = (o[0].cpu().numpy().astype(np.float32) for o in obs)
        return dict(zip(self.agents, rows, strict=True))

    def step(self, actions: dict[str, np.ndarray]):
        """Advance by one step; all agents end together."""
        if not self.agents:
            raise Dom2Error("the episode is over; call reset() before step()")
        if set(actions) != set(self.agents):
            raise Dom2Error(
                f"step() needs one action for each of {self.agents}, got {sorted(actions)}"
            )
        rows = [np.asarray(actions[agent], dtype=np.float64) for agent in self.agents]
        shape = (self._env.act_dim,)
        wrong = {n: r.shape for n, r in zip(self.agents, rows, strict=True) if r.shape != shape}
        if wrong:
            raise Dom2Error(f"an action has shape {shape}, got {wrong}")
        dtype = getattr(self._env, "dtype", torch.float32)
        act = torch.from_numpy(np.stack(rows))[:, None].to(dtype)  # [G, 1, A]
        self._obs, reward, done = self._env.step(act)
        self._steps += 1
        agents, over = self.agents, bool(done[0])
        obs = self._by_agent(self._obs)
        rewards = dict(zip(agents, reward[:, 0].tolist(), strict=True))
        terminal = over and self._terminal()
        if over:
            self.agents = []
        return (
            obs,
            rewards,
            dict.fromkeys(agents, terminal),
            dict.fromkeys(agents, over and not terminal),
            {agent: {} for agent in agents},
        )

    def _terminal(self) -> bool:
        said = getattr(self._env, "terminal", None)
        return self._steps < self._env.episode_length if said is None else bool(said[0])

    def state(self) -> np.ndarray:
        """All agents' observations one after the other, as mpe2's `state`."""
        if self._obs is None:
            raise Dom2Error("call reset() before state()")
        return torch.cat([o[0] for o in self._obs]).cpu().numpy().astype(np.float32)

    def render(self):
        raise Dom2Error(f"{self.metadata['name']} has no pictures")

    def close(self) -> None:
        """Free what the environment holds."""
        close = getattr(self._env, "close", None)
        if close is not None:
            close()


def face(spec: EnvSpec, **options) -> ParallelEnv:
    """An environment's own `ParallelEnv` where it has one, else a `ParallelFace` around it."""
    if spec.parallel_env is not None:
        return spec.parallel_env(**options)
    if not spec.batched:
        return spec.factory(**options)
    if "render_mode" in options:
        raise Dom2Error(f"{spec.name} has no pictures: leave out render_mode")
    return ParallelFace(spec.name, spec.make(**options))
