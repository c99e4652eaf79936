"""Fake kernels and autograd formulas of the ops whose schemas are in csrc/ops.

Called by `ops` once the compiled extension is loaded. What the ops mean is in `reference`.
"""

from __future__ import annotations

import torch


def register(namespace: str = "dom2_fast") -> None:
    """For the ops of torch.ops.<namespace>."""
    native = getattr(torch.ops, namespace)

    @torch.library.register_fake(f"{namespace}::denoise")
    def _(
        x_T, cond, weights, table, program, solver, noise, rng, packed, size, low, high, save_path,
        precision,
    ):  # fmt: skip
        steps, groups = table.shape[:2]
        out = table.new_empty((groups, *size))
        return out, table.new_empty((steps + 1 if save_path else 0, groups, *size))

    @torch.library.register_fake(f"{namespace}::denoise_backward")
    def _(
        grad_out, path, cond, weights, table, program, solver, noise, rng, low, high, precision,
        *needs,
    ):  # fmt: skip
        groups, batch, width = grad_out.shape
        return _fake_gradients(grad_out, groups, batch, width, cond, weights, table, needs)

    @torch.library.register_fake(f"{namespace}::run_program")
    def _(x, cond, weights, table, program, rng, out_width, precision):
        return x.new_empty((x.shape[0], x.shape[1], out_width))

    @torch.library.register_fake(f"{namespace}::run_program_backward")
    def _(grad_out, x, cond, weights, table, program, rng, precision, *needs):
        return _fake_gradients(grad_out, *x.shape, cond, weights, table, needs)

    @torch.library.register_fake(f"{namespace}::denoising_loss")
    def _(x, cond, weights, table, program, target, rng, precision, *needs):
        gradients = _fake_gradients(x, *x.shape, cond, weights, table, needs)
        return x.new_empty((x.shape[0],)), *gradients

    @torch.library.register_fake(f"{namespace}::conservative_loss")
    def _(
        act, proposed, cond, weights, table, program, target, rng, cql_weight, log_density,
        precision, *needs,
    ):  # fmt: skip
        critics, batch, actions = table.shape[1], proposed.shape[1], proposed.shape[2]
        gradients = _fake_gradients(act, 0, 0, 0, None, weights, table, (False, False, *needs))
        shapes = (critics,), (2, critics), (critics, batch, 1 + actions)
        return *(act.new_empty(s) for s in shapes), *gradients[2:]

    @torch.library.register_fake(f"{namespace}::chain_value")
    def _(
        x_T, cond, weights, table, program, solver, noise, rng, critic_weights, critic_table,
        critic_program, critic_rng, size, low, high, precision, *needs,
    ):  # fmt: skip
        groups = table.shape[1]
        gradients = _fake_gradients(table, 0, 0, 0, None, weights, table, (False, False, *needs))
        return table.new_empty((groups,)), table.new_empty((groups, size[0])), *gradients[2:]

    @torch.library.register_fake(f"{namespace}::pack_weights")
    def _(weights, program, precision):
        def padded(n, unit):
            return (n + unit - 1) // unit * unit

        if not weights:
            return program.new_empty((1, 0), dtype=torch.float32)
        n, k = [w.shape[1] for w in weights], [w.shape[2] for w in weights]
        if weights[0].device.type == "cuda":  # csrc/cuda/exec.h: Packing
            features, cols, floats = (16, 16, 0.5) if precision else (32, 4, 1)
        else:
            features, cols, floats = (16, 2, 0.5) if precision else (16, 1, 1)
        size = (
            sum(padded(a, features) * padded(b, cols) for a, b in zip(n, k, strict=True)) * floats
        )
        return weights[0].new_empty((weights[0].shape[0], int(size)))

    @torch.library.register_fake(f"{namespace}::sample_transitions")
    def _(fields, threshold, alias, starts, rng, batch, check):
        groups = threshold.shape[0]
        outs = []
        for f in range(0, len(fields), groups):
            width = sum(t.shape[1] if t.dim() == 2 else 1 for t in fields[f : f + groups])
            outs.append(fields[f].new_empty((batch * width,), dtype=torch.float32))
        return outs, threshold.new_empty((groups, batch))

    @torch.library.register_fake(f"{namespace}::alias_table")
    def _(weights):
        return weights.new_empty(weights.shape, dtype=torch.int64), weights.new_empty(
            weights.shape, dtype=torch.int64
        )

    def _denoise_setup(ctx, inputs, output):
        x_T, cond, weights, table, program, solver, noise, rng = inputs[:8]
        ctx.low, ctx.high, ctx.saved, ctx.precision = inputs[10:]
        ctx.count = len(weights)
        ctx.needs = _needs(x_T, cond, weights, table)
        ctx.save_for_backward(output[1], cond, table, program, solver, noise, rng, *weights)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    def _denoise_backward(ctx, grad_out, _grad_path):
        none = (None,) * 10
        if grad_out is None:
            return (None, None, [None] * ctx.count, None, *none)
        if not ctx.saved:
            raise RuntimeError("denoise: save_path=False leaves nothing to differentiate")
        path, cond, table, program, solver, noise, rng, *weights = ctx.saved_tensors
        grads = native.denoise_backward(
            grad_out, path, cond, weights, table, program, solver, noise, rng, ctx.low, ctx.high,
            ctx.precision, *ctx.needs,
        )  # fmt: skip
        shape = None if cond is None else cond.shape
        gx, gcond, gweights, gtable = _spread(grads, shape, [w.shape for w in weights], ctx.needs)
        return (gx, gcond, gweights, gtable, *none)

    def _run_setup(ctx, inputs, output):
        x, cond, weights, table, program, rng, _, precision = inputs
        ctx.count, ctx.precision = len(weights), precision
        ctx.needs = _needs(x, cond, weights, table)
        ctx.save_for_backward(x, cond, table, program, rng, *weights)

    def _run_backward(ctx, grad_out):
        x, cond, table, program, rng, *weights = ctx.saved_tensors
        grads = native.run_program_backward(
            grad_out, x, cond, weights, table, program, rng, ctx.precision, *ctx.needs
        )
        shape = None if cond is None else cond.shape
        gx, gcond, gweights, gtable = _spread(grads, shape, [w.shape for w in weights], ctx.needs)
        return gx, gcond, gweights, gtable, None, None, None, None

    def _keep_gradients(ctx, needs, cond, weights, gradients):
        """Of a loss that comes with its gradients: they only wait to be scaled."""
        ctx.needs, ctx.shapes = needs, [w.shape for w in weights]
        ctx.cond_shape = None if cond is None else cond.shape
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*(g for g in gradients if g is not None))
        ctx.set_materialize_grads(False)

    def _scaled(ctx, grad):
        """The kept gradients (x, cond, weights, table) times each group's `grad`, [G]."""
        grads = _spread(ctx.saved_tensors, ctx.cond_shape, ctx.shapes, ctx.needs)
        gx, gcond, gweights, gtable = grads
        each = grad.view(-1, 1, 1)
        if ctx.needs[2] and gweights:
            gweights = list(torch._foreach_mul(gweights, [each] * len(gweights)))
        return (
            None if gx is None else gx * each,
            None if gcond is None else gcond * each,
            gweights,
            None if gtable is None else gtable * grad.view(-1, 1),
        )

    def _denoising_setup(ctx, inputs, output):
        _keep_gradients(ctx, inputs[8:], inputs[1], inputs[2], output[1:])

    def _denoising_backward(ctx, grad, *_):
        if grad is None:
            return (None, None, [None] * len(ctx.shapes), *(None,) * 9)
        return *_scaled(ctx, grad), *(None,) * 8

    def _conservative_setup(ctx, inputs, output):
        weights, needs = inputs[3], (False, False, *inputs[11:])
        _keep_gradients(ctx, needs, None, weights, (None, None, *output[3:]))
        ctx.mark_non_differentiable(*output[1:])

    def _conservative_backward(ctx, grad, *_):
        none = (None,) * 8
        if grad is None:
            return (None, None, None, [None] * len(ctx.shapes), None, *none)
        _, _, gweights, gtable = _scaled(ctx, grad)
        return None, None, None, gweights, gtable, *none

    def _chain_setup(ctx, inputs, output):
        ctx.critic_count = len(inputs[8])
        _keep_gradients(
            ctx, (False, False, *inputs[16:]), None, inputs[2], (None, None, *output[2:])
        )
        ctx.mark_non_differentiable(*output[1:])

    def _chain_backward(ctx, grad, *_):
        gweights, gtable = [None] * len(ctx.shapes), None
        if grad is not None:
            _, _, gweights, gtable = _scaled(ctx, grad)
        none = (None,) * 4, [None] * ctx.critic_count, (None,) * 9
        return None, None, gweights, gtable, *none[0], none[1], *none[2]

    for name, backward, setup in (
        ("denoise", _denoise_backward, _denoise_setup),
        ("run_program", _run_backward, _run_setup),
        ("denoising_loss", _denoising_backward, _denoising_setup),
        ("conservative_loss", _conservative_backward, _conservative_setup),
        ("chain_value", _chain_backward, _chain_setup),
    ):
        torch.library.register_autograd(f"{namespace}::{name}", backward, setup_context=setup)


def _fake_gradients(like, groups, batch, width, cond, weights, table, needs):
    need_x, need_cond, need_weights, need_table = needs
    cond_width = 0 if cond is None else cond.shape[-1]
    return (
        like.new_empty((groups if need_x else 0, batch, width)),
        like.new_empty((groups if need_cond else 0, batch, cond_width)),
        like.new_empty((sum(w.numel() for w in weights) if need_weights else 0,)),
        like.new_empty((table.shape[0] if need_table else 0, *table.shape[1:])),
    )


def _spread(grads, cond_shape, shapes, need):
    """Native results -> gradients in the order (x, cond, weights, table)."""
    gx, gcond, flat, gt = grads
    if need[1] and gcond.shape[1] != cond_shape[1]:  # one row of `cond` served several of x
        groups, given, width = cond_shape
        gcond = gcond.reshape(groups, given, -1, width).sum(2)
    parts = [None] * len(shapes)
    if need[2]:
        parts = [
            g.view(shape)
            for g, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)
        ]
    return gx if need[0] else None, gcond if need[1] else None, parts, gt if need[3] else None


def _needs(x, cond, weights, table):
    def wants(t):
        return t is not None and t.requires_grad

    return wants(x), wants(cond), any(wants(w) for w in weights), wants(table)
