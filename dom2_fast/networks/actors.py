"""Actors net(obs), and what stands between them and raw observations."""

from __future__ import annotations

import torch
from torch import nn

from dom2_fast.networks.layers import mlp, positive


class Standardised(nn.Module):
    """An actor net(obs) that takes raw observations: inner((obs - mean) / sd).

    inner: the network itself, not a copy. mean, sd: [obs_dim], sd > 0; buffers, saved with it.
    """

    def __init__(self, inner: nn.Module, mean: torch.Tensor, sd: torch.Tensor):
        super().__init__()
        self.inner = inner
        self.obs_dim, self.act_dim = inner.obs_dim, inner.act_dim
        self.register_buffer("mean", mean)
        self.register_buffer("sd", sd)

    def forward(self, obs):
        return self.inner((obs - self.mean) / self.sd)


class Scaled(nn.Module):
    """An actor net(obs) behind a scale and a shift that it learns: inner(obs * scale + shift).

    The learnt half of a batch normalisation (Ioffe and Szegedy 2015). inner: the network itself,
    not a copy. scale, shift: parameters [obs_dim], 1 and 0 at first.
    """

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.obs_dim, self.act_dim = inner.obs_dim, inner.act_dim
        self.scale = nn.Parameter(torch.ones(inner.obs_dim))
        self.shift = nn.Parameter(torch.zeros(inner.obs_dim))

    def forward(self, obs):
        return self.inner(obs * self.scale + self.shift)


class MLPActor(nn.Module):
    """Deterministic actor: `depth` hidden layers over obs, then tanh, as in TD3.

    forward(obs [B, obs_dim]) -> act [B, act_dim] in (-1, 1). `act` names the activation, as in
    `MLPCritic`. Raises Dom2Error for sizes < 1.
    """

    def __init__(self, obs_dim, act_dim, hidden=256, depth=2, act="relu", layer_norm=False):
        super().__init__()
        positive(obs_dim=obs_dim, act_dim=act_dim, hidden=hidden, depth=depth)
        self.obs_dim, self.act_dim = obs_dim, act_dim
        self.mid_layer = mlp(obs_dim, hidden, depth, act, layer_norm)
        self.final_layer = nn.Linear(hidden, act_dim)

    def forward(self, obs):
        return torch.tanh(self.final_layer(self.mid_layer(obs)))


class MLPGaussianActor(MLPActor):
    """Gaussian actor: a tanh mean as `MLPActor`'s and a log standard deviation beside it.

    forward(obs [B, obs_dim]) -> [B, 2 act_dim], the means, then the log deviations. These are one
    parameter for all observations, as in IQL (Kostrikov et al. 2022); with state_dependent=True a
    second linear layer of the last hidden one.
    """

    def __init__(self, obs_dim, act_dim, hidden=256, depth=2, act="relu", state_dependent=False):
        super().__init__(obs_dim, act_dim, hidden, depth, act)
        if state_dependent:
            self.log_std_layer = nn.Linear(hidden, act_dim)
        else:
            self.log_std = nn.Parameter(torch.zeros(act_dim))
        self.state_dependent = state_dependent

    def forward(self, obs):
        h = self.mid_layer(obs)
        mean = torch.tanh(self.final_layer(h))
        if self.state_dependent:
            return torch.cat([mean, self.log_std_layer(h)], dim=-1)
        return torch.cat([mean, self.log_std.expand(mean.shape[0], -1)], dim=-1)
