"""`lower`: one module or stack as a step program, checked against itself on a trial input."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn

from dom2_fast.errors import Dom2Error
from dom2_fast.lowering.attributes import attributes_kept
from dom2_fast.lowering.emit import Emitter
from dom2_fast.lowering.errors import LoweringError
from dom2_fast.lowering.host import (
    EXAMPLE_BATCH,
    Context,
    Host,
    apply,
    concat,
    one_row,
    whole_cut,
)
from dom2_fast.lowering.stamp import watch
from dom2_fast.lowering.trace import INPUTS, Interpreter
from dom2_fast.networks import StackedModule, named_tensors
from dom2_fast.ops import backend, reference
from dom2_fast.ops.program import StepProgram

# Against a misread network, whose results differ by their own size; rounding is far below.
_CHECK_TOLERANCE = 1e-3


class Lowered:
    """A lowered network: `program`, and what to compute for it from parameters and times.

    mode: as given to `lower`. feature_width: columns that row mode appends to obs.
    """

    def __init__(self, mode: str | None, emitter: Emitter, features: list, feature_width: int):
        self.mode = mode
        self.program: StepProgram = emitter.program
        self.feature_width = feature_width
        self._weights, self._features = emitter.weights, features
        self._table = _rows_joined(emitter.table)
        self._cuts, self._buffers = _read(emitter, features)
        self._fixed: _Fixed | None = None
        self._parameters = None if mode == "table" else _parameters(emitter)  # that has many rows
        self._pure: dict = {}
        self._groups = 1  # for a module without parameters, whose groups can't be seen from them

    def hoist(self, params: dict, t: torch.Tensor | None = None, like: torch.Tensor | None = None):
        """(weights, table) for `ops`: matrices [G, N, K] (views where possible), [S, G, columns].

        params: name -> [G, ...], parameters and buffers, as from `grouped_params`. t: [S], times of
        the steps, in mode "table" only. like: gives dtype and device where there are no params.
        """
        if (t is not None) != (self.mode == "table"):
            raise Dom2Error("hoist takes t [S] in mode 'table', and no t in the others")
        if self._parameters is not None:
            matrices, rows, cuts = self._parameters
            cut = {name: params[name].split_with_sizes(sizes, -1) for name, sizes in cuts.items()}
            weights = [
                params[name]
                if columns is None
                else cut[name][columns]
                if name in cut
                else params[name][..., columns]
                for name, columns in matrices
            ]
            return weights, torch.cat([params[name] for name in rows], -1).unsqueeze(0)
        context = self._context(params, t, like, self._kept(params, t))
        groups, steps = context.groups, 1 if t is None else t.size(0)
        weights = []
        for w in self._weights:
            matrix = context.part(w.matrix, w.start, w.width)
            weights.append(matrix if matrix.size(0) == groups else matrix.expand(groups, -1, -1))
        columns = [context.lifted(h) for h in self._table]  # [G or 1, S or 1, width]
        columns = _filled(columns, groups, steps)
        if not columns:
            return weights, context.like.new_zeros(steps, groups, 0)
        return weights, torch.cat(columns, -1).transpose(0, 1)

    def cond(self, params: dict, obs: torch.Tensor, t: torch.Tensor | None) -> torch.Tensor:
        """The condition: obs [G, B, O] and, in mode "row", functions of t [G, B] beside it."""
        if not self._features:
            return obs
        context = self._context(params, t, obs)
        return torch.cat([obs, *(context.lifted(h) for h in self._features)], -1)

    def _kept(self, params, t) -> dict | None:
        """What is known of t and the buffers from the last time; None where that can't be told."""
        if t is None or torch.compiler.is_compiling() or not backend.available():
            return None
        given = [t, *(params[name] for name in self._buffers)]
        if any(v.requires_grad or v.is_inference() for v in given) or _passing():
            return None
        fixed = self._fixed
        if fixed is None or not fixed.holds(given):
            self._fixed = fixed = _Fixed(given)
        return fixed.values

    def _context(self, params, t, like, fixed=None) -> Context:
        first = next((p for p in params.values() if p.is_floating_point()), None)
        like = first if like is None else like
        if like is None:
            raise Dom2Error("a network without parameters needs `like`, a tensor of its dtype")
        groups = self._groups if first is None else first.size(0)
        return Context(params, t, groups, like, self._pure, self._cuts, fixed)


