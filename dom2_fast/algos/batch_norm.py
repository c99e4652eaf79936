"""Batch normalisation of the networks' inputs, as in OMAR's code: for `faithful` alone.

There every network begins with a BatchNorm1d, which stays in training mode: each call is normalised
by the moments of its own rows, the target networks' too, and the actions that the CQL term and the
search rate have moments of their own. Only an acting policy uses running averages. Here the
normalisation is PyTorch's, and what follows it, the scale and shift included, is a step program for
actors; the two critics of an agent share their scale and shift, which are PyTorch's as well.
"""

from __future__ import annotations

import torch
from torch import nn

from dom2_fast import networks
from dom2_fast.algos.critics import TwinCritics
from dom2_fast.algos.updates import adam, descend, frozen_copy, frozen_view, polyak

EPS, MOMENTUM = 1e-5, 0.1  # PyTorch's defaults, which OMAR's code keeps
LAST_LAYER = 3e-3  # bound of the actor's initial last weights


def whiten(x: torch.Tensor) -> torch.Tensor:
    """Each column by the mean and (biased) deviation of its group's rows: [G, ..., D], the same."""
    rows = tuple(range(1, x.dim() - 1))
    var, mean = torch.var_mean(x, rows, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(var + EPS)


@torch.no_grad()
def follow_moments(norm: networks.Standardised, obs: torch.Tensor) -> None:
    """Running averages of the moments of batches obs [G, B, O], kept as `norm`'s mean and sd."""
    var, mean = torch.var_mean(obs, 1)
    norm.mean.lerp_(mean, MOMENTUM)
    norm.sd.copy_(norm.sd.square().lerp(var + EPS, MOMENTUM).sqrt())


def actor(inner: networks.MLPActor) -> networks.Standardised:
    """OMAR's actor, newly initialised, of an MLP: running moments, then scale and shift."""
    nn.init.uniform_(inner.final_layer.weight, -LAST_LAYER, LAST_LAYER)
    mean, var = torch.zeros(inner.obs_dim), torch.ones(inner.obs_dim)
    return networks.Standardised(networks.Scaled(inner), mean, (var + EPS).sqrt())


class CriticInput(nn.Module):
    """Scale and shift of normalised critics' inputs; for use as a stack, parameters [G, D]."""

    def __init__(self, obs_dim: int, act_dim: int):
        super().__init__()
        self.act_scale, self.act_shift = _ones(act_dim), _zeros(act_dim)
        self.obs_scale, self.obs_shift = _ones(obs_dim), _zeros(obs_dim)

    def act(self, act: torch.Tensor) -> torch.Tensor:
        """What the critics see of actions [G, ..., A], normalised over all but the last."""
        scale, shift = (_beside(p, act) for p in (self.act_scale, self.act_shift))
        return whiten(act) * scale + shift

    def obs(self, obs: torch.Tensor) -> torch.Tensor:
        """The same of observations [G, B, O] that are normalised already, as batches are drawn."""
        return obs * _beside(self.obs_scale, obs) + _beside(self.obs_shift, obs)


class BatchNormCritics(TwinCritics):
    """Twin critics behind one `CriticInput` per agent; their gradients are clipped as one."""

    def __init__(self, net, config, sampler=None):
        super().__init__(net, config, sampler)
        agents, template = net.groups // 2, net.template
        like = next(net.parameters())
        made = [CriticInput(template.obs_dim, template.act_dim) for _ in range(agents)]
        self.inputs = networks.stack(made).to(like.device, like.dtype)
        self.target_inputs = frozen_copy(self.inputs)
        self.input, self.target_input = self.inputs.template, self.target_inputs.template
        self.rated_input = frozen_view(self.inputs, agents).template
        self.optimiser = adam(nn.ModuleList([net, self.inputs]), config.critic_lr)

    def descend(self, loss: torch.Tensor, grad_clip: float) -> None:
        descend(loss, self.optimiser, grad_clip, self.inputs.groups)

    def follow(self, tau: float) -> None:
        super().follow(tau)
        polyak(self.target_inputs, self.inputs, tau)

    def learnt(self) -> dict[str, nn.Module]:
        return {**super().learnt(), "critic_input": self.inputs}

    def parts(self) -> dict:
        own = {"critic_input": self.inputs, "target_critic_input": self.target_inputs}
        return {**super().parts(), **own}


def _ones(width: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(width))


def _zeros(width: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(width))


def _beside(p: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """[G, D] -> [G, 1, ..., D], of as many dimensions as x."""
    return p.view(p.size(0), *[1] * (x.dim() - 2), p.size(1))
