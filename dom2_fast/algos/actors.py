"""What the algorithms with a deterministic actor share: the stacked actors, targets, critics.

The learning rules are in `bc_det.py`, `td3_bc.py`, `itd3.py`, `cql.py` and `omar.py`. Gaussian
actors are made otherwise, see `gaussian_agents.py`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch
from torch import nn

from dom2_fast import networks
from dom2_fast.algos import batch_norm
from dom2_fast.algos.acting import Policies
from dom2_fast.algos.critics import TwinCritics, critic_nets
from dom2_fast.algos.offline import OfflineAgents
from dom2_fast.algos.settings import ActorSettings
from dom2_fast.algos.updates import adam, frozen_copy, polyak
from dom2_fast.data.sampler import Batch
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.policies.actors import DeterministicPolicy
from dom2_fast.policies.base import Policy

SD_FLOOR = 1e-3  # added to the observations' deviations, as in TD3+BC's code


class ActorAgents(OfflineAgents):
    """One deterministic actor per agent. Subclasses define `update`.

    `net` acts, on observations as they are. With `standardise_obs` batches are standardised as they
    are drawn, and `learner` is the part of `net` behind that, with the same parameters; without,
    it is `net` itself. `policy` is the learner's. Settings whose `obs_norm` is "batch" have it done
    by the moments of each batch, and `net` has running averages of them.
    """

    def _build(self) -> None:
        c = self.config
        self.net = self.make_nets(c, **self.sizes)
        self.learner = self.net
        if c.obs_norm != "none":
            template = self.net.template
            if c.obs_norm == "data" and self.sampler is not None:
                mean, sd = obs_moments(self.sampler.data, self.num_agents)
                template.mean.copy_(mean)
                template.sd.copy_(sd)
            self.learner = networks.StackedModule(template.inner, self.num_agents)
        self.net.to(self.device)
        self.policy = self.make_policy(c, self.learner)
        self.actor_optimiser = adam(self.net, c.lr)

    def _draw(self) -> Batch:
        batch = super()._draw()
        norm = self.config.obs_norm
        if norm == "none":
            return batch
        with self.stage("sample"):
            if norm == "batch":
                batch_norm.follow_moments(self.net.template, batch.obs)
            return replace(batch, obs=self.seen(batch.obs), next_obs=self.seen(batch.next_obs))

    def seen(self, obs: torch.Tensor) -> torch.Tensor:
        if self.config.obs_norm == "batch":
            return batch_norm.whiten(obs)
        if self.config.obs_norm == "none":
            return obs
        mean, sd = (getattr(self.net.template, k).unsqueeze(1) for k in ("mean", "sd"))
        return (obs - mean) / sd

    @staticmethod
    def make_nets(c: ActorSettings, **sizes: int) -> networks.StackedModule:
        """The actors of all agents, newly initialised."""
        return actor_nets(c, **sizes)

    @staticmethod
    def make_policy(c: ActorSettings, net: nn.Module) -> Policy:
        """The policy that learns with these networks."""
        return actor_policy(c, net)

    @classmethod
    def make_acting(cls, c: ActorSettings, net: nn.Module) -> Policy:
        """The policy that acts with them."""
        return cls.make_policy(c, net)

    @cached_property
    def acting_policy(self) -> Policy:
        return self.make_acting(self.config, self.net)

    @classmethod
    def _acting(cls, config, sizes, parts) -> Policies:
        net = cls.make_nets(config, **sizes).requires_grad_(False).eval()
        net.load_state_dict(parts["net"])
        return Policies(cls.make_acting(config, net))

    def learnt(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def _parts(self) -> dict:
        return {"net": self.net, "actor_optimiser": self.actor_optimiser, **super()._parts()}


class ActorCriticAgents(ActorAgents):
    """A deterministic actor, its target and twin critics per agent. Subclasses define `update`.

    `target_net` follows `learner`, `target_policy` acts with it; it and `critics` see the batches'
    observations, too.
    """

    def _build(self) -> None:
        super()._build()
        self.target_net = frozen_copy(self.learner)
        self.target_policy = actor_policy(self.config, self.target_net)
        twins, kind = TwinCritics, networks.MLPCritic
        if self.config.obs_norm == "batch":
            twins, kind = batch_norm.BatchNormCritics, networks.ScaledCritic
        net = critic_nets(self.config, **self.sizes, kind=kind).to(self.device)
        self.critics = twins(net, self.config, self.sampler)

    def follow(self, tau: float) -> None:
        """The Polyak step of all targets: target <- tau net + (1 - tau) target."""
        self.critics.follow(tau)
        polyak(self.target_net, self.learner, tau)

    def learnt(self) -> dict[str, nn.Module]:
        return {**super().learnt(), "critic": self.critics.net}

    def _parts(self) -> dict:
        return {**super()._parts(), "target_net": self.target_net, **self.critics.parts()}


def actor_nets(
    c: ActorSettings, obs_dim: int, act_dim: int, agents: int, kind: type = networks.MLPActor
) -> networks.StackedModule:
    """The actors of all agents, newly initialised; a standardisation that changes nothing yet.

    kind: what one is, before that.
    """

    def make():
        net = kind(obs_dim, act_dim, hidden=c.hidden, depth=c.depth)
        if c.obs_norm == "none":
            return net
        if c.obs_norm == "batch":
            return batch_norm.actor(net)
        return networks.Standardised(net, torch.zeros(obs_dim), torch.ones(obs_dim))

    return networks.stack([make() for _ in range(agents)])


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
