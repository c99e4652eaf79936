"""A policy as a module of tensordict, for TorchRL's environments, collectors and losses.

    actor = dom2_fast.torchrl.actor(policy)  # ("agents", "observation") -> ("agents", "action")
    rollout = env.rollout(100, policy=actor)

TorchRL keeps the agents of a group as the last dimension before the features, [*batch, agents, O];
here they come first. tensordict is imported when an actor is made; TorchRL itself isn't needed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from dom2_fast.errors import Dom2Error

Key = str | tuple[str, ...]


def actor(
    policy,
    group: str | None = "agents",
    order: Sequence[int] | None = None,
    *,
    obs_key: Key | None = None,
    act_key: Key | None = None,
    generator: torch.Generator | None = None,
):
    """A `tensordict.nn.TensorDictModuleBase` that acts by a policy, without gradients.

    It reads observations [*batch, agents, O] and writes actions [*batch, agents, A] in the policy's
    bounds, on the observations' device and in their dtype. Of a policy of one agent both are
    without the dimension of agents.

    Args:
        policy: a stack's policies (a run's, or a `FrozenPolicy`) or a single policy: anything with
            `act` and `obs_dims` or `obs_dim`.
        group: of agents, the first part of the keys: (group, "observation"), (group, "action").
            None: "observation" and "action".
        order: for each agent in TorchRL's order (`env.group_map[group]`) the number that it has in
            the policy; None: the same order.
        obs_key, act_key: other keys.
        generator: of the policy's noise; None: torch's own.
    Raises:
        Dom2Error: tensordict isn't installed; an order that isn't one of the policy's agents. When
            it acts: observations of another shape.
    """
    base = _base()
    agents = _agents(policy)
    if order is not None:
        order = list(order)
        if agents is None or sorted(order) != list(range(agents)):
            raise Dom2Error(
                f"order has each agent's number once, "
                f"{'of a stack' if agents is None else f'0 to {agents - 1}'}; got {order}"
            )
    named = [() if group is None else (group,)] * 2
    keys = [(*first, last) for first, last in zip(named, ("observation", "action"), strict=True)]
    keys = [key if len(key) > 1 else key[0] for key in keys]
    obs_key = keys[0] if obs_key is None else obs_key
    act_key = keys[1] if act_key is None else act_key
    return base(policy, agents, order, obs_key, act_key, generator)


def _agents(policy) -> int | None:
    """How many agents a policy acts for; None for a single policy."""
    if not hasattr(policy, "act"):
        raise Dom2Error(f"a policy has act(obs, generator=None), got {type(policy).__name__}")
    if hasattr(policy, "groups"):  # a single policy has None
        return policy.groups
    return policy.num_agents


@functools.cache
def _base():
    """The module's class, which needs tensordict to be defined."""
    try:
        from tensordict.nn import TensorDictModuleBase
    except ImportError as error:
        first = (str(error).splitlines() or [""])[0]
        raise Dom2Error(
            f"TorchRL's modules need tensordict, which can't be imported ({first}): "
            "pip install 'dom2-fast[torchrl]'"
        ) from None

    class TensorDictActor(TensorDictModuleBase):
        """See `actor`."""

        def __init__(self, policy, agents, order, obs_key, act_key, generator):
            super().__init__()
            self.in_keys, self.out_keys = [obs_key], [act_key]
            self.agents, self.order, self.generator = agents, order, generator
            self._policy = [policy]  # in a list: its parameters aren't the module's

        @torch.no_grad()
        def forward(self, tensordict):
            obs = tensordict.get(self.in_keys[0])
            tensordict.set(self.out_keys[0], self.act(obs))
            return tensordict

        def act(self, obs: torch.Tensor) -> torch.Tensor:
            """Actions [*batch, agents, A] of obs [*batch, agents, O]."""
            policy, agents = self._policy[0], self.agents
            least = 1 if agents is None else 2
            if obs.dim() < least or (agents is not None and obs.size(-2) != agents):
                raise Dom2Error(
                    f"{self.in_keys[0]} has shape {list(obs.shape)}; the policy takes "
                    + ("[*batch, O]" if agents is None else f"[*batch, {agents}, O]")
                )
            rows = obs.reshape(-1, *obs.shape[-least:])  # [B, G, O] or [B, O]
            if agents is not None:
                rows = rows.transpose(0, 1)
                rows = rows if self.order is None else rows[self._inverse()]
            act = policy.act(rows.contiguous().float(), generator=self.generator)
            if agents is not None:
                act = act if self.order is None else act[self.order]
                act = act.transpose(0, 1)
            return act.reshape(*obs.shape[:-1], act.size(-1)).to(obs)

        def _inverse(self) -> list[int]:
            """For each of the policy's agents its place in TorchRL's order."""
            return [self.order.index(agent) for agent in range(self.agents)]

    return TensorDictActor
