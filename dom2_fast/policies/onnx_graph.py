"""A frozen policy as one ONNX graph: the program's instructions, all denoising steps unrolled.

Inputs, float32, of a single policy (a stack has its agents as a dimension before B):

    obs [B, O]; where it denoises x_T [B, A]; where its solver adds noise, noise [S, B, A]

and the output act [B, A], clipped; by chunks [..., T, A] for A. Nothing is drawn in the graph, so
that it gives the same numbers everywhere. What the network does to an observation first, such as
normalising it, is in the program and so in the graph.

Writing and checking the file is the business of `onnx_export`.
"""

from __future__ import annotations

import math

import numpy as np

from dom2_fast._version import __version__
from dom2_fast.activations import Act
from dom2_fast.errors import Dom2Error
from dom2_fast.ops.program import COND, Instr, Op, Slice, StepProgram, X

MISH_OPSET, NORM_OPSET = 18, 17  # where Mish and LayerNormalization begin; written out before
LEAST_OPSET = 13
PRODUCER = "dom2_fast"


class Graph:
    """Nodes and constants under construction; a constant of the same bytes is stored once."""

    def __init__(self, opset: int):
        import onnx

        self.onnx, self.opset = onnx, opset
        self.nodes: list = []
        self.constants: dict[tuple, str] = {}
        self.initializers: list = []
        self._made: dict[tuple, str] = {}

    def constant(self, value) -> str:
        """The name of a constant, float32 or int64."""
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            name = f"c{len(self.constants)}"
            self.constants[key] = name
            self.initializers.append(self.onnx.numpy_helper.from_array(array, name))
        return self.constants[key]

    def node(self, op: str, *inputs: str, out: str | None = None, **attributes) -> str:
        """Adds a node and gives the name of its output; the same node isn't added twice."""
        key = (op, inputs, tuple(sorted(attributes.items())))
        if out is None and key in self._made:
            return self._made[key]
        name = f"v{len(self.nodes)}" if out is None else out
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [name], **attributes))
        self._made.setdefault(key, name)
        return name

    def scaled(self, value: str, factor: float) -> str:
        """value * factor."""
        return value if factor == 1.0 else self.node("Mul", value, self.constant(factor))

    def clip(self, value: str, low: float, high: float, out: str | None = None) -> str:
        """value clipped to [low, high]; infinite bounds are left out."""
        low_name = self.constant(low) if math.isfinite(low) else ""
        high_name = self.constant(high) if math.isfinite(high) else ""
        if not low_name and not high_name and out is None:
            return value
        return self.node("Clip", value, low_name, high_name, out=out)

    def activation(self, value: str, act: Act) -> str:
        """act(value), by operators that this opset has."""
        plain = {
            Act.RELU: "Relu",
            Act.TANH: "Tanh",
            Act.SOFTPLUS: "Softplus",
            Act.SIGMOID: "Sigmoid",
        }
        if act is Act.NONE:
            return value
        if act in plain:
            return self.node(plain[act], value)
        if act is Act.LEAKY_RELU:
            return self.node("LeakyRelu", value, alpha=0.01)
        if act is Act.ELU:
            return self.node("Elu", value, alpha=1.0)
        if act is Act.SILU:
            return self.node("Mul", value, self.node("Sigmoid", value))
        if act is Act.MISH:
            if self.opset >= MISH_OPSET:
                return self.node("Mish", value)
            return self.node("Mul", value, self.node("Tanh", self.node("Softplus", value)))
        if act is Act.GELU:
            inner = self.node("Erf", self.scaled(value, 1.0 / math.sqrt(2.0)))
        elif act is Act.GELU_TANH:
            cube = self.node("Mul", self.node("Mul", value, value), value)
            sum_ = self.node("Add", value, self.scaled(cube, 0.044715))
            inner = self.node("Tanh", self.scaled(sum_, math.sqrt(2.0 / math.pi)))
        else:
            raise Dom2Error(f"activation {act.name.lower()} has no form in ONNX here")
        plus = self.node("Add", inner, self.constant(1.0))
        return self.node("Mul", self.scaled(value, 0.5), plus)

    def normalised(self, value: str, width: int, eps: float) -> str:
        """(value - mean) / sqrt(var + eps) over the last dimension."""
        if self.opset >= NORM_OPSET:
            ones = self.constant(np.ones(width, np.float32))
            return self.node("LayerNormalization", value, ones, axis=-1, epsilon=float(eps))
        off = self.node("Sub", value, self._mean(value))
        spread = self._mean(self.node("Mul", off, off))
        root = self.node("Sqrt", self.node("Add", spread, self.constant(float(eps))))
        return self.node("Div", off, root)

    def _mean(self, value: str) -> str:
        return self.node("ReduceMean", value, axes=(-1,), keepdims=1)


