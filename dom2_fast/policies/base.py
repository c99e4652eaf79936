"""What every policy is: a network of observations behind `act`, with bounds, on some executor."""

from __future__ import annotations

import math

import torch
from torch import nn

from dom2_fast import lowering, ops
from dom2_fast.errors import Dom2Error
from dom2_fast.lowering.fused import Programs
from dom2_fast.networks import StackedModule
from dom2_fast.ops.executor import check_backend
from dom2_fast.policies import inputs


class Policy(nn.Module):
    """pi(act | obs) by `net`, whose parameters it has; a StackedModule of G acts for G agents.

    Subclasses say what `net` is called with and what it returns. Common to all of them:

    act_low, act_high: bounds of every action component; actions are clipped to them.
    backend: "auto" (lowered where the net can be, else its own forward with one warning), "native"
        (raises instead of falling back), "reference" (plain PyTorch).
    precision: of matrix products: "fp32", or "bf16" (operands rounded to bf16, about twice as fast
        on tensor cores and AVX512-BF16; docs/precision.md says how far actions move).
    obs_dim, act_dim: default to the attributes of `net`.
    groups: the number of agents of a stack, None for one net.

    Raises Dom2Error for unknown names and impossible values.
    """

    def __init__(
        self,
        net: nn.Module,
        backend: str = "auto",
        act_low: float = -1.0,
        act_high: float = 1.0,
        precision: str = "fp32",
        obs_dim: int | None = None,
        act_dim: int | None = None,
    ):
        super().__init__()
        ops.check_precision(precision)
        self.precision = precision
        if not (math.isfinite(act_low) and math.isfinite(act_high) and act_low < act_high):
            raise Dom2Error(f"act_low < act_high, both finite, are needed: {act_low}, {act_high}")
        self.net = net
        self.act_low, self.act_high = float(act_low), float(act_high)
        self.backend = check_backend(backend)
        inner = net.template if isinstance(net, StackedModule) else net
        self.obs_dim = lowering.width_of(inner, "obs_dim", obs_dim)
        self.act_dim = lowering.width_of(inner, "act_dim", act_dim)
        self.groups = net.groups if isinstance(net, StackedModule) else None
        self._start()

    # ---- inputs -------------------------------------------------------------------------------

    def _grouped(self, obs: torch.Tensor):
        """obs as [G, B, O] and the shape of its results without the last dimension."""
        like = next(self.net.parameters(), obs)
        dtype, device = getattr(like, "dtype", None), getattr(like, "device", None)
        return inputs.grouped(obs, self.obs_dim, self.groups, dtype, device, "the network")

    # ---- copies -------------------------------------------------------------------------------

    def _start(self) -> None:
        dims = {"x_dim": self.act_dim, "obs_dim": self.obs_dim}
        self._programs = Programs(self.net, self.backend, **dims)

    def __getstate__(self):
        """Without what is made from the rest, so that copies and pickles make their own."""
        return {**self.__dict__, "_programs": None}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._start()


def normals(shape, rows: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Standard normal numbers of the dtype of `rows` on its device, drawn where `generator` is."""
    at = rows.device if generator is None else generator.device
    drawn = torch.randn(shape, generator=generator, dtype=rows.dtype, device=at)
    return drawn.to(rows.device)


def check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "group"):
        raise Dom2Error(f"reduction is 'mean' or 'group', got {reduction!r}")
