"""What every policy is: a network behind `act`, with bounds, on some executor; and freezing it."""

from __future__ import annotations

import math
import os
from contextlib import contextmanager

import torch
from torch import nn

from dom2_fast import lowering, ops
from dom2_fast._version import __version__
from dom2_fast.errors import Dom2Error
from dom2_fast.lowering.fused import Programs
from dom2_fast.lowering.stamp import Stamp, versions_of
from dom2_fast.networks import StackedModule, first_parameter
from dom2_fast.ops import backend as backends
from dom2_fast.ops.executor import check_backend
from dom2_fast.policies import inputs
from dom2_fast.policies.frozen import FrozenPolicy


class Policy(nn.Module):
    """pi(act | obs) by `net`, whose parameters it has; a StackedModule of G acts for G agents.

    Subclasses say what `net` is called with and what it returns. All of them have these
    arguments.

    Args:
        act_low, act_high: bounds of every action component; actions are clipped to them.
        backend: "auto" (lowered where the net can be, else its own forward with one warning),
            "native" (raises instead of falling back), "reference" (plain PyTorch).
        precision: of matrix products: "fp32", or "bf16" (operands rounded to bf16, about twice as
            fast on tensor cores and AVX512-BF16; docs/precision.md says how far actions move).
        obs_dim, act_dim: default to the attributes of `net`.
        groups: the number of agents of a stack, None for one net.

    Raises:
        Dom2Error: unknown names and impossible values.
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

    # ---- what subclasses say of how they act --------------------------------------------------

    _mode: str  # of the program that acts, see `lowering.lower`

    def _acting(self) -> Programs:
        """The programs by which this policy acts."""
        return self._programs

    def _solver(self) -> torch.Tensor:
        """The solver table of acting, float64 [S, 9]."""
        raise NotImplementedError

    def _times(self, like: torch.Tensor) -> torch.Tensor | None:
        """The times of the network calls, [S], as `like`; None for a policy of one pass."""
        return None

    def _about(self) -> dict[str, str]:
        """What a frozen policy says of itself, for people."""
        return {}

    # ---- frozen -------------------------------------------------------------------------------

    @torch.no_grad()
    def frozen(self, device: str | torch.device = "cpu") -> FrozenPolicy:
        """An immutable policy that acts by the present parameters and settings, as eval() would.

        It shares nothing with this one, keeps no watch on it, and several threads may use it at
        once. Numbers are float32; a network in another dtype is evaluated in its own as far as it
        can be beforehand, and then rounded.

        Raises:
            Dom2Error: the network can't be lowered (the message names the node); a parameter is not
                finite.
        """
        for name, p in self.named_parameters():
            if not p.isfinite().all():
                raise Dom2Error(
                    f"the policy can't act: {name} is not finite. Export an earlier checkpoint, or "
                    f"train anew with a lower lr"
                )
        with _evaluating(self.net):
            low = self._acting().get(self._mode)
        if low is None:
            raise Dom2Error(
                f"{name_of(self.net)} can't be frozen or exported: only a network that can be "
                f"lowered can, and {self._acting().why_not(self._mode)}"
            )
        params = {n: p.detach().cpu() for n, p in lowering.grouped_params(self.net).items()}
        first = next((p.dtype for p in params.values() if p.is_floating_point()), torch.float32)
        like = torch.zeros(self.groups or 1, 1, self.obs_dim, dtype=first)
        weights, table = low.hoist(params, self._times(like), like)
        own = {"dtype": torch.float32, "device": device, "copy": True}
        tensors = {
            "program": low.program.encode(),
            "solver": self._solver().clone(),
            "bounds": torch.tensor([self.act_low, self.act_high], dtype=torch.float64),
            "table": table.to(**own),
            **{f"weights.{i}": w.to(**own) for i, w in enumerate(weights)},
        }
        notes = {
            "stacked": str(self.groups is not None).lower(),
            "dom2_fast": __version__,
            **self._about(),
            "agents": str(table.size(1)),
            "obs_dim": str(self.obs_dim),
            "act_dim": str(self.act_dim),
        }
        return FrozenPolicy.from_tensors(tensors, notes, self.precision)

    def export(self, path: str | os.PathLike) -> None:
        """Writes `frozen()` to one file; `load_policy` and csrc/cpu/policy.h act from it.

        Raises:
            Dom2Error: as `frozen` and `FrozenPolicy.export`; nothing is written then.
        """
        self.frozen().export(path)

    def _present(self, low, run, rows) -> FrozenPolicy | None:
        """The policy as it is, kept until something changes; None where it isn't worth keeping.

        low: the program of the present flags; run: its executor for inputs like `rows`.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        if run is not ops or not backends.available():
            return None
        return self._kept.get(self, low, rows)

    def _quick(self, obs, x_T, generator) -> torch.Tensor | None:
        """Actions for a few rows past all checks here; None where that can't serve the call."""
        kept = self._kept
        if kept.actor is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        found = kept.actor.sample(obs, x_T, generator)
        if found is not None:
            kept.used = True
        return found

    def _live(self, low, rows, watch) -> FrozenPolicy:
        """What `_kept` keeps: of the present parameters, not of copies."""
        weights, table = low.hoist(lowering.grouped_params(self.net), self._times(rows), rows)
        return FrozenPolicy(
            low.program,
            weights,
            table,
            self._solver(),
            (self.act_low, self.act_high),
            stacked=self.groups is not None,
            precision=self.precision,
            watch=watch,
        )

    def _settings(self) -> list[tuple]:
        """What, besides the net's state, decides how this acts: (dict, key, value)."""
        names = ("act_low", "act_high", "backend", "precision", "_plan")
        held = self.__dict__
        return [
            (self._modules, "net", self.net),
            *((held, name, held[name]) for name in names if name in held),
        ]

    # ---- inputs -------------------------------------------------------------------------------

    def _grouped(self, obs: torch.Tensor):
        """obs as [G, B, O] and the shape of its results without the last dimension."""
        like = first_parameter(self.net, obs)
        dtype, device = getattr(like, "dtype", None), getattr(like, "device", None)
        return inputs.grouped(obs, self.obs_dim, self.groups, dtype, device, "the network")

    # ---- copies -------------------------------------------------------------------------------

    def _start(self) -> None:
        dims = {"x_dim": self.act_dim, "obs_dim": self.obs_dim}
        self._programs = Programs(self.net, self.backend, **dims)
        self._kept = Kept()

    def __getstate__(self):
        """Without what is made from the rest, so that copies and pickles make their own."""
        return {**self.__dict__, "_programs": None, "_kept": None}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._start()


