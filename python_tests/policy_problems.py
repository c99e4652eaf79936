"""Networks, data and the plain loop that the tests of the policy share."""

import torch
from torch import nn

from dom2_fast import networks
from dom2_fast.policies import schedules
from dom2_fast.policies.diffusion import DiffusionPolicy, sample_plain

OBS, A, B, G = 5, 2, 4, 3
SCHEDULES = [schedules.VPSchedule(), schedules.vp(20), schedules.linear(20), schedules.cosine(20)]


def net(dtype=torch.float64, seed=0, **kwargs):
    torch.manual_seed(seed)
    return networks.MLPNoiseNet(OBS, A, **{"hidden": 12, "time_dim": 6, **kwargs}).to(dtype)


def stack(dtype=torch.float64):
    return networks.stack([net(dtype, seed) for seed in range(G)])


def rand(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def policy(module=None, backend="reference", **kwargs):
    return DiffusionPolicy(net() if module is None else module, backend=backend, **kwargs)


def plain(p, obs, x_T, noise):
    """The network itself, step by step; for [B, ...] or [G, B, ...]."""
    grouped = p.groups is not None
    rows = obs if grouped else obs[None]
    x_T = x_T if grouped else x_T[None]
    noise = None if noise is None else noise if grouped else noise[:, None]
    out = sample_plain(
        p.net, rows, p._plan, x_T, noise, batch=rows.size(1), out_low=p.act_low, out_high=p.act_high
    )
    return out if grouped else out[0]


class NearTarget(nn.Module):
    """Prefers actions near tanh of the first components of obs."""

    obs_dim, act_dim = OBS, A

    def forward(self, act, obs):
        d = act - torch.tanh(obs[:, :A])
        return -(d * d)[:, :1] - (d * d)[:, 1:]
