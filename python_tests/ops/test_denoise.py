"""ops.denoise against reference.denoise: values, gradients, draws, on every instruction set."""

import pytest
import torch
from op_problems import everything, mlp, problem, solver_table
from tolerances import assert_as_good_as_torch

from dom2_fast import ops
from dom2_fast.ops import backend, reference
from dom2_fast.ops.program import Act

needs_extension = pytest.mark.skipif(
    not backend.available(), reason=f"no compiled extension: {backend.reason()}"
)
RNG = torch.tensor([-7_654_321_987_654_321, 5])


def run(op, p, solver, **kw):
    return op(p.x, *p.net, solver, **kw)


def check(p, solver, *, gradients=True, **kw):
    """Native float32 against float64, with PyTorch's own float32 as the yardstick."""
    p32, n32, p64 = p.to(torch.float32), p.to(torch.float32), p.to(torch.float64)
    noise = kw.pop("noise", None)
    noise32 = None if noise is None else noise.float()
    exact = run(reference.denoise, p64, solver, noise=noise, **kw)
    own = run(reference.denoise, p32, solver, noise=noise32, **kw)
    native = run(ops.denoise, n32, solver, noise=noise32, **kw)
    assert_as_good_as_torch(native, own, exact, "value")
    if not gradients:
        return
    g = torch.randn(exact.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    grads = [
        torch.autograd.grad(out, q.leaves, g.to(out.dtype), allow_unused=True)
        for out, q in ((native, n32), (own, p32), (exact, p64))
    ]
    for name, n, o, e in zip(p.names, *grads, strict=True):
        if e is None:  # nothing in the program reads it
            assert n is None or not n.any(), f"gradient of {name}"
        else:
            assert_as_good_as_torch(n, o, e, f"gradient of {name}")


# (groups, batch): every batch that ends a tile of some executor in another way, and every group.
@pytest.mark.parametrize(
    "groups, batch", [(1, 0), (3, 1), (4, 2), (1, 7), (3, 9), (4, 17), (1, 129), (3, 129)]
)
def test_odd_sizes(executor, groups, batch):
    check(problem(mlp(3, 5, 37), groups, batch, steps=3), solver_table(3))


@pytest.mark.parametrize("x, cond, hidden", [(1, 1, 1), (2, 18, 256), (5, 3, 16), (17, 33, 65)])
def test_odd_widths(executor, x, cond, hidden):
    check(problem(mlp(x, cond, hidden), 2, 19, steps=2), solver_table(2))


@pytest.mark.parametrize("steps", [1, 3, 5, 10, 20])
def test_steps(executor, steps):
    check(problem(mlp(2, 4, 24), 2, 11, steps=steps), solver_table(steps))


@pytest.mark.parametrize("act", list(Act))
def test_activations_in_a_network(executor, act):
    check(problem(mlp(2, 4, 24, act=act), 2, 11, steps=2), solver_table(2))


@pytest.mark.parametrize("hidden", [8, 21, 64])
@pytest.mark.parametrize("batch", [1, 13, 70])
def test_every_instruction(executor, hidden, batch):
    check(problem(everything(3, 5, hidden), 2, batch, steps=3), solver_table(3))


def test_without_rows(executor):
    check(problem(mlp(3, 0, 20), 2, 9, steps=2), solver_table(2))


@pytest.mark.parametrize("groups", [1, 3])
def test_multistep_noise_and_clipping(executor, groups):
    p = problem(mlp(3, 5, 37), groups, 40, steps=4)
    noise = torch.randn(4, groups, 40, 3, dtype=torch.float64)
    solver = solver_table(4, clip=1.1, noise=0.3, previous=-0.2, before=0.15)
    check(p, solver, noise=noise, out_low=-1.0, out_high=1.0)


def test_draws_and_dropout_are_the_reference_ones(executor):
    p = problem(everything(3, 5, 21, dropout=0.25), 2, 33, steps=3)
    p.x = None
    check_drawn(p, solver_table(3, noise=0.4))


def check_drawn(p, solver):
    out = []
    for op, dtype in (
        (ops.denoise, torch.float32),
        (reference.denoise, torch.float32),
        (reference.denoise, torch.float64),
    ):
        q = p.to(dtype)
        y = op(None, *q.net, solver, batch=33, rng=RNG)
        (g,) = torch.autograd.grad(y.square().sum(), q.weights[0])
        out.append((y, g))
    for native, own, exact in zip(*out, strict=True):
        assert_as_good_as_torch(native, own, exact)


def test_dropout_gradients(executor):
    check(problem(everything(3, 5, 21, dropout=0.5), 2, 33, steps=3), solver_table(3), rng=RNG)


@pytest.mark.parametrize("given, batch", [(1, 7), (3, 12), (5, 130)])
def test_rows_that_serve_several(executor, given, batch):
    check(problem(mlp(2, 4, 24), 2, batch, steps=2, given_cond=given), solver_table(2))
    check(problem(everything(2, 4, 20), 2, batch, steps=2, given_cond=given), solver_table(2))


def test_non_contiguous_input(executor):
    p = problem(mlp(3, 5, 37), 2, 9, steps=2)
    p.x = p.x.transpose(0, 1).contiguous().transpose(0, 1)
    p.cond = torch.cat([p.cond, p.cond], -1)[..., ::2][..., :5]
    p.weights = [w.transpose(1, 2).contiguous().transpose(1, 2) for w in p.weights]
    check(p, solver_table(2))
    wide = [torch.cat([w, w], -1)[..., w.shape[-1] :] for w in p.weights]
    q, solver = p.to(torch.float32), solver_table(2)
    narrow = run(ops.denoise, q, solver)
    q.weights = [w.float() for w in wide]
    assert torch.equal(run(ops.denoise, q, solver), narrow)


def test_gradients_only_where_wanted(executor):
    p, solver = problem(mlp(3, 5, 37), 2, 9, steps=2), solver_table(2)
    full = p.to(torch.float32)
    expected = torch.autograd.grad(run(ops.denoise, full, solver).sum(), full.leaves)
    for i, name in enumerate(p.names):
        q = p.to(torch.float32, requires_grad=False)
        q.leaves[i].requires_grad_()
        (got,) = torch.autograd.grad(run(ops.denoise, q, solver).sum(), [q.leaves[i]])
        assert torch.equal(got, expected[i]), name


def test_rows_do_not_depend_on_their_neighbours(executor):
    p, solver = problem(mlp(2, 18, 64), 2, 131, steps=5).to(torch.float32), solver_table(5)
    with torch.no_grad():
        whole = run(ops.denoise, p, solver)
        for at in (0, 5, 6, 130):
            alone = ops.denoise(
                p.x[:, at : at + 1], p.cond[:, at : at + 1], p.weights, p.table, p.program, solver
            )
            assert torch.equal(alone, whole[:, at : at + 1]), at


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_bits_from_run_to_run(executor, threads):
    torch.set_num_threads(threads)
    p, solver = problem(mlp(2, 18, 64), 3, 300, steps=5).to(torch.float32), solver_table(5)
    first = torch.autograd.grad(run(ops.denoise, p, solver).sum(), p.leaves)
    for _ in range(3):
        again = torch.autograd.grad(run(ops.denoise, p, solver).sum(), p.leaves)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("batch", [7, 129, 400])
def test_threads_share_the_work_and_not_the_result(executor, batch):
    p, solver = problem(everything(3, 5, 64), 3, batch, steps=3), solver_table(3)
    check(p, solver)
    one = run(ops.denoise, p.to(torch.float32), solver)
    torch.set_num_threads(2)
    check(p, solver)
    assert torch.equal(run(ops.denoise, p.to(torch.float32), solver), one)


def test_packed_weights(executor):
    p, solver = problem(mlp(3, 5, 70), 2, 9, steps=2).to(torch.float32), solver_table(2)
    with torch.no_grad():
        packed = ops.pack_weights(p.weights, p.program)
        assert torch.equal(run(ops.denoise, p, solver, packed=packed), run(ops.denoise, p, solver))


def test_nan_stays_nan(executor):
    p = problem(mlp(2, 4, 24), 1, 3, steps=2).to(torch.float32, requires_grad=False)
    p.x[0, 1, 0] = float("nan")
    out = run(ops.denoise, p, solver_table(2), out_low=-1.0, out_high=1.0)
    assert out[0, 1].isnan().any()
    assert out[0, [0, 2]].isfinite().all()


def bad(**change):
    p = problem(mlp(2, 4, 8), 2, 6, steps=3).to(torch.float32, requires_grad=False)
    args = dict(
        x_T=p.x,
        cond=p.cond,
        weights=p.weights,
        table=p.table,
        program=p.program,
        solver=solver_table(3),
    )
    args.update(change)
    return args


W = problem(mlp(2, 4, 8), 2, 6).to(torch.float32, requires_grad=False).weights


@needs_extension
@pytest.mark.parametrize(
    "change, words",
    [
        (dict(x_T=torch.zeros(2, 6, 3)), ["x_T", "[2, 6, 3]", "[2, 6, 2]"]),
        (dict(x_T=torch.zeros(2, 6, 2, dtype=torch.float64)), ["x_T", "float64", "reference"]),
        (dict(cond=None), ["cond is missing", "4 columns"]),
        (dict(cond=torch.zeros(2, 4, 4)), ["4 condition vectors", "batch of 6", "multiple"]),
        (dict(cond=torch.zeros(2, 0, 4)), ["0 condition vectors", "batch of 6"]),
        (dict(cond=torch.zeros(2, 6, 5)), ["cond", "[2, 6, 5]"]),
        (dict(weights=W[:-1]), ["5 weights", "given are 4"]),
        (dict(weights=[*W[:-1], W[-1][:, :1]]), ["weights[4]", "[2, 1, 8]"]),
        (dict(weights=[*W[:-1], W[-1].double()]), ["weights[4]", "float64"]),
        (dict(table=torch.zeros(3, 2, 1)), ["table", "[3, 2, 1]"]),
        (dict(solver=torch.zeros(2, 9, dtype=torch.float64)), ["solver", "[2, 9]", "[3, 9]"]),
        (dict(solver=torch.zeros(3, 9)), ["solver", "float32", "float64"]),
        (dict(noise=torch.zeros(3, 2, 6, 1)), ["noise", "[3, 2, 6, 2]"]),
        (dict(solver=solver_table(3, noise=1.0)), ["rng is missing"]),
        (dict(x_T=None, batch=6), ["rng is missing", "x_T"]),
        (dict(x_T=None, batch=6, rng=torch.tensor([1, 2**32])), ["offset", "4294967296"]),
        (dict(packed=torch.zeros(2, 3)), ["packed", "[2, 3]"]),
    ],
)
def test_bad_arguments_are_named(change, words):
    with pytest.raises(RuntimeError) as error:
        ops.denoise(**bad(**change))
    assert all(w in str(error.value) for w in words), str(error.value)


@needs_extension
def test_a_program_that_would_leave_its_memory_is_refused():
    args = bad()
    good = args["program"].encode()
    native = torch.ops.dom2_fast.denoise
    tail = (None, None, None, [6, 2], -1.0, 1.0, False, 0)
    refused = 0
    for at in range(len(good)):
        for value in (-5, 1 << 40, 7):
            words = good.clone()
            if words[at] == value:
                continue
            words[at] = value
            try:
                native(args["x_T"], args["cond"], W, args["table"], words, args["solver"], *tail)
            except RuntimeError:
                refused += 1
    assert refused > len(good)  # the rest change an activation, an eps: programs just as valid


@needs_extension
def test_opcheck():
    p, solver = problem(everything(3, 5, 21, dropout=0.5), 2, 6, steps=3), solver_table(3)
    q = p.to(torch.float32)
    args = (q.x, *q.words, solver, None, RNG, None, [6, 3], -1.0, 1.0, True, 0)
    torch.library.opcheck(torch.ops.dom2_fast.denoise.default, args)
    path = torch.ops.dom2_fast.denoise(*args)[1].detach()
    plain = p.to(torch.float32, requires_grad=False)
    torch.library.opcheck(
        torch.ops.dom2_fast.denoise_backward.default,
        (torch.ones(2, 6, 3), path, *plain.words, solver, None, RNG, -1.0, 1.0, 0, *(True,) * 4),
    )
    torch.library.opcheck(
        torch.ops.dom2_fast.pack_weights.default,
        ([w.detach() for w in q.weights], q.program.encode(), 0),
    )


@needs_extension
def test_the_saved_path_is_no_differentiable_result():
    p, solver = problem(mlp(2, 4, 8), 1, 3, steps=2).to(torch.float32), solver_table(2)
    out, path = torch.ops.dom2_fast.denoise(
        p.x, *p.words, solver, None, None, None, [3, 2], -1.0, 1.0, True, 0
    )
    assert out.requires_grad and not path.requires_grad


@needs_extension
def test_compiles_in_one_graph():
    p, solver = problem(mlp(2, 4, 24), 2, 6, steps=3).to(torch.float32), solver_table(3)

    def f(x, cond, table, *weights):
        return ops.denoise(x, cond, list(weights), table, p.program, solver).square().sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    eager = f(p.x, p.cond, p.table, *p.weights)
    assert torch.equal(compiled(p.x, p.cond, p.table, *p.weights), eager)
    expected = torch.autograd.grad(eager, p.leaves)
    got = torch.autograd.grad(compiled(p.x, p.cond, p.table, *p.weights), p.leaves)
    for e, g in zip(expected, got, strict=True):
        assert torch.equal(e, g)
