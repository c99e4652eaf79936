"""From a module to expressions: torch.fx traces it, every node becomes a `Host` or a `Rows`.

Knows what each torch operation means for them. How they become instructions is in `emit`.
"""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from dom2_fast.lowering import expr, host
from dom2_fast.lowering.errors import SUPPORTED, LoweringError
from dom2_fast.lowering.expr import Activation, Drop, Input, Join, Norm, Rows, whole
from dom2_fast.lowering.host import BATCH, EXAMPLE_BATCH, Host
from dom2_fast.program import ROWS, Act, X

_MODULE_ACTS = {
    nn.Mish: Act.MISH, nn.SiLU: Act.SILU, nn.ReLU: Act.RELU, nn.GELU: Act.GELU, nn.Tanh: Act.TANH,
    nn.Softplus: Act.SOFTPLUS,
}  # fmt: skip
_FUNCTION_ACTS = {
    F.mish: Act.MISH, F.silu: Act.SILU, F.relu: Act.RELU, F.relu_: Act.RELU, torch.relu: Act.RELU,
    torch.relu_: Act.RELU, "relu": Act.RELU, "relu_": Act.RELU, F.gelu: Act.GELU, F.tanh: Act.TANH,
    torch.tanh: Act.TANH, "tanh": Act.TANH, F.softplus: Act.SOFTPLUS,
}  # fmt: skip
_BINARY = {
    operator.add: "add", operator.iadd: "add", torch.add: "add", "add": "add",
    operator.sub: "sub", operator.isub: "sub", torch.sub: "sub", "sub": "sub",
    operator.mul: "mul", operator.imul: "mul", torch.mul: "mul", "mul": "mul",
    operator.truediv: "div", operator.itruediv: "div", torch.div: "div", "div": "div",
    torch.true_divide: "div", torch.multiply: "mul", torch.subtract: "sub", torch.divide: "div",
}  # fmt: skip
_CAT = {torch.cat, torch.concat, torch.concatenate}
_ACT_FUNCTIONS = {
    Act.MISH: F.mish, Act.SILU: F.silu, Act.RELU: F.relu, Act.GELU: F.gelu, Act.TANH: torch.tanh,
    Act.GELU_TANH: lambda v: F.gelu(v, approximate="tanh"), Act.SOFTPLUS: F.softplus,
}  # fmt: skip


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # else arithmetic on a buffer is frozen at its present value


