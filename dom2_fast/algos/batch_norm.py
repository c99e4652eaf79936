"""Batch normalisation of the networks' inputs, as in OMAR's code: for `faithful` alone.

There every network begins with a BatchNorm1d, which stays in training mode: each call is normalised
by the moments of its own rows, the target networks' too, and the actions that the CQL term and the
search rate have moments of their own. Only an acting policy uses running averages. Here the
normalisation is PyTorch's; the learnt scale and shift and all that follows are step programs.
"""

from __future__ import annotations

import torch
from torch import nn

from dom2_fast import networks
from dom2_fast.algos.critics import TwinCritics, twice
from dom2_fast.algos.updates import backward, step

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


class BatchNormCritics(TwinCritics):
    """Twin critics whose actions are normalised like the batches' observations.

    net: a stack of `networks.ScaledCritic`. An agent's two critics share scale and shift, and their
    gradients are clipped as one. Each has a copy of the two, and both get the sum of the gradients.
    """

    def seen(self, act: torch.Tensor) -> torch.Tensor:
        return whiten(act)

    def descend(self, loss: torch.Tensor, grad_clip: float) -> None:
        parameters = backward(loss, self.optimiser)
        shared = [self.net.template.scale, self.net.template.shift]
        for p in shared:
            p.grad = twice(sum(p.grad.chunk(2)))
        if grad_clip > 0.0:
            clip_twins(parameters, shared, grad_clip)
        step(self.optimiser)
        with torch.no_grad():  # where Adam rounds an element depends on its place in memory
            for p in shared:
                p[p.size(0) // 2 :].copy_(p[: p.size(0) // 2])


def clip_twins(parameters: list, shared: list, most: float) -> None:
    """Scales each agent's gradients, [2 G, ...], to norm <= most; what is shared counts once."""
    norms, shared = [], {id(p) for p in shared}
    for p in parameters:
        each = torch.linalg.vector_norm(p.grad.flatten(1), dim=1).view(2, -1)  # [2, G]
        norms.append(each[:1] if id(p) in shared else each)
    norm = torch.linalg.vector_norm(torch.cat(norms), dim=0)  # [G]
    scale = twice((most / (norm + 1e-6)).clamp(max=1.0))
    for p in parameters:
        p.grad.mul_(scale.view(-1, *[1] * (p.dim() - 1)))
