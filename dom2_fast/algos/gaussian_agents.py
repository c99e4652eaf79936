"""What the algorithms with a Gaussian actor share: the stacked actors, and how they act.

The actor is IQL's (Kostrikov et al. 2022): a tanh mean and one log deviation per action component,
the same for all observations, clipped to [-5, 2]. The learning rules are in `bc_gauss.py`, `iql.py`
and `icq.py`.
"""

from __future__ import annotations

import torch
from torch import nn

from dom2_fast import networks
from dom2_fast.algos.actors import ActorAgents, actor_nets
from dom2_fast.algos.settings import GaussianSettings
from dom2_fast.data.sampler import Batch
from dom2_fast.policies import schedules
from dom2_fast.policies.actors import GaussianPolicy
from dom2_fast.policies.base import Policy
from dom2_fast.policies.diffusion import DiffusionPolicy

LOG_STD_LOW, LOG_STD_HIGH = -5.0, 2.0


class GaussianAgents(ActorAgents):
    """One Gaussian actor per agent. Subclasses define `update`.

    As `ActorAgents`; `act_by` decides whether `policies` act by the mean or by samples, the
    exported ones too.
    """

    @staticmethod
    def make_nets(c: GaussianSettings, **sizes: int) -> networks.StackedModule:
        return actor_nets(c, **sizes, kind=networks.MLPGaussianActor)

    @staticmethod
    def make_policy(c: GaussianSettings, net: nn.Module) -> GaussianPolicy:
        bounds = {"log_std_low": LOG_STD_LOW, "log_std_high": LOG_STD_HIGH}
        return GaussianPolicy(net, backend=c.backend, precision=c.precision, **bounds)

    @classmethod
    def make_acting(cls, c: GaussianSettings, net: networks.StackedModule) -> Policy:
        return cls.make_policy(c, net) if c.act_by == "mean" else sampling_policy(c, net)

    def weighted_loss(self, batch: Batch, weight: torch.Tensor) -> torch.Tensor:
        """-E weight log pi(a | o) of every agent's actor, [G]; weight [G, B] is a constant."""
        log_prob = self.policy.log_prob(batch.obs, batch.act, generator=self.generator)
        return -(weight.detach() * log_prob).mean(1)


class GaussianSample(nn.Module):
    """A Gaussian actor's sample as a network of the noise: mean(obs) + sigma x.

    forward(x [B, act_dim], t [B], obs [B, obs_dim]) -> act [B, act_dim] with x ~ N(0, 1); t is not
    looked at. actor: an `MLPGaussianActor` with deviations that don't depend on obs, standardised
    or not; itself, not a copy.
    """

    def __init__(self, actor: nn.Module):
        super().__init__()
        self.actor = actor
        self.obs_dim, self.act_dim = actor.obs_dim, actor.act_dim

    def forward(self, x, t, obs):
        inner = self.actor.inner if isinstance(self.actor, networks.Standardised) else self.actor
        sd = inner.log_std.clamp(LOG_STD_LOW, LOG_STD_HIGH).exp()
        return self.actor(obs)[:, : self.act_dim] + sd * x


def sampling_policy(c: GaussianSettings, net: networks.StackedModule) -> DiffusionPolicy:
    """A policy that acts by samples of these actors, whose parameters it shares.

    One step from x ~ N(0, 1) by a network that predicts the action is such a sample, so that
    freezing, exporting and acting on the kernels are those of every diffusion policy.
    """
    net = networks.StackedModule(GaussianSample(net.template), net.groups)
    how = {"backend": c.backend, "precision": c.precision}
    return DiffusionPolicy(net, schedules.vp(1), predict="x0", **how)
