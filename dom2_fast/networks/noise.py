"""Noise networks net(x, t, obs)."""

from __future__ import annotations

import math

import torch
from torch import nn

from dom2_fast.errors import Dom2Error
from dom2_fast.networks.layers import FourierTime, SinusoidalTime, mlp, positive


class Chunked(nn.Module):
    """net(x [B, T, A], t, obs) -> [B, T, A] as a network of rows of T A columns.

    net: a noise network of action chunks, such as DPPO's DiffusionMLP; act_shape: (T, A). obs_dim:
    by default the network's own. Raises Dom2Error for a shape that isn't one.
    """

    def __init__(self, net: nn.Module, act_shape: tuple[int, ...], obs_dim: int | None = None):
        super().__init__()
        sizes = tuple(act_shape) if isinstance(act_shape, (tuple, list)) else ()
        if len(sizes) < 2 or any(type(n) is not int or n < 1 for n in sizes):
            raise Dom2Error(
                f"act_shape is a tuple of two whole numbers or more, (T, A), each 1 or more, got "
                f"{act_shape!r}"
            )
        act_dim = getattr(net, "act_dim", None)
        if isinstance(act_dim, int) and act_dim != math.prod(sizes):
            raise Dom2Error(
                f"act_shape {sizes} has {math.prod(sizes)} numbers, but the network's act_dim is "
                f"{act_dim}"
            )
        self.net = net
        self.act_shape, self.act_dim = sizes, math.prod(sizes)
        self.obs_dim = getattr(net, "obs_dim", None) if obs_dim is None else obs_dim

    def forward(self, x: torch.Tensor, t: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        return self.net(x.unflatten(1, self.act_shape), t, obs).flatten(1)


class MLPNoiseNet(nn.Module):
    """Diffusion-QL's noise network (Wang et al. 2023), with its layout and parameter names.

    forward(x [B, act_dim], t [B], obs [B, obs_dim]) -> eps [B, act_dim]. Time: `time_dim`
    sinusoidal features -> 2 time_dim Mish -> time_dim. Then `depth` layers of `hidden` Mish over
    [x, time, obs]. time_scale multiplies t before the features: 1 as published, where t counts
    steps; a continuous t in (0, 1] is resolved better with more. Raises Dom2Error for sizes < 1.
    """

    def __init__(self, obs_dim, act_dim, hidden=256, depth=3, time_dim=16, time_scale=1.0):
        super().__init__()
        positive(obs_dim=obs_dim, act_dim=act_dim, hidden=hidden, depth=depth)
        self.obs_dim, self.act_dim = obs_dim, act_dim
        self.time_mlp = nn.Sequential(
            SinusoidalTime(time_dim, time_scale),
            nn.Linear(time_dim, 2 * time_dim),
            nn.Mish(),
            nn.Linear(2 * time_dim, time_dim),
        )
        self.mid_layer = mlp(act_dim + time_dim + obs_dim, hidden, depth, "mish")
        self.final_layer = nn.Linear(hidden, act_dim)

    def forward(self, x, t, obs):
        h = torch.cat([x, self.time_mlp(t), obs], dim=1)
        return self.final_layer(self.mid_layer(h))


class _Residual(nn.Module):
    def __init__(self, n_in: int, n_out: int, cond: int, dropout: float):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(n_in, n_out), nn.Dropout(dropout), nn.SiLU())
        self.cond = nn.Linear(cond, n_out)
        self.second = nn.Sequential(nn.Linear(n_out, n_out), nn.Dropout(dropout), nn.SiLU())
        self.skip = nn.Linear(n_in, n_out) if n_in != n_out else nn.Identity()

    def forward(self, x, e):
        h = self.first(x) + self.cond(e)
        return self.second(h) + self.skip(x)


class UNetNoiseNet(nn.Module):
    """SfBC's score network with dropout, as the author of DOM2 uses it (Chen et al. 2023; OM2P).

    forward(x [B, act_dim], t [B], obs [B, obs_dim]) -> eps [B, act_dim]. Residual blocks of
    widths 512-256-128 down and up again with skips, conditioned on time and observation. `widths`
    are the three of them. dropout in [0, 1).
    """

    def __init__(self, obs_dim, act_dim, widths=(512, 256, 128), dropout=0.1, embed=32):
        super().__init__()
        positive(obs_dim=obs_dim, act_dim=act_dim, embed=embed)
        if len(widths) != 3 or min(widths) < 1 or not 0.0 <= dropout < 1.0:
            raise Dom2Error(f"three widths and dropout in [0, 1), got {widths} and {dropout}")
        self.obs_dim, self.act_dim = obs_dim, act_dim
        w1, w2, w3 = widths
        cond = 4 * embed
        self.time = nn.Sequential(FourierTime(embed), nn.Linear(embed, embed))
        self.obs = nn.Sequential(nn.Linear(obs_dim, embed), nn.SiLU())
        self.embed = nn.Sequential(
            nn.Linear(2 * embed, cond), nn.SiLU(), nn.Linear(cond, cond), nn.SiLU()
        )
        self.down1 = _Residual(act_dim, w1, cond, dropout)
        self.down2 = _Residual(w1, w2, cond, dropout)
        self.down3 = _Residual(w2, w3, cond, dropout)
        self.up3 = _Residual(w3, w3, cond, dropout)
        self.up2 = _Residual(2 * w3, w2, cond, dropout)
        self.up1 = _Residual(2 * w2, w1, cond, dropout)
        self.final_layer = nn.Linear(2 * w1, act_dim)

    def forward(self, x, t, obs):
        e = self.embed(torch.cat([self.obs(obs), self.time(t)], dim=-1))
        d1 = self.down1(x, e)
        d2 = self.down2(d1, e)
        d3 = self.down3(d2, e)
        u3 = self.up3(d3, e)
        u2 = self.up2(torch.cat([d3, u3], dim=-1), e)
        u1 = self.up1(torch.cat([d2, u2], dim=-1), e)
        return self.final_layer(torch.cat([d1, u1], dim=-1))
