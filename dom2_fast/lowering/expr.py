"""What the program computes, before it is a program: expressions over columns of one row.

`Rows` is the symbolic value of a [B, width] tensor: a list of pieces, so that cat and slices cost
nothing. A piece is a range of columns of an expression, or of a `Host` (a table column range).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from dom2_fast.lowering import host
from dom2_fast.lowering.errors import LoweringError
from dom2_fast.lowering.host import Host
from dom2_fast.ops.program import Act


class Expr:
    """Base of the expressions: `width` columns; `per_step` if the value changes between steps."""

    width: int
    per_step: bool

    def pieces(self) -> list[Piece]:
        """Operands."""
        return []


@dataclass(frozen=True)
class Piece:
    """Columns [start, start + width) of an expression or of a 2-D Host."""

    src: Expr | Host
    start: int
    width: int

    @property
    def is_host(self) -> bool:
        return isinstance(self.src, Host)

    @property
    def full(self) -> bool:
        return self.start == 0 and not self.is_host and self.width == self.src.width

    @property
    def per_step(self) -> bool:
        return self.src.on_t if self.is_host else self.src.per_step

    def host(self) -> Host:
        return host.columns(self.src, self.start, self.width)

    def cut(self, start: int, width: int) -> Piece:
        return Piece(self.src, self.start + start, width)


@dataclass(eq=False)
class Input(Expr):
    """Buffer 0 (x) or 1 (the condition vector, whose full width is known at the end)."""

    buffer: int
    width: int
    per_step: bool


@dataclass(eq=False)
class Weight:
    """Columns [start, start + width) of a matrix [N, K]."""

    matrix: Host
    start: int
    width: int


@dataclass(eq=False)
class Sum(Expr):
    """Sum of matrix products and addends, all of one width."""

    width: int
    products: list[tuple[Weight, Piece]]
    addends: list[Piece]
    per_step: bool = field(init=False)

    def __post_init__(self):
        self.per_step = any(p.per_step for p in self.pieces())

    def pieces(self):
        return [p for _, p in self.products] + self.addends


@dataclass(eq=False)
class Activation(Expr):
    a: Piece
    act: Act

    def __post_init__(self):
        self.width, self.per_step = self.a.width, self.a.per_step

    def pieces(self):
        return [self.a]


@dataclass(eq=False)
class Mul(Expr):
    a: Piece
    b: Piece

    def __post_init__(self):
        self.width, self.per_step = self.a.width, self.a.per_step or self.b.per_step

    def pieces(self):
        return [self.a, self.b]


@dataclass(eq=False)
class Norm(Expr):
    parts: list[Piece]
    eps: float
    gamma: Host | None
    beta: Host | None

    def __post_init__(self):
        self.width = sum(p.width for p in self.parts)
        self.per_step = any(p.per_step for p in self.parts)

    def pieces(self):
        return self.parts


@dataclass(eq=False)
class Join(Expr):
    """Pieces side by side in one buffer. `Rows` needs none of it, but it saves split reads."""

    parts: list[Piece]

    def __post_init__(self):
        self.width = sum(p.width for p in self.parts)
        self.per_step = any(p.per_step for p in self.parts)

    def pieces(self):
        return self.parts


@dataclass(eq=False)
class Drop(Expr):
    a: Piece
    p: float

    def __post_init__(self):
        self.width, self.per_step = self.a.width, True  # masks are drawn anew in every step

    def pieces(self):
        return [self.a]


class Rows:
    """Symbolic [B, *shape] of width = the product of `shape` columns; [B, width] where not given.

    A shape only regroups the columns of a row, as view and flatten do: nothing is computed.
    """

    def __init__(self, pieces, shape: tuple[int, ...] | None = None):
        merged: list[Piece] = []
        for p in pieces:
            last = merged[-1] if merged else None
            if last is not None and last.src is p.src and last.start + last.width == p.start:
                merged[-1] = Piece(last.src, last.start, last.width + p.width)
            else:
                merged.append(p)
        self.pieces = merged
        self.width = sum(p.width for p in merged)
        self.shape = (self.width,) if shape is None else shape

    @staticmethod
    def of(expr: Expr) -> Rows:
        return Rows([Piece(expr, 0, expr.width)])

    def cut(self, start: int, width: int) -> Rows:
        out, at = [], 0
        for p in self.pieces:
            lo, hi = max(start, at), min(start + width, at + p.width)
            if lo < hi:
                out.append(p.cut(lo - at, hi - lo))
            at += p.width
        return Rows(out)

    def map(self, f: Callable[[Piece], Piece]) -> Rows:
        return Rows([f(p) for p in self.pieces], self.shape)

    def regrouped(self, shape) -> Rows:
        """The same columns as [B, *shape]; one size may be -1."""
        shape = tuple(shape)
        known = math.prod(n for n in shape if n != -1)
        if shape.count(-1) == 1 and known > 0 and self.width % known == 0:
            shape = tuple(self.width // known if n == -1 else n for n in shape)
        if any(type(n) is not int or n < 1 for n in shape) or math.prod(shape) != self.width:
            raise LoweringError(
                f"a reshape of rows of {self.width} columns to {list(shape)} mixes rows, whose "
                f"values may not meet; keep the first dimension, as in v.view(v.shape[0], -1)"
            )
        return Rows(self.pieces, shape)


def zip_pieces(a: Rows, b: Rows, f: Callable[[Piece, Piece], Piece]) -> Rows:
    """f on pieces cut at the same columns."""
    if a.shape != b.shape:
        raise LoweringError(f"operands of {_columns(a)} and {_columns(b)} columns")
    edges = set()
    for v in (a, b):
        at = 0
        for p in v.pieces:
            edges.add(at)
            at += p.width
    edges = [*sorted(edges), a.width]
    cuts = [(lo, hi - lo) for lo, hi in itertools.pairwise(edges)]
    return Rows([f(a.cut(*c).pieces[0], b.cut(*c).pieces[0]) for c in cuts], a.shape)


def _columns(v: Rows) -> str:
    return " x ".join(map(str, v.shape))


def whole(expr: Expr) -> Piece:
    """All columns of a row value."""
    return Piece(expr, 0, expr.width)


def host_piece(h: Host) -> Piece:
    """All columns of what PyTorch computes."""
    return Piece(h, 0, h.example.size(-1))


def add(p: Piece, q: Piece) -> Piece:
    """p + q; of two host values on the host."""
    if p.is_host and q.is_host:
        return host_piece(host.add(p.host(), q.host()))
    return whole(Sum(p.width, [], [p, q]))


def mul(p: Piece, q: Piece) -> Piece:
    """p * q; of two host values on the host."""
    if p.is_host and q.is_host:
        return host_piece(host.apply("point", lambda u, v: u * v, p.host(), q.host()))
    return whole(Mul(q, p) if p.is_host else Mul(p, q))


def linear(v: Rows, matrix: Host, bias: Host | None) -> Rows:
    """W v + bias with W split by columns: a host part of v becomes a table addend."""
    n, k = matrix.example.shape
    if v.width != k:
        raise LoweringError(f"the matrix takes {k} columns, the input has {v.width}")
    products, addends, at = [], [], 0
    if bias is not None:
        addends.append(host_piece(host.as_rows(bias, n, matrix.example)))
    for p in v.pieces:
        if p.is_host:
            part = host.columns(matrix, at, p.width)
            addends.append(host_piece(host.linear(p.host(), part)))
        else:
            products.append((Weight(matrix, at, p.width), p))
        at += p.width
    return Rows.of(Sum(n, products, addends))
