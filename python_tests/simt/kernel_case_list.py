"""The cases: every kernel instance, each way to cut a call into tiles, launches and chunks.

Small and odd on purpose. Those marked `tsan` run under TSan, too, where a launch takes a second.
"""

import torch
from kernel_cases import Loop, Sample
from op_problems import everything, mlp, solver_table

from dom2_fast.ops.program import Act, ProgramBuilder, Slice, StepProgram

GRADIENTS = ("x", "cond", "table", "weights")
PAST = {"previous": -0.1, "before": 0.1}
NOISY = {"solver": solver_table(3, clip=1.1, noise=0.3, previous=-0.2, before=0.15), "steps": 3}
# Noise in the last step, too: nothing lies behind what it reads.
NOISY_TO_THE_END = {"solver": solver_table(2), "steps": 2, "noise": True}
NOISY_TO_THE_END["solver"][:, 5] = 0.2
DRAWN = {"x": False, "rng": True}
PLAIN = {"solver": solver_table(2), "steps": 2}
LIMITS = {"limits": (-1.0, 1.0)}
# The least shared memory that a card can have: larger values go to global memory.
TINY = 48 << 10


def overlaps(x_width, cond_width, n) -> StepProgram:
    """Operands that are shifted slices of one buffer: in backward, threads meet in a column.

    The layer norm of a row of zeros is NaN: what fills a tile up must not reach the others' sums.
    """
    b = ProgramBuilder(x_width, cond_width)
    wide = b.linear(b.x, b.weight(n + 2, x_width), act=Act.TANH)
    wide = b.layer_norm(wide, 0.0)
    left, middle, right = (Slice(wide.buffer, start, n) for start in range(3))
    shift = b.table(n, per_step=True)
    h = b.linear(middle, b.weight(n, n), table=shift, b=left, c=right, act=Act.SILU)
    h = b.add(h, b.add(left, middle))
    h = b.mul(h, b.mul(middle, right))
    h = b.add(h, b.dropout(middle, 0.25))
    h = b.add(h, b.linear(b.cond, b.weight(n, cond_width)))
    return b.build(b.linear(h, b.weight(x_width, n)))


def tied(x_width, n) -> StepProgram:
    """One matrix in several instructions."""
    b = ProgramBuilder(x_width, 0)
    h = b.linear(b.x, b.weight(n, x_width), act=Act.SILU)
    again = b.weight(n, n)
    for _ in range(3):
        h = b.linear(h, again, act=Act.TANH)
    return b.build(b.linear(h, b.weight(x_width, n)))


def forward(precision):
    bf16 = precision == "bf16"

    def case(name, program, shape, launches=1, **kw):
        shape = f"{shape}, {launches} launched" if launches else ", 0 launched"
        return Loop(f"{precision} {name}", program, shape, precision=precision, **kw)

    noisy = solver_table(66, clip=1.5, noise=0.1, **PAST)
    return [
        case("one tile", mlp(3, 5, 37), "resident 8, 1 tiles in 1 blocks", noise=True, path=True,
             tsan=True, **NOISY, **LIMITS),
        case("batch 1", mlp(2, 4, 9), "resident 8, 1 tiles in 1 blocks", batch=1, groups=3,
             **PLAIN),
        case("noise to the end", mlp(2, 4, 9), "resident 8, 1 tiles in 1 blocks",
             **NOISY_TO_THE_END),
        case("batch 0", mlp(2, 4, 9), "", 0, batch=0, **PLAIN),
        case("16 rows in turn", everything(3, 5, 21, dropout=0.25),
             "resident 16, 3 tiles in 1 blocks", batch=37, rng_on_device=True, sms=2, path=True,
             tsan=True, **DRAWN, **NOISY),
        case("8 rows in turn", everything(3, 5, 61), "resident 8, 2 tiles in 1 blocks", batch=15,
             sms=2, shared=60000 if bf16 else 105000, path=True, **DRAWN, **NOISY),
        case("rows that serve two", mlp(5, 3, 24, act=Act.SILU), "resident 8, 2 tiles in 2 blocks",
             batch=12, given_cond=6, transposed=True, tsan=True, **PLAIN),
        case("wide x", mlp(261, 5, 9), "resident 8, 1 tiles in 1 blocks", batch=3, **PLAIN),
        case("one pass", mlp(3, 5, 37, out=4), "streamed 8, 1 tiles in 1 blocks", batch=7),
        case("one pass of everything", everything(3, 5, 21, dropout=0.25),
             "streamed 8, 1 tiles in 1 blocks", batch=7, rng=True, tsan=True),
        case("one pass, values outside", everything(3, 5, 21, dropout=0.25),
             "streamed scratch 8, 1 tiles in 1 blocks", batch=7, rng=True, shared=33000, tsan=True),
        case("streamed 16", everything(3, 5, 21), "streamed 16, 2 tiles in 2 blocks", batch=20,
             sms=4, tsan=True),
        case("one pass, streamed 32", everything(3, 5, 21), "streamed 32, 1 tiles in 1 blocks",
             batch=13, sms=1, tsan=True),
        case("streamed 32", mlp(3, 5, 250), "streamed 32, 2 tiles in 2 blocks", batch=37, groups=1,
             sms=1, shared=140000, noise=True, path=True, **NOISY),
        case("everything streamed 32", everything(3, 5, 165, dropout=0.25),
             "streamed 32, 2 tiles in 2 blocks", groups=1, batch=45, sms=1, shared=200000,
             path=True, **DRAWN, **NOISY),
        case("values outside", everything(3, 5, 101, dropout=0.25),
             "streamed scratch 8, 6 tiles in 2 blocks", batch=45, sms=2, shared=TINY, path=True,
             **DRAWN, **NOISY),
        case("66 steps", everything(3, 5, 8), "resident 8, 1 tiles in 1 blocks", 2, batch=3,
             steps=66, path=True, solver=noisy, **DRAWN),
        case("130 steps", mlp(2, 0, 9), "resident 8, 2 tiles in 2 blocks", 3, batch=9, steps=130,
             noise=True, solver=solver_table(130, clip=1.5, noise=0.1, **PAST), **LIMITS),
        case("one matrix, three times", tied(3, 37), "resident 8, 2 tiles in 2 blocks", batch=9,
             **PLAIN),
        case("overlaps", overlaps(3, 5, 21), "resident 8, 2 tiles in 2 blocks", batch=9, **DRAWN,
             **NOISY),
        case("wide", mlp(3, 5, 261), "streamed 8, 1 tiles in 1 blocks", batch=3, groups=1),
        case("wide, in steps", mlp(3, 5, 150),
             ("resident" if bf16 else "streamed") + " 8, 1 tiles in 1 blocks", batch=3, groups=1,
             **PLAIN),
    ]  # fmt: skip


