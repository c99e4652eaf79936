"""The part of a network that PyTorch computes: everything that depends on neither x nor obs.

A `Host` is a node of a small expression graph over the parameters and the time t. Parameters are
[G, ...] (one leading group dimension), t is [S], one entry per step, or [G, B], one per row.
`evaluate` works on all groups at once and is differentiable.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F

from dom2_fast import activations
from dom2_fast.lowering.errors import LoweringError

EXAMPLE_BATCH = 3


class _Batch:
    """Stands for the number of rows, `x.shape[0]`, among the arguments of a host operation."""

    def __repr__(self):
        return "batch"


BATCH = _Batch()

# Elementwise with broadcasting: grouped operands only need their ranks aligned.
POINTWISE = {
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.pow,
    operator.neg,
    torch.add,
    torch.sub,
    torch.mul,
    torch.div,
    torch.pow,
    torch.neg,
    torch.sin,
    torch.cos,
    torch.exp,
    torch.log,
    torch.sqrt,
    torch.rsqrt,
    torch.abs,
    torch.square,
    torch.reciprocal,
    torch.sigmoid,
    torch.log1p,
    torch.expm1,
    F.sigmoid,
    *(f for f in activations.SPELLINGS if callable(f) and not f.__name__.endswith("_")),
}
POINTWISE_METHODS = {
    "add",
    "sub",
    "mul",
    "div",
    "pow",
    "neg",
    "sin",
    "cos",
    "exp",
    "log",
    "sqrt",
    "abs",
    "square",
    "sigmoid",
    "reciprocal",
    "float",
    "double",
    "to",
    "type_as",
    "log1p",
    "expm1",
    *(f for f in activations.SPELLINGS if isinstance(f, str) and not f.endswith("_")),
}


class Host:
    """One value. `kind` says how it is computed for all groups at once:

    input (t), param (name, is it learnt? A buffer isn't), const (a tensor), number, like (a sample
    of dtype and device), point (elementwise), lead (any leading dimensions will do), linear, cat
    and columns (along the last dimension), other (vmap over the groups).
    """

    def __init__(self, kind: str, fn: Callable | None = None, args=(), kwargs=None, *, example):
        self.kind, self.fn, self.args, self.kwargs = kind, fn, args, kwargs or {}
        self.inputs = [a for a in _leaves((args, self.kwargs)) if isinstance(a, Host)]
        # Nothing nested among the arguments, so that they need no walk in every evaluation.
        self.flat = not self.kwargs and all(
            isinstance(a, (Host, int, float, str, torch.Tensor)) for a in args
        )
        self.on_t = kind == "input" or any(i.on_t for i in self.inputs)
        if any(a is BATCH for a in _leaves((args, self.kwargs))):
            self.on_t = True
        self.grouped = kind == "param" or any(i.grouped for i in self.inputs)
        self.learnt = (kind == "param" and args[1]) or any(i.learnt for i in self.inputs)
        self.example = example  # of one group, with EXAMPLE_BATCH entries of t
        if isinstance(example, torch.Tensor):
            batched = example.dim() >= 1 and example.size(0) == EXAMPLE_BATCH
            if self.on_t and not batched:
                raise LoweringError(
                    f"a value of shape {tuple(example.shape)} mixes the rows of t; a row's value "
                    f"may depend on that row's own t only"
                )
        else:
            self.on_t = self.grouped = self.learnt = (
                False  # t.device, w.dtype, t.dim(): the same for all of them
            )

    @property
    def is_tensor(self) -> bool:
        return isinstance(self.example, torch.Tensor)

    @property
    def pure(self) -> bool:
        """The same for every t and all parameters, so computed once per device and dtype."""
        return not (self.on_t or self.grouped)


def _leaves(tree):
    if isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _leaves(item)
    elif isinstance(tree, dict):
        yield from _leaves(tuple(tree.values()))
    elif isinstance(tree, slice):
        yield from _leaves((tree.start, tree.stop, tree.step))
    else:
        yield tree


def _map(tree, f):
    if isinstance(tree, (tuple, list)):
        return type(tree)(_map(item, f) for item in tree)
    if isinstance(tree, dict):
        return {k: _map(v, f) for k, v in tree.items()}
    if isinstance(tree, slice):
        return slice(_map(tree.start, f), _map(tree.stop, f), _map(tree.step, f))
    return f(tree)


def apply(kind: str, fn: Callable, *args, **kwargs) -> Host:
    """A new Host; its example is computed at once, which also checks the shapes."""

    def pick(v):
        return EXAMPLE_BATCH if v is BATCH else v.example if isinstance(v, Host) else v

    return Host(kind, fn, args, kwargs, example=fn(*_map(args, pick), **_map(kwargs, pick)))


def _linear(a, w, b=None):
    y = a @ w.transpose(-1, -2)
    return y if b is None else y + b


def _concat(parts):
    lead = [p.shape[:-1] for p in parts]
    if any(shape != lead[0] for shape in lead):
        shape = [max(sizes) for sizes in zip(*lead, strict=True)]
        parts = [p.expand(*shape, -1) for p in parts]
    return torch.cat(parts, -1)


def concat(parts: list[Host]) -> Host:
    """[S or 1, w_i] values side by side."""
    return apply("cat", _concat, parts)


def linear(a: Host, w: Host, b: Host | None = None) -> Host:
    """a w^T + b, on the host."""
    return apply("linear", _linear, a, w, b) if b is not None else apply("linear", _linear, a, w)


def add(a: Host, b: Host) -> Host:
    """a + b, on the host."""
    return apply("point", operator.add, a, b)


def columns(a: Host, start: int, width: int) -> Host:
    """Columns of a [S or 1, w] value."""
    if start == 0 and width == a.example.size(-1):
        return a
    return apply("columns", _columns, a, start, width)


def _columns(v: torch.Tensor, start: int, width: int) -> torch.Tensor:
    return v[..., start : start + width]


def whole_cut(parts: set[tuple[int, int]], full: int) -> list[int] | None:
    """The widths of parts (start, width) that make up all `full` columns, in order; else None."""
    ordered = sorted(parts)
    ends = [start + width for start, width in ordered]
    if [start for start, _ in ordered] + [full] != [0, *ends]:
        return None
    return [width for _, width in ordered]


def number(value: float, width: int, like: torch.Tensor, rows: int = 1) -> Host:
    """A Python number as [rows, width]; it follows the network to another dtype or device."""
    fill = like.new_full((rows, width), float(value))
    return Host("number", None, (float(value), (rows, width)), example=fill)


def one_row(v: torch.Tensor) -> torch.Tensor:
    """[width] -> [1, width], whatever leads."""
    return v[..., None, :]


def as_rows(a: Host, width: int, like: torch.Tensor) -> Host:
    """The value broadcast to [S or 1, width], as an operand beside a [B, width] tensor."""
    if not a.is_tensor:
        return number(a.example, width, like)
    shape = tuple(a.example.shape)
    if a.on_t and len(shape) < 2:
        raise LoweringError(
            f"a time-dependent value of shape {shape} meets rows of {width} columns; give it a "
            f"second dimension, as in t[:, None]"
        )
    if len(shape) > 2 or (len(shape) == 2 and not a.on_t and shape[0] != 1):
        raise LoweringError(f"a value of shape {shape} meets rows of {width} columns")
    if len(shape) == 0:
        a = apply("lead", lambda v: v[..., None, None], a)
    elif len(shape) == 1:
        a = apply("lead", one_row, a)
    have = a.example.size(-1)
    if have == width:
        return a
    if have != 1:
        raise LoweringError(f"a value of {have} columns meets rows of {width} columns")
    return apply("lead", lambda v: v.expand(*v.shape[:-1], width), a)


class Context:
    """One evaluation. t: [S] (table) or [G, B] (row) or None. pure: cache of constant values.

    cuts: what is read in parts that make up the whole, as the widths of these parts. fixed: values
    of the same t and buffers, to be read and filled; None where they can't be kept.
    """

    def __init__(
        self, params: dict, t, groups: int, like: torch.Tensor, pure: dict, cuts: dict, fixed=None
    ):
        self.params, self.groups, self.like, self.pure = params, groups, like, pure
        self.cuts, self.pieces, self.fixed = cuts, {}, fixed
        self.row = t is not None and t.dim() == 2
        self.per_group = 1 if t is None else t.size(-1)
        self.flat = groups * self.per_group if self.row else self.per_group
        self.t = t.reshape(-1) if self.row else t
        self.memo = {}

    def value(self, h: Host):
        """The value: [G, ...] where `h.grouped`, else without a group dimension."""
        found = self.memo.get(h)
        if found is None:
            if h.pure and not torch.compiler.is_compiling():
                key = (h, self.like.dtype, self.like.device)
                found = self.pure.get(key)
                if found is None:
                    found = self.pure[key] = self._compute(h)
            elif self.fixed is not None and not h.learnt:
                found = self.fixed.get(h)
                if found is None:
                    found = self.fixed[h] = self._compute(h)
            else:
                found = self._compute(h)
            self.memo[h] = found
        return found

    def lifted(self, h: Host) -> torch.Tensor:
        """The value with a leading dimension of G, or of 1 where all groups share it."""
        v = self.value(h)
        if h.grouped:
            return v
        if h.on_t and self.row:
            return v.unflatten(0, (self.groups, self.per_group))
        return v.unsqueeze(0)

    def part(self, h: Host, start: int, width: int) -> torch.Tensor:
        """Columns of `lifted(h)`. Where they are cut in one call their gradients are joined in one,
        while that of a slice is a whole of zeros for each."""
        if start == 0 and width == h.example.size(-1):
            return self.lifted(h)
        widths = self.cuts.get(h)
        if widths is None:
            return _columns(self.lifted(h), start, width)
        if h not in self.pieces:
            starts = itertools.accumulate(widths, initial=0)
            self.pieces[h] = dict(
                zip(starts, self.lifted(h).split_with_sizes(widths, -1), strict=False)
            )
        return self.pieces[h][start]

    def _compute(self, h: Host):
        if h.kind == "input":
            return self.t
        if h.kind == "param":
            return self.params[h.args[0]]
        if h.kind == "const":
            v = h.args[0]
            return v.to(self.like.device) if isinstance(v, torch.Tensor) else v
        if h.kind == "like":
            return self.like
        if h.kind == "number":
            return self.like.new_full(h.args[1], h.args[0])
        if not h.grouped:
            return self._call(h, self.value, self.flat)
        if h.kind == "lead":
            return h.fn(*(self.lifted(a) for a in h.args))
        if h.kind == "columns":
            return self.part(*h.args)
        if h.kind == "linear":
            return self._grouped_linear(h)
        if h.kind == "cat":
            return h.fn([self.lifted(p) for p in h.args[0]])
        if h.kind == "point":
            rank = max(i.example.dim() for i in h.inputs if i.is_tensor)
            return self._call(h, lambda v: self._aligned(v, rank), self.per_group)
        return self._vmapped(h)

    @staticmethod
    def _call(h: Host, value_of: Callable, batch: int):
        if h.flat:
            return h.fn(*[value_of(a) if isinstance(a, Host) else a for a in h.args])

        def pick(v):
            return batch if v is BATCH else value_of(v) if isinstance(v, Host) else v

        return h.fn(*_map(h.args, pick), **_map(h.kwargs, pick))

    def _aligned(self, h: Host, rank: int):
        if not h.is_tensor:
            return self.value(h)
        v = self.lifted(h)
        missing = rank - h.example.dim()
        return v.reshape(v.size(0), *(1,) * missing, *v.shape[1:]) if missing else v

    def _grouped_linear(self, h: Host):
        a, w = self.lifted(h.args[0]), self.lifted(h.args[1])
        if a.dim() != 3:
            return self._vmapped(h)
        a, w = self._wide(a), self._wide(w).transpose(-1, -2)
        if len(h.args) == 2:
            return torch.bmm(a, w)
        return torch.baddbmm(self.lifted(h.args[2]).unsqueeze(-2), a, w)  # [G or 1, 1, n]

    def _wide(self, v: torch.Tensor) -> torch.Tensor:
        """[G or 1, ...] -> [G, ...]; what is so already is left as it is, autograd's graph, too."""
        return v if v.size(0) == self.groups else v.expand(self.groups, *v.shape[1:])

    def _vmapped(self, h: Host):
        tensors = [i for i in dict.fromkeys(h.inputs) if i.is_tensor]
        values = [self.lifted(i) for i in tensors]
        where = {i: k for k, i in enumerate(tensors)}
        rows = self.per_group

        def one_group(*slices):
            given = {i: slices[k] for i, k in where.items()}
            return self._call(h, lambda v: given[v] if v in given else self.value(v), rows)

        values = [self._wide(v) for v in values]
        return torch.func.vmap(one_group, randomness="different")(*values)
