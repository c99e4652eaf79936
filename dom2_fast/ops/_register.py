"""Fake kernels and autograd formulas of the ops whose schemas are in csrc/ops/schemas.cpp.

A class per op. Its functions get the arguments and results by the names they have in the schema:
`fake(args)` makes empty results of the right shapes, `setup(ctx, args, results)` keeps what the
gradient needs, `backward(ctx, native, grad)` gives the gradients as {argument: gradient}, those
left out being None; `grad` is that of the first result, the others have none. What the ops mean is
in `reference`. Called by `ops` once the compiled extension is loaded.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch

from dom2_fast.ops import backend

NET = ("cond", "weights", "table", "program")
DIFFERENTIABLE = ("x_T", "x", "cond", "table")  # and the weights
NEEDS = ("need_x", "need_cond", "need_weights", "need_table")


class Denoise:
    @staticmethod
    def fake(a):
        steps, groups = a.table.shape[:2]
        out = a.table.new_empty((groups, *a.size))
        return out, a.table.new_empty((steps + 1 if a.save_path else 0, groups, *a.size))

    @staticmethod
    def setup(ctx, a, results):
        _save(ctx, a, *NET, "solver", "noise", "rng", path=results.path)
        ctx.has_path, ctx.needs = a.save_path, _wanted(a, a.x_T)
        ctx.how = {"out_low": a.out_low, "out_high": a.out_high, "precision": a.precision}
        ctx.mark_non_differentiable(results.path)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, native, grad):
        if grad is None:
            return {}
        if not ctx.has_path:
            raise RuntimeError("denoise: save_path=False leaves nothing to differentiate")
        kept = _kept(ctx)
        found = native.denoise_backward(grad_out=grad, **kept, **ctx.how, **ctx.needs)
        made = _gradients(found, ctx.needs, _shape(kept["cond"]), _shapes(kept["weights"]))
        made["x_T"] = made.pop("x", None)
        return made


class DenoiseBackward:
    @staticmethod
    def fake(a):
        return _fake_gradients(a, a.grad_out.shape)


class RunProgram:
    @staticmethod
    def fake(a):
        return a.x.new_empty((a.x.shape[0], a.x.shape[1], a.out_width))

    @staticmethod
    def setup(ctx, a, results):
        _save(ctx, a, *NET, "x", "rng")
        ctx.precision, ctx.needs = a.precision, _wanted(a, a.x)

    @staticmethod
    def backward(ctx, native, grad):
        kept = _kept(ctx)
        found = native.run_program_backward(
            grad_out=grad, **kept, precision=ctx.precision, **ctx.needs
        )
        return _gradients(found, ctx.needs, _shape(kept["cond"]), _shapes(kept["weights"]))


class RunProgramBackward:
    @staticmethod
    def fake(a):
        return _fake_gradients(a, a.x.shape)


class _Loss:
    """Comes with its gradients, which only wait to be scaled by that of each group's loss, [G]."""

    @staticmethod
    def setup(ctx, a, results):
        made = {n: r for n, r in vars(results).items() if n.startswith("grad_")}
        ctx.needs = {name: getattr(a, name, False) for name in NEEDS}
        ctx.cond_shape, ctx.shapes = _shape(a.cond), _shapes(a.weights)
        _save(ctx, a, **made)
        ctx.mark_non_differentiable(*list(vars(results).values())[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, native, grad):
        if grad is None:
            return {}
        kept, each = _kept(ctx), grad.view(-1, 1, 1)
        # Tensors that only stand for some, as where a compiler traces, have no memory to scale.
        plain = type(grad) is torch.Tensor and type(kept["grad_weights"]) is torch.Tensor
        if ctx.needs["need_weights"] and plain:  # all of them in one call
            flat, scale = kept["grad_weights"], grad.contiguous()
            kept["grad_weights"] = scaled = torch.empty_like(flat)
            sizes = [math.prod(s[1:]) for s in ctx.shapes]
            backend.extension().scale_groups(flat, scaled, sizes, scale, len(scale))
        found = [kept.get(f"grad_{name}") for name in ("x", "cond", "weights", "table")]
        made = _gradients(found, ctx.needs, ctx.cond_shape, ctx.shapes)
        for name, scale in (("x", each), ("cond", each), ("table", grad.view(-1, 1))):
            if name in made:
                made[name] = made[name] * scale
        if "weights" in made and not plain:
            made["weights"] = [g * each for g in made["weights"]]
        return made


class DenoisingLoss(_Loss):
    @staticmethod
    def fake(a):
        return a.x.new_empty((a.x.shape[0],)), *_fake_gradients(a, a.x.shape)


class ConservativeLoss(_Loss):
    @staticmethod
    def fake(a):
        critics, batch, actions = a.table.shape[1], a.proposed.shape[1], a.proposed.shape[2]
        shapes = (critics,), (2, critics), (critics, batch, 1 + actions)
        return *(a.act.new_empty(s) for s in shapes), *_fake_gradients(a)


class ChainValue(_Loss):
    @staticmethod
    def fake(a):
        groups = a.table.shape[1]
        shapes = (groups,), (groups, a.size[0]), (groups, *a.size)
        return *(a.table.new_empty(s) for s in shapes), *_fake_gradients(a)


class PackWeights:
    @staticmethod
    def fake(a):
        if not a.weights:
            return a.program.new_empty((1, 0), dtype=torch.float32)
        shapes = [(w.shape[1], w.shape[2]) for w in a.weights]
        cuda = a.weights[0].device.type == "cuda"
        size = backend.extension().packed_size(shapes, a.precision == 1, cuda)
        return a.weights[0].new_empty((a.weights[0].shape[0], size))


class SampleTransitions:
    @staticmethod
    def fake(a):
        groups = a.threshold.shape[0]
        outs = []
        for f in range(0, len(a.fields), groups):
            width = sum(t.shape[1] if t.dim() == 2 else 1 for t in a.fields[f : f + groups])
            outs.append(a.fields[f].new_empty((a.batch * width,), dtype=torch.float32))
        return outs, a.threshold.new_empty((groups, a.batch))


class AliasTable:
    @staticmethod
    def fake(a):
        return tuple(a.weights.new_empty(a.weights.shape, dtype=torch.int64) for _ in range(2))


OPS = {
    "denoise": Denoise,
    "denoise_backward": DenoiseBackward,
    "run_program": RunProgram,
    "run_program_backward": RunProgramBackward,
    "denoising_loss": DenoisingLoss,
    "conservative_loss": ConservativeLoss,
    "chain_value": ChainValue,
    "pack_weights": PackWeights,
    "sample_transitions": SampleTransitions,
    "alias_table": AliasTable,
}


def register(namespace: str = "dom2_fast") -> SimpleNamespace:
    """Registers all of `OPS` for torch.ops.<namespace>; gives them as functions to call."""
    return SimpleNamespace(**{name: _register_op(namespace, name, op) for name, op in OPS.items()})


def _register_op(namespace: str, name: str, op):
    native = getattr(torch.ops, namespace)
    overload = getattr(native, name).default
    schema = overload._schema
    arguments = [argument.name for argument in schema.arguments]
    lists = {a.name for a in schema.arguments if str(a.type) == "List[Tensor]"}
    results = [result.name for result in schema.returns]

    def named(names, values) -> SimpleNamespace:
        return SimpleNamespace(**dict(zip(names, values, strict=True)))

    def fake(*args):
        return op.fake(named(arguments, args))

    torch.library.register_fake(f"{namespace}::{name}", fake)
    if not hasattr(op, "backward"):
        return overload

    def setup(ctx, inputs, output):
        a = named(arguments, inputs)
        # torch wants a gradient, or None, for each tensor of a list.
        ctx.none = {n: [None] * len(getattr(a, n)) for n in lists}
        op.setup(ctx, a, named(results, output if isinstance(output, tuple) else (output,)))

    def backward(ctx, grad, *_):
        found = {**ctx.none, **op.backward(ctx, native, grad)}
        return tuple(found.get(name) for name in arguments)

    torch.library.register_autograd(f"{namespace}::{name}", backward, setup_context=setup)
    return _eager(overload, arguments, setup, backward)


def _eager(op, arguments: list[str], setup, backward):
    """The op with the same gradients, but quicker to call where nothing is being compiled.

    What torch.library puts around an op walks through all arguments as trees, in Python, there and
    back: about as long as the kernels of a small network take.
    """
    single = [arguments.index(name) for name in DIFFERENTIABLE if name in arguments]
    weights = arguments.index("weights")

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, args, *_):
            found = _below_autograd(op, args)
            setup(ctx, args, found)
            return found

        @staticmethod
        def backward(ctx, *grads):
            found = backward(ctx, *grads)
            return None, *(found[i] for i in single), *found[weights]

    def call(*args):
        if torch.compiler.is_compiling():
            return op(*args)
        if not torch.is_grad_enabled():
            return _below_autograd(op, args)
        return Function.apply(args, *(args[i] for i in single), *args[weights])

    return call


