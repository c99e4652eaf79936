"""What networks are built of: activations by name, features of time, layers in a row."""

from __future__ import annotations

import math

import torch
from torch import nn

from dom2_fast import activations
from dom2_fast.errors import Dom2Error, whole_number

_ACTIVATIONS = {line.name: line.module for line in activations.TABLE if line.module is not None}


def activation(name: str) -> nn.Module:
    """A new activation module by name; Dom2Error lists the names."""
    if name not in _ACTIVATIONS:
        raise Dom2Error(f"unknown activation {name!r}; choose from {sorted(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]()


class SinusoidalTime(nn.Module):
    """[sin, cos](scale t w_i) with w_i from 1 down to 1e-4, as in Diffusion-QL: [B] -> [B, dim]."""

    def __init__(self, dim: int, scale: float = 1.0):
        super().__init__()
        if dim < 4 or dim % 2:
            raise Dom2Error(f"the time features come in pairs, 4 or more: got dim = {dim}")
        half = dim // 2
        w = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(1e4) / (half - 1)))
        # Not saved: Diffusion-QL's state dicts have no such entry.
        self.register_buffer("freqs", (scale * w).to(torch.get_default_dtype()), persistent=False)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        angle = t[:, None] * self.freqs
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class FourierTime(nn.Module):
    """[sin, cos](2 pi t w), w ~ N(0, scale^2) fixed (Tancik et al. 2020; SfBC): [B] -> [B, dim]."""

    def __init__(self, dim: int = 32, scale: float = 30.0):
        super().__init__()
        self.register_buffer("freqs", torch.randn(dim // 2) * scale)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        angle = t[:, None] * self.freqs * (2.0 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


def mlp(n_in: int, hidden: int, depth: int, act: str, layer_norm: bool = False) -> nn.Sequential:
    """`depth` layers of `hidden`: linear, a LayerNorm if asked for, the activation."""
    layers = []
    for k in range(depth):
        layers.append(nn.Linear(n_in if k == 0 else hidden, hidden))
        if layer_norm:
            layers.append(nn.LayerNorm(hidden))
        layers.append(activation(act))
    return nn.Sequential(*layers)


def positive(**sizes) -> None:
    """Refuses sizes that are not whole numbers of 1 or more; Dom2Error names the argument."""
    for name, size in sizes.items():
        whole_number(name, size)