class Network:
    """The program's instructions, written into a graph once for each step."""

    def __init__(self, graph: Graph, program: StepProgram, weights, table, stacked: bool):
        if program.sites:
            raise Dom2Error(
                "this policy drops units out while it acts, which draws numbers that a graph "
                "can't: freeze it in eval mode"
            )
        self.graph, self.program, self.stacked = graph, program, stacked
        self.table = table.cpu().numpy()  # [S, G, columns]
        # MatMul wants [K, N]; a single policy's have no dimension of agents.
        self.weights = [self._of_agents(w.cpu().numpy().transpose(0, 2, 1)) for w in weights]
        self.once: dict[int, str] = {}

    def _of_agents(self, array: np.ndarray) -> str:
        return self.graph.constant(np.ascontiguousarray(array if self.stacked else array[0]))

    def __call__(self, step: int, x: str | None, obs: str) -> str:
        """The name of net(x, t, obs) at that step."""
        values: dict[int, str | list[str]] = {COND: obs}
        if x is not None:
            values[X] = x
        if step == 0:
            self._run(values, 0, once=True)
            self.once = dict(values)
        else:
            values = {**self.once, **values}
        self._run(values, step, once=False)
        return self._read(values, self.program.out)

    def _run(self, values: dict, step: int, once: bool) -> None:
        for i in self.program.instrs:
            if i.once != once:
                continue
            value = self._value(values, i, step)
            if i.op is not Op.COPY:
                values[i.out.buffer] = value
            elif i.out.start == 0:
                values[i.out.buffer] = [value]
            else:  # parts are written in order
                values[i.out.buffer] = [*values[i.out.buffer], value]

    def _read(self, values: dict, s: Slice) -> str:
        held = values[s.buffer]
        if isinstance(held, list):
            held = held[0] if len(held) == 1 else self.graph.node("Concat", *held, axis=-1)
        if s.start == 0 and s.width == self.program.buffers[s.buffer]:
            return held
        at = [self.graph.constant(np.array([n])) for n in (s.start, s.start + s.width, -1)]
        return self.graph.node("Slice", held, *at)

    def _columns(self, step: int, first: int, width: int) -> str:
        columns = self.table[step][:, None, first : first + width]  # [G, 1, width]
        return self.graph.constant(columns if self.stacked else columns[0, 0])

    def _value(self, values: dict, i: Instr, step: int) -> str:
        graph, a, n = self.graph, self._read(values, i.a), i.out.width
        if i.op is Op.COPY:
            return a
        if i.op is Op.ACTIVATION:
            return graph.activation(a, i.act)
        if i.op is Op.LINEAR:
            value = graph.node("MatMul", a, self.weights[i.weight])
            if i.table >= 0:
                value = graph.node("Add", value, self._columns(step, i.table, n))
            if i.b is not None:
                value = graph.node("Add", value, self._read(values, i.b))
            value = graph.activation(value, i.act)
            return value if i.c is None else graph.node("Add", value, self._read(values, i.c))
        if i.op is Op.LAYER_NORM:
            value = graph.normalised(a, n, i.value)
            if i.table >= 0:
                value = graph.node("Mul", value, self._columns(step, i.table, n))
            if i.table2 >= 0:
                value = graph.node("Add", value, self._columns(step, i.table2, n))
            return value
        b = self._columns(step, i.table, n) if i.b is None else self._read(values, i.b)
        return graph.node({Op.ADD: "Add", Op.MUL: "Mul"}[i.op], a, b)


