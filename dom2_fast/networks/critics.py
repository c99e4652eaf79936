"""Critics net(act, obs), and the state value net(obs)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from dom2_fast.networks.layers import mlp, positive


class MLPCritic(nn.Module):
    """Q(act, obs): `depth` hidden layers over [act, obs].

    forward(act [B, act_dim], obs [B, obs_dim]) -> q [B, 1]. `act` names the activation: relu (as in
    OMAR), mish (as in Diffusion-QL), silu, gelu, tanh or softplus. layer_norm puts a LayerNorm
    before every activation.
    """

    def __init__(self, obs_dim, act_dim, hidden=256, depth=2, act="relu", layer_norm=False):
        super().__init__()
        positive(obs_dim=obs_dim, act_dim=act_dim, hidden=hidden, depth=depth)
        self.obs_dim, self.act_dim = obs_dim, act_dim
        self.mid_layer = mlp(act_dim + obs_dim, hidden, depth, act, layer_norm)
        self.final_layer = nn.Linear(hidden, 1)

    def forward(self, act, obs):
        return self.final_layer(self.mid_layer(torch.cat([act, obs], dim=-1)))


class MLPValue(nn.Module):
    """V(obs): `depth` hidden layers over obs, as in IQL.

    forward(obs [B, obs_dim]) -> v [B, 1]. `act` names the activation, as in `MLPCritic`. Raises
    Dom2Error for sizes < 1.
    """

    def __init__(self, obs_dim, hidden=256, depth=2, act="relu"):
        super().__init__()
        positive(obs_dim=obs_dim, hidden=hidden, depth=depth)
        self.obs_dim = obs_dim
        self.mid_layer = mlp(obs_dim, hidden, depth, act)
        self.final_layer = nn.Linear(hidden, 1)

    def forward(self, obs):
        return self.final_layer(self.mid_layer(obs))


class ScaledCritic(MLPCritic):
    """An `MLPCritic` behind a scale and a shift of [act, obs] that it learns, as in `Scaled`."""

    def __init__(self, obs_dim, act_dim, **sizes):
        super().__init__(obs_dim, act_dim, **sizes)
        self.scale = nn.Parameter(torch.ones(act_dim + obs_dim))
        self.shift = nn.Parameter(torch.zeros(act_dim + obs_dim))

    def forward(self, act, obs):
        first, *others = self.mid_layer
        # Folded into the first layer, which costs a batch of rows nothing.
        weight = first.weight * self.scale
        bias = first.bias + (first.weight * self.shift).sum(-1)
        h = F.linear(torch.cat([act, obs], dim=-1), weight, bias)
        for layer in others:
            h = layer(h)
        return self.final_layer(h)