def _below_autograd(op, args):
    guard = torch._C._AutoDispatchBelowAutograd()
    try:
        return op(*args)
    finally:
        del guard


def _save(ctx, a, *names: str, **more) -> None:
    """Keeps these arguments and `more` for backward, by name: tensors, lists of them, None."""
    kept = {**{name: getattr(a, name) for name in names}, **more}
    flat = []
    for value in kept.values():
        flat += value if isinstance(value, (list, tuple)) else [value]
    ctx.kept = {n: len(v) if isinstance(v, (list, tuple)) else None for n, v in kept.items()}
    ctx.save_for_backward(*flat)


def _kept(ctx) -> dict:
    """What `_save` kept."""
    flat = iter(ctx.saved_tensors)
    return {
        name: next(flat) if count is None else [next(flat) for _ in range(count)]
        for name, count in ctx.kept.items()
    }


def _shape(t):
    return None if t is None else t.shape


def _shapes(tensors) -> list:
    return [t.shape for t in tensors]


def _wanted(a, x) -> dict[str, bool]:
    """Which gradients autograd asks for, as the backward ops take it."""

    def wants(*values):
        return any(t is not None and t.requires_grad for t in values)

    return dict(
        zip(NEEDS, (wants(x), wants(a.cond), wants(*a.weights), wants(a.table)), strict=True)
    )


