"""The step program's builder and its encoding."""

import pytest
import torch

from dom2_fast import ops
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend
from dom2_fast.ops.program import Act, Op, ProgramBuilder, Slice, StepProgram


def example():
    b = ProgramBuilder(2, 3)
    bias, per_step = b.table(4, per_step=False), b.table(4, per_step=True)
    o = b.linear(b.cond, b.weight(4, 3), table=bias, act=Act.SILU)
    h = b.linear(b.x, b.weight(4, 2), table=per_step, b=o, c=o, act=Act.GELU_TANH)
    n = b.layer_norm(h, 1e-5, gamma=bias, beta=per_step)
    d = b.dropout(n, 0.25)
    m = b.mul(b.add(d, h), table=bias)
    j = b.concat([m, Slice(h.buffer, 1, 2)])
    return b.build(b.linear(j, b.weight(2, 6)))


def test_encoding_is_reversible():
    program = example()
    assert StepProgram.decode(program.encode()) == program
    assert program.encode().dtype == torch.int64
    assert program.encode() is program.encode()


def test_once_marks_what_depends_on_the_condition_alone():
    ops = [(i.op, i.once) for i in example().instrs]
    assert ops[0] == (Op.LINEAR, True)
    assert all(not once for _, once in ops[1:])


def test_a_mask_is_drawn_in_every_step():
    b = ProgramBuilder(1, 2)
    program = b.build(b.dropout(b.cond, 0.5))
    assert not program.instrs[0].once and program.sites == 1


def test_a_per_step_table_makes_a_value_change():
    b = ProgramBuilder(1, 2)
    b.add(b.cond, table=b.table(2, per_step=False))
    out = b.add(b.cond, table=b.table(2, per_step=True))
    assert [i.once for i in b.build(out).instrs] == [True, False]


def test_flops_count_the_matrices():
    assert example().flops == 2 * (4 * 3 + 4 * 2 + 2 * 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda b: b.linear(b.cond, b.weight(4, 2)), "input has 3 columns, weight 0 takes 2"),
        (lambda b: b.activation(Slice(7, 0, 1), Act.RELU), "buffer 7 is not written yet"),
        (lambda b: b.activation(Slice(0, 1, 2), Act.RELU), "leaves its buffer of 2"),
        (lambda b: b.add(b.x, b.cond), "operand has 3 columns, needs 2"),
        (lambda b: b.add(b.x), "one second operand"),
        (lambda b: b.mul(b.x, b.x, table=0), "one second operand"),
        (lambda b: b.add(b.x, table=0), "table columns from 0 don't exist"),
        (lambda b: b.dropout(b.x, 1.0), r"must lie in \[0, 1\)"),
        (lambda b: b.concat([b.x, Slice(3, 0, 1)]), "buffer 3 is not written yet"),
        (lambda b: b.build(Slice(2, 0, 1)), "result: buffer 2"),
    ],
)
def test_the_builder_refuses(make, message):
    with pytest.raises(Dom2Error, match=message):
        make(ProgramBuilder(2, 3))


def test_a_program_of_the_rows_alone_runs_once():
    b = ProgramBuilder(0, 3)
    program = b.build(b.linear(b.cond, b.weight(2, 3), table=b.table(2, per_step=False)))
    assert program.x_width == 0 and all(i.once for i in program.instrs)
    assert StepProgram.decode(program.encode()) == program
    with pytest.raises(Dom2Error, match="leaves its buffer of 0"):
        ProgramBuilder(0, 3).activation(Slice(0, 0, 1), Act.RELU)
    for widths in ((0, 0), (-1, 3), (2, -1)):
        with pytest.raises(Dom2Error, match="need a column between them"):
            ProgramBuilder(*widths)


def test_decode_refuses_what_is_no_program():
    words = example().encode()
    with pytest.raises(Dom2Error, match="cut short"):
        StepProgram.decode(words[:-1])
    with pytest.raises(Dom2Error, match="not a step program"):
        StepProgram.decode(torch.zeros(20, dtype=torch.int64))


@pytest.mark.skipif(not backend.available(), reason="no compiled kernels in this installation")
@pytest.mark.parametrize("value", [float("nan"), -0.5, 1.0])
def test_the_kernels_refuse_a_probability_that_is_none(value):
    b = ProgramBuilder(2, 3)
    words = b.build(b.dropout(b.linear(b.x, b.weight(2, 2)), 0.25)).encode().clone()
    at = (words == torch.tensor(0.25, dtype=torch.float64).view(torch.int64)).nonzero().item()
    words[at] = torch.tensor(value, dtype=torch.float64).view(torch.int64)
    with pytest.raises(Exception, match=r"a probability outside \[0, 1\)"):
        ops.pack_weights([torch.zeros(1, 2, 2)], StepProgram.decode(words))
