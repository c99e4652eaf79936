"""The losses of ops that come with their gradients, against reference and against composition.

`chain_value` has its own file; what all three must do is here.
"""

import pytest
import torch
from loss_checks import RNG, check, draw, weights_and_table
from op_problems import everything, mlp, problem, solver_table
from tolerances import EPS32

from dom2_fast import ops
from dom2_fast.ops import backend, reference
from dom2_fast.ops.program import Act, ProgramBuilder

needs_extension = pytest.mark.skipif(
    not backend.available(), reason=f"no compiled extension: {backend.reason()}"
)


def denoising(op, p, target, **kw):
    loss = op.denoising_loss(p.x, *p.net, target, **kw)
    return loss, ()


@pytest.mark.parametrize(
    "groups, batch", [(1, 0), (3, 1), (1, 2), (3, 7), (1, 9), (3, 17), (1, 129), (3, 400)]
)
def test_denoising_loss(native_executor, groups, batch):
    check(denoising, problem(mlp(3, 5, 37), groups, batch), [draw(groups, batch, 3)])


def test_composed_losses(cuda_executor):
    """Where there is no op for a loss, `run_program` and `denoise` compose it."""
    p = problem(everything(3, 5, 21, dropout=0.3), 3, 20, given_cond=4)
    check(denoising, p, [draw(3, 20, 3)], rng=RNG)
    for each in (False, True):
        check_conservative(mlp(2, 7, 33, act=Act.RELU, out=1), 3, 9, 10, each=each)


