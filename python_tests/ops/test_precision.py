"""precision="bf16": weights, and where that is quicker both operands, rounded; float32 sums."""

import pytest
import torch
from op_problems import everything, mlp, problem, solver_table
from tolerances import KERNEL_FACTOR, relative_error

from dom2_fast import ops
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import reference
from dom2_fast.ops.program import Act, ProgramBuilder


def assert_as_good_as_bf16(native, own, exact, what):
    """At most twice the error of PyTorch's own bf16 path; and really bf16: fp32 errs far less."""
    error, limit = relative_error(native, exact), KERNEL_FACTOR * relative_error(own, exact)
    assert error <= limit, f"{what}: error {error:.2e}, twice PyTorch's own bf16 is {limit:.2e}"
    return error


def run(op, p, solver, **kw):
    if solver is None:
        return op.run_program(p.x, *p.net, **kw)
    return op.denoise(p.x, *p.net, solver, **kw)


CASES = {
    "mlp": lambda: (problem(mlp(3, 18, 64), 2, 19, steps=5), solver_table(5, clip=2.0)),
    "wide": lambda: (problem(mlp(2, 18, 256), 1, 9, steps=2), solver_table(2)),
    "odd": lambda: (problem(mlp(5, 7, 37, act=Act.SILU), 3, 11, steps=3), solver_table(3)),
    "everything": lambda: (problem(everything(3, 5, 40), 2, 13, steps=3), solver_table(3)),
    # Many rows: rounding turns a unit of ReLU on or off here and there, and one of them alone must
    # not decide who errs more.
    "critic": lambda: (problem(mlp(2, 18, 64, act=Act.RELU, out=1), 2, 300, given_cond=100), None),
}


@pytest.mark.parametrize("case", CASES)
def test_as_good_as_torch_in_bf16(executor, case):
    p, solver = CASES[case]()
    p64, p16, p32 = (p.to(t) for t in (torch.float64, torch.bfloat16, torch.float32))
    exact, own = run(reference, p64, solver), run(reference, p16, solver)
    native = run(ops, p32, solver, precision="bf16")
    error = assert_as_good_as_bf16(native, own, exact, "value")
    assert error > 1e-4  # bf16 keeps 8 bits; float32 products would err by 1e-6
    g = torch.randn(exact.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    grads = [
        torch.autograd.grad(out, q.leaves, g.to(out.dtype), allow_unused=True)
        for out, q in ((native, p32), (own, p16), (exact, p64))
    ]
    for name, n, o, e in zip(p.names, *grads, strict=True):
        if e is not None:
            assert_as_good_as_bf16(n, o, e, f"gradient of {name}")


def without_bf16_products(isa):
    if isa == "avx512_bf16":
        pytest.skip("rounds the left operands, too")


@pytest.mark.parametrize("case", CASES)
def test_without_bf16_products_only_the_weights_are_rounded(isa, case):
    """Widening a bf16 number is exact: value and gradients have fp32's bits for such weights."""
    without_bf16_products(isa)
    p, solver = CASES[case]()
    p, q = p.to(torch.float32), p.to(torch.float32)
    with torch.no_grad():
        for w in q.weights:
            w.copy_(w.bfloat16())
    assert not any(torch.equal(a, b) for a, b in zip(p.weights, q.weights, strict=True))
    got, want = run(ops, p, solver, precision="bf16"), run(ops, q, solver)
    assert torch.equal(got, want)
    g = torch.randn(want.shape, generator=torch.Generator().manual_seed(9))
    one, other = (
        torch.autograd.grad(out, of.leaves, g, allow_unused=True)
        for out, of in ((got, p), (want, q))
    )
    for name, a, b in zip(p.names, one, other, strict=True):
        assert (a is None and b is None) or torch.equal(a, b), f"gradient of {name}"


@pytest.mark.parametrize("k", [1, 2, 63, 128])
def test_the_rounding_of_weights_bounds_the_error(isa, k):
    """|y - y'| <= 2^-8 sum_k |a_k w_k|: half a unit of 8 bits, each weight; and float32's sums."""
    without_bf16_products(isa)
    b = ProgramBuilder(k, 0)
    program = b.build(b.linear(b.x, b.weight(70, k)))
    g = torch.Generator().manual_seed(k)
    x, w = torch.randn(1, 9, k, generator=g), torch.randn(1, 70, k, generator=g)
    got = ops.run_program(x, None, [w], torch.zeros(1, 1, 0), program, precision="bf16")[0].double()
    exact, size = x[0].double() @ w[0].double().T, x[0].double().abs() @ w[0].double().abs().T
    assert ((got - exact).abs() <= size * (2.0**-8 + k * 2.0**-24 * (1 + 2.0**-8))).all()
    assert (got - exact).abs().max() > 2.0**-12 * size.max() / k  # and they are rounded


def test_a_neighbour_of_an_odd_last_column_is_not_read(isa):
    """Two bf16 weights share a word; the second half of the last word belongs to no column."""
    b = ProgramBuilder(3, 0)
    wide = b.linear(b.x, b.weight(6, 3))
    half = type(wide)(wide.buffer, 0, 3)
    program = b.build(b.linear(half, b.weight(2, 3)))
    weights = [torch.ones(1, 6, 3), torch.ones(1, 2, 3)]
    weights[0][0, 3:] = float("nan")
    out = ops.run_program(
        torch.ones(1, 5, 3), None, weights, torch.zeros(1, 1, 0), program, precision="bf16"
    )
    assert torch.equal(out, torch.full((1, 5, 2), 9.0))


def test_packed_weights(executor):
    p, solver = CASES["odd"]()
    p = p.to(torch.float32, requires_grad=False)
    packed = ops.pack_weights(p.weights, p.program, "bf16")
    args = (p.x, *p.net, solver)
    again = ops.denoise(*args, packed=packed, precision="bf16")
    assert torch.equal(again, ops.denoise(*args, precision="bf16"))
    with pytest.raises(RuntimeError, match="packed has shape"):
        ops.denoise(*args, packed=packed, precision="fp32")


@pytest.mark.parametrize("case", ["mlp", "wide", "odd", "everything"])  # a row of `cond` each
def test_a_row_has_the_same_bits_alone_and_in_a_batch(isa, case):
    p, solver = CASES[case]()
    p = p.to(torch.float32, requires_grad=False)
    whole = run(ops, p, solver, precision="bf16")
    p.x, p.cond = p.x[:, -1:].contiguous(), p.cond[:, -1:].contiguous()
    assert torch.equal(run(ops, p, solver, precision="bf16"), whole[:, -1:])


def test_not_a_number_and_infinity_stay(isa):
    p, _ = CASES["critic"]()
    p = p.to(torch.float32, requires_grad=False)
    p.x[0, 0, 0], p.x[0, 1, 0] = float("nan"), 1e38
    p.weights = [w.abs() for w in p.weights]
    out = run(ops, p, None, precision="bf16")
    assert out[0, 0].isnan().all()
    assert out[0, 1].isinf().all()
    assert out[0, 2:].isfinite().all()


@pytest.mark.parametrize("wrong", ["fp16", "BF16", 0, None])
def test_unknown_precisions_are_refused(wrong):
    p, solver = CASES["odd"]()
    with pytest.raises(Dom2Error, match="'fp32', 'bf16'"):
        run(ops, p.to(torch.float32), solver, precision=wrong)
