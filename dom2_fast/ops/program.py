"""The step program: what a network computes for one row in one pass, as a straight-line list.

A program is data. `lowering` writes it, `reference` defines what it means, the executors in csrc/
run it. It knows nothing of torch modules, solvers or devices.

Values live in *buffers* (one row's worth of floats each, written once). Buffer 0 is x, buffer 1 the
condition vector, `cond` (observations and other per-row inputs that stay fixed over the steps). A
program without x, of x_width 0, is a network of the observations alone: an actor. Everything that
depends on the step but not on the row (time embeddings, biases, LayerNorm gains) is a range of
columns of the *table*, which has one row per step. Matrices are `weights[i]` of shape [G, N, K].
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

import torch

from dom2_fast.activations import Act
from dom2_fast.errors import Dom2Error

X, COND = 0, 1  # buffer ids of the two inputs
VERSION = 1
HEADER_WORDS = 12
INSTR_WORDS = 18


class Op(IntEnum):
    """Instruction kinds; the values are part of the encoding shared with csrc/core/program.h."""

    LINEAR = 0  # out = act(W a + table + b) + c
    ACTIVATION = 1  # out = act(a)
    ADD = 2  # out = a + b, or a + table
    MUL = 3  # out = a * b, or a * table
    LAYER_NORM = 4  # out = (a - mean) / sqrt(var + value) * table + table2
    DROPOUT = 5  # out = a * keep / (1 - value), keep from Philox stream `site`
    COPY = 6  # out[start:start + width] = a; the one instruction that writes part of a buffer


@dataclass(frozen=True)
class Slice:
    """Columns [start, start + width) of a buffer."""

    buffer: int
    start: int
    width: int


@dataclass(frozen=True)
class Instr:
    """One row-wise instruction. `table`, `table2` are first columns in the table, -1 for none."""

    op: Op
    out: Slice
    a: Slice
    b: Slice | None = None
    c: Slice | None = None
    table: int = -1
    table2: int = -1
    weight: int = -1
    act: Act = Act.NONE
    value: float = 0.0  # LAYER_NORM: eps; DROPOUT: probability of zero
    site: int = 0  # DROPOUT: number of this dropout in the program
    once: bool = False  # depends on the condition vector alone: run before the first step only


@dataclass(frozen=True)
class StepProgram:
    """A checked program. Build it with `ProgramBuilder`.

    Instructions marked `once` run before the first step and read table row 0; the others run in
    every step.
    """

    buffers: tuple[int, ...]  # widths; [0] is x, [1] the condition vector
    weights: tuple[tuple[int, int], ...]  # (N, K) of each matrix
    table_width: int
    out: Slice
    instrs: tuple[Instr, ...]
    sites: int = 0
    _encoded: torch.Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def x_width(self) -> int:
        return self.buffers[X]

    @property
    def cond_width(self) -> int:
        return self.buffers[COND]

    @property
    def flops(self) -> int:
        """Multiply-adds counted twice, of one row in one step (matrices only)."""
        return 2 * sum(n * k for n, k in self.weights)

    def encode(self) -> torch.Tensor:
        """The program as a 1-D int64 CPU tensor, the form the ops take. Made once, then shared."""
        if self._encoded is None:
            words = [VERSION, len(self.instrs), len(self.buffers), len(self.weights)]
            words += [self.x_width, self.cond_width, self.table_width]
            words += [self.out.buffer, self.out.start, self.out.width, self.sites, 0]
            words += self.buffers
            words += [size for shape in self.weights for size in shape]
            for i in self.instrs:
                words += _encode_instr(i)
            object.__setattr__(self, "_encoded", torch.tensor(words, dtype=torch.int64))
        return self._encoded

    @staticmethod
    def decode(words: torch.Tensor) -> StepProgram:
        """Inverse of `encode`; raises Dom2Error for a tensor that is no program."""
        w = words.tolist()
        if len(w) < HEADER_WORDS or w[0] != VERSION:
            raise Dom2Error(f"not a step program of version {VERSION}: {len(w)} words")
        n_instr, n_buf, n_w = w[1:4]
        if len(w) != HEADER_WORDS + n_buf + 2 * n_w + n_instr * INSTR_WORDS:
            raise Dom2Error(f"step program is cut short: {len(w)} words for {n_instr} instructions")
        at = HEADER_WORDS
        buffers = tuple(w[at : at + n_buf])
        at += n_buf
        weights = tuple((w[at + 2 * i], w[at + 2 * i + 1]) for i in range(n_w))
        at += 2 * n_w
        instrs = tuple(
            _decode_instr(w[at + i * INSTR_WORDS : at + (i + 1) * INSTR_WORDS])
            for i in range(n_instr)
        )
        return StepProgram(buffers, weights, w[6], Slice(w[7], w[8], w[9]), instrs, w[10])


def _encode_instr(i: Instr) -> list[int]:
    b, c = i.b or Slice(-1, 0, 0), i.c or Slice(-1, 0, 0)
    (bits,) = struct.unpack("<q", struct.pack("<d", i.value))
    return [
        int(i.op), i.out.buffer, i.out.start, i.out.width, i.a.buffer, i.a.start, i.a.width,
        b.buffer, b.start, c.buffer, c.start, i.table, i.table2, i.weight, int(i.act), i.site,
        bits, int(i.once),
    ]  # fmt: skip


def _decode_instr(w: list[int]) -> Instr:
    (value,) = struct.unpack("<d", struct.pack("<q", w[16]))
    width = w[3]
    return Instr(
        Op(w[0]),
        Slice(w[1], w[2], width),
        Slice(w[4], w[5], w[6]),
        Slice(w[7], w[8], width) if w[7] >= 0 else None,
        Slice(w[9], w[10], width) if w[9] >= 0 else None,
        w[11],
        w[12],
        w[13],
        Act(w[14]),
        value,
        w[15],
        bool(w[17]),
    )


class ProgramBuilder:
    """Writes a StepProgram instruction by instruction and checks each as it is added.

    Raises Dom2Error where a range leaves its buffer, a value is read before it is written, or two
    widths that must agree don't.
    """

    def __init__(self, x_width: int, cond_width: int):
        if x_width < 0 or cond_width < 0 or x_width + cond_width < 1:
            raise Dom2Error(f"x and cond need a column between them: {x_width}, {cond_width}")
        self._buffers = [x_width, cond_width]
        self._per_step = [True, False]  # does the buffer change from step to step?
        self._weights: list[tuple[int, int]] = []
        self._instrs: list[Instr] = []
        self._table_per_step: list[bool] = []  # one flag per column
        self._sites = 0

    @property
    def x(self) -> Slice:
        return Slice(X, 0, self._buffers[X])

    @property
    def cond(self) -> Slice:
        return Slice(COND, 0, self._buffers[COND])

    def weight(self, n: int, k: int) -> int:
        """Declares the next matrix [n, k]; returns its number."""
        self._weights.append((n, k))
        return len(self._weights) - 1

    def table(self, width: int, *, per_step: bool) -> int:
        """Reserves `width` table columns; returns the first.

        `per_step=False` promises that the rows of these columns are equal, as for a bias.
        """
        self._table_per_step += [per_step] * width
        return len(self._table_per_step) - width

    def linear(self, a: Slice, weight: int, *, table=-1, b=None, c=None, act=Act.NONE) -> Slice:
        n, k = self._weights[weight]
        if a.width != k:
            raise Dom2Error(f"linear: input has {a.width} columns, weight {weight} takes {k}")
        return self._add(Op.LINEAR, n, a, b=b, c=c, table=table, weight=weight, act=act)

    def activation(self, a: Slice, act: Act) -> Slice:
        return self._add(Op.ACTIVATION, a.width, a, act=act)

    def add(self, a: Slice, b: Slice | None = None, *, table: int = -1) -> Slice:
        return self._binary(Op.ADD, a, b, table)

    def mul(self, a: Slice, b: Slice | None = None, *, table: int = -1) -> Slice:
        return self._binary(Op.MUL, a, b, table)

    def layer_norm(self, a: Slice, eps: float, *, gamma: int = -1, beta: int = -1) -> Slice:
        return self._add(Op.LAYER_NORM, a.width, a, table=gamma, table2=beta, value=eps)

    def dropout(self, a: Slice, p: float) -> Slice:
        if not 0.0 <= p < 1.0:
            raise Dom2Error(f"dropout probability is {p}; it must lie in [0, 1)")
        self._sites += 1
        return self._add(Op.DROPOUT, a.width, a, value=p, site=self._sites - 1)

    def concat(self, parts: list[Slice]) -> Slice:
        """Materialises a concatenation. Only needed where a whole row is reduced (LayerNorm)."""
        if len(parts) == 1:
            return parts[0]
        width = sum(p.width for p in parts)
        changes = any(self._per_step[p.buffer] for p in parts)
        for p in parts:
            self._check_slice("copy", p)
        out = self._new_buffer(width, changes)
        at = 0
        for p in parts:
            self._instrs.append(Instr(Op.COPY, Slice(out, at, p.width), p, once=not changes))
            at += p.width
        return Slice(out, 0, width)

    def build(self, out: Slice) -> StepProgram:
        """Ends the program; `out` is what it returns."""
        self._check_slice("result", out)
        return StepProgram(
            tuple(self._buffers),
            tuple(self._weights),
            len(self._table_per_step),
            out,
            tuple(self._instrs),
            self._sites,
        )

    def _binary(self, op: Op, a: Slice, b: Slice | None, table: int) -> Slice:
        if (b is None) == (table < 0):
            raise Dom2Error(f"{op.name.lower()} takes one second operand: a slice or table columns")
        return self._add(op, a.width, a, b=b, table=table)

    def _new_buffer(self, width: int, changes: bool) -> int:
        self._buffers.append(width)
        self._per_step.append(changes)
        return len(self._buffers) - 1

    def _check_slice(self, what: str, s: Slice) -> None:
        if not 0 <= s.buffer < len(self._buffers):
            raise Dom2Error(f"{what}: buffer {s.buffer} is not written yet")
        if s.start < 0 or s.width < 1 or s.start + s.width > self._buffers[s.buffer]:
            raise Dom2Error(f"{what}: {s} leaves its buffer of {self._buffers[s.buffer]} columns")

    def _add(self, op: Op, width: int, a: Slice, **kw) -> Slice:
        operands = [a, *(s for s in (kw.get("b"), kw.get("c")) if s is not None)]
        for s in operands:
            self._check_slice(op.name.lower(), s)
        for s in operands[1:]:
            if s.width != width:
                raise Dom2Error(f"{op.name.lower()}: operand has {s.width} columns, needs {width}")
        # A dropout mask is drawn anew in every step, whatever it masks.
        changes = op is Op.DROPOUT or any(self._per_step[s.buffer] for s in operands)
        for first in (kw.get("table", -1), kw.get("table2", -1)):
            if first >= 0:
                if first + width > len(self._table_per_step):
                    raise Dom2Error(f"{op.name.lower()}: table columns from {first} don't exist")
                changes |= any(self._table_per_step[first : first + width])
        out = Slice(self._new_buffer(width, changes), 0, width)
        self._instrs.append(Instr(op, out, a, once=not changes, **kw))
        return out