def _fake_gradients(a, x_shape=None) -> tuple:
    """What an op returns of (grad_x, grad_cond, grad_weights, grad_table); unwanted ones are empty.

    x_shape: [G, B, x_width]; None for an op that returns the last two alone.
    """
    flat = sum(w.numel() for w in a.weights) if a.need_weights else 0
    steps = a.table.shape[0] if a.need_table else 0
    last = a.table.new_empty((flat,)), a.table.new_empty((steps, *a.table.shape[1:]))
    if x_shape is None:
        return last
    groups, batch, width = x_shape
    cond_width = 0 if a.cond is None else a.cond.shape[-1]
    return (
        a.table.new_empty((groups if a.need_x else 0, batch, width)),
        a.table.new_empty((groups if a.need_cond else 0, batch, cond_width)),
        *last,
    )


def _gradients(found, needs: dict[str, bool], cond_shape, shapes) -> dict:
    """Native results (grad_x, grad_cond, flat grad_weights, grad_table) as {argument: gradient}."""
    x, cond, flat, table = found
    made = {}
    if needs["need_x"]:
        made["x"] = x
    if needs["need_cond"]:
        if cond.shape[1] != cond_shape[1]:  # one row of `cond` served several of x
            groups, given, width = cond_shape
            cond = cond.reshape(groups, given, -1, width).sum(2)
        made["cond"] = cond
    if needs["need_weights"]:
        parts = flat.split_with_sizes([s.numel() for s in shapes])
        made["weights"] = [g.view(s) for g, s in zip(parts, shapes, strict=True)]
    if needs["need_table"]:
        made["table"] = table
    return made
