"""What the algorithms with a deterministic actor share: the stacked actors, targets, critics.

The learning rules are in `bc_det.py` and `td3_bc.py`.
"""

from __future__ import annotations

import torch
from torch import nn

from dom2_fast import networks
from dom2_fast.algos.acting import Policies
from dom2_fast.algos.critics import TwinCritics, critic_nets, twice
from dom2_fast.algos.offline import OfflineAgents
from dom2_fast.algos.settings import ActorSettings
from dom2_fast.algos.updates import adam, descend, frozen_copy, polyak
from dom2_fast.data.sampler import Batch
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.policies.actors import DeterministicPolicy

SD_FLOOR = 1e-3  # added to the observations' deviations, as in TD3+BC's code


class ActorAgents(OfflineAgents):
    """One deterministic actor per agent. Subclasses define `update`.

    `net` learns, `policy` acts with it.
    """

    def _build(self) -> None:
        c = self.config
        self.net = actor_nets(c, **self.sizes)
        if c.standardise_obs and self.sampler is not None:
            moments = obs_moments(self.sampler.data, self.num_agents)
            networks.set_standardisation(self.net, *moments)
        self.net.to(self.device)
        self.policy = actor_policy(c, self.net)
        self.actor_optimiser = adam(self.net, c.lr)

    def bc_loss(self, batch: Batch) -> torch.Tensor:
        """E (pi(o) - a)^2 of every agent, [G]; the mean over rows and action components."""
        return self.policy.bc_loss(
            batch.obs, batch.act, generator=self.generator, reduction="group"
        )

    def descend(self, loss: torch.Tensor) -> None:
        """One step of the actors down the losses [G]."""
        descend(loss, self.actor_optimiser, self.config.grad_clip)

    @property
    def policies(self) -> Policies:
        return Policies(self.policy)

    @classmethod
    def _acting(cls, config, sizes, parts) -> Policies:
        net = actor_nets(config, **sizes).requires_grad_(False).eval()
        net.load_state_dict(parts["net"])
        return Policies(actor_policy(config, net))

    def learnt(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def _parts(self) -> dict:
        return {"net": self.net, "actor_optimiser": self.actor_optimiser, **super()._parts()}


class ActorCriticAgents(ActorAgents):
    """A deterministic actor, its target and twin critics per agent. Subclasses define `update`.

    `target_net` follows `net`, `target_policy` acts with it; `critics` see the observations as the
    actor does.
    """

    def _build(self) -> None:
        super()._build()
        c = self.config
        self.target_net = frozen_copy(self.net)
        self.target_policy = actor_policy(c, self.target_net)
        net = critic_nets(c, **self.sizes, standardise=c.standardise_obs).to(self.device)
        if c.standardise_obs:
            own = self.net.template.standardise
            networks.set_standardisation(net, twice(own.mean), twice(own.sd))
        self.critics = TwinCritics(net, c, self.sampler)

    def follow(self, tau: float) -> None:
        """The Polyak step of all targets: target <- tau net + (1 - tau) target."""
        self.critics.follow(tau)
        polyak(self.target_net, self.net, tau)

    def learnt(self) -> dict[str, nn.Module]:
        return {**super().learnt(), "critic": self.critics.net}

    def _parts(self) -> dict:
        return {**super()._parts(), "target_net": self.target_net, **self.critics.parts()}


def actor_nets(c: ActorSettings, obs_dim: int, act_dim: int, agents: int) -> networks.StackedModule:
    """The actors of all agents, newly initialised."""
    sizes = {"hidden": c.hidden, "depth": c.depth, "standardise": c.standardise_obs}
    return networks.stack([networks.MLPActor(obs_dim, act_dim, **sizes) for _ in range(agents)])


def actor_policy(c: ActorSettings, net: nn.Module) -> DeterministicPolicy:
    """The policy that acts with these networks as the settings say."""
    return DeterministicPolicy(net, backend=c.backend, precision=c.precision)


def obs_moments(data: TrajectoryDataset, agents: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each agent's observations over all rows, [G, O] each, float64.

    Of the data as it is, without trajectory weights, plus `SD_FLOOR`, as in TD3+BC's code.
    """
    rows = [data.obs[j].double() for j in range(agents)]
    mean = torch.stack([r.mean(0) for r in rows])
    sd = torch.stack([r.std(0, unbiased=False) for r in rows])
    return mean, sd + SD_FLOOR