class Kept:
    """All that acting keeps between calls: a FrozenPolicy of the parameters as they are.

    It holds for as long as `Stamp` finds that nothing has changed. A target network changes before
    every call or every few; only a second call with the same parameters makes it worth the time to
    watch them and to lay them out for the kernel, and one more each time that this was in vain.
    """

    def __init__(self) -> None:
        self._seen = self._stamp = self._frozen = None
        self._calls, self._needed, self.used = 0, 1, False
        self.actor = None  # for a few rows: gives None where something has changed, see ops.actor

    def get(self, policy: Policy, low, rows) -> FrozenPolicy | None:
        if self._frozen is not None:
            if self._stamp.fresh():
                self.used = True
                return self._frozen
            self._needed = 1 if self.used else self._needed + 1
        self._frozen = self.actor = None
        versions = versions_of(lowering.grouped_params(policy.net).values())
        if versions is None or versions != self._seen:
            self._seen, self._calls = versions, 0
            return None
        self._calls += 1
        if self._calls < self._needed:
            return None
        self.used = False
        self._stamp = Stamp(policy.net, policy._settings())
        self._frozen = policy._live(low, rows, self._stamp.watch)
        self.actor = self._frozen.actor
        return self._frozen


@contextmanager
def _evaluating(net: nn.Module):
    parts = list(net.modules())
    flags = [m.training for m in parts]
    try:
        for m in parts:
            m.training = False
        yield
    finally:
        for m, flag in zip(parts, flags, strict=True):
            m.training = flag


def name_of(net: nn.Module) -> str:
    """The network's class, of a stack its template's."""
    return type(net.template if isinstance(net, StackedModule) else net).__name__


def normals(shape, rows: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Standard normal numbers of the dtype of `rows` on its device, drawn where `generator` is."""
    at = rows.device if generator is None else generator.device
    drawn = torch.randn(shape, generator=generator, dtype=rows.dtype, device=at)
    return drawn.to(rows.device)


def check_reduction(reduction: str) -> None:
    """Dom2Error unless the reduction is "mean" or "group"."""
    if reduction not in ("mean", "group"):
        raise Dom2Error(f"reduction is 'mean' or 'group', got {reduction!r}")
