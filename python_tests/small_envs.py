"""Tiny environments with returns that can be worked out by hand, as `Env` and as PettingZoo's."""

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

from dom2_fast import known_tasks
from dom2_fast.envs import registry


def own_registry(monkeypatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))
    monkeypatch.setattr(known_tasks, "_registered", dict(known_tasks._registered))


class Counting:
    """Two agents; copy e ends after e % 3 + 1 steps. Reward 1 per step to agent 0, 2 to agent 1.

    After its end a copy gives NaN rewards, which must count for nothing.
    """

    num_agents, act_dim, episode_length = 2, 1, 5

    def __init__(self, num_envs, seed, shift=None, gust=0.0, widths=(2, 2)):
        self.num_envs, self.seeds, self.gust = num_envs, [seed], gust
        self.obs_dims, self.closed = list(widths), False

    def _obs(self):
        seen = [torch.full((self.num_envs, w), float(self.t)) for w in self.obs_dims]
        return torch.stack(seen) if len(set(self.obs_dims)) == 1 else seen

    def reset(self, seed=None):
        self.seeds.append(seed)
        self.t = 0
        return self._obs()

    def step(self, act):
        over = self.t >= torch.arange(self.num_envs) % 3 + 1
        self.t += 1
        reward = torch.tensor([[1.0], [2.0]]).expand(2, self.num_envs) + self.gust
        reward = torch.where(over, torch.nan, reward)
        return self._obs(), reward, self.t >= torch.arange(self.num_envs) % 3 + 1

    def score(self, reward_sums):
        return reward_sums.sum(dim=0)

    def close(self):
        self.closed = True


class Line(ParallelEnv):
    """Agents on a line: each sees its place and the step, moves by its action, is paid its place.

    Args:
        length: steps. terminate: ends by termination. ends: an agent's own last step. late: an
            agent that appears in step 2. act, obs: spaces by agent.
    """

    metadata = {"name": "line"}  # noqa: RUF012

    def __init__(self, length=4, terminate=False, ends=None, late=None, act=None, obs=None, n=2):
        self.possible_agents = [f"a{i}" for i in range(n)]
        self.length, self.terminate, self.ends, self.late = length, terminate, ends or {}, late
        one, two = Box(-1.0, 3.0, (1,), np.float32), Box(-9, 9, (2,), np.float64)
        self._act = dict.fromkeys(self.possible_agents, one) | (act or {})
        self._obs = dict.fromkeys(self.possible_agents, two) | (obs or {})
        self.agents, self.seen, self.closed = [], [], False

    def observation_space(self, agent):
        return self._obs[agent]

    def action_space(self, agent):
        return self._act[agent]

    def _look(self):
        return {
            a: np.full(self._obs[a].shape, self.t)
            if self._obs[a].shape != (2,)
            else np.array([self.at[a], self.t])
            for a in self.agents
        }

    def reset(self, seed=None, options=None):
        self.seed = seed
        rng = np.random.default_rng(seed)
        self.t, self.agents = 0, list(self.possible_agents)
        self.at = {a: rng.uniform(-1, 1) for a in self.agents}
        return self._look(), {a: {} for a in self.agents}

    def step(self, actions):
        self.seen.append(actions)
        self.t += 1
        for a in self.agents:
            self.at[a] += float(np.asarray(actions[a]).ravel()[0])
        obs, rewards = self._look(), {a: self.at[a] for a in self.agents}
        over = {a: self.t >= self.ends.get(a, self.length) for a in self.agents}
        no = dict.fromkeys(self.agents, False)
        infos = {a: {} for a in self.agents}
        self.agents = [a for a in self.agents if not over[a]]
        if self.late and self.t == 2:
            self.agents.append(self.late)
        return obs, rewards, over if self.terminate else no, no if self.terminate else over, infos

    def close(self):
        self.closed = True


def discrete_line():
    return Line(act={"a1": Discrete(3)})
