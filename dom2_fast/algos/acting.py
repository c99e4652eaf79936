"""Acting: what the policies of every algorithm look like to `evaluate`, to `export`, to a user.

The protocol: `act(obs, generator)`, `obs_dims`, `num_agents`, `frozen()`, `export(path)`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence

import torch
from torch import nn

from dom2_fast.errors import Dom2Error
from dom2_fast.lowering import FusedModule
from dom2_fast.policies.diffusion import choose


class Policies:
    """Decentralised acting: agent i acts on its own observation with its own network.

    `policies[i]` is agent i's policy alone (a copy), `policies.policy` the stack of all. No
    gradients.

    Args:
        policy: of a stack of networks, one for each agent: a `DiffusionPolicy` or a
            `DeterministicPolicy`.
        candidates, critic: of that many sampled actions, agent i's own critic (a FusedModule of the
            stack of them) takes the best.
        temperature: or draws one of them with probability ~ exp(q / temperature), if given.
    """

    def __init__(
        self,
        policy,
        candidates: int = 1,
        critic: FusedModule | None = None,
        temperature: float | None = None,
    ):
        self.policy, self.candidates, self._critic = policy, candidates, critic
        self.temperature = temperature
        self.obs_dims = [policy.obs_dim] * policy.groups

    @property
    def num_agents(self) -> int:
        return len(self.obs_dims)

    def __len__(self) -> int:
        return self.num_agents

    def act(
        self,
        obs: torch.Tensor | Sequence[torch.Tensor],
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Actions [G, E, A] in [-1, 1] for obs [G, E, O], or a list of G tensors [E, O].

        On the device of `obs`, in the networks' dtype. `generator` gives the noise, default torch's
        own of the networks' device. Raises Dom2Error for observations of another number or width.
        """
        obs = stacked(obs, self.obs_dims)
        own = next(self.policy.net.parameters())
        how = {}
        if self.candidates > 1:
            how = {"candidates": self.candidates, "critic": self._critic}
            how |= {"temperature": self.temperature}
        act = self.policy.act(obs.to(own.device, own.dtype), generator=generator, **how)
        return act.to(obs.device)

    def frozen(self):
        """The same acting as an immutable object that threads can share, see `FrozenPolicy`.

        What is learnt afterwards doesn't change it.
        """
        frozen = self.policy.frozen()
        if self.candidates == 1:
            return frozen
        critic = copy.deepcopy(self._critic)
        return FrozenBest(frozen, self.candidates, critic, self.obs_dims, self.temperature)

    def export(self, path) -> None:
        """Writes the policies to one file for `load_policy`; without the critic of `candidates`."""
        self.policy.export(path)

    def __getitem__(self, agent: int):
        """Agent's own policy, of observations [B, O]; a copy."""
        net = self.policy.net.unstack()[agent]
        return type(self.policy)(net, **_options(self.policy))


class FrozenBest:
    """One of several samples of a frozen policy, by a critic that nothing changes any more."""

    def __init__(
        self,
        policy,
        candidates: int,
        critic: FusedModule,
        obs_dims: list[int],
        temperature: float | None = None,
    ):
        self.policy, self.candidates, self.obs_dims = policy, candidates, obs_dims
        self.temperature = temperature
        self._critic = critic.requires_grad_(False)
        self.num_agents = len(obs_dims)

    @torch.no_grad()
    def act(self, obs, generator: torch.Generator | None = None) -> torch.Tensor:
        """As `Policies.act`."""
        given = stacked(obs, self.obs_dims)
        own = next(self._critic.parameters())
        obs = given.to(own.device, own.dtype)
        acts = self.policy.denoise(obs, obs.size(1) * self.candidates, generator=generator)
        act = choose(acts, self._critic(acts, obs), self.candidates, self.temperature, generator)
        return act.to(given.device)

    def frozen(self) -> FrozenBest:
        return self

    def export(self, path) -> None:
        """Writes the policy to one file, without the critic."""
        self.policy.export(path)


def _options(policy) -> dict:
    """What a policy was made with, besides the network: it keeps every argument by its name."""
    found = {}
    for cls in type(policy).__mro__[: type(policy).__mro__.index(nn.Module)]:
        for name, argument in inspect.signature(cls.__init__).parameters.items():
            if argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
                found[name] = getattr(policy, name, None)
    return {name: value for name, value in found.items() if name not in ("self", "net")}


def stacked(obs, obs_dims: list[int]) -> torch.Tensor:
    """Observations as [G, E, O]; Dom2Error where they aren't those of these agents."""
    agents, width = len(obs_dims), obs_dims[0]
    if not isinstance(obs, torch.Tensor):
        obs = [torch.as_tensor(o) for o in obs]
        if all(o.shape == obs[0].shape for o in obs) and len(obs) == agents:
            obs = torch.stack(obs)
    given = list(obs.shape) if isinstance(obs, torch.Tensor) else [list(o.shape) for o in obs]
    if not isinstance(obs, torch.Tensor) or obs.dim() != 3 or given[::2] != [agents, width]:
        raise Dom2Error(
            f"obs has shape {given}; these {agents} agents take [{agents}, E, {width}], or a list "
            f"of {agents} tensors [E, {width}]"
        )
    return obs
