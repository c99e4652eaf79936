"""Programs without x, which act in one pass: every op that takes them, against reference."""

import pytest
import torch
from loss_checks import RNG, check, draw, weights_and_table
from op_problems import mlp, problem
from tolerances import assert_as_good_as_torch

from dom2_fast import ops
from dom2_fast.ops import backend, reference
from dom2_fast.ops.program import Act, ProgramBuilder

NO_STEPS = torch.zeros(0, 9, dtype=torch.float64)
SIZES = [(1, 0, 0), (3, 1, 1), (2, 9, 9), (2, 44, 4), (3, 129, 129), (1, 160, 2)]

needs_extension = pytest.mark.skipif(
    not backend.available(), reason=f"no compiled extension: {backend.reason()}"
)


def actor(cond=5, hidden=21, out=3, dropout=0.0):
    """All that a net(obs) may have; the result is columns in the middle of a buffer."""
    b = ProgramBuilder(0, cond)
    n = hidden
    h = b.linear(b.cond, b.weight(n, cond), table=b.table(n, per_step=False), act=Act.SILU)
    h = b.layer_norm(h, 1e-5, gamma=b.table(n, per_step=False), beta=b.table(n, per_step=False))
    if dropout:
        h = b.dropout(h, dropout)
    h = b.linear(h, b.weight(n, n), b=h, act=Act.RELU)
    h = b.concat([b.mul(h, h), b.cond])
    last = b.linear(h, b.weight(out + 2, n + cond), table=b.table(out + 2, per_step=False))
    return b.build(type(last)(last.buffer, 1, out))


def acting(op, q, **how):
    batch = q.x.shape[1]
    act = op.denoise(None, q.cond, q.weights, q.table, q.program, NO_STEPS, batch=batch, **how)
    return act.square().mean((1, 2)), [act]


@pytest.mark.parametrize("groups, batch, given", SIZES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_denoise_of_no_steps_is_one_pass_clipped(executor, groups, batch, given, dropout):
    p = problem(actor(dropout=dropout), groups, batch, given_cond=given)
    bounds = {"out_low": -0.4, "out_high": 0.6, "rng": RNG}
    check(acting, p, [], lambda q: q.leaves[1:], **bounds)
    # Without gradients another kernel runs, on weights laid out before, too.
    q = p.to(torch.float32, requires_grad=False)
    args = q.cond, q.weights, q.table, q.program, NO_STEPS
    own = reference.denoise(None, *args, batch=batch, **bounds)
    exact = acting(reference, p.to(torch.float64), **bounds)[1][0].detach()
    for packed in (None, ops.pack_weights(q.weights, q.program)):
        got = ops.denoise(None, *args, batch=batch, packed=packed, **bounds)
        assert_as_good_as_torch(got, own, exact, f"packed: {packed is not None}")


@pytest.mark.parametrize("groups, batch, given", SIZES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_denoising_loss_is_the_square_error_of_the_action(executor, groups, batch, given, dropout):
    def loss(op, p, target):
        args = p.x.detach(), p.cond, p.weights, p.table, p.program, target
        return op.denoising_loss(*args, RNG), ()

    p = problem(actor(dropout=dropout), groups, batch, given_cond=given)
    for leaves in (weights_and_table, lambda q: [q.cond]):
        check(loss, p, [draw(groups, batch, 3)], leaves)


@pytest.mark.parametrize("groups, batch, given", SIZES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_chain_value_of_no_steps_is_the_value_of_the_action(
    executor, groups, batch, given, dropout
):
    rater = problem(mlp(3, 5, 20, out=1), groups, 1, seed=5)

    def value(op, q, table, *weights):
        mean, values, act = op.chain_value(
            None,
            q.cond,
            q.weights,
            q.table,
            q.program,
            NO_STEPS,
            critic=(weights, table, rater.program),
            batch=batch,
            rng=RNG,
            out_low=-0.5,
            out_high=0.4,
        )
        return mean, [values, act]

    p = problem(actor(dropout=dropout), groups, batch, given_cond=given)
    for leaves in (weights_and_table, lambda q: [q.cond]):
        check(value, p, [rater.table, *rater.weights], leaves)


@needs_extension
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_pass_is_run_program_to_the_last_bit(precision, isa):
    q = problem(actor(), 2, 70).to(torch.float32, requires_grad=False)
    args = q.cond, q.weights, q.table, q.program
    how = {"batch": 70, "precision": precision, "out_low": -0.5, "out_high": 0.5}
    act = ops.denoise(None, *args, NO_STEPS, **how)
    want = ops.run_program(q.x, *args, precision=precision)
    assert torch.equal(act, want.clamp(-0.5, 0.5))
    rater = problem(mlp(3, 5, 20, out=1), 2, 1).to(torch.float32, requires_grad=False)
    critic = (rater.weights, rater.table, rater.program)
    _, values, same = ops.chain_value(None, *args, NO_STEPS, critic=critic, **how)
    assert torch.equal(same, act)
    q_of_act = ops.run_program(act, q.cond, *critic, precision=precision)
    assert torch.equal(values, q_of_act.squeeze(-1))


@needs_extension
@pytest.mark.parametrize(
    "change, words",
    [
        (dict(solver=torch.zeros(1, 9, dtype=torch.float64)), ["solver", "[1, 9]", "[0, 9]"]),
        (dict(table=torch.zeros(2, 2, 68)), ["table has 2 steps", "takes one pass"]),
        (dict(x_T=torch.zeros(2, 6, 3)), ["x_T", "[2, 6, 3]", "[2, 6, 0]"]),
        (dict(noise=torch.zeros(1, 2, 6, 0)), ["noise", "[0, 2, 6, 0]"]),
        (dict(cond=None), ["cond is missing", "5"]),
    ],
)
def test_bad_arguments_of_one_pass_are_named(change, words):
    q = problem(actor(), 2, 6).to(torch.float32, requires_grad=False)
    args = dict(
        x_T=None,
        cond=q.cond,
        weights=q.weights,
        table=q.table,
        program=q.program,
        solver=NO_STEPS,
        noise=None,
        batch=6,
    )
    with pytest.raises(RuntimeError) as error:
        ops.denoise(**{**args, **change})
    assert all(w in str(error.value) for w in words), str(error.value)
