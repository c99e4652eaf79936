"""A module without a time, such as a critic, run as a step program: all groups in one call."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from dom2_fast import backend as backends
from dom2_fast import lowering, ops, reference
from dom2_fast.errors import Dom2Error
from dom2_fast.networks import StackedModule

BACKENDS = ("auto", "native", "reference")


def check_backend(backend: str) -> str:
    """Raises Dom2Error for an unknown backend, or for "native" without the compiled kernels."""
    if backend not in BACKENDS:
        raise Dom2Error(f"unknown backend {backend!r}; choose from {list(BACKENDS)}")
    if backend == "native" and not backends.available():
        raise Dom2Error(f"backend='native' needs the compiled kernels: {backends.reason()}")
    return backend


class Programs:
    """The lowered forms of one module, made when first asked for and kept per train/eval flags.

    None stands for a module that can't be lowered: its plain forward runs instead. Copies and
    pickles of it start empty.
    """

    def __init__(self, module: nn.Module, backend: str, **dims):
        self._inner = module.template if isinstance(module, StackedModule) else module
        self._module, self._backend, self._dims = module, backend, dims
        self._parts = list(self._inner.modules())
        self._found: dict = {}

    def get(self, t: str | None):
        key = (t, *[m.training for m in self._parts])
        try:
            return self._found[key]
        except KeyError:
            self._found[key] = low = self._lower(t)
            return low

    def _lower(self, t: str | None):
        try:
            return lowering.lower(self._module, t, **self._dims)
        except lowering.LoweringError as error:
            if self._backend == "native":
                raise
            if self._backend == "auto" and not any(v is None for v in self._found.values()):
                warnings.warn(
                    f"{type(self._inner).__name__} runs step by step in PyTorch: {error}",
                    RuntimeWarning,
                    stacklevel=4,
                )
            return None


class FusedModule(nn.Module):
    """module(x, obs) as a step program; parameters are the module's own.

    forward(x [G, B, x_dim], obs [G, Br, obs_dim]) -> [G, B, out]; B is a multiple of Br and each row
    of obs serves B / Br consecutive rows of x. For a plain module also x [B, x_dim], obs
    [Br, obs_dim] -> [B, out]. Differentiable in parameters, x and obs. backend: "auto" (kernels
    where the module can be lowered, else its own forward, with one warning), "native" (raises
    instead), "reference". x_dim, obs_dim default to the module's act_dim, obs_dim.
    """

    def __init__(self, module: nn.Module, backend: str = "auto", *, x_dim=None, obs_dim=None):
        super().__init__()
        self.module = module
        self.backend = check_backend(backend)
        self._dims = {"x_dim": x_dim, "obs_dim": obs_dim}
        self._programs = Programs(module, backend, **self._dims)
        self._programs.get(None)

    def forward(
        self, x: torch.Tensor, obs: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        flat = x.dim() == 2 and not isinstance(self.module, StackedModule)
        if flat:
            x, obs = x.unsqueeze(0), obs.unsqueeze(0)
        if (
            x.dim() != 3
            or obs.dim() != 3
            or (x.size(1) % obs.size(1) if obs.size(1) else x.size(1))
        ):
            raise Dom2Error(
                f"x {tuple(x.shape)} and obs {tuple(obs.shape)} must be [G, B, x_dim] and "
                f"[G, Br, obs_dim] with B a multiple of Br"
            )
        low = self._programs.get(None)
        if low is None:
            out = self._plain(x, obs)
        else:
            weights, table = low.hoist(lowering.grouped_params(self.module), None, x)
            run = reference.run_program if self.backend == "reference" else ops.run_program
            rng = ops.make_rng(generator) if low.program.sites else None
            out = run(x, obs, weights, table, low.program, rng)
        return out.squeeze(0) if flat else out

    def _plain(self, x, obs):
        if obs.size(1) != x.size(1):
            obs = obs.repeat_interleave(x.size(1) // obs.size(1), 1)
        if isinstance(self.module, StackedModule):
            return self.module(x, obs)
        return self.module(x[0], obs[0]).unsqueeze(0)

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != "_programs"}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._programs = Programs(self.module, self.backend, **self._dims)
