"""The three ops, typed. Each runs the compiled kernel, or the reference where there is none.

Shapes are documented in `reference`, which defines the results. The schemas and all argument checks
are in csrc/ops; fake kernels and autograd formulas are registered in `_register`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dom2_fast import backend, reference
from dom2_fast.program import StepProgram


def make_rng(generator: torch.Generator | None = None) -> torch.Tensor:
    """(seed, offset) for one op call: int64 [2] on the CPU, drawn from a CPU generator.

    Advances `generator` (default: torch's own, so `torch.manual_seed` governs). The seed is any
    64-bit word, the offset 0.
    """
    rng = torch.zeros(2, dtype=torch.int64)
    rng[0] = torch.randint(-(2**63), 2**63 - 1, (), generator=generator)
    return rng


def run_program(
    x: torch.Tensor,
    rows: torch.Tensor | None,
    weights: Sequence[torch.Tensor],
    table: torch.Tensor,
    program: StepProgram,
    rng: torch.Tensor | None = None,
) -> torch.Tensor:
    """One pass of a step program: [G, B, x_width] -> [G, B, out width]. See `reference.run_program`."""
    backend.warn_if_missing()
    return reference.run_program(x, rows, weights, table, program, rng)


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
) -> torch.Tensor:
    """The whole denoising loop in one call: -> [G, B, A]. See `reference.denoise`."""
    backend.warn_if_missing()
    return reference.denoise(
        x_T, rows, weights, table, program, solver, noise,
        batch=batch, rng=rng, out_low=out_low, out_high=out_high,
    )  # fmt: skip


def alias_table(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Alias tables of weights [G, n] >= 0. See `reference.alias_table`."""
    return reference.alias_table(weights)


def sample_transitions(
    fields: Sequence[torch.Tensor],
    threshold: torch.Tensor,
    alias: torch.Tensor,
    starts: torch.Tensor,
    batch: int,
    rng: torch.Tensor,
) -> tuple[list, torch.Tensor]:
    """Weighted draw and gather of all fields in one call. See `reference.sample_transitions`."""
    backend.warn_if_missing()
    return reference.sample_transitions(fields, threshold, alias, starts, batch, rng)
