"""What torch's modules and functions mean in a program: operations on `Rows`, as expressions.

Every rule raises LoweringError for an option that a program hasn't got. `trace` decides when a rule
applies.
"""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from dom2_fast import activations
from dom2_fast.activations import Act
from dom2_fast.lowering import expr, host
from dom2_fast.lowering.errors import LoweringError
from dom2_fast.lowering.expr import Activation, Drop, Input, Join, Norm, Rows, whole
from dom2_fast.lowering.host import BATCH, Host

MODULE_ACTS, FUNCTION_ACTS = activations.MODULES, activations.SPELLINGS
BINARY = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    "add": "add",
    operator.sub: "sub",
    operator.isub: "sub",
    torch.sub: "sub",
    "sub": "sub",
    operator.mul: "mul",
    operator.imul: "mul",
    torch.mul: "mul",
    "mul": "mul",
    operator.truediv: "div",
    operator.itruediv: "div",
    torch.div: "div",
    "div": "div",
    torch.true_divide: "div",
    torch.multiply: "mul",
    torch.subtract: "sub",
    torch.divide: "div",
}
SIGMOID = {torch.sigmoid, F.sigmoid, "sigmoid"}
# Options of activations, and the values that a program has them with.
_OPTIONS = {
    "approximate": ("none", "tanh"),
    "beta": (1,),
    "threshold": (20,),
    "negative_slope": (0.01,),
    "alpha": (1,),
}
CAT = {torch.cat, torch.concat, torch.concatenate}


class Gate:
    """sigmoid(v), all of whose uses are products with v itself: v sigmoid(v) is SiLU."""

    def __init__(self, v: Rows):
        self.v = v


