"""ops.chain_value against reference and against composition."""

import pytest
import torch
from loss_checks import RNG, check, draw, weights_and_table
from op_problems import everything, mlp, problem, solver_table
from tolerances import EPS32

from dom2_fast import ops
from dom2_fast.ops import backend

needs_extension = pytest.mark.skipif(
    not backend.available(), reason=f"no compiled extension: {backend.reason()}"
)


def chain(solver, critic, **how):
    """A `run` for `check`: the value of what a denoising chain gives."""

    def run(op, q, *weights_and_table_of_critic, x_T=None):
        weights, table = weights_and_table_of_critic[:-1], weights_and_table_of_critic[-1]
        kept = None if how.get("noise") is None else how["noise"].to(q.table.dtype)
        mean, values, act = op.chain_value(
            x_T if x_T is None else q.x,
            *q.net,
            solver,
            critic=(weights, table, critic.program),
            **{**how, "noise": kept},
        )
        return mean, [values, act]

    return run


def check_chain(p, steps, critic=None, leaves=weights_and_table, *, x_T=True, **how):
    critic = mlp(p.program.x_width, p.program.cond_width, 20, out=1) if critic is None else critic
    rater = problem(critic, p.table.shape[1], 1, seed=5)
    if not x_T:
        how["batch"] = p.x.shape[1]
        p.x = None
    run = chain(how.pop("solver", solver_table(steps)), rater, **how)
    check(run, p, [*rater.weights, rater.table], leaves, x_T=x_T or None)


@pytest.mark.parametrize(
    "groups, steps, batch", [(1, 1, 0), (3, 5, 1), (1, 1, 2), (3, 5, 9), (1, 5, 17), (3, 5, 129)]
)
def test_chain_value(native_executor, groups, steps, batch):
    check_chain(problem(mlp(3, 5, 37), groups, batch, steps=steps), steps)


@pytest.mark.parametrize("given, batch", [(29, 29), (4, 44), (2, 160)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_chain_value_of_every_instruction(native_executor, given, batch, dropout):
    p = problem(everything(1, 5, 21, dropout=dropout), 2, batch, steps=3, given_cond=given)
    critic = everything(1, 5, 13, dropout=dropout)
    check_chain(p, 3, critic, rng=RNG, critic_rng=RNG + 1)


def test_chain_value_with_drawn_noise_clipping_and_the_step_before(native_executor):
    p = problem(mlp(3, 5, 37), 2, 40, steps=4)
    solver = solver_table(4, clip=1.1, noise=0.3, previous=-0.2, before=0.15)
    bounds = {"out_low": -0.5, "out_high": 0.5, "solver": solver}
    check_chain(p, 4, x_T=False, rng=RNG, **bounds)
    p = problem(mlp(3, 5, 37), 2, 40, steps=4)
    check_chain(p, 4, noise=draw(4, 2, 40, 3), **bounds)


def test_chain_value_without_conditions(native_executor):
    check_chain(problem(mlp(2, 0, 20), 2, 9, steps=2), 2)


def test_chain_value_differentiates_its_inputs_too(native_executor):
    p = problem(mlp(2, 4, 20), 2, 9, steps=2)
    check_chain(p, 2, leaves=lambda q: [q.x, q.cond, *q.weights])


def test_chain_value_composed(cuda_executor):
    """Where it is no op of its own, `denoise` and `run_program` compose it."""
    p = problem(everything(1, 5, 21, dropout=0.3), 2, 12, steps=3, given_cond=4)
    check_chain(p, 3, everything(1, 5, 13, dropout=0.3), rng=RNG, critic_rng=RNG + 1)


@needs_extension
def test_chain_value_draws_what_denoise_draws():
    p = problem(mlp(2, 4, 24), 2, 150, steps=5).to(torch.float32, requires_grad=False)
    r = problem(mlp(2, 4, 24, out=1), 2, 1).to(torch.float32, requires_grad=False)
    args = *p.net, solver_table(5)
    act = ops.denoise(None, *args, batch=150, rng=RNG)
    q = ops.run_program(act, p.cond, r.weights, r.table, r.program).squeeze(-1)
    critic = (r.weights, r.table, r.program)
    _, values, same = ops.chain_value(None, *args, critic=critic, batch=150, rng=RNG)
    assert torch.equal(same, act)
    assert torch.equal(values, q)


@needs_extension
def test_a_chain_too_long_to_keep_is_computed_again():
    # 600 steps of 300 columns in 96 rows are more than a tile keeps.
    p = problem(mlp(2, 4, 64), 1, 5, steps=600).to(torch.float32)
    r = problem(mlp(2, 4, 24, out=1), 1, 1).to(torch.float32, requires_grad=False)
    args = p.x.detach(), p.cond.detach(), p.weights, p.table, p.program
    solver = solver_table(600)
    solver[:, 2:4] = torch.tensor([0.9, 0.1])
    mean, *_ = ops.chain_value(*args, solver, critic=(r.weights, r.table, r.program))
    act = ops.denoise(*args, solver)
    q = ops.run_program(act, p.cond.detach(), r.weights, r.table, r.program)
    got = torch.autograd.grad(mean.sum(), p.leaves[2:])
    want = torch.autograd.grad(q.mean((1, 2)).sum(), p.leaves[2:])
    for g, w in zip(got, want, strict=True):
        assert (g - w).norm() <= 1e2 * EPS32 * w.norm()


@needs_extension
@pytest.mark.parametrize(
    "change, words",
    [
        (dict(x_T=torch.zeros(2, 6, 3)), ["x_T has shape", "[2, 6, 3]", "[2, 6, 2]"]),
        (dict(x_T=None, batch=6), ["rng is missing"]),
        (dict(cond=torch.zeros(2, 4, 4)), ["4 condition vectors", "batch of 6"]),
        (dict(weights=[]), ["5 weights", "given are 0"]),
        (dict(solver=solver_table(2)), ["solver", "[2, 9]", "[3, 9]"]),
        (dict(critic_table=torch.zeros(1, 1, 25)), ["critic_table", "[1, 1, 25]", "[1, 2, 25]"]),
        (dict(critic_weights=[]), ["critic", "5 weights", "given are 0"]),
        (dict(critic=mlp(3, 4, 8, out=1)), ["critic_program takes 3", "the policy gives 2"]),
        (dict(critic=mlp(2, 4, 8)), ["critic_program returns 2", "a critic returns 1"]),
        (dict(critic=mlp(2, 5, 8, out=1)), ["cond", "[2, 6, 4]", "[2, *, 5]"]),
    ],
)
def test_bad_arguments_of_chain_value_are_named(change, words):
    p = problem(mlp(2, 4, 8), 2, 6, steps=3).to(torch.float32, requires_grad=False)
    change = dict(change)
    program = change.pop("critic", mlp(2, 4, 8, out=1))
    r = problem(program, 2, 1).to(torch.float32, requires_grad=False)
    weights, table = change.pop("critic_weights", r.weights), change.pop("critic_table", r.table)
    args = dict(
        x_T=p.x,
        cond=p.cond,
        weights=p.weights,
        table=p.table,
        program=p.program,
        solver=solver_table(3),
        critic=(weights, table, program),
    )
    with pytest.raises(RuntimeError) as error:
        ops.chain_value(**{**args, **change})
    assert all(w in str(error.value) for w in words), str(error.value)
