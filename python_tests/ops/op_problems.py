"""Random programs and inputs for the op tests and benchmarks."""

from dataclasses import dataclass

import torch

from dom2_fast.ops.program import Act, ProgramBuilder, StepProgram


def mlp(x_width, cond_width, hidden, act=Act.MISH, out=None) -> StepProgram:
    """Three hidden layers; the condition vector's part of the first one runs once."""
    b = ProgramBuilder(x_width, cond_width)
    first = b.weight(hidden, x_width)
    early = None
    if cond_width:
        early = b.linear(b.cond, b.weight(hidden, cond_width))
    h = b.linear(b.x, first, b=early, table=b.table(hidden, per_step=True), act=act)
    for _ in range(2):
        h = b.linear(h, b.weight(hidden, hidden), table=b.table(hidden, per_step=False), act=act)
    out = x_width if out is None else out
    return b.build(b.linear(h, b.weight(out, hidden), table=b.table(out, per_step=False)))


def everything(x_width, cond_width, hidden, dropout=0.0) -> StepProgram:
    """Every instruction and operand form, values read twice, slices in the middle of buffers."""
    b = ProgramBuilder(x_width, cond_width)
    n = hidden
    early = b.linear(
        b.cond, b.weight(n, cond_width), table=b.table(n, per_step=False), act=Act.SILU
    )
    early = b.layer_norm(early, 1e-5, gamma=b.table(n, per_step=False))
    mixed = b.add(early, table=b.table(n, per_step=True))
    mixed = b.activation(mixed, Act.GELU)
    h1 = b.linear(b.x, b.weight(n, x_width), b=mixed, table=b.table(n, per_step=True), act=Act.TANH)
    if dropout:
        h1 = b.dropout(h1, dropout)
    h2 = b.linear(h1, b.weight(n, n), c=h1, act=Act.SOFTPLUS)  # residual after the activation
    h2 = b.mul(h2, mixed)
    h2 = b.mul(h2, table=b.table(n, per_step=True))
    joined = b.concat([h2, h1])
    joined = b.layer_norm(
        joined, 1e-3, gamma=b.table(2 * n, per_step=True), beta=b.table(2 * n, per_step=False)
    )
    half = type(joined)(joined.buffer, n // 2, n)  # a slice that starts anywhere
    h3 = b.linear(half, b.weight(n, n), b=half, act=Act.GELU_TANH)
    if dropout:
        h3 = b.dropout(h3, dropout)
    h4 = b.add(b.mul(h3, h3), early)
    h5 = b.linear(joined, b.weight(n, 2 * n), c=h4, table=b.table(n, per_step=False), act=Act.RELU)
    out = b.linear(h5, b.weight(x_width + 3, n))
    return b.build(type(out)(out.buffer, 2, x_width))  # and a slice of the last buffer


@dataclass
class Problem:
    """Inputs of one op call in float64; `leaves` is what gradients are taken for."""

    program: StepProgram
    x: torch.Tensor
    cond: torch.Tensor | None
    table: torch.Tensor
    weights: list[torch.Tensor]

    def to(self, dtype, requires_grad=True):
        def leaf(t):
            return None if t is None else t.detach().to(dtype).requires_grad_(requires_grad)

        weights = [leaf(w) for w in self.weights]
        return Problem(self.program, leaf(self.x), leaf(self.cond), leaf(self.table), weights)

    @property
    def net(self):
        """The network, as the functions of `ops` take it."""
        return self.cond, self.weights, self.table, self.program

    @property
    def words(self):
        """The network, as the native ops take it."""
        return self.cond, self.weights, self.table, self.program.encode()

    @property
    def leaves(self):
        return [t for t in (self.x, self.cond, self.table, *self.weights) if t is not None]

    @property
    def names(self):
        w = [f"weights[{i}]" for i in range(len(self.weights))]
        return ["x", *(["cond"] if self.cond is not None else []), "table", *w]


def problem(program, groups, batch, steps=1, given_cond=None, seed=0) -> Problem:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    cond = None
    if program.cond_width:
        cond = draw(groups, batch if given_cond is None else given_cond, program.cond_width)
    weights = [draw(groups, n, k) / k**0.5 for n, k in program.weights]
    table = 0.3 * draw(steps, groups, program.table_width)
    return Problem(program, draw(groups, batch, program.x_width), cond, table, weights)


def solver_table(steps, *, clip=float("inf"), noise=0.0, previous=0.0, before=0.0) -> torch.Tensor:
    """A table with well-behaved coefficients; what a solver's are is tested in test_solvers."""
    s = torch.arange(steps, dtype=torch.float64)
    table = torch.zeros(steps, 9, dtype=torch.float64)
    table[:, 0], table[:, 1] = 1.3 - 0.02 * s, 0.7 - 0.01 * s
    table[:, 2], table[:, 3] = 0.6 + 0.01 * s, 0.5 - 0.01 * s
    table[1:, 4] = previous
    table[:-1, 5] = noise
    table[:, 6], table[:, 7] = -clip, clip
    table[2:, 8] = before
    return table