class Rules:
    """The rules, for `trace.Interpreter`, which has the state they use."""

    module: nn.Module
    node: fx.Node
    like: torch.Tensor

    def _module(self, sub: nn.Module, node: fx.Node, args, kwargs):
        v = args[0] if args else kwargs.get("input")
        if len(args) + len(kwargs) != 1 or not isinstance(v, Rows):
            raise LoweringError("a module of the program takes one tensor [B, width]")
        kind = type(sub)
        if kind is nn.Flatten:
            return self._flatten(v, sub.start_dim, sub.end_dim)
        if kind is nn.Unflatten:
            return self._unflatten(v, sub.dim, sub.unflattened_size)
        if kind not in MODULE_ACTS and kind not in (nn.Dropout, nn.Identity):
            self._check_flat([v])
        if isinstance(sub, nn.Linear):
            w, b = self._own(sub, node.target, "weight"), self._own(sub, node.target, "bias")
            return expr.linear(v, w, b)
        if kind in MODULE_ACTS:
            options = {name: getattr(sub, name) for name in _OPTIONS if hasattr(sub, name)}
            return self._activation(v, MODULE_ACTS[kind], **options)
        if kind is nn.LayerNorm:
            w, b = self._own(sub, node.target, "weight"), self._own(sub, node.target, "bias")
            return self._layer_norm(v, sub.normalized_shape, w, b, sub.eps)
        if kind is nn.GroupNorm:
            w, b = self._own(sub, node.target, "weight"), self._own(sub, node.target, "bias")
            return self._group_norm(v, sub.num_groups, w, b, sub.eps, channels=sub.num_channels)
        if kind is nn.Dropout:
            return self._dropout(v, sub.p if sub.training else 0.0)
        if kind is nn.Identity:
            return v
        raise LoweringError("no such module in a program")

    def _call(self, node: fx.Node, target, args, kwargs):
        if target in SIGMOID and len(args) == 1 and not kwargs and self._gates(node, args[0]):
            return Gate(args[0])
        if target in FUNCTION_ACTS:
            options = {k: v for k, v in kwargs.items() if k not in ("inplace", "input")}
            v = args[0] if args else kwargs["input"]
            if target is F.softplus:
                options.update(zip(("beta", "threshold"), args[1:], strict=False))
            elif len(args) > 1 and target not in (F.relu, F.silu, F.mish):  # there it is `inplace`
                raise LoweringError("positional options of an activation")
            return self._activation(v, FUNCTION_ACTS[target], **options)
        if target in BINARY:
            if kwargs or len(args) != 2:
                raise LoweringError("arithmetic with options (alpha, rounding_mode, out)")
            return self._binary(BINARY[target], *args)
        if target in (operator.neg, torch.neg, "neg"):
            return self._binary("mul", args[0], -1.0)
        if target in CAT:
            return self._cat(*args, **kwargs)
        rule = _RULES.get(target)
        if rule is None:
            raise LoweringError("no such operation in a program")
        if rule not in _ANY_SHAPE:
            self._check_flat((args, kwargs))
        return getattr(self, rule)(*args, **kwargs)

    @staticmethod
    def _check_flat(values) -> None:
        for v in host._leaves(values):
            if isinstance(v, Rows) and len(v.shape) > 1:
                raise LoweringError(
                    f"it works along the last dimension of [B, {', '.join(map(str, v.shape))}]; a "
                    f"program has rows of columns, so flatten(1) comes first"
                )

    def _activation(self, v: Rows, act: Act, **options) -> Rows:
        if options.get("approximate") == "tanh":
            act = Act.GELU_TANH
        for name, value in options.items():
            if name not in _OPTIONS or value not in _OPTIONS[name]:
                raise LoweringError(
                    f"{act.name.lower()} with {name} = {value}; a program has it with "
                    f"{' or '.join(map(str, _OPTIONS.get(name, ('no such option',))))}"
                )
        fn = activations.FUNCTIONS[act]

        def one(p: expr.Piece) -> expr.Piece:
            if p.is_host:
                return expr.host_piece(host.apply("point", fn, p.host()))
            return whole(Activation(p, act))

        return v.map(one)

    @staticmethod
    def _gates(node: fx.Node, v) -> bool:
        """Is every use of sigmoid(v) in v * sigmoid(v)?"""
        both = {node, node.args[0]}
        return isinstance(v, Rows) and all(
            BINARY.get(user.target) == "mul" and set(user.args) == both for user in node.users
        )

    def _dropout_rate(self, p=0.5, training=True, inplace=False, train=None) -> float:
        return p if (training if train is None else train) else 0.0

    def _functional_dropout(self, v: Rows, *args, **kwargs):
        return self._dropout(v, self._dropout_rate(*args, **kwargs))

    def _dropout(self, v: Rows, p: float) -> Rows:
        if p == 0.0:
            return v
        if not 0.0 < p < 1.0:
            raise LoweringError(f"dropout of everything (p = {p})")
        return v.map(lambda piece: whole(Drop(piece, float(p))))

    def _layer_norm(self, v: Rows, normalized_shape, weight=None, bias=None, eps=1e-5):
        if tuple(normalized_shape) != (v.width,):
            raise LoweringError(f"LayerNorm over {tuple(normalized_shape)}, the rows are {v.width}")
        w, b = (None if h is None else host.as_rows(h, v.width, self.like) for h in (weight, bias))
        return Rows.of(Norm(list(v.pieces), float(eps), w, b))

    def _group_norm(self, v: Rows, num_groups, weight=None, bias=None, eps=1e-5, channels=None):
        """Each of `num_groups` equal ranges of a row's columns by its own mean and deviation."""
        if (channels is not None and channels != v.width) or v.width % num_groups:
            raise LoweringError(
                f"GroupNorm of {num_groups} groups of {channels} channels, the rows are {v.width} "
                f"wide"
            )
        n = v.width // num_groups
        w, b = (None if h is None else host.as_rows(h, v.width, self.like) for h in (weight, bias))
        parts = []
        for at in range(0, v.width, n):
            gain, shift = (None if h is None else host.columns(h, at, n) for h in (w, b))
            parts.append(whole(Norm(list(v.cut(at, n).pieces), float(eps), gain, shift)))
        return Rows.of(Join(parts)) if len(parts) > 1 else Rows(parts)

    def _functional_linear(self, v, weight, bias=None):
        if not isinstance(v, Rows) or not isinstance(weight, Host) or weight.on_t:
            raise LoweringError("a matrix that depends on x, t or obs")
        return expr.linear(v, weight, bias)

    def _binary(self, op: str, a, b):
        gate = next((v for v in (a, b) if isinstance(v, Gate)), None)
        if gate is not None:
            return self._activation(gate.v, Act.SILU)
        if op == "div":
            if isinstance(b, Rows):
                raise LoweringError("division by a value that depends on x or obs")
            op, b = (
                "mul",
                (host.apply("point", torch.reciprocal, b) if isinstance(b, Host) else 1.0 / b),
            )
        first = max((v for v in (a, b) if isinstance(v, Rows)), key=lambda v: v.width)
        width, shape = first.width, first.shape
        for v in (a, b):
            if len(shape) > 1 and isinstance(v, Host) and v.is_tensor and v.example.dim() > 0:
                self._check_flat([first])
        a, b = (
            v if isinstance(v, Rows) else Rows(self._rows(v, width).pieces, shape) for v in (a, b)
        )
        if op == "sub":
            minus = Rows([expr.host_piece(host.number(-1.0, width, self.like))], shape)
            op, b = "add", expr.zip_pieces(b, minus, expr.mul)
        return expr.zip_pieces(a, b, expr.add if op == "add" else expr.mul)

    def _cat(self, tensors, dim=0, axis=None):
        if (dim if axis is None else axis) not in (1, -1):
            raise LoweringError("cat along the rows; dim must be 1 or -1")
        self._check_flat(tensors)
        parts = [p if isinstance(p, Rows) else self._rows_of_t(p) for p in tensors]
        joined = Rows([piece for p in parts for piece in p.pieces])
        # Read more than once, a cat of computed values is cheaper copied than split at every read.
        computed = not any(p.is_host or isinstance(p.src, Input) for p in joined.pieces)
        if computed and len(self.node.users) > 1 and len(joined.pieces) > 1:
            return Rows.of(Join(list(joined.pieces)))
        return joined

    def _getitem(self, v, index):
        if not isinstance(v, Rows):
            return operator.getitem(v, index)
        index = index if isinstance(index, tuple) else (index,)
        rows, columns = (index[0], index[-1]) if len(index) == 2 else (None, None)
        if rows not in (Ellipsis, slice(None)) or not isinstance(columns, slice):
            raise LoweringError(f"the index {list(index)}; a program slices columns: v[:, a:b]")
        start, stop, step = columns.indices(v.width)
        if step != 1 or stop <= start:
            raise LoweringError(f"the columns {columns} of {v.width}")
        return self._tidy(v.cut(start, stop - start))

    def _narrow(self, v: Rows, dim, start, length):
        self._check_last(dim)
        return self._getitem(v, (slice(None), slice(start, start + length)))

    def _chunk(self, v: Rows, chunks, dim=0):
        return self._split(v, -(-v.width // chunks), dim)

    def _split(self, v: Rows, size, dim=0):
        self._check_last(dim)
        if isinstance(size, int):
            size = [min(size, v.width - at) for at in range(0, v.width, size)]
        if sum(size) != v.width or min(size) < 1:
            raise LoweringError(f"a split of {v.width} columns into {list(size)}")
        starts = [sum(size[:k]) for k in range(len(size))]
        return [self._tidy(v.cut(a, n)) for a, n in zip(starts, size, strict=True)]

    def _same(self, v: Rows, *args, **kwargs):
        return v

    def _view(self, v: Rows, *sizes):
        """view and reshape to [B, ...]: rows are v.shape[0], or -1 where the rest is known."""
        if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
            sizes = tuple(sizes[0])
        rows, shape = sizes[0], sizes[1:]
        if rows is not BATCH and (rows != -1 or -1 in shape):
            raise LoweringError(
                f"a reshape of rows of {v.width} columns to {list(sizes)} mixes rows, whose values "
                f"may not meet; keep the first dimension, as in v.view(v.shape[0], -1)"
            )
        return v.regrouped(shape)

    def _flatten(self, v: Rows, start_dim=0, end_dim=-1):
        start, end = self._own_dim(v, start_dim), self._own_dim(v, end_dim)
        return v.regrouped((*v.shape[:start], -1, *v.shape[end + 1 :]))

    def _unflatten(self, v: Rows, dim, sizes):
        at = self._own_dim(v, dim)
        return v.regrouped((*v.shape[:at], *sizes, *v.shape[at + 1 :]))

    def _squeeze(self, v: Rows, dim=None):
        at = None if dim is None else self._own_dim(v, dim)
        if at is None or (len(v.shape) == 1 and v.width == 1):
            raise LoweringError("squeeze to fewer than two dimensions; keep [B, width]")
        return v.regrouped(v.shape[:at] + v.shape[at + 1 :]) if v.shape[at] == 1 else v

    def _unsqueeze(self, v: Rows, dim):
        at = self._own_dim(v, dim, len(v.shape) + 2)
        return v.regrouped((*v.shape[:at], 1, *v.shape[at:]))

    def _own_dim(self, v: Rows, dim: int, rank: int | None = None) -> int:
        """A dimension of [B, *shape] as one of `shape`."""
        rank = len(v.shape) + 1 if rank is None else rank
        at = dim + rank if dim < 0 else dim
        if not 1 <= at < rank:
            raise LoweringError(
                f"a reshape along dimension {dim} of {rank} mixes rows, whose values may not meet; "
                f"keep the first one, as in v.flatten(1)"
            )
        return at - 1

    def _size(self, v: Rows, dim=None):
        return (BATCH, *v.shape) if dim is None else (BATCH, *v.shape)[dim]

    def _dim(self, v: Rows):
        return 1 + len(v.shape)

    def _check_last(self, dim) -> None:
        if dim not in (1, -1):
            raise LoweringError(
                f"an operation along dimension {dim}; a program works along columns"
            )


_RULES = {
    F.linear: "_functional_linear",
    F.dropout: "_functional_dropout",
    F.layer_norm: "_layer_norm",
    F.group_norm: "_group_norm",
    torch.dropout: "_functional_dropout",
    operator.getitem: "_getitem",
    getattr: "_host_getattr",
    "narrow": "_narrow",
    torch.narrow: "_narrow",
    "chunk": "_chunk",
    torch.chunk: "_chunk",
    "split": "_split",
    torch.split: "_split",
    "contiguous": "_same",
    "clone": "_same",
    torch.clone: "_same",
    "flatten": "_flatten",
    torch.flatten: "_flatten",
    "view": "_view",
    "reshape": "_view",
    torch.reshape: "_view",
    "unflatten": "_unflatten",
    torch.unflatten: "_unflatten",
    "unsqueeze": "_unsqueeze",
    torch.unsqueeze: "_unsqueeze",
    "squeeze": "_squeeze",
    torch.squeeze: "_squeeze",
    "size": "_size",
    "dim": "_dim",
}
# Rules that take rows of any shape; the others work along columns.
_ANY_SHAPE = {
    "_host_getattr",
    "_same",
    "_functional_dropout",
    "_view",
    "_flatten",
    "_unflatten",
    "_unsqueeze",
    "_squeeze",
    "_size",
    "_dim",
}
