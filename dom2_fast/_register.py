"""Fake kernels and autograd formulas of the ops whose schemas are in csrc/ops.

Imported by `ops` once the compiled extension is loaded. What the ops mean is in `reference`.
"""

from __future__ import annotations

import torch

_NS = torch.ops.dom2_fast


@torch.library.register_fake("dom2_fast::denoise")
def _(x_T, rows, weights, table, program, solver, noise, rng, packed, size, low, high, save_path):
    steps, groups = table.shape[:2]
    out = table.new_empty((groups, *size))
    return out, table.new_empty((steps + 1 if save_path else 0, groups, *size))


@torch.library.register_fake("dom2_fast::denoise_backward")
def _(grad_out, path, rows, weights, table, program, solver, noise, rng, low, high, *needs):
    groups, batch, width = grad_out.shape
    return _fake_gradients(grad_out, groups, batch, width, rows, weights, table, needs)


@torch.library.register_fake("dom2_fast::run_program")
def _(x, rows, weights, table, program, rng, out_width):
    return x.new_empty((x.shape[0], x.shape[1], out_width))


@torch.library.register_fake("dom2_fast::run_program_backward")
def _(grad_out, x, rows, weights, table, program, rng, *needs):
    return _fake_gradients(grad_out, *x.shape, rows, weights, table, needs)


def _fake_gradients(like, groups, batch, width, rows, weights, table, needs):
    need_x, need_rows, need_weights, need_table = needs
    rows_width = 0 if rows is None else rows.shape[-1]
    return (
        like.new_empty((groups if need_x else 0, batch, width)),
        like.new_empty((groups if need_rows else 0, batch, rows_width)),
        like.new_empty((sum(w.numel() for w in weights) if need_weights else 0,)),
        like.new_empty((table.shape[0] if need_table else 0, *table.shape[1:])),
    )


@torch.library.register_fake("dom2_fast::pack_weights")
def _(weights, program):
    size = sum(-(-w.shape[1] // 16) * 16 * w.shape[2] for w in weights)
    return program.new_empty((weights[0].shape[0] if weights else 1, size), dtype=torch.float32)


@torch.library.register_fake("dom2_fast::sample_transitions")
def _(fields, threshold, alias, starts, rng, batch, check):
    groups = threshold.shape[0]
    outs = []
    for f in range(0, len(fields), groups):
        width = sum(t.shape[1] if t.dim() == 2 else 1 for t in fields[f : f + groups])
        outs.append(fields[f].new_empty((batch * width,), dtype=torch.float32))
    return outs, threshold.new_empty((groups, batch))


@torch.library.register_fake("dom2_fast::alias_table")
def _(weights):
    return weights.new_empty(weights.shape, dtype=torch.int64), weights.new_empty(
        weights.shape, dtype=torch.int64
    )


def _spread(grads, rows, weights, need):
    """Native results -> gradients in the order (x, rows, weights, table)."""
    gx, grows, flat, gt = grads
    if need[1] and grows.shape[1] != rows.shape[1]:  # one row of `rows` served several of x
        groups, given, width = rows.shape
        grows = grows.reshape(groups, given, -1, width).sum(2)
    parts = [None] * len(weights)
    if need[2]:
        parts = [
            g.view(w.shape)
            for g, w in zip(flat.split([w.numel() for w in weights]), weights, strict=True)
        ]
    return gx if need[0] else None, grows if need[1] else None, parts, gt if need[3] else None


def _denoise_setup(ctx, inputs, output):
    x_T, rows, weights, table, program, solver, noise, rng, _, _, low, high, save_path = inputs
    ctx.saved = save_path
    ctx.count, ctx.low, ctx.high = len(weights), low, high
    ctx.needs = _needs(x_T, rows, weights, table)
    ctx.save_for_backward(output[1], rows, table, program, solver, noise, rng, *weights)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _needs(x, rows, weights, table):
    def wants(t):
        return t is not None and t.requires_grad

    return wants(x), wants(rows), any(wants(w) for w in weights), wants(table)


def _denoise_backward(ctx, grad_out, _grad_path):
    none = (None,) * 9
    if grad_out is None:
        return (None, None, [None] * ctx.count, None, *none)
    if not ctx.saved:
        raise RuntimeError("dom2_fast::denoise: save_path=False leaves nothing to differentiate")
    path, rows, table, program, solver, noise, rng, *weights = ctx.saved_tensors
    grads = _NS.denoise_backward(
        grad_out, path, rows, weights, table, program, solver, noise, rng, ctx.low, ctx.high,
        *ctx.needs,
    )  # fmt: skip
    gx, grows, gweights, gtable = _spread(grads, rows, weights, ctx.needs)
    return (gx, grows, gweights, gtable, *none)


def _run_setup(ctx, inputs, output):
    x, rows, weights, table, program, rng, _ = inputs
    ctx.count = len(weights)
    ctx.needs = _needs(x, rows, weights, table)
    ctx.save_for_backward(x, rows, table, program, rng, *weights)


def _run_backward(ctx, grad_out):
    x, rows, table, program, rng, *weights = ctx.saved_tensors
    grads = _NS.run_program_backward(grad_out, x, rows, weights, table, program, rng, *ctx.needs)
    gx, grows, gweights, gtable = _spread(grads, rows, weights, ctx.needs)
    return gx, grows, gweights, gtable, None, None, None


torch.library.register_autograd(
    "dom2_fast::denoise", _denoise_backward, setup_context=_denoise_setup
)
torch.library.register_autograd("dom2_fast::run_program", _run_backward, setup_context=_run_setup)