def model_of(policy, opset: int, notes: dict[str, str] | None = None):
    """The graph of a FrozenPolicy as an `onnx.ModelProto`; see the module for inputs and output.

    notes: what its metadata say beside the policy's own.
    Raises:
        Dom2Error: an opset out of range, or that an operator doesn't fit in.
    """
    graph = Graph(opset)
    onnx = graph.onnx
    stacked, shape = policy.groups is not None, policy.act_shape
    agents = [policy.num_agents] if stacked else []
    actions = [policy.act_dim] if shape is None else list(shape)
    zeros = [0] * (1 + len(agents))
    network = Network(graph, policy._program, policy._weights, policy._table, stacked)

    def tensor(name: str, *dims):
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(dims))

    def flat(name: str) -> str:
        if shape is None:
            return name
        return graph.node("Reshape", name, graph.constant(np.array([*zeros, -1])))

    inputs = [tensor("obs", *agents, "batch", policy.obs_dim)]
    if policy.steps:
        inputs.append(tensor("x_T", *agents, "batch", *actions))
    if policy._needs_noise:
        inputs.append(tensor("noise", policy.steps, *agents, "batch", *actions))
    if policy.steps:
        x = _solve(graph, network, policy, flat("x_T"), flat)
    else:
        x = network(0, None, "obs")
    last = None if shape is not None else "act"
    x = graph.clip(x, policy.act_low, policy.act_high, out=last)
    if shape is not None:
        graph.node("Reshape", x, graph.constant(np.array([*zeros, *shape])), out="act")
    outputs = [tensor("act", *agents, "batch", *actions)]
    made = onnx.helper.make_graph(
        graph.nodes, "policy", inputs, outputs, initializer=graph.initializers
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(
        made,
        opset_imports=imports,
        # The lowest version that can hold it, for older runtimes.
        ir_version=onnx.helper.find_min_ir_version_for(imports),
        producer_name=PRODUCER,
        producer_version=__version__,
    )
    told = {**policy.notes, **(notes or {})}
    onnx.helper.set_model_props(
        model, {k: v for k, v in told.items() if k not in ("format", "version")}
    )
    return model


def _solve(graph: Graph, network: Network, policy, x: str, flat) -> str:
    """The loop of `reference.denoise`, unrolled: one row of the solver's table for each step."""
    previous = before = None
    for s, row in enumerate(policy._solver.tolist()):
        inv_alpha, sigma_over_alpha, c_x, c_x0, c_prev, c_noise, low, high, c_prev2 = row
        out = graph.scaled(network(s, x, "obs"), -sigma_over_alpha)
        x0 = out if inv_alpha == 0.0 else graph.node("Add", graph.scaled(x, inv_alpha), out)
        x0 = graph.clip(x0, low, high)
        terms = [(c_x, x), (c_x0, x0), (c_prev, previous), (c_prev2, before)]
        if c_noise != 0.0:
            step = graph.node("Gather", "noise", graph.constant(np.array(s)), axis=0)
            terms.append((c_noise, flat(step)))
        scaled = [graph.scaled(v, c) for c, v in terms if c != 0.0 and v is not None]
        if not scaled:
            raise Dom2Error(f"step {s} of the solver forgets x and makes nothing: it can't act")
        x = scaled[0]
        for term in scaled[1:]:
            x = graph.node("Add", x, term)
        previous, before = x0, previous
    return x
