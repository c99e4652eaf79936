"""ops.run_program against reference.run_program, and the activations over the whole float range."""

import pytest
import torch
from activation_problems import all_magnitudes, slope_and_limit, value_and_limit
from op_problems import everything, mlp, problem
from tolerances import assert_as_good_as_torch

from dom2_fast import ops
from dom2_fast.ops import backend, reference
from dom2_fast.ops.program import Act, ProgramBuilder

needs_extension = pytest.mark.skipif(
    not backend.available(), reason=f"no compiled extension: {backend.reason()}"
)
RNG = torch.tensor([42, 7])


def run(op, p, **kw):
    return op(p.x, *p.net, **kw)


def check(p, **kw):
    results = []
    for op, dtype in (
        (ops.run_program, torch.float32),
        (reference.run_program, torch.float32),
        (reference.run_program, torch.float64),
    ):
        q = p.to(dtype)
        y = run(op, q, **kw)
        g = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        results.append((y, *torch.autograd.grad(y, q.leaves, g.to(dtype), allow_unused=True)))
    for name, n, o, e in zip(["value", *p.names], *results, strict=True):
        if e is None:
            assert n is None or not n.any(), f"gradient of {name}"
        else:
            assert_as_good_as_torch(n, o, e, name)


# (groups, batch): every batch that ends a tile of some executor in another way, and every group.
@pytest.mark.parametrize(
    "groups, batch", [(1, 0), (3, 1), (4, 2), (1, 7), (3, 9), (4, 17), (1, 129), (3, 129)]
)
def test_critic(executor, groups, batch):
    check(problem(mlp(2, 7, 33, act=Act.RELU, out=1), groups, batch))


@pytest.mark.parametrize("given, batch", [(1, 10), (9, 90), (64, 640)])
def test_one_observation_serves_many_actions(executor, given, batch):
    check(problem(mlp(2, 7, 33, out=1), 2, batch, given_cond=given))


@pytest.mark.parametrize("given, batch", [(1, 100), (7, 350), (4, 400), (40, 440)])
def test_rows_that_share_an_observation_in_several_tiles(executor, given, batch):
    # 7 x 50 and 4 x 100 rows: a tile starts and ends within the rows of one observation.
    check(problem(everything(3, 5, 21, dropout=0.3), 2, batch, given_cond=given), rng=RNG)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_instruction(executor, dropout):
    check(problem(everything(3, 5, 37, dropout=dropout), 3, 29), rng=RNG)


def test_a_program_that_returns_its_input(executor):
    b = ProgramBuilder(3, 2)
    check(problem(b.build(b.x), 2, 5))
    b = ProgramBuilder(3, 2)
    check(problem(b.build(b.cond), 2, 5))


def test_non_contiguous_input(executor):
    p = problem(mlp(3, 5, 37, out=2), 2, 9)
    p.x = p.x.transpose(0, 1).contiguous().transpose(0, 1)
    p.weights = [w.transpose(1, 2).contiguous().transpose(1, 2) for w in p.weights]
    check(p)


@pytest.mark.parametrize("act", list(Act))
def test_activation_over_the_whole_float_range(executor, act):
    width = 50
    b = ProgramBuilder(width, 0)
    program = b.build(b.activation(b.x, act))
    x = all_magnitudes()
    if executor == "simt":  # a thousandth of the speed, and the C library's functions
        x = x[:: len(x) // 20_000]
    x = x[: len(x) // width * width]
    leaf = x.reshape(1, -1, width).clone().requires_grad_()
    y = ops.run_program(leaf, None, [], torch.zeros(1, 1, 0), program)
    (slope,) = torch.autograd.grad(y.sum(), leaf)
    for got, (exact, limit) in ((y, value_and_limit(act, x)), (slope, slope_and_limit(act, x))):
        got = got.detach().reshape(-1)
        error = (got.double() - exact).abs()
        worst = torch.where(limit.isfinite(), error - limit, -1.0).argmax()
        assert ((error <= limit) | limit.isinf()).all(), (x[worst], got[worst], exact[worst])


@pytest.mark.parametrize("act", list(Act))
def test_activation_keeps_nan(executor, act):
    b = ProgramBuilder(1, 0)
    program = b.build(b.activation(b.x, act))
    x = torch.tensor([1.0, float("nan"), 2.0]).reshape(1, 3, 1)
    y = ops.run_program(x, None, [], torch.zeros(1, 1, 0), program)
    assert y.isnan().reshape(-1).tolist() == [False, True, False]


@needs_extension
@pytest.mark.parametrize(
    "change, words",
    [
        (dict(x=torch.zeros(2, 6, 3)), ["x has shape", "[2, 6, 3]", "[2, *, 2]"]),
        (dict(cond=torch.zeros(2, 4, 4)), ["4 condition vectors", "batch of 6"]),
        (dict(cond=None), ["cond is missing"]),
        (dict(table=torch.zeros(2, 2, 25)), ["table", "[2, 2, 25]"]),
        (dict(weights=[]), ["5 weights", "given are 0"]),
    ],
)
def test_bad_arguments_are_named(change, words):
    p = problem(mlp(2, 4, 8, out=1), 2, 6).to(torch.float32, requires_grad=False)
    args = dict(x=p.x, cond=p.cond, weights=p.weights, table=p.table, program=p.program)
    with pytest.raises(RuntimeError) as error:
        ops.run_program(**{**args, **change})
    assert all(w in str(error.value) for w in words), str(error.value)


@needs_extension
def test_opcheck():
    p = problem(everything(3, 5, 21, dropout=0.5), 2, 6).to(torch.float32)
    args = (p.x, *p.words, RNG, 3, 0)
    torch.library.opcheck(torch.ops.dom2_fast.run_program.default, args)
    plain = p.to(torch.float32, requires_grad=False)
    torch.library.opcheck(
        torch.ops.dom2_fast.run_program_backward.default,
        (
            torch.ones(2, 6, 3),
            plain.x,
            *plain.words,
            RNG,
            0,
            True,
            True,
            True,
            True,
        ),
    )


@needs_extension
def test_compiles_in_one_graph():
    p = problem(mlp(2, 4, 24, out=1), 2, 6).to(torch.float32)

    def f(x, cond, table, *weights):
        return ops.run_program(x, cond, list(weights), table, p.program).sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(f(p.x, p.cond, p.table, *p.weights), p.leaves)
    got = torch.autograd.grad(compiled(p.x, p.cond, p.table, *p.weights), p.leaves)
    for e, g in zip(expected, got, strict=True):
        assert torch.equal(e, g)
