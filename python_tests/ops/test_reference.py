"""The reference ops against hand-computed cases and plain PyTorch."""

import math

import pytest
import tolerances
import torch
import torch.nn.functional as F

from dom2_fast.ops import philox, reference
from dom2_fast.ops.program import Act, ProgramBuilder


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def rand(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


RNG = torch.tensor([11, 0])


def test_one_linear_by_hand():
    b = ProgramBuilder(2, 1)
    first = b.table(1, per_step=False)
    out = b.linear(b.x, b.weight(1, 2), table=first, b=b.cond, c=b.cond, act=Act.RELU)
    program = b.build(out)
    weights = [f64([[2.0, -1.0]])[None].reshape(1, 1, 2)]
    x = f64([1.0, 3.0], [4.0, 1.0])[None]
    cond = f64([0.5], [-0.5])[None]
    table = f64(1.0).reshape(1, 1, 1)
    # relu(2 x0 - x1 + 1 + row) + row: relu(0.5) + 0.5 and relu(7.5) - 0.5
    got = reference.run_program(x, cond, weights, table, program)
    assert got.tolist() == [[[1.0], [7.0]]]


@pytest.mark.parametrize(
    ("act", "fn"),
    [
        (Act.NONE, lambda v: v),
        (Act.MISH, F.mish),
        (Act.SILU, F.silu),
        (Act.RELU, F.relu),
        (Act.GELU, F.gelu),
        (Act.GELU_TANH, lambda v: F.gelu(v, approximate="tanh")),
        (Act.TANH, torch.tanh),
        (Act.SOFTPLUS, F.softplus),
        (Act.SIGMOID, torch.sigmoid),
        (Act.LEAKY_RELU, F.leaky_relu),
        (Act.ELU, F.elu),
    ],
)
def test_activations(act, fn):
    b = ProgramBuilder(5, 0)
    program = b.build(b.activation(b.x, act))
    x = rand(2, 3, 5)
    assert torch.equal(reference.run_program(x, None, [], x.new_zeros(1, 2, 0), program), fn(x))


def test_the_other_instructions():
    b = ProgramBuilder(4, 4)
    gamma = b.table(8, per_step=False)
    joined = b.concat([b.add(b.x, b.cond), b.mul(b.x, table=gamma)])
    scale, shift = b.table(8, per_step=False), b.table(8, per_step=False)
    program = b.build(b.layer_norm(joined, 1e-3, gamma=scale, beta=shift))
    x, cond, table = rand(2, 3, 4), rand(2, 3, 4, seed=1), rand(1, 2, 24, seed=2)
    got = reference.run_program(x, cond, [], table, program)
    for g in range(2):
        t = table[0, g]
        cat = torch.cat([x[g] + cond[g], x[g] * t[:4]], -1)
        want = F.layer_norm(cat, (8,), t[8:16], t[16:24], 1e-3)
        torch.testing.assert_close(got[g], want)


def test_one_row_serves_several():
    b = ProgramBuilder(2, 2)
    program = b.build(b.add(b.x, b.cond))
    x, cond = rand(1, 6, 2), rand(1, 3, 2, seed=1)
    got = reference.run_program(x, cond, [], x.new_zeros(1, 1, 0), program)
    assert torch.equal(got[0, 4], x[0, 4] + cond[0, 2])


def test_dropout_masks_come_from_their_site_and_step():
    b = ProgramBuilder(3, 0)
    b.dropout(b.x, 0.5)
    program = b.build(b.dropout(b.x, 0.25))
    x = torch.ones(2, 4, 3, dtype=torch.float64)
    got = reference.run_program(x, None, [], x.new_zeros(1, 2, 0), program, RNG)
    keep = philox.keep_mask(RNG, philox.DROPOUT + 1, 8, 3, 0.25).reshape(2, 4, 3)
    assert torch.equal(got, keep.double() / 0.75)


def step_program():
    """eps = x w + table."""
    b = ProgramBuilder(1, 0)
    return b.build(b.linear(b.x, b.weight(1, 1), table=b.table(1, per_step=True)))


def test_denoise_by_hand():
    solver = f64(
        [2.0, 1.0, 0.5, 1.0, 0.0, 0.0, -math.inf, math.inf, 0.0],
        [1.0, 0.0, 0.0, 1.0, 2.0, 3.0, -4.0, 4.0, 7.0],
    )
    weights, table = [f64(0.5).reshape(1, 1, 1)], f64(1.0, 2.0).reshape(2, 1, 1)
    x_T, noise = f64(2.0).reshape(1, 1, 1), f64(9.0, 0.5).reshape(2, 1, 1, 1)
    # step 1: eps 2, x0 = 4 - 2 = 2, x = 1 + 2 = 3; step 2: x0 = 3, x = 3 + 2 * 2 + 3 * 0.5
    args = (x_T, None, weights, table, step_program(), solver, noise)
    assert reference.denoise(*args).item() == 8.5
    assert reference.denoise(*args, out_low=-1.0, out_high=1.0).item() == 1.0
    solver[1, 6:8] = f64(-1.0, 1.0)  # the guess 3 is clipped to 1
    assert reference.denoise(*args).item() == 6.5
    # a third step: x0 = x = 6.5, x = 2 x0 + 5 times the guess before last, 2
    solver = torch.cat([solver, f64([1.0, 0.0, 0.0, 2.0, 0.0, 0.0, -10.0, 10.0, 5.0])])
    args = (x_T, None, weights, f64(1.0, 2.0, 0.0).reshape(3, 1, 1), step_program(), solver)
    assert reference.denoise(*args, torch.cat([noise, noise[:1]])).item() == 23.0


def test_denoise_draws_what_philox_says():
    solver = f64([0.0, 0.0, 1.0, 0.0, 0.0, 1.0, -1.0, 1.0, 0.0])
    table = torch.zeros(1, 2, 1, dtype=torch.float64)
    weights = [torch.zeros(2, 1, 1, dtype=torch.float64)]
    got = reference.denoise(None, None, weights, table, step_program(), solver, batch=3, rng=RNG)
    draws = [philox.normals(RNG, s, 6, 1, dtype=torch.float64) for s in (0, 1)]
    assert torch.equal(got, (draws[0] + draws[1]).reshape(2, 3, 1))


def test_denoise_gradients():
    b = ProgramBuilder(2, 3)
    o = b.linear(b.cond, b.weight(4, 3))
    h = b.linear(b.x, b.weight(4, 2), table=b.table(4, per_step=True), b=o, act=Act.MISH)
    program = b.build(b.linear(h, b.weight(2, 4)))
    inf = math.inf
    solver = f64(
        [1.1, 0.4, 0.3, 0.7, 0.0, 0.2, -inf, inf, 0.0],
        [1.0, 0.1, 0.2, 0.9, 0.1, 0.0, -inf, inf, 0.0],
    )
    noise = rand(2, 2, 3, 2, seed=8)

    def f(x_T, cond, table, *weights):
        return reference.denoise(x_T, cond, weights, table, program, solver, noise)

    shapes = [(2, 3, 2), (2, 3, 3), (2, 2, 4), (2, 4, 3), (2, 4, 2), (2, 2, 4)]
    inputs = [rand(*s, seed=k).requires_grad_() for k, s in enumerate(shapes)]
    assert torch.autograd.gradcheck(f, inputs)


def test_alias_table_keeps_the_weights():
    weights = f64([1.0, 0.0, 5.0, 2.0], [1.0, 1.0, 1.0, 1.0])
    threshold, alias = reference.alias_table(weights)
    share = torch.zeros(2, 4, dtype=torch.float64)
    for g in range(2):
        for j in range(4):
            keep = threshold[g, j].item() / 2**32
            share[g, j] += keep / 4
            share[g, alias[g, j]] += (1 - keep) / 4
    # Thresholds are rounded down to multiples of 2^-32.
    torch.testing.assert_close(
        share, weights / weights.sum(1, keepdim=True), rtol=0.0, atol=4 * 2.0**-32
    )


def test_sample_transitions_stays_in_trajectories_and_follows_weights():
    starts = torch.tensor([0, 3, 4, 10])
    field = torch.arange(10, dtype=torch.float64)
    weights = f64([1.0, 4.0, 0.0])
    weights = weights.reshape(1, 3)
    n = 20_000
    outs, index = reference.sample_transitions(
        [field], *reference.alias_table(weights), starts, n, RNG
    )
    assert torch.equal(outs[0].long(), index)
    counts = torch.bincount(index[0], minlength=10).double()
    expected = torch.tensor([1 / 15, 1 / 15, 1 / 15, 4 / 5] + [0.0] * 6).double() * n
    assert counts[4:].sum() == 0
    chi2 = ((counts - expected) ** 2 / expected)[:4].sum().item()
    # 3 degrees of freedom: P(chi2 > 21.1) = 1e-4.
    assert tolerances.CHI2_P == 1e-4 and chi2 < 21.1


def test_sample_transitions_leaves_unequal_widths_apart():
    starts = torch.tensor([0, 4])
    fields = [torch.zeros(4, 2), torch.zeros(4, 3)]
    table = reference.alias_table(torch.ones(2, 1))
    outs, _ = reference.sample_transitions(fields, *table, starts, 5, RNG)
    assert [o.shape for o in outs[0]] == [(5, 2), (5, 3)]