@pytest.mark.parametrize("given, batch", [(29, 29), (4, 44), (2, 160)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_denoising_loss_of_every_instruction(native_executor, given, batch, dropout):
    p = problem(everything(3, 5, 21, dropout=dropout), 3, batch, given_cond=given)
    check(denoising, p, [draw(3, batch, 3)], rng=RNG)


def test_denoising_loss_of_a_program_that_returns_its_input(native_executor):
    for returned in ("x", "cond"):
        b = ProgramBuilder(3, 2)
        program = b.build(getattr(b, returned))
        check(denoising, problem(program, 2, 5), [draw(2, 5, program.out.width)])


@pytest.mark.parametrize(
    "leaves", [weights_and_table, lambda q: q.weights, lambda q: [q.x], lambda q: [q.cond]]
)
def test_only_the_gradients_that_are_wanted(native_executor, leaves):
    check(denoising, problem(everything(3, 5, 21), 2, 30), [draw(2, 30, 3)], leaves)


def conservative(op, q, target, act, proposed, log_density=-1.4, **kw):
    loss, *others = op.conservative_loss(
        act, proposed, *q.net, target, cql_weight=0.3, log_density=log_density, **kw
    )
    return loss, others


def check_conservative(
    program, groups, batch, actions, twins=2, leaves=weights_and_table, each=False, **kw
):
    """each: every action has a density of its own."""
    p = problem(program, groups * twins, batch)
    if p.cond is not None:
        p.cond = p.cond[:groups]
    A = program.x_width
    more = [draw(groups, batch), draw(groups, batch, A), draw(groups, batch, actions, A, seed=2)]
    if each:
        more.append(3 * draw(groups, batch, actions, seed=4))
    check(conservative, p, more, leaves, **kw)


@pytest.mark.parametrize(
    "groups, twins, batch",
    [(1, 1, 0), (3, 2, 1), (2, 3, 2), (1, 1, 9), (3, 2, 33), (2, 3, 33), (3, 2, 256)],
)
def test_conservative_loss(native_executor, groups, twins, batch):
    check_conservative(mlp(2, 7, 33, act=Act.RELU, out=1), groups, batch, 10, twins)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("actions", [1, 2, 15, 16, 17, 70, 130])
def test_conservative_loss_for_any_number_of_actions(native_executor, actions, each):
    # 70 and 130: the rows of one observation are a tile of their own.
    check_conservative(mlp(2, 4, 20, out=1), 2, 5, actions, each=each)


def test_densities_that_agree_are_one_density(native_executor):
    p = problem(mlp(2, 4, 20, out=1), 4, 9).to(torch.float32)
    p.cond = p.cond[:2]
    rows = [draw(2, 9).float(), draw(2, 9, 2).float(), draw(2, 9, 5, 2, seed=2).float()]
    one, other = (conservative(ops, p, *rows, d) for d in (-1.4, torch.full((2, 9, 5), -1.4)))
    for a, b in zip((one[0], *one[1]), (other[0], *other[1]), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_conservative_loss_of_every_instruction(native_executor, dropout):
    check_conservative(everything(1, 5, 21, dropout=dropout), 2, 30, 6, rng=RNG)


def test_conservative_loss_without_conditions(native_executor):
    check_conservative(mlp(2, 0, 20, out=1), 2, 9, 4)


def test_conservative_loss_differentiates_its_conditions_too(native_executor):
    check_conservative(mlp(2, 4, 20, out=1), 2, 9, 4, leaves=lambda q: q.leaves[1:])


def test_non_contiguous_input(native_executor):
    p = problem(mlp(3, 5, 37), 2, 9)
    p.x = p.x.transpose(0, 1).contiguous().transpose(0, 1)
    p.weights = [w.transpose(1, 2).contiguous().transpose(1, 2) for w in p.weights]
    check(denoising, p, [draw(9, 2, 3).transpose(0, 1)])
    p = problem(mlp(2, 4, 20, out=1), 2, 9)
    p.cond = torch.cat([p.cond, p.cond], -1)[..., ::2]
    more = [draw(9, 2).t(), draw(9, 2, 2).transpose(0, 1), draw(2, 3, 9, 2).transpose(1, 2)]
    check(conservative, p, more, weights_and_table)


def test_large_values_do_not_overflow(native_executor):
    p = problem(mlp(2, 4, 20, out=1), 2, 12)
    p.weights[-1] *= 1000
    check(conservative, p, [draw(2, 12), draw(2, 12, 2), draw(2, 12, 3, 2)], weights_and_table)


@needs_extension
@pytest.mark.parametrize("name", ["denoising", "chain"])
def test_several_threads_sum_in_order(name):
    steps = 3 if name == "chain" else 1
    p = problem(everything(3, 5, 64, dropout=0.2), 2, 700, steps=steps).to(torch.float32)
    r = problem(mlp(3, 5, 24, out=1), 2, 1).to(torch.float32, requires_grad=False)
    target = draw(2, 700, 3).float()
    critic = (r.weights, r.table, r.program)

    def gradients():
        if name == "denoising":
            loss, _ = denoising(ops, p, target, rng=RNG)
        else:
            loss, *_ = ops.chain_value(
                p.x.detach(),
                p.cond.detach(),
                p.weights,
                p.table,
                p.program,
                solver_table(3),
                critic=critic,
                rng=RNG,
            )
        return [loss.detach(), *torch.autograd.grad(loss.sum(), p.leaves[2:])]

    one = gradients()
    torch.set_num_threads(3)
    three, again = gradients(), gradients()
    for a, b, c in zip(one, three, again, strict=True):
        assert torch.equal(b, c)
        torch.testing.assert_close(a, b, rtol=1e3 * EPS32, atol=1e3 * EPS32)


@needs_extension
def test_the_same_as_composed():
    """What is kept in the forward call survives a second backward, and clipping in place."""
    p = problem(mlp(3, 5, 37), 2, 50).to(torch.float32)
    target = draw(2, 50, 3).float()
    loss, _ = denoising(ops, p, target)
    out = ops.run_program(p.x, *p.net)
    want = torch.autograd.grad(reference.mean_square(out, target).sum(), p.leaves)
    for _ in range(2):
        got = torch.autograd.grad(loss.sum(), p.leaves, retain_graph=True)
        for g, w in zip(got, want, strict=True):
            assert (g - w).norm() <= 1e2 * EPS32 * w.norm()
            g.zero_()
    with torch.no_grad():
        assert torch.equal(denoising(ops, p, target)[0], loss)


@needs_extension
@pytest.mark.parametrize(
    "change, words",
    [
        (dict(x=torch.zeros(2, 6, 3)), ["x has shape", "[2, 6, 3]", "[2, *, 2]"]),
        (dict(target=torch.zeros(2, 6, 2)), ["target", "[2, 6, 2]", "[2, 6, 1]"]),
        (dict(target=torch.zeros(2, 6, 1, dtype=torch.float64)), ["target is float64", "float32"]),
        (dict(cond=torch.zeros(2, 4, 4)), ["4 condition vectors", "batch of 6"]),
        (dict(table=torch.zeros(2, 2, 25)), ["table", "[2, 2, 25]"]),
        (dict(weights=[]), ["5 weights", "given are 0"]),
    ],
)
def test_bad_arguments_of_denoising_loss_are_named(change, words):
    p = problem(mlp(2, 4, 8, out=1), 2, 6).to(torch.float32, requires_grad=False)
    args = dict(x=p.x, cond=p.cond, weights=p.weights, table=p.table, program=p.program)
    with pytest.raises(RuntimeError) as error:
        ops.denoising_loss(**{**args, "target": torch.zeros(2, 6, 1), **change})
    assert all(w in str(error.value) for w in words), str(error.value)


@needs_extension
@pytest.mark.parametrize(
    "change, words",
    [
        (dict(act=torch.zeros(1, 6, 3)), ["act has shape", "[1, 6, 3]", "[*, *, 2]"]),
        (dict(proposed=torch.zeros(1, 5, 4, 2)), ["proposed", "[1, 5, 4, 2]", "[1, 6, *, 2]"]),
        (dict(proposed=torch.zeros(1, 6, 0, 2)), ["proposed", "at least one action"]),
        (dict(target=torch.zeros(1, 5)), ["target", "[1, 5]", "[1, 6]"]),
        (dict(log_density=torch.zeros(1, 6, 3)), ["log_density", "[1, 6, 3]", "[1, 6, 4]"]),
        (dict(cond=torch.zeros(2, 6, 4)), ["cond", "[2, 6, 4]", "[1, 6, 4]"]),
        (dict(cond=None), ["cond is missing"]),
        (
            dict(
                act=torch.zeros(3, 6, 2), proposed=torch.zeros(3, 6, 4, 2), target=torch.zeros(3, 6)
            ),
            ["2 critics", "3 groups"],
        ),
    ],
)
def test_bad_arguments_of_conservative_loss_are_named(change, words):
    p = problem(mlp(2, 4, 8, out=1), 2, 6).to(torch.float32, requires_grad=False)
    args = dict(
        act=p.x[:1],
        proposed=torch.zeros(1, 6, 4, 2),
        cond=p.cond[:1],
        weights=p.weights,
        table=p.table,
        program=p.program,
        target=torch.zeros(1, 6),
        cql_weight=1.0,
        log_density=0.0,
    )
    with pytest.raises(RuntimeError) as error:
        ops.conservative_loss(**{**args, **change})
    assert all(w in str(error.value) for w in words), str(error.value)


@needs_extension
def test_a_critic_returns_one_column():
    p = problem(mlp(2, 4, 8), 2, 6).to(torch.float32, requires_grad=False)
    with pytest.raises(RuntimeError, match="returns 2 columns; a critic returns 1"):
        conservative(ops, p, torch.zeros(2, 6), p.x, torch.zeros(2, 6, 3, 2))


def test_conservative_loss_by_hand():
    """Q(a) = a: everything can be worked out with a pencil."""
    b = ProgramBuilder(1, 0)
    program = b.build(b.linear(b.x, b.weight(1, 1)))
    weights = [torch.ones(1, 1, 1, dtype=torch.float64)]
    act, proposed = torch.tensor([[[0.5]]]), torch.tensor([[[[0.0], [0.0]]]])
    loss, td, cql, q = reference.conservative_loss(
        act.double(),
        proposed.double(),
        None,
        weights,
        torch.zeros(1, 1, 0),
        program,
        torch.tensor([[0.25]]).double(),
        cql_weight=2.0,
        log_density=0.0,
    )
    log2 = torch.tensor(2.0).double().log()
    densities = torch.tensor([[[0.5, 0.25]]]).double().log()  # e^0 / 0.5 + e^0 / 0.25 = 6
    _, _, other, _ = reference.conservative_loss(
        act.double(),
        proposed.double(),
        None,
        weights,
        torch.zeros(1, 1, 0),
        program,
        torch.tensor([[0.25]]).double(),
        cql_weight=2.0,
        log_density=densities,
    )
    torch.testing.assert_close(other, (torch.tensor(6.0).double().log() - 0.5).view(1))
    torch.testing.assert_close(td, torch.tensor([0.0625]).double())
    torch.testing.assert_close(cql, (log2 - 0.5).view(1))
    torch.testing.assert_close(loss, td + 2 * cql)
    assert q.tolist() == [[[0.5, 0.0, 0.0]]]


def test_reference_gradients():
    p = problem(mlp(2, 3, 6, act=Act.TANH, out=1), 2, 3).to(torch.float64)
    x, target = draw(2, 3, 2), draw(2, 3)
    assert torch.autograd.gradcheck(
        lambda x, cond, table, *w: reference.denoising_loss(
            x, cond, w, table, p.program, target.unsqueeze(-1)
        ),
        p.leaves,
    )
    assert torch.autograd.gradcheck(
        lambda act, cond, table, *w: reference.conservative_loss(
            act,
            draw(2, 3, 4, 2),
            cond,
            w,
            table,
            p.program,
            target,
            cql_weight=0.5,
            log_density=-0.7,
        )[0],
        (x.requires_grad_(), *p.leaves[1:]),
    )


@needs_extension
def test_opcheck():
    p = problem(everything(3, 5, 21, dropout=0.5), 2, 6).to(torch.float32)
    args = (p.x, *p.words, torch.zeros(2, 6, 3), RNG, 0)
    torch.library.opcheck(torch.ops.dom2_fast.denoising_loss.default, (*args, *(True,) * 4))
    p = problem(mlp(2, 5, 21, out=1), 4, 6).to(torch.float32)
    args = (
        torch.zeros(2, 6, 2),
        torch.ones(2, 6, 3, 2),
        p.cond[:2].detach(),
        p.weights,
        p.table,
        p.program.encode(),
        torch.zeros(2, 6),
        None,
        0.5,
        -1.0,
        torch.zeros(2, 6, 3),
        0,
        True,
        True,
    )
    torch.library.opcheck(torch.ops.dom2_fast.conservative_loss.default, args)
    q = problem(mlp(2, 5, 21), 4, 6, steps=2).to(torch.float32)
    critic = [w.detach() for w in p.weights], p.table.detach(), p.program.encode(), None
    args = (
        None,
        q.cond.detach(),
        q.weights,
        q.table,
        q.program.encode(),
        solver_table(2),
        None,
        RNG,
        *critic,
        [6, 2],
        -1.0,
        1.0,
        0,
        True,
        True,
    )
    torch.library.opcheck(torch.ops.dom2_fast.chain_value.default, args)


@needs_extension
def test_compiles_in_one_graph():
    p = problem(mlp(2, 4, 24, out=1), 2, 6).to(torch.float32)
    q, solver = problem(mlp(2, 4, 20), 2, 1, steps=2).to(torch.float32), solver_table(2)
    target, proposed = draw(2, 6).float(), draw(2, 6, 3, 2).float()

    def f(x, cond, table, *weights):
        weights, (q_table, *q_weights) = weights[:5], weights[5:]
        one = ops.denoising_loss(x, cond, weights, table, p.program, target.unsqueeze(-1))
        two, _, _, _ = ops.conservative_loss(
            x.detach(),
            proposed,
            cond.detach(),
            weights,
            table,
            p.program,
            target,
            cql_weight=0.5,
            log_density=-1.0,
        )
        three, *_ = ops.chain_value(
            None,
            cond.detach(),
            q_weights,
            q_table,
            q.program,
            solver,
            batch=6,
            rng=RNG,
            critic=([w.detach() for w in weights], table.detach(), p.program),
        )
        return (one + two + three).sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    leaves = [*p.leaves, q.table, *q.weights]
    expected = torch.autograd.grad(f(*leaves), leaves)
    got = torch.autograd.grad(compiled(*leaves), leaves)
    for e, g in zip(expected, got, strict=True):
        assert torch.equal(e, g)
