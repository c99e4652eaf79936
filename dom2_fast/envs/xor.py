"""The XOR game: one step, two agents that are paid where the signs of their actions differ.

The smallest task with two joint solutions of which neither is better, (+, -) and (-, +), and no
observation that says which: agents that draw independently agree on one half of the time. It is
the usual example of what factorised policies can't represent (Fu et al. 2022, arXiv 2206.07505).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dom2_fast.envs import registry
from dom2_fast.errors import Dom2Error

NORMALISATION = (0.5, 1.0, "computed: independent fair signs; signs that always differ")


class XorGame:
    """E copies of the game, an `envs.Env`. Nothing in it is random.

    Args:
        num_envs: E.
        seed: taken as every environment takes it; there is nothing to draw.

    Attributes:
        num_agents: 2; obs_dims: one number each, always 1; act_dim: 1; episode_length: 1.
        terminal: [E], all True: the game is over, nothing is to be expected after it.
    """

    num_agents, act_dim, episode_length = 2, 1, 1
    obs_dims = [1, 1]  # noqa: RUF012
    agent_names = ["agent_0", "agent_1"]  # noqa: RUF012

    def __init__(self, num_envs: int = 1, seed: int = 0):
        self.num_envs = num_envs
        self.terminal = torch.ones(num_envs, dtype=torch.bool)
        self._signs: Tensor | None = None

    def reset(self, seed: int | None = None) -> Tensor:
        """Observations [2, E, 1] of ones; the seed changes nothing."""
        self._signs = torch.zeros(2, self.num_envs)
        return torch.ones(2, self.num_envs, 1)

    def step(self, act: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Play: reward 1 to both agents where one action is above and the other below 0, else 0.

        Args:
            act: [2, E, 1] in [-1, 1].
        Returns:
            observations [2, E, 1], ones; reward [2, E]; done [E], True.
        Raises:
            Dom2Error: `reset` wasn't called; actions of another shape, outside of [-1, 1] or NaN.
        """
        if self._signs is None:
            raise Dom2Error("xor: call reset() before step()")
        act = torch.as_tensor(act)
        if tuple(act.shape) != (2, self.num_envs, 1):
            raise Dom2Error(
                f"xor: actions have shape [2, {self.num_envs}, 1] (agents, copies, 1), got "
                f"{list(act.shape)}"
            )
        if not bool((act.abs() <= 1 + 1e-6).all()):
            raise Dom2Error("xor: actions must be in [-1, 1] and no NaN; clip them first")
        self._signs = act[..., 0].sign()
        reward = (self._signs.prod(dim=0) < 0).float().expand(2, -1)
        done = torch.ones(self.num_envs, dtype=torch.bool)
        return torch.ones(2, self.num_envs, 1), reward, done

    def score(self, reward_sums: Tensor) -> Tensor:
        """Scores [E] in {0, 1}: the reward, which both agents share, from sums [2, E]."""
        if reward_sums.ndim != 2 or len(reward_sums) != 2:
            raise Dom2Error(
                f"xor: reward sums have shape [2, episodes], got {list(reward_sums.shape)}"
            )
        return reward_sums.mean(dim=0)

    def solution(self) -> tuple[Tensor, Tensor]:
        """(which pair of signs was played [E], from 0 to 8, whether they differ [E] bool)."""
        if self._signs is None:
            raise Dom2Error("xor: call reset() before solution()")
        first, second = self._signs.long() + 1
        return 3 * first + second, self._signs.prod(dim=0) < 0


def register_all() -> None:
    """Make the game known to the registry."""
    registry.register("xor", XorGame, normalisation=NORMALISATION, episode_length=1)