class Interpreter:
    """Walks the traced graph of one module. mode: "table", "row" or None, see `lowering.lower`."""

    def __init__(self, module: nn.Module, params: dict, mode: str | None, widths: tuple[int, int]):
        self.module, self.mode, self.params = module, mode, params
        self.x_width, self.obs_width = widths
        self.like = next((p for p in params.values() if p.is_floating_point()), torch.zeros(()))
        self.features: list[Host] = []  # row mode: columns of the row vector after obs
        self.feature_width = 0
        self.rows_input = Input(ROWS, self.obs_width, False)
        self._feature_pieces: dict[Host, expr.Piece] = {}
        try:
            self.graph = _Tracer().trace(module)
        except Exception as error:
            raise LoweringError(
                f"can't trace {type(module).__name__}: {error}. Its forward must be a straight line "
                f"of tensor operations, the same for every input"
            ) from error

    def run(self) -> Rows:
        """The symbolic result."""
        names = ["x", "t", "obs"] if self.mode else ["x", "obs"]
        self.env: dict[fx.Node, object] = {}
        self._in_pytorch = self._must_be_host(names) if self.mode == "row" else set()
        given = 0
        for node in self.graph.nodes:
            self.node = node
            if node.op == "placeholder":
                if given < len(names):
                    self.env[node] = self._input(names[given])
                elif node.args:
                    self.env[node] = node.args[0]
                else:
                    raise self._error(f"forward takes {names}, this argument has no value")
                given += 1
                continue
            if node.op == "output":
                if given < len(names):
                    raise LoweringError(
                        f"{type(self.module).__name__}.forward takes {given} arguments; "
                        f"{', '.join(names)} are needed"
                    )
                result = self._get(node.args[0])
                if isinstance(result, Host):
                    result = self._rows(result, self.x_width)
                if not isinstance(result, Rows):
                    raise self._error("forward must return one tensor [B, width]")
                return result
            try:
                self.env[node] = self._node(node)
            except LoweringError as error:
                if "node '" in str(error):
                    raise
                raise self._error(str(error)) from error
            except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise self._error(f"{type(error).__name__}: {error}") from error
        raise LoweringError("the traced graph has no output")

    # ---- values -------------------------------------------------------------------------------

    def _input(self, name: str):
        if name == "x":
            return Rows.of(Input(X, self.x_width, True))
        if name == "obs":
            return Rows([expr.Piece(self.rows_input, 0, self.obs_width)])
        example = torch.linspace(0.2, 0.9, EXAMPLE_BATCH, dtype=self.like.dtype)
        return Host("input", example=example.to(self.like.device))

    def _param(self, name: str) -> Host:
        return Host("param", None, (name,), example=self.params[name])

    def _get(self, arg):
        """A node's argument with every fx node replaced by its value."""
        return fx.node.map_arg(arg, lambda n: self.env[n])

    def _rows(self, value, width: int) -> Rows:
        """A value as an operand beside rows of `width` columns."""
        if isinstance(value, Rows):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return Rows([expr.host_piece(host.number(value, width, self.like))])
        if isinstance(value, torch.Tensor):
            value = Host("const", None, (value,), example=value)
        if not isinstance(value, Host):
            raise LoweringError(f"{value!r} is not a tensor or a number")
        value = host.as_rows(value, width, self.like)
        if self.mode == "row" and value.on_t:
            return Rows([self._feature(value)])
        return Rows([expr.host_piece(value)])

    def _feature(self, value: Host) -> expr.Piece:
        if value not in self._feature_pieces:
            width = value.example.size(-1)
            start = self.obs_width + self.feature_width
            self._feature_pieces[value] = expr.Piece(self.rows_input, start, width)
            self.features.append(value)
            self.feature_width += width
        return self._feature_pieces[value]

    def _tidy(self, value: Rows) -> Rows | Host:
        """Rows made of host pieces only are a Host again."""
        if all(p.is_host for p in value.pieces):
            return host.concat([p.host() for p in value.pieces])
        return value

    # ---- nodes --------------------------------------------------------------------------------

    def _node(self, node: fx.Node):
        if node.op == "get_attr":
            return self._attribute(node.target)
        args, kwargs = self._get(node.args), self._get(node.kwargs)
        by_program = any(isinstance(a, Rows) for a in host._leaves((args, kwargs)))
        if node.op == "call_module":
            sub = self.module.get_submodule(node.target)
            if sub._forward_hooks or sub._forward_pre_hooks:
                raise LoweringError("the module has forward hooks, which a program would skip")
            if not by_program and self._program_takes(node, sub):
                args, by_program = (self._rows_of_t(args[0]), *args[1:]), True
            return (self._module if by_program else self._host_module)(sub, node, args, kwargs)
        if node.op == "call_method" and by_program and not isinstance(args[0], Rows):
            raise LoweringError("a method of a tensor that depends on t or parameters alone")
        if not by_program and self._program_takes(node, None):
            args, by_program = (self._rows_of_t(args[0]), *args[1:]), True
        if not by_program:
            return self._host_call(node, args, kwargs)
        return self._call(node, node.target, args, kwargs)

    def _attribute(self, target: str):
        if target in self.params:
            return self._param(target)
        value = self.module
        for name in target.split("."):
            value = getattr(value, name)
        if isinstance(value, torch.Tensor):
            return Host("const", None, (value.detach(),), example=value.detach())
        return value

    def _rows_of_t(self, value) -> Rows:
        return self._rows(value, value.example.size(-1))

    def _program_takes(self, node: fx.Node, sub: nn.Module | None) -> bool:
        """Is an operation on t alone done by the program? Active dropout, whose masks differ from
        row to row; and, where t itself does, what follows from the first matrix on."""
        values = [self.env[n] for n in node.all_input_nodes]
        if not any(isinstance(v, Host) and v.on_t and v.is_tensor for v in values):
            return False
        if self._drops(node, sub):
            return True
        takes = isinstance(sub, (nn.Linear, nn.LayerNorm)) or node.target is F.linear
        if self.mode != "row" or not takes or node in self._in_pytorch:
            return False
        return all(not (isinstance(v, Host) and v.on_t) for v in values[1:])

    def _drops(self, node: fx.Node, sub: nn.Module | None) -> bool:
        if isinstance(sub, nn.Dropout):
            return sub.training and sub.p > 0.0
        if node.target in (F.dropout, torch.dropout):
            return self._dropout_rate(*self._get(node.args)[1:], **self._get(node.kwargs)) > 0.0
        return False

    def _must_be_host(self, names) -> set:
        """Nodes on t alone from which something follows that a program can't do, such as sin."""
        on: dict[fx.Node, set] = {}
        blocked: set[fx.Node] = set()
        holders = [n for n in self.graph.nodes if n.op == "placeholder"]
        for node, name in zip(holders, names, strict=False):
            on[node] = {name}
        for node in self.graph.nodes:
            on.setdefault(node, set()).update(*(on[n] for n in node.all_input_nodes))
            if on[node] == {"t"} and not self._is_programmable(node):
                stack = [node]
                while stack:
                    n = stack.pop()
                    if n not in blocked:
                        blocked.add(n)
                        stack.extend(n.all_input_nodes)
        return blocked

    def _is_programmable(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            sub = self.module.get_submodule(node.target)
            kinds = (nn.Linear, nn.LayerNorm, nn.Dropout, nn.Identity, *_MODULE_ACTS)
            return isinstance(sub, kinds)
        return node.target in _FUNCTION_ACTS or node.target in (F.linear, F.dropout)

    # ---- on the host --------------------------------------------------------------------------

    def _host_module(self, sub: nn.Module, node: fx.Node, args, kwargs):
        if type(sub) is nn.Linear and not kwargs and args[0].example.dim() == 2:
            w, b = self._own(sub, node.target, "weight"), self._own(sub, node.target, "bias")
            return host.linear(args[0], w, b)
        names = [n for n, _ in (*sub.named_parameters(), *sub.named_buffers())]
        held = {n: self._param(f"{node.target}.{n}") for n in names}
        kind = "point" if not names and type(sub) in _MODULE_ACTS else "other"
        if not names:
            return host.apply(kind, lambda *a, **k: sub(*a, **k), *args, **kwargs)
        call = lambda p, *a, **k: torch.func.functional_call(sub, p, a, k)  # noqa: E731
        return host.apply("other", call, held, *args, **kwargs)

    def _host_call(self, node: fx.Node, args, kwargs):
        target = node.target
        if target is getattr:
            return self._host_getattr(*args)
        if node.op == "call_method":
            if target == "size":
                shape = self._host_getattr(args[0], "shape")
                return shape if len(args) == 1 else shape[args[1]]
            first = args[0]
            if not isinstance(first, Host):
                return getattr(first, target)(*args[1:], **kwargs)
            fn = lambda self_, *a, **k: getattr(self_, target)(*a, **k)  # noqa: E731
            point = target in host.POINTWISE_METHODS
        else:
            fn, point = target, target in host.POINTWISE
        if not any(isinstance(v, Host) or v is BATCH for v in host._leaves((args, kwargs))):
            return fn(*args, **kwargs)
        if fn is operator.getitem and not isinstance(args[0], Host):
            return operator.getitem(*args)
        kind = "point" if point else "other"
        if target in _CAT and self._last_dim(args, kwargs) and not kwargs.get("out"):
            parts = args[0] if args else kwargs["tensors"]
            if all(isinstance(p, Host) for p in parts):
                return host.apply("cat", host._concat, list(parts))
        made = host.apply(kind, fn, *args, **kwargs)
        if isinstance(made.example, (tuple, list)):  # chunk, split
            part = lambda i: lambda *a, **k: fn(*a, **k)[i]  # noqa: E731
            count = len(made.example)
            return [host.apply("other", part(i), *args, **kwargs) for i in range(count)]
        if not made.is_tensor and any(i.on_t for i in made.inputs) and target != "dim":
            raise LoweringError("a number read from t")
        return made

    def _host_getattr(self, value, name: str):
        if isinstance(value, Rows):
            if name == "shape":
                return (BATCH, value.width)
            if name == "ndim":
                return 2
            if name in ("device", "dtype"):
                return host.apply("other", lambda like: getattr(like, name), self._like())
        if isinstance(value, Host) and value.is_tensor:
            if name == "shape":
                shape = tuple(value.example.shape)
                return (BATCH, *shape[1:]) if value.on_t else shape
            if name in ("device", "dtype", "ndim", "T", "mT"):
                return host.apply("other", lambda v: getattr(v, name), value)
        raise LoweringError(f"the attribute {name!r}")

    def _last_dim(self, args, kwargs) -> bool:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        parts = args[0] if args else kwargs["tensors"]
        rank = max(p.example.dim() for p in parts if isinstance(p, Host))
        return dim in (-1, rank - 1) and rank == 2

    def _own(self, sub: nn.Module, target: str, name: str) -> Host | None:
        """A parameter of a layer; None where it has none."""
        if name in sub._parameters and sub._parameters[name] is None:
            return None
        if f"{target}.{name}" not in self.params:
            raise LoweringError(f"{name} is not a plain parameter (a parametrization or hook?)")
        return self._param(f"{target}.{name}")

    def _like(self) -> Host:
        return Host("like", example=self.like)

    # ---- in the program -----------------------------------------------------------------------

    def _module(self, sub: nn.Module, node: fx.Node, args, kwargs):
        v = args[0] if args else kwargs.get("input")
        if len(args) + len(kwargs) != 1 or not isinstance(v, Rows):
            raise LoweringError("a module of the program takes one tensor [B, width]")
        kind = type(sub)
        if isinstance(sub, nn.Linear):
            w, b = self._own(sub, node.target, "weight"), self._own(sub, node.target, "bias")
            return expr.linear(v, w, b)
        if kind in _MODULE_ACTS:
            options = {"approximate": sub.approximate} if kind is nn.GELU else {}
            if kind is nn.Softplus:
                options = {"beta": sub.beta, "threshold": sub.threshold}
            return self._activation(v, _MODULE_ACTS[kind], **options)
        if kind is nn.LayerNorm:
            w, b = self._own(sub, node.target, "weight"), self._own(sub, node.target, "bias")
            return self._layer_norm(v, sub.normalized_shape, w, b, sub.eps)
        if kind is nn.Dropout:
            return self._dropout(v, sub.p if sub.training else 0.0)
        if kind is nn.Identity:
            return v
        raise LoweringError("no such module in a program")

    def _call(self, node: fx.Node, target, args, kwargs):
        if target in _FUNCTION_ACTS:
            options = {k: v for k, v in kwargs.items() if k not in ("inplace", "input")}
            v = args[0] if args else kwargs["input"]
            if target is F.softplus:
                options.update(zip(("beta", "threshold"), args[1:], strict=False))
            elif len(args) > 1 and target not in (F.relu, F.silu, F.mish):  # there it is `inplace`
                raise LoweringError("positional options of an activation")
            return self._activation(v, _FUNCTION_ACTS[target], **options)
        if target in _BINARY:
            if kwargs or len(args) != 2:
                raise LoweringError("arithmetic with options (alpha, rounding_mode, out)")
            return self._binary(_BINARY[target], *args)
        if target in (operator.neg, torch.neg, "neg"):
            return self._binary("mul", args[0], -1.0)
        if target in _CAT:
            return self._cat(*args, **kwargs)
        rule = _RULES.get(target)
        if rule is None:
            raise LoweringError("no such operation in a program")
        return getattr(self, rule)(*args, **kwargs)

    def _activation(self, v: Rows, act: Act, approximate="none", beta=1, threshold=20) -> Rows:
        if approximate == "tanh":
            act = Act.GELU_TANH
        if beta != 1 or threshold != 20:
            raise LoweringError(
                f"Softplus with beta {beta} and threshold {threshold}, not 1 and 20"
            )
        fn = _ACT_FUNCTIONS[act]

        def one(p: expr.Piece) -> expr.Piece:
            if p.is_host:
                return expr.host_piece(host.apply("point", fn, p.host()))
            return whole(Activation(p, act))

        return v.map(one)

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

    def _functional_linear(self, v, weight, bias=None):
        if not isinstance(v, Rows) or not isinstance(weight, Host) or weight.on_t:
            raise LoweringError("a matrix that depends on x, t or obs")
        return expr.linear(v, weight, bias)

    def _binary(self, op: str, a, b):
        if op == "div":
            if isinstance(b, Rows):
                raise LoweringError("division by a value that depends on x or obs")
            op, b = (
                "mul",
                (host.apply("point", torch.reciprocal, b) if isinstance(b, Host) else 1.0 / b),
            )
        width = max(v.width for v in (a, b) if isinstance(v, Rows))
        a, b = self._rows(a, width), self._rows(b, width)
        if op == "sub":
            minus = Rows([expr.host_piece(host.number(-1.0, width, self.like))])
            op, b = "add", expr.zip_pieces(b, minus, expr.mul)
        return expr.zip_pieces(a, b, expr.add if op == "add" else expr.mul)

    def _cat(self, tensors, dim=0, axis=None):
        if (dim if axis is None else axis) not in (1, -1):
            raise LoweringError("cat along the rows; dim must be 1 or -1")
        parts = [p if isinstance(p, Rows) else self._rows_of_t(p) for p in tensors]
        joined = Rows([piece for p in parts for piece in p.pieces])
        # Read more than once, a cat of computed values is cheaper copied than split at every read.
        if len(self.node.users) > 1 and len(joined.pieces) > 1:
            if not any(p.is_host or isinstance(p.src, Input) for p in joined.pieces):
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

    def _flatten(self, v: Rows, start_dim=0, end_dim=-1):
        self._check_last(start_dim)
        return v

    def _squeeze(self, v: Rows, dim=None):
        if dim is None or v.width == 1 or dim not in (1, -1):
            raise LoweringError("squeeze to fewer than two dimensions; keep [B, width]")
        return v

    def _size(self, v: Rows, dim=None):
        return (BATCH, v.width) if dim is None else (BATCH, v.width)[dim]

    def _dim(self, v: Rows):
        return 2

    def _check_last(self, dim) -> None:
        if dim not in (1, -1):
            raise LoweringError(
                f"an operation along dimension {dim}; a program works along columns"
            )

    def _error(self, why: str) -> LoweringError:
        node = self.node
        what = node.target
        if node.op == "call_module":
            what = f"{type(self.module.get_submodule(node.target)).__name__} '{node.target}'"
        elif callable(what):
            what = getattr(what, "__name__", str(what))
        return LoweringError(
            f"can't lower {type(self.module).__name__}: node '{node.name}' ({what}): {why}. "
            f"Supported: {SUPPORTED}"
        )


_RULES = {
    F.linear: "_functional_linear", F.dropout: "_functional_dropout", F.layer_norm: "_layer_norm",
    torch.dropout: "_functional_dropout", operator.getitem: "_getitem", getattr: "_host_getattr",
    "narrow": "_narrow", torch.narrow: "_narrow", "chunk": "_chunk", torch.chunk: "_chunk",
    "split": "_split", torch.split: "_split", "contiguous": "_same", "clone": "_same",
    torch.clone: "_same", "flatten": "_flatten", torch.flatten: "_flatten",
    "squeeze": "_squeeze", torch.squeeze: "_squeeze", "size": "_size", "dim": "_dim",
}  # fmt: skip