def _parameters(emitter: Emitter) -> tuple[list[tuple], list[str], dict] | None:
    """(name, columns) of the matrices, names of the table's parts, where all are parameters.

    So it is for actors and critics of linear layers: every step of their training hoists anew. A
    matrix whose columns are all there, in parts, is in the third: name -> widths of the parts, cut
    in one call with one call's gradient; `columns` is then the number of the part.
    """
    matrices, rows = [], []
    for w in emitter.weights:
        if w.matrix.kind != "param":
            return None
        whole = w.width == w.matrix.example.size(-1)
        columns = None if whole else slice(w.start, w.start + w.width)
        matrices.append((w.matrix.args[0], columns))
    for h in emitter.table:
        if h.fn is not one_row or h.args[0].kind != "param":
            return None
        rows.append(h.args[0].args[0])
    if not rows:
        return None
    cuts = {}
    widths = {w.matrix.args[0]: w.matrix.example.size(-1) for w in emitter.weights}
    for name, full in widths.items():
        parts = {(c.start, c.stop - c.start) for n, c in matrices if n == name and c is not None}
        if parts and (cut := whole_cut(parts, full)):
            cuts[name], order = cut, [start for start, _ in sorted(parts)]
            matrices = [
                (n, order.index(c.start)) if n == name and c is not None else (n, c)
                for n, c in matrices
            ]
    return matrices, rows, cuts


def _read(emitter: Emitter, features: list) -> tuple[dict[Host, list[int]], list[str]]:
    """What is read in parts that make up the whole, with their widths; the buffers that are read.

    The former is for `Context.part`.
    """
    parts: dict[Host, set] = {}
    todo, seen = [*emitter.table, *features], set()
    for w in emitter.weights:
        parts.setdefault(w.matrix, set()).add((w.start, w.width))
        todo.append(w.matrix)
    while todo:
        h = todo.pop()
        if h not in seen:
            seen.add(h)
            todo += h.inputs
            if h.kind == "columns":
                parts.setdefault(h.args[0], set()).add(h.args[1:])
    cuts = {}
    for h, given in parts.items():
        full = h.example.size(-1)
        if cut := whole_cut(given - {(0, full)}, full):
            cuts[h] = cut
    return cuts, sorted({h.args[0] for h in seen if h.kind == "param" and not h.learnt})


class _Fixed:
    """Values of the same times and buffers: the embedding of the times, at every call the same."""

    def __init__(self, given: list[torch.Tensor]):
        self.given, self.values = given, {}
        self.watch = watch(given)

    def holds(self, given: list[torch.Tensor]) -> bool:
        same = all(a is b for a, b in zip(given, self.given, strict=True))
        return same and self.watch.fresh()


def _rows_joined(table: list[Host]) -> list[Host]:
    """The same columns; neighbouring parameters, such as biases, as one."""
    found: list[Host] = []
    for plain, hosts in itertools.groupby(table, lambda h: h.fn is one_row and h.inputs[0].grouped):
        hosts = list(hosts)
        if plain and len(hosts) > 1:
            found.append(apply("lead", one_row, concat([h.args[0] for h in hosts])))
        else:
            found += hosts
    return found


def _passing() -> bool:
    """Are tensors made now of a kind that mustn't be met later: of inference mode, of a trace?"""
    return torch.is_inference_mode_enabled() or torch._C._are_functorch_transforms_active()


def _filled(columns: list[torch.Tensor], groups: int, steps: int) -> list[torch.Tensor]:
    """Columns [G or 1, S or 1, width] as [G, S, width]: neighbours that change together, as one."""
    runs: list[list[torch.Tensor]] = []
    for column in columns:  # itertools.groupby can't be traced by torch.compile
        if runs and runs[-1][0].shape[:2] == column.shape[:2]:
            runs[-1].append(column)
        else:
            runs.append([column])
    found = []
    for run in runs:
        if tuple(run[0].shape[:2]) == (groups, steps):
            found += run
        else:
            one = run[0] if len(run) == 1 else torch.cat(run, -1)
            found.append(one.expand(groups, steps, -1))
    return found


