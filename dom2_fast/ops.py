"""The three ops, typed. Each runs the compiled kernel, or the reference where there is none.

Shapes are documented in `reference`, which defines the results. The schemas and all argument checks
are in csrc/ops; fake kernels and autograd formulas are registered in `_register`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dom2_fast import backend, reference
from dom2_fast.program import StepProgram

if backend.available():
    from dom2_fast import _register  # noqa: F401  fake kernels and autograd

    _NATIVE = torch.ops.dom2_fast
else:
    _NATIVE = None


def make_rng(generator: torch.Generator | None = None) -> torch.Tensor:
    """(seed, offset) for one op call: int64 [2] on the CPU, drawn from a CPU generator.

    Advances `generator` (default: torch's own, so `torch.manual_seed` governs). Both are uniform in
    [0, 2**32): 64 random bits in one call.
    """
    return torch.randint(2**32, (2,), dtype=torch.int64, generator=generator)


def run_program(
    x: torch.Tensor,
    rows: torch.Tensor | None,
    weights: Sequence[torch.Tensor],
    table: torch.Tensor,
    program: StepProgram,
    rng: torch.Tensor | None = None,
) -> torch.Tensor:
    """One pass of a step program: [G, B, x_width] -> [G, B, out width].

    Arguments and meaning as `reference.run_program`. Differentiable once in x, rows, weights and
    table.
    Raises RuntimeError naming the argument whose shape, dtype or device doesn't fit.
    """
    if _NATIVE is None:
        backend.warn_if_missing()
        return reference.run_program(x, rows, weights, table, program, rng)
    return _NATIVE.run_program(
        x, rows, list(weights), table, program.encode(), rng, program.out.width
    )


def denoise(
    x_T: torch.Tensor | None,
    rows: torch.Tensor | None,
    weights: Sequence[torch.Tensor],
    table: torch.Tensor,
    program: StepProgram,
    solver: torch.Tensor,
    noise: torch.Tensor | None = None,
    *,
    batch: int | None = None,
    rng: torch.Tensor | None = None,
    out_low: float = -float("inf"),
    out_high: float = float("inf"),
    packed: torch.Tensor | None = None,
) -> torch.Tensor:
    """The whole denoising loop in one call: -> [G, B, A].

    Arguments and meaning as `reference.denoise`. `packed` is `pack_weights(weights, program)` made
    before, for calls that reuse the weights; where no gradient is taken only it
    is read. Differentiable once in x_T, rows, weights, table.
    Raises RuntimeError naming the argument whose shape, dtype or device doesn't fit.
    """
    if _NATIVE is None:
        backend.warn_if_missing()
        return reference.denoise(
            x_T, rows, weights, table, program, solver, noise,
            batch=batch, rng=rng, out_low=out_low, out_high=out_high,
        )  # fmt: skip
    if x_T is not None:
        batch = x_T.shape[1]
    save_path = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x_T, rows, table, *weights)
    )
    if packed is not None and not save_path:
        weights = ()  # not looked at: one tensor is quicker to hand over than many
    call = _NATIVE.denoise if save_path or torch.compiler.is_compiling() else _without_autograd
    out, _ = call(
        x_T, rows, list(weights), table, program.encode(), solver, noise, rng, packed,
        [batch, program.x_width], out_low, out_high, save_path,
    )  # fmt: skip
    return out


def _without_autograd(*args):
    """denoise past the autograd wrapper: Python that takes 7 us even where it has no work."""
    guard = torch._C._AutoDispatchBelowAutograd()
    try:
        return _NATIVE.denoise.default(*args)
    finally:
        del guard


def pack_weights(weights: Sequence[torch.Tensor], program: StepProgram) -> torch.Tensor | None:
    """The weights in the native executor's own layout, for `denoise(packed=...)`.

    Opaque, [G, n] float32; valid as long as the weights don't change. None without an extension.
    """
    return None if _NATIVE is None else _NATIVE.pack_weights(list(weights), program.encode())


def alias_table(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Alias tables of weights [G, n] >= 0, each row's sum > 0. See `reference.alias_table`."""
    weights = weights.double()
    return reference.alias_table(weights) if _NATIVE is None else _NATIVE.alias_table(weights)


def sample_transitions(
    fields: Sequence[torch.Tensor],
    threshold: torch.Tensor,
    alias: torch.Tensor,
    starts: torch.Tensor,
    batch: int,
    rng: torch.Tensor,
    *,
    check: bool = True,
) -> tuple[list, torch.Tensor]:
    """Weighted draw and gather of all fields in one call. See `reference.sample_transitions`.

    Fields are [N] or [N, d], float32 or float64; results are float32. `check=False` skips looking
    through the alias table and `starts`, for callers whose tables have passed once.
    """
    if _NATIVE is None:
        backend.warn_if_missing()
        return reference.sample_transitions(fields, threshold, alias, starts, batch, rng)
    groups = threshold.shape[0]
    flat, index = _NATIVE.sample_transitions(
        list(fields), threshold, alias, starts, rng, batch, check
    )
    outs = []
    for f, out in enumerate(flat):
        shapes = [t.shape[1:] for t in fields[f * groups : (f + 1) * groups]]
        if all(s == shapes[0] for s in shapes):
            outs.append(out.view(groups, batch, *shapes[0]))
        else:
            parts = out.split([batch * s.numel() for s in shapes])
            outs.append([p.view(batch, *s) for p, s in zip(parts, shapes, strict=True)])
    return outs, index
