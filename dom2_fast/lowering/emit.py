"""From expressions to instructions; a linear takes in the additions and activation that follow."""

from __future__ import annotations

import torch

from dom2_fast.lowering import host
from dom2_fast.lowering.expr import (
    Activation,
    Drop,
    Expr,
    Input,
    Join,
    Mul,
    Norm,
    Piece,
    Rows,
    Sum,
    Weight,
)
from dom2_fast.lowering.host import Host
from dom2_fast.ops.program import COND, Act, ProgramBuilder, Slice, StepProgram, X


class Emitter:
    """Writes one program. `weights` and `table` say what `hoist` has to supply, in order."""

    def __init__(self, result: Rows, x_width: int, cond_width: int, like: torch.Tensor):
        self.builder = ProgramBuilder(x_width, cond_width)
        self.like = like
        self.weights: list[Weight] = []
        self.table: list[Host] = []
        self._columns: dict[Host, int] = {}
        self._done: dict[Expr, Slice] = {}
        self._uses: dict[Expr, int] = {}
        self._user: dict[Expr, Expr | None] = {}
        order = self._visit(result)
        for e in order:
            if not self._absorbed(e):
                self._emit(e)
        self.program: StepProgram = self.builder.build(self._joined(result.pieces))

    def _visit(self, result: Rows) -> list[Expr]:
        """All expressions in the order of computation, without recursion (networks may be deep)."""
        order, seen = [], set()
        stack = [(p.src, False) for p in result.pieces if not p.is_host]
        for p in result.pieces:
            if not p.is_host:
                self._count(p.src, None)
        while stack:
            e, ready = stack.pop()
            if ready:
                order.append(e)
            elif e not in seen:
                seen.add(e)
                stack.append((e, True))
                for p in e.pieces():
                    if not p.is_host:
                        self._count(p.src, e)
                        stack.append((p.src, False))
        return order

    def _count(self, e: Expr, user: Expr | None) -> None:
        self._uses[e] = self._uses.get(e, 0) + 1
        self._user[e] = user

    def _single(self, p: Piece) -> bool:
        """Is this the only use of the whole of an expression?"""
        return p.full and self._uses[p.src] == 1

    def _absorbed(self, e: Expr) -> bool:
        """Left to its one user, which fuses it or asks for it."""
        user = self._user[e]
        if self._uses[e] != 1 or user is None:
            return False
        if not any(p.src is e and p.full for p in user.pieces()):
            return False
        if isinstance(e, Sum):
            return isinstance(user, Activation) or (isinstance(user, Sum) and self._adds(user, e))
        return isinstance(e, Activation) and isinstance(user, Sum) and self._adds(user, e)

    @staticmethod
    def _adds(user: Sum, e: Expr) -> bool:
        return any(p.src is e for p in user.addends)

    # ---- operands -----------------------------------------------------------------------------

    def _slice(self, p: Piece) -> Slice:
        """The piece as columns of a buffer."""
        if p.is_host:
            return self._materialised(p)
        base = self._emit(p.src)
        return Slice(base.buffer, base.start + p.start, p.width)

    def _materialised(self, p: Piece) -> Slice:
        """Table columns as a buffer: a linear with a zero matrix, as no instruction copies them."""
        cond, x = self.builder.cond.width, self.builder.x.width
        from_cond = cond > 0 and (x == 0 or not p.per_step)
        source = self.builder.cond if from_cond else self.builder.x
        source = Slice(source.buffer, 0, 1)
        weight = self._weight(Weight(host.number(0.0, 1, self.like, rows=p.width), 0, 1))
        return self.builder.linear(source, weight, table=self._column(p.host()))

    def _joined(self, pieces: list[Piece]) -> Slice:
        return self.builder.concat([self._slice(p) for p in pieces])

    def _column(self, h: Host) -> int:
        if h not in self._columns:
            self._columns[h] = self.builder.table(h.example.size(-1), per_step=h.on_t)
            self.table.append(h)
        return self._columns[h]

    def _weight(self, w: Weight) -> int:
        self.weights.append(w)
        return self.builder.weight(w.matrix.example.size(0), w.width)

    # ---- instructions -------------------------------------------------------------------------

    def _emit(self, e: Expr) -> Slice:
        if e not in self._done:
            self._done[e] = self._write(e)
        return self._done[e]

    def _write(self, e: Expr) -> Slice:
        b = self.builder
        if isinstance(e, Input):
            return b.x if e.buffer == X else Slice(COND, 0, b.cond.width)
        if isinstance(e, Sum):
            return self._sum(e)
        if isinstance(e, Activation):
            if self._single(e.a) and isinstance(e.a.src, Sum):
                return self._sum(e.a.src, e.act)
            return b.activation(self._slice(e.a), e.act)
        if isinstance(e, Mul):
            if e.b.is_host:
                return b.mul(self._slice(e.a), table=self._column(e.b.host()))
            return b.mul(self._slice(e.a), self._slice(e.b))
        if isinstance(e, Norm):
            gamma, beta = (-1 if h is None else self._column(h) for h in (e.gamma, e.beta))
            return b.layer_norm(self._joined(e.parts), e.eps, gamma=gamma, beta=beta)
        if isinstance(e, Join):
            return self._joined(e.parts)
        assert isinstance(e, Drop)
        return b.dropout(self._slice(e.a), e.p)

    def _terms(self, e: Sum):
        """Products and addends with the sums among the addends spread out."""
        products, addends, todo = list(e.products), [], list(e.addends)
        while todo:
            p = todo.pop(0)
            if not p.is_host and isinstance(p.src, Sum) and self._single(p):
                products += p.src.products
                todo = p.src.addends + todo
            else:
                addends.append(p)
        return products, addends

    def _sum(self, e: Sum, act: Act = Act.NONE, after: Slice | None = None) -> Slice:
        """act(e) + after. What doesn't change between steps is summed before the first one."""
        products, addends = self._terms(e)
        start = None
        early = [q for q in products if not q[1].per_step]
        if early and e.per_step:
            fixed = [p for p in addends if not p.per_step]
            start = self._chain(early, fixed, Act.NONE, None)
            products = [q for q in products if q[1].per_step]
            addends = [p for p in addends if p.per_step]
        if not products and act == Act.NONE and after is None:
            inner = next((p for p in addends if self._ends_in_linear(p, e.per_step)), None)
            rest = [p for p in addends if p is not inner]
            if inner and (start is not None or any(not p.is_host for p in rest)):
                after = self._chain([], rest, Act.NONE, None, start)
                return self._sum(inner.src.a.src, inner.src.act, after)
        return self._chain(products, addends, act, after, start)

    def _ends_in_linear(self, p: Piece, per_step: bool) -> bool:
        """Is the value the activation of a linear that runs as often as `per_step` says?"""
        if p.is_host or not (self._single(p) and isinstance(p.src, Activation)):
            return False
        a = p.src.a
        if not (self._single(a) and isinstance(a.src, Sum)):
            return False
        products = self._terms(a.src)[0]
        return any(q.per_step == per_step for _, q in products)

    def _chain(self, products, addends, act, after, start: Slice | None = None) -> Slice:
        b = self.builder
        hosts = [p.host() for p in addends if p.is_host]
        values = [start] if start is not None else []
        values += [self._slice(p) for p in addends if not p.is_host]
        table = -1
        if hosts:
            total = hosts[0]
            for h in hosts[1:]:
                total = host.add(total, h)
            table = self._column(total)
        # A linear adds one value before its activation, and one after, which is the same without.
        room = len(products) + (len(products) - (act != Act.NONE or after is not None))
        while len(values) > max(room, 1):
            values[:2] = [b.add(values[0], values[1])]
        if not products:
            out = values[0]
            if table >= 0:
                out = b.add(out, table=table)
            if act != Act.NONE:
                out = b.activation(out, act)
            return out if after is None else b.add(out, after)
        sum_so_far = values.pop(0) if values else None
        for k, (weight, p) in enumerate(products):
            last = k == len(products) - 1
            extra = after if last else None
            if values and extra is None and (not last or act == Act.NONE):
                extra = values.pop(0)
            sum_so_far = b.linear(
                self._slice(p),
                self._weight(weight),
                table=table if last else -1,
                b=sum_so_far,
                c=extra,
                act=act if last else Act.NONE,
            )
        return sum_so_far
