"""The losses that come with their gradients, in bf16, against the same composed of the other ops.

Both round the same operands; what differs are float32 sums, and with them now and then which way a
gradient is rounded to bf16. So the gradients as a whole differ by less than one bf16 rounding.
"""

import pytest
import torch
from loss_checks import RNG, draw
from op_problems import everything, mlp, problem, solver_table
from tolerances import LOSS_BF16

from dom2_fast import ops
from dom2_fast.ops.program import Act

pytestmark = pytest.mark.usefixtures("isa")


def compare(run, p, also):
    """`run(p, precision)` -> loss [G] in one pass; and composed, as where `also` is wanted, too."""
    found = []
    for composed in (False, True):
        for t in p.leaves:
            t.requires_grad_(False)
        wanted = [p.table, *p.weights]
        for t in wanted:
            t.requires_grad_(True)
        also.requires_grad_(composed)
        loss = run(p, "bf16")
        scale = torch.arange(1.0, 1 + len(loss))
        found.append((loss, *torch.autograd.grad(loss, wanted, scale, allow_unused=True)))
    for one, other in zip(*found, strict=True):
        if other is not None:
            assert (one - other).norm() <= LOSS_BF16 * other.norm()
    assert not torch.equal(found[0][0], run(p, "fp32"))  # bf16 it was


PROGRAMS = {"mlp": lambda: mlp(3, 5, 37), "everything": lambda: everything(3, 5, 40)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_denoising_loss(name):
    p = problem(PROGRAMS[name](), 2, 51).to(torch.float32)
    target = draw(2, 51, 3).float()
    compare(
        lambda p, precision: ops.denoising_loss(p.x, *p.net, target, RNG, precision=precision),
        p,
        target,
    )


def test_conservative_loss():
    p = problem(mlp(2, 5, 33, act=Act.RELU, out=1), 4, 17).to(torch.float32)
    cond, target = draw(2, 17, 5).float(), draw(2, 17).float()
    act, proposed = draw(2, 17, 2).float(), draw(2, 17, 10, 2, seed=2).float()
    compare(
        lambda p, precision: ops.conservative_loss(
            act,
            proposed,
            cond,
            p.weights,
            p.table,
            p.program,
            target,
            cql_weight=0.3,
            log_density=-1.4,
            precision=precision,
        )[0],
        p,
        target,
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_chain_value(name):
    p = problem(PROGRAMS[name](), 2, 51, steps=3).to(torch.float32)
    critic = problem(mlp(3, 5, 24, act=Act.RELU, out=1), 2, 51).to(torch.float32, False)
    compare(
        lambda p, precision: ops.chain_value(
            p.x,
            *p.net,
            solver_table(3),
            critic=(critic.weights, critic.table, critic.program),
            rng=RNG,
            precision=precision,
        )[0],
        p,
        p.x,
    )
