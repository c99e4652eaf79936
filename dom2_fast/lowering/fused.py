"""A module without a time, such as a critic, run as a step program: all groups in one call."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from dom2_fast import ops
from dom2_fast.errors import Dom2Error
from dom2_fast.lowering.errors import LoweringError
from dom2_fast.lowering.lowered import grouped_params, lower, width_of
from dom2_fast.networks import StackedModule
from dom2_fast.ops.executor import check_backend, executor


class Programs:
    """The lowered forms of one module, made when first asked for and kept per train/eval flags.

    None stands for a module that can't be lowered: its plain forward runs instead.
    """

    def __init__(self, module: nn.Module, backend: str, **dims):
        self._inner = module.template if isinstance(module, StackedModule) else module
        self._module, self._backend, self._dims = module, backend, dims
        self._parts = list(self._inner.modules())
        self._found: dict = {}
        self._reasons: dict = {}

    def get(self, mode: str | None):
        key = (mode, *[m.training for m in self._parts])
        try:
            return self._found[key]
        except KeyError:
            if torch.compiler.is_compiling():
                raise Dom2Error(
                    "torch.compile can't lower a network; call prepare() of the policy or module "
                    "before compiling"
                ) from None
            self._found[key] = low = self._lower(mode)
            return low

    def prepare(self, *modes: str | None) -> None:
        """Lowers for these modes, for the present train/eval flags and for all on and all off."""
        flags = [m.training for m in self._parts]
        try:
            for wanted in (flags, [True] * len(flags), [False] * len(flags)):
                for m, flag in zip(self._parts, wanted, strict=True):
                    m.training = flag
                for mode in modes:
                    self.get(mode)
        finally:
            for m, flag in zip(self._parts, flags, strict=True):
                m.training = flag

    def why_not(self, mode: str | None) -> str:
        """Why the module, whose `get` gives None, can't be lowered."""
        return self._reasons.get(mode, "")

    def _lower(self, mode: str | None):
        try:
            return lower(self._module, mode, **self._dims)
        except LoweringError as error:
            self._reasons[mode] = str(error)
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

    forward(x [G, B, x_dim], obs [G, Br, obs_dim]) -> [G, B, out]; B is a multiple of Br and each
    row of obs serves B / Br consecutive rows of x. For a plain module also x [B, x_dim], obs
    [Br, obs_dim] -> [B, out]. Differentiable once in parameters, x and obs. `generator` gives the
    dropout masks. x_dim, obs_dim default to the module's act_dim, obs_dim.
    backend: "auto" (kernels where the module can be lowered, else its own forward, with one
    warning), "native" (raises instead), "reference". precision: of matrix products, "fp32" or
    "bf16" (docs/precision.md); the reference path computes in the module's dtype.
    Raises Dom2Error for an unknown backend or precision and for shapes or dtypes that don't fit.
    """

    def __init__(
        self,
        module: nn.Module,
        backend: str = "auto",
        *,
        x_dim=None,
        obs_dim=None,
        precision: str = "fp32",
    ):
        super().__init__()
        self.module = module
        self.backend = check_backend(backend)
        ops.check_precision(precision)
        self.precision = precision
        inner = module.template if isinstance(module, StackedModule) else module
        self.x_dim = width_of(inner, "act_dim", x_dim)
        self.obs_dim = width_of(inner, "obs_dim", obs_dim)
        self._start()
        self._programs.get(None)

    def _start(self) -> None:
        self._stacked = isinstance(self.module, StackedModule)
        dims = {"x_dim": self.x_dim, "obs_dim": self.obs_dim}
        self._programs = Programs(self.module, self.backend, **dims)

    def forward(
        self, x: torch.Tensor, obs: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        flat = x.dim() == 2 and obs.dim() == 2 and not self._stacked
        if flat:
            x, obs = x.unsqueeze(0), obs.unsqueeze(0)
        self._check(x, obs)
        lowered = self.lowered(x, generator)
        if lowered is None:
            out = self._plain(x, obs)
        else:
            run, program, rng = lowered
            out = run.run_program(x, obs, *program, rng, precision=self.precision)
        return out.squeeze(0) if flat else out

    def lowered(self, like: torch.Tensor, generator: torch.Generator | None = None):
        """(executor, (weights, table, program), rng) for inputs like this one, as `ops` takes them.

        None for a module that can't be lowered. The executor is `ops` or `reference`.
        """
        low = self._programs.get(None)
        if low is None:
            return None
        weights, table = low.hoist(grouped_params(self.module), None, like)
        rng = ops.make_rng(generator, like.device) if low.program.sites else None
        return executor(self.backend, like), (weights, table, low.program), rng

    def runs_on(self, run, like: torch.Tensor, precision: str) -> bool:
        """Is this a program for the executor `run`, at that precision, for such inputs?"""
        here = self._programs.get(None) is not None and executor(self.backend, like) is run
        return here and self.precision == precision

    def prepare(self) -> None:
        """Lowers for train and eval mode at once; needed only before torch.compile."""
        self._programs.prepare(None)

    def _check(self, x, obs) -> None:
        groups = self.module.groups if self._stacked else 1
        want = [groups, self.x_dim], [groups, self.obs_dim]
        for name, value, (lead, width) in zip(("x", "obs"), (x, obs), want, strict=True):
            if value.dim() != 3 or value.size(0) != lead or value.size(2) != width:
                raise Dom2Error(
                    f"{name} has shape {list(value.shape)}; [{lead}, rows, {width}] is needed"
                )
        batch, given = x.size(1), obs.size(1)
        if batch != given and (given == 0 or batch % given):
            raise Dom2Error(f"{batch} rows of x need {batch} rows of obs, or a divisor: {given}")
        if x.dtype != obs.dtype or x.device != obs.device:
            raise Dom2Error(f"x is {x.dtype} on {x.device}, obs {obs.dtype} on {obs.device}")

    def _plain(self, x, obs):
        if obs.size(1) != x.size(1):
            obs = obs.repeat_interleave(x.size(1) // obs.size(1), 1)
        if self._stacked:
            return self.module(x, obs)
        return self.module(x[0], obs[0]).unsqueeze(0)

    def __getstate__(self):
        """Without the programs, so that copies and pickles make their own."""
        return {**self.__dict__, "_programs": None}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._start()