def grouped_params(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, [G, ...] each: of a StackedModule as they are, else with G = 1."""
    if isinstance(module, StackedModule):
        return module.params()
    return {name: p.unsqueeze(0) for name, p in named_tensors(module)}


def lower(
    module: nn.Module,
    mode: str | None = "table",
    *,
    x_dim: int | None = None,
    obs_dim: int | None = None,
    out_dim: int | None = None,
) -> Lowered:
    """Lowers a network, or one architecture of a StackedModule.

    mode: "table" for net(x, t, obs) with one t per step (sampling), "row" for one per row
    (training), None for net(x, obs) (critics), "act" for net(obs) (deterministic and Gaussian
    actors), whose program has no x. x_dim, obs_dim default to module.act_dim, module.obs_dim.
    out_dim: only so many of the result's columns, the first ones, and what they need; all by
    default.
    The result holds for the module's present train/eval flags: dropout is part of the program only
    in training. It holds for other values of parameters and buffers, but other attributes are taken
    as constants: register what will change as a buffer.
    Raises LoweringError, naming the node, for what a program can't express, and where the program
    doesn't reproduce the module on a trial input.
    """
    if mode not in INPUTS:
        raise Dom2Error(f"mode is 'table', 'row', 'act' or None, got {mode!r}")
    inner = module.template if isinstance(module, StackedModule) else module
    x_dim = width_of(inner, "act_dim", x_dim) if "x" in INPUTS[mode] else 0
    widths = x_dim, width_of(inner, "obs_dim", obs_dim), out_dim
    params = {name: p.detach()[0] for name, p in grouped_params(module).items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), attributes_kept(inner):
        low = _lower(inner, params, mode, *widths)
        if low.program.sites:  # masks differ from PyTorch's: try it without
            inner = copy.deepcopy(inner).eval()
            _check(inner, params, _lower(inner, params, mode, *widths), *widths)
        else:
            _check(inner, params, low, *widths)
    if isinstance(module, StackedModule):
        low._groups = module.groups
    return low


def width_of(module: nn.Module, name: str, given: int | None) -> int:
    """The width of an input: as given, else the attribute of the module; Dom2Error without both."""
    width = getattr(module, name, None) if given is None else given
    if not isinstance(width, int) or width < 1:
        raise Dom2Error(
            f"{type(module).__name__} has no attribute {name} that says how wide that input is; "
            f"give it as an argument"
        )
    return width


def _lower(module, params, mode, x_dim, obs_dim, out_dim) -> Lowered:
    interpreter = Interpreter(module, params, mode, (x_dim, obs_dim))
    result = interpreter.run()
    if out_dim is not None:
        if not 1 <= out_dim <= result.width:
            raise LoweringError(
                f"can't lower {type(module).__name__}: it returns {result.width} columns, and "
                f"{out_dim} of them are asked for"
            )
        result = result.cut(0, out_dim)
    width = interpreter.feature_width
    interpreter.cond_input.width = obs_dim + width
    try:
        emitter = Emitter(result, x_dim, obs_dim + width, interpreter.like)
    except LoweringError:
        raise
    except Dom2Error as error:
        raise LoweringError(f"can't lower {type(module).__name__}: {error}") from error
    return Lowered(mode, emitter, interpreter.features, width)


def _check(module, params, low: Lowered, x_dim: int, obs_dim: int, out_dim: int | None) -> None:
    """Compares program and module on a few rows; a cheap guard against misreading a module."""
    grouped = {name: p.unsqueeze(0) for name, p in params.items()}
    like = next((p for p in params.values() if p.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    batch = EXAMPLE_BATCH + 1

    def draw(*shape):
        return torch.rand(shape, generator=generator).to(like) * 1.6 - 0.8

    x, obs, t = draw(batch, x_dim), draw(batch, obs_dim), draw(batch).abs() + 0.1
    drawn = {"x": x, "t": t, "obs": obs}
    inputs = [drawn[name] for name in INPUTS[low.mode]]
    # The module sees one row at a time, so that one whose rows see each other gives itself away.
    alone = [tuple(v[k : k + 1] for v in inputs) for k in range(batch)]
    try:
        got = _trial(low, grouped, x, t, obs, like)
        want = torch.cat([torch.func.functional_call(module, params, one) for one in alone])
        want = want[..., :out_dim]
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise LoweringError(f"{type(module).__name__} fails on a trial input: {error}") from error
    if got.shape != want.shape:
        raise LoweringError(
            f"{type(module).__name__} returns {tuple(want.shape)} for {batch} rows; it must return "
            f"[{batch}, width]"
        )
    error = (got - want).abs().max().item()
    if not error <= _CHECK_TOLERANCE * (1.0 + want.abs().max().item()):
        raise LoweringError(
            f"the program for {type(module).__name__} differs from the module by {error:.3g} on a "
            f"trial input. In-place operations, forward hooks and rows that see each other do this"
        )


def _trial(low: Lowered, params, x, t, obs, like) -> torch.Tensor:
    """The program's result for [B, ...] inputs; in mode "table" step k has the time of row k."""
    x, obs = x[None], obs[None]
    if low.mode != "table":
        weights, table = low.hoist(params, None, like)
        rows = low.cond(params, obs, t[None])
        return reference.run_program(x, rows, weights, table, low.program)[0]
    weights, table = low.hoist(params, t, like)
    rows = [slice(k, k + 1) for k in range(len(t))]
    return torch.cat(
        [reference.run_program(x[:, r], obs[:, r], weights, table[r], low.program)[0] for r in rows]
    )
