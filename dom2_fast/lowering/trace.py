"""From a module to expressions: torch.fx traces it, every node becomes a `Host` or a `Rows`.

Knows which side a node belongs to. What an operation means in the program is in `rules`, how it
becomes instructions in `emit`.
"""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from dom2_fast.lowering import expr, host
from dom2_fast.lowering.attributes import Tracer, attributes_kept, functions_of_t_whole
from dom2_fast.lowering.errors import SUPPORTED, LoweringError
from dom2_fast.lowering.expr import Input, Rows
from dom2_fast.lowering.host import BATCH, EXAMPLE_BATCH, Host
from dom2_fast.lowering.rules import BINARY, CAT, FUNCTION_ACTS, MODULE_ACTS, Rules
from dom2_fast.ops.program import COND, X

# What forward takes, by mode.
INPUTS = {
    "table": ["x", "t", "obs"],
    "row": ["x", "t", "obs"],
    None: ["x", "obs"],
    "act": ["obs"],
}


class Interpreter(Rules):
    """Walks the traced graph of one module. mode: one of `lowering.lower`."""

    def __init__(self, module: nn.Module, params: dict, mode: str | None, widths: tuple[int, int]):
        self.module, self.mode, self.params = module, mode, params
        self.buffers = {n for n, _ in module.named_buffers(remove_duplicate=False)}
        self.x_width, self.obs_width = widths
        self.like = next((p for p in params.values() if p.is_floating_point()), torch.zeros(()))
        self.features: list[Host] = []  # row mode: columns of the condition vector after obs
        self.feature_width = 0
        self.cond_input = Input(COND, self.obs_width, False)
        self._feature_pieces: dict[Host, expr.Piece] = {}
        try:
            tracer = Tracer()
            on_t = "t" in INPUTS[mode]
            with functions_of_t_whole(module, tracer) if on_t else attributes_kept(module):
                self.graph = tracer.trace(module)
        except Exception as error:
            raise LoweringError(
                f"can't trace {type(module).__name__}: {error}. Its forward must be a straight "
                f"line of tensor operations, the same for every input"
            ) from error

    def run(self) -> Rows:
        """The symbolic result."""
        names = INPUTS[self.mode]
        self.env: dict[fx.Node, object] = {}
        self._in_pytorch = self._must_be_host(names) if self.mode == "row" else set()
        given = sum(node.op == "placeholder" for node in self.graph.nodes)
        if given < len(names):
            raise LoweringError(
                f"can't lower {type(self.module).__name__}: its forward takes {given} arguments; "
                f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} needed"
            )
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
                result = self._get(node.args[0])
                if isinstance(result, Host):
                    result = self._rows_of_t(result)
                if not isinstance(result, Rows) or len(result.shape) > 1:
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
            return Rows([expr.Piece(self.cond_input, 0, self.obs_width)])
        example = torch.linspace(0.2, 0.9, EXAMPLE_BATCH, dtype=self.like.dtype)
        return Host("input", example=example.to(self.like.device))

    def _param(self, name: str) -> Host:
        return Host("param", None, (name, name not in self.buffers), example=self.params[name])

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
            self._feature_pieces[value] = expr.Piece(self.cond_input, start, width)
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
        takes = isinstance(sub, (nn.Linear, nn.LayerNorm, nn.GroupNorm)) or node.target is F.linear
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
            kinds = (nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.Dropout, nn.Identity, *MODULE_ACTS)
            return isinstance(sub, kinds)
        return node.target in FUNCTION_ACTS or node.target in (F.linear, F.dropout)

    # ---- on the host --------------------------------------------------------------------------

    def _host_module(self, sub: nn.Module, node: fx.Node, args, kwargs):
        if type(sub) is nn.Linear and not kwargs and args[0].example.dim() == 2:
            w, b = self._own(sub, node.target, "weight"), self._own(sub, node.target, "bias")
            return host.linear(args[0], w, b)
        names = [n for n, _ in (*sub.named_parameters(), *sub.named_buffers())]
        held = {n: self._param(f"{node.target}.{n}") for n in names}
        if not names:
            kind = "point" if type(sub) in MODULE_ACTS else "other"
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
        if any(v is BATCH for v in args) and target in BINARY:
            raise LoweringError(
                "arithmetic with the number of rows, as for a reshape that mixes rows, whose "
                "values may not meet; keep the first dimension, as in v.view(v.shape[0], -1)"
            )
        if target is F.linear and not kwargs and args[0].example.dim() == 2:
            return host.linear(*args)
        kind = "point" if point else "other"
        if target in CAT and self._last_dim(args, kwargs) and not kwargs.get("out"):
            parts = args[0] if args else kwargs["tensors"]
            if all(isinstance(p, Host) for p in parts):
                return host.apply("cat", host._concat, list(parts))
        made = host.apply(kind, fn, *args, **kwargs)
        if isinstance(made.example, (tuple, list)):  # chunk, split
            part = lambda i: lambda *a, **k: fn(*a, **k)[i]  # noqa: E731
            count = len(made.example)
            return [host.apply("other", part(i), *args, **kwargs) for i in range(count)]
        if not made.is_tensor and target != "dim":
            raise LoweringError("a number read from t or from a parameter")
        return made

    def _host_getattr(self, value, name: str):
        if isinstance(value, Rows):
            if name == "shape":
                return (BATCH, *value.shape)
            if name == "ndim":
                return 1 + len(value.shape)
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
