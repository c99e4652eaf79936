"""Noise networks and critics as plain `torch.nn.Module`s, and `stack`, which batches several.

Nothing here is fast by itself: `lowering` turns these (and anyone's similar) modules into step
programs. A noise network is called net(x, t, obs), a critic net(act, obs), an actor net(obs).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

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
        _positive(obs_dim=obs_dim, act_dim=act_dim, hidden=hidden, depth=depth)
        self.obs_dim, self.act_dim = obs_dim, act_dim
        self.time_mlp = nn.Sequential(
            SinusoidalTime(time_dim, time_scale),
            nn.Linear(time_dim, 2 * time_dim),
            nn.Mish(),
            nn.Linear(2 * time_dim, time_dim),
        )
        self.mid_layer = _mlp(act_dim + time_dim + obs_dim, hidden, depth, "mish")
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
        _positive(obs_dim=obs_dim, act_dim=act_dim, embed=embed)
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


class MLPCritic(nn.Module):
    """Q(act, obs): `depth` hidden layers over [act, obs].

    forward(act [B, act_dim], obs [B, obs_dim]) -> q [B, 1]. `act` names the activation: relu (as in
    OMAR), mish (as in Diffusion-QL), silu, gelu, tanh or softplus. layer_norm puts a LayerNorm
    before every activation.
    """

    def __init__(self, obs_dim, act_dim, hidden=256, depth=2, act="relu", layer_norm=False):
        super().__init__()
        _positive(obs_dim=obs_dim, act_dim=act_dim, hidden=hidden, depth=depth)
        self.obs_dim, self.act_dim = obs_dim, act_dim
        self.mid_layer = _mlp(act_dim + obs_dim, hidden, depth, act, layer_norm)
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
        _positive(obs_dim=obs_dim, hidden=hidden, depth=depth)
        self.obs_dim = obs_dim
        self.mid_layer = _mlp(obs_dim, hidden, depth, act)
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
        _positive(obs_dim=obs_dim, act_dim=act_dim, hidden=hidden, depth=depth)
        self.obs_dim, self.act_dim = obs_dim, act_dim
        self.mid_layer = _mlp(obs_dim, hidden, depth, act, layer_norm)
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


def _mlp(n_in: int, hidden: int, depth: int, act: str, layer_norm: bool = False) -> nn.Sequential:
    layers = []
    for k in range(depth):
        layers.append(nn.Linear(n_in if k == 0 else hidden, hidden))
        if layer_norm:
            layers.append(nn.LayerNorm(hidden))
        layers.append(activation(act))
    return nn.Sequential(*layers)


def _positive(**sizes) -> None:
    for name, size in sizes.items():
        whole_number(name, size)


class StackedModule(nn.Module):
    """G modules of one architecture as one: every parameter and buffer is [G, ...].

    `template` is the module itself, holding the stacked tensors; don't call its own forward.
    forward(*inputs) takes inputs with a leading dimension G and gives [G, ...] (t too: [G, B]).
    """

    def __init__(self, template: nn.Module, groups: int):
        super().__init__()
        self.template = template
        self.groups = groups

    @property
    def obs_dim(self):
        return self.template.obs_dim

    @property
    def act_dim(self):
        return self.template.act_dim

    def params(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by the name they have in one module: each [G, ...]."""
        return dict(named_tensors(self.template))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        for k, value in enumerate(inputs):
            if value.dim() < 1 or value.size(0) != self.groups:
                raise Dom2Error(
                    f"input {k} has shape {tuple(value.shape)}; a stack of {self.groups} modules "
                    f"takes a leading dimension of {self.groups}"
                )
        params = self.params()
        # A loop and not vmap, so that every group draws its own dropout masks.
        found = []
        for g in range(self.groups):
            own = {n: p[g] for n, p in params.items()}
            given = tuple(v[g] for v in inputs)
            found.append(torch.func.functional_call(self.template, own, given))
        return torch.stack(found)

    def unstack(self) -> list[nn.Module]:
        """Copies of the G modules; they share nothing with the stack."""
        return [_slice_module(self.template, g) for g in range(self.groups)]


def stack(modules) -> StackedModule:
    """Copies modules of one architecture into a StackedModule.

    Raises Dom2Error where there are none, or where they differ in layers, shapes, dtype or device.
    """
    modules = list(modules)
    if not modules:
        raise Dom2Error("stack needs one module or more")
    first = modules[0]
    for k, module in enumerate(modules[1:], 1):
        if type(module) is not type(first) or str(module) != str(first):
            raise Dom2Error(f"module {k} is not built like module 0; a stack has one architecture")
        if _signature(module) != _signature(first):
            raise Dom2Error(f"module {k} differs from module 0 in a shape, dtype or device")
    template = copy.deepcopy(first)
    tied: dict[int, nn.Parameter] = {}
    for prefix, owner in template.named_modules():
        dot = prefix + "." if prefix else ""
        for name, p in list(owner._parameters.items()):
            if p is not None:
                parts = [m.get_parameter(dot + name).detach() for m in modules]
                if id(p) not in tied:
                    tied[id(p)] = nn.Parameter(torch.stack(parts), p.requires_grad)
                owner._parameters[name] = tied[id(p)]
        for name, b in list(owner._buffers.items()):
            if b is not None:
                owner._buffers[name] = torch.stack([m.get_buffer(dot + name) for m in modules])
    return StackedModule(template, len(modules))


def named_tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers with their names; a shared one under each of its names.

    What named_parameters and named_buffers give with remove_duplicate=False, several times faster,
    as this is done in every training step.
    """
    found, todo = [], [("", module)]
    while todo:
        prefix, owner = todo.pop()
        for held in (owner._parameters, owner._buffers):
            found += [(prefix + name, p) for name, p in held.items() if p is not None]
        todo += [(f"{prefix}{name}.", m) for name, m in owner._modules.items() if m is not None]
    return found


def _signature(module: nn.Module):
    return [(name, tuple(v.shape), v.dtype, v.device) for name, v in named_tensors(module)]


def _slice_module(template: nn.Module, g: int) -> nn.Module:
    module = copy.deepcopy(template)
    tied: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for name, p in list(owner._parameters.items()):
            if p is not None:
                if id(p) not in tied:
                    tied[id(p)] = nn.Parameter(p.detach()[g].clone(), p.requires_grad)
                owner._parameters[name] = tied[id(p)]
        for name, b in list(owner._buffers.items()):
            if b is not None:
                owner._buffers[name] = b[g].clone()
    return module