def backward(precision):
    def case(name, program, shape, want=GRADIENTS, **kw):
        name = f"{precision} backward, {name}"
        return Loop(name, program, shape, want=want, precision=precision, **kw)

    fp32 = precision == "fp32"  # what differs by precision is short
    one, two = "backward 8, 1 launched", "backward 16, 1 launched"
    return [
        case("one tile", mlp(3, 5, 37), f"{one}, 1 splits", noise=True, **NOISY, **LIMITS),
        case("batch 0", mlp(2, 4, 9), ", 0 launched", batch=0, **PLAIN),
        case("batch 1", mlp(2, 4, 9), f"{one}, 1 splits", batch=1, groups=3, **PLAIN),
        case("everything", everything(3, 5, 21, dropout=0.25), f"{one}, 1 splits", batch=11,
             rng=True, tsan=True, **NOISY),
        case("one pass", everything(3, 5, 21, dropout=0.25), f"{one}, 1 splits", batch=7, rng=True,
             rng_on_device=True),
        case("16 rows", everything(3, 5, 21), f"{two}, 1 splits", batch=37, sms=2, noise=True,
             **NOISY),
        case("16 rows, one pass", everything(3, 5, 21), f"{two}, 1 splits", batch=19, groups=1,
             sms=2, tsan=True),
        case("values outside", everything(3, 5, 21, dropout=0.25),
             "backward scratch 16, 1 launched, 1 splits", batch=21, sms=2, rng=True, shared=TINY,
             tsan=fp32, **NOISY),
        case("66 steps", everything(3, 5, 8), "backward 8, 2 launched, 1 splits", batch=3, steps=66,
             groups=1, rng=True, solver=solver_table(66, clip=1.5, noise=0.1, **PAST)),
        case("chunks", everything(3, 5, 21), "backward 16, 9 launched, 1 splits", batch=43, sms=2,
             noise=True, workspace=20000, **NOISY),
        case("small chunks", everything(3, 5, 8), "backward 16, 9 launched, 1 splits", batch=37,
             groups=1, sms=1, noise=True, workspace=9000, tsan=fp32, **NOISY),
        case("splits", mlp(2, 3, 70), "backward 8, 1 launched, 3 splits", batch=150, groups=1,
             noise=True, **NOISY),
        case("two splits", mlp(2, 3, 9), "backward 8, 1 launched, 2 splits", batch=90, groups=1,
             noise=True, tsan=fp32, **NOISY),
        case("x alone", mlp(3, 5, 37), one, ("x",), batch=9, given_cond=3, noise=True, **NOISY),
        case("cond alone", mlp(3, 5, 37), one, ("cond",), batch=9, noise=True, **NOISY),
        case("weights and table", everything(3, 5, 21), f"{one}, 1 splits", ("table", "weights"),
             batch=9, rng=True, **NOISY),
        case("overlaps", overlaps(3, 5, 21), f"{one}, 1 splits", batch=3, groups=1, rng=True,
             tsan=True),
        case("overlaps in steps", overlaps(3, 5, 33), f"{one}, 1 splits", batch=9, rng=True,
             **NOISY),
        case("one matrix, three times", tied(3, 21), f"{one}, 1 splits", ("x", "weights"),
             batch=11, noise=True, **NOISY),
        case("wide", mlp(3, 5, 150), f"{one}, 1 splits", batch=3, groups=1, transposed=True),
        case("wider", mlp(3, 5, 261), f"{one}, 1 splits", batch=3, groups=1),
    ]  # fmt: skip


# Type, numbers from row to row, width, floats that one access takes.
FIELDS = (
    (torch.float32, 8, 8, 4), (torch.float32, 12, 4, 4), (torch.float32, 6, 6, 2),
    (torch.float32, 5, 3, 1), (torch.float32, 1, 1, 1), (torch.float64, 7, 5, 1),
    (torch.float32, 44, 44, 4), (torch.float32, 18, 18, 2), (torch.float32, 11, 11, 1),
)  # fmt: skip
SAMPLES = [
    Sample("sample", fields=FIELDS),
    Sample("sample one", groups=3, batch=1, trajectories=1, rng_on_device=True, fields=FIELDS[-6:]),
]

CASES = [c for p in ("fp32", "bf16") for c in (*forward(p), *backward(p))] + SAMPLES
