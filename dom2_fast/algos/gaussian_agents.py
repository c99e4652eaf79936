"""What the algorithms with a Gaussian actor share: the stacked actors, and how they act.

The actor is IQL's (Kostrikov et al. 2022): a tanh mean and one log deviation per action component,
the same for all observations, clipped to [-5, 2]. The learning rules are in `bc_gauss.py`, `iql.py`
and `icq.py`.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from dom2_fast import networks
from dom2_fast.algos.actors import ActorAgents, actor_nets
from dom2_fast.algos.critics import mean_square
from dom2_fast.algos.settings import GaussianSettings
from dom2_fast.data.sampler import Batch
from dom2_fast.lowering import FusedModule
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

    def _build(self) -> None:
        super()._build()
        errors = networks.StackedModule(GaussianError(self.learner.template), self.num_agents)
        how = {"backend": self.config.backend, "precision": self.config.precision}
        self._errors = FusedModule(errors, x_dim=2 * self.act_dim, **how)

    def bc_loss(self, batch: Batch) -> torch.Tensor:
        """-E log pi(a | o) of every agent's actor, [G]."""
        return self.weighted_loss(batch, torch.ones_like(batch.reward))

    def weighted_loss(self, batch: Batch, weight: torch.Tensor) -> torch.Tensor:
        """-E weight log pi(a | o) of every agent's actor, [G]; weight [G, B] >= 0 is a constant.

        As E weight sum (z^2 / 2 + log sigma + log(2 pi) / 2) with z = (a - mu) / sigma, whose first
        term, a mean square, has its gradients made in the forward pass.
        """
        weight = weight.detach()
        root = weight.sqrt().unsqueeze(-1).expand(batch.act.shape)
        x = torch.cat([batch.act, root], -1)
        z = mean_square(self._errors, x, batch.obs, torch.zeros_like(batch.act))
        log_std = log_deviations(self.learner.template).sum(-1)  # [G]
        constant = self.act_dim * 0.5 * math.log(2.0 * math.pi)
        return 0.5 * self.act_dim * z + weight.mean(1) * (log_std + constant)


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
        return self.actor(obs)[:, : self.act_dim] + log_deviations(self.actor).exp() * x


class GaussianError(nn.Module):
    """How far actions lie from a Gaussian actor's mean, in deviations, times a root of a weight.

    forward(x [B, 2 act_dim], obs [B, obs_dim]) -> [B, act_dim]: (a - mu) / sigma root of
    x = [a, root]. actor: as `GaussianSample`'s.
    """

    def __init__(self, actor: nn.Module):
        super().__init__()
        self.actor = actor
        self.obs_dim, self.act_dim = actor.obs_dim, actor.act_dim

    def forward(self, x, obs):
        act, root = x[:, : self.act_dim], x[:, self.act_dim :]
        error = act - self.actor(obs)[:, : self.act_dim]
        return error * (-log_deviations(self.actor)).exp() * root


def log_deviations(actor: nn.Module) -> torch.Tensor:
    """log sigma of an actor, standardised or not, within its bounds: [..., act_dim]."""
    inner = actor.inner if isinstance(actor, networks.Standardised) else actor
    return inner.log_std.clamp(LOG_STD_LOW, LOG_STD_HIGH)


def sampling_policy(c: GaussianSettings, net: networks.StackedModule) -> DiffusionPolicy:
    """A policy that acts by samples of these actors, whose parameters it shares.

    One step from x ~ N(0, 1) by a network that predicts the action is such a sample, so that
    freezing, exporting and acting on the kernels are those of every diffusion policy.
    """
    net = networks.StackedModule(GaussianSample(net.template), net.groups)
    how = {"backend": c.backend, "precision": c.precision}
    return DiffusionPolicy(net, schedules.vp(1), predict="x0", **how)
