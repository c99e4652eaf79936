"""`sample(obs, x_T=action, start=k)`: the last steps, from an action noised to their level."""

import copy
import itertools
import pickle

import pytest
import tolerances
import torch
from policy_problems import OBS, A, B, G, generator, net, policy, rand, stack

from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend
from dom2_fast.policies import solvers


def by_hand(p, obs, act, start, g, noise=None):
    """The last steps written out, of solvers without memory."""
    times, alpha, sigma = solvers.grid(p.schedule, p.steps)
    eps = torch.randn(act.shape, generator=g, dtype=act.dtype)
    x = alpha[start] * act + sigma[start] * eps
    full = p._plan.table
    for k in range(start, p.steps):
        out = p.net(x, times[k].expand(act.shape[:-1]), obs)
        x0 = (full[k, 0] * x - full[k, 1] * out).clamp(full[k, 6].item(), full[k, 7].item())
        x = full[k, 2] * x + full[k, 3] * x0
        if noise is not None:
            x = x + full[k, 5] * noise[k - start]
    return x.clamp(-1.0, 1.0)


@pytest.mark.parametrize("start", [0, 2, 4])
@pytest.mark.parametrize("schedule", ["vp-continuous", "flow", "cosine"])
@pytest.mark.parametrize("make", [net, stack])
def test_it_is_the_last_steps_from_the_noised_action(make, schedule, start):
    p = policy(make(), schedule=schedule, solver="dpm1", steps=5)
    shape = (B,) if p.groups is None else (G, B)
    obs, act = rand(*shape, OBS), rand(*shape, A, seed=1).clamp(-1, 1)
    got = p.sample(obs, act, generator=generator(3), start=start)
    want = by_hand(p, obs, act, start, generator(3))
    torch.testing.assert_close(got, want, **tolerances.SAME_FORMULA_64)
    assert p.steps == p._plan.steps == 5


def test_the_steps_noise_is_that_of_the_steps_taken():
    p = policy(schedule="vp", solver="ddpm", steps=5)
    obs, act, noise = rand(B, OBS), rand(B, A, seed=1), rand(3, B, A, seed=2)
    got = p.sample(obs, act, noise, generator(3), start=2)
    want = by_hand(p, obs, act, 2, generator(3), noise)
    torch.testing.assert_close(got, want, **tolerances.SAME_FORMULA_64)


def test_a_solver_with_memory_starts_with_its_first_order():
    """Row 0 has no guess before it: the coefficient of one must be zero wherever it starts."""
    for start, steps in itertools.product(range(6), (6, 20)):
        p = policy(solver="dpm++2m", steps=steps)
        tail = p._tail(start)[0]._plan
        assert tail.table[0, 4] == 0.0 and tail.steps == steps - start
        assert torch.equal(tail.times, p._plan.times[start:])


@pytest.mark.skipif(not backend.available(), reason="the compiled extension is not built")
@pytest.mark.parametrize("rows", [1, 50])
def test_the_kernel_follows_parameters_and_settings(rows):
    p = policy(net(torch.float32), backend="native", steps=5)
    obs, act = rand(rows, OBS, dtype=torch.float32), rand(rows, A, dtype=torch.float32)

    def check(steps):
        plain = policy(copy.deepcopy(p.net), steps=steps)
        with torch.no_grad():
            for _ in range(3):  # the third call is one of a kept, packed policy
                got = p.sample(obs, act, generator=generator(), start=3)
        want = plain.sample(obs, act, generator=generator(), start=3)
        assert tolerances.relative_error(got, want) <= tolerances.DPM1_32

    check(5)
    with torch.no_grad():
        for q in p.net.parameters():
            q.mul_(1.1)
    check(5)
    p.set_solver(steps=7)
    check(7)
    assert p.sample(obs, act, start=6).shape == (rows, A)
    other = pickle.loads(pickle.dumps(p))
    same = [q.sample(obs, act, generator=generator(), start=3) for q in (p, other)]
    assert torch.equal(*same)


def test_gradients_reach_action_and_parameters():
    p = policy(net(hidden=6, depth=2), steps=4, act_low=-1e3, act_high=1e3)
    obs, act = rand(2, OBS).requires_grad_(), rand(2, A).requires_grad_()
    f = lambda obs, act: p.sample(obs, act, generator=generator(), start=2)  # noqa: E731
    assert torch.autograd.gradcheck(f, (obs, act))
    f(obs, act).sum().backward()
    assert all(q.grad is not None for q in p.net.parameters())


@pytest.mark.parametrize(
    ("start", "act", "message"),
    [
        (5, True, "from 0 .all of them. to 4 .the last alone., got 5"),
        (-1, True, "got -1"),
        (1.0, True, "got 1.0"),
        (2, False, "needs x_T, the action to start from"),
    ],
)
def test_bad_starts(start, act, message):
    p = policy(steps=5)
    with pytest.raises(Dom2Error, match=message):
        p.sample(rand(B, OBS), rand(B, A) if act else None, start=start)


def test_a_table_made_elsewhere_is_refused():
    plan = solvers.plan("dpm1", policy().schedule, 3)
    foreign = solvers.SolverPlan("someone's", plan.table, plan.times, 3, False)
    with pytest.raises(Dom2Error, match=r"someone's.*can't begin in the middle.*set_solver"):
        policy(solver=foreign).sample(rand(B, OBS), rand(B, A), start=1)
    with pytest.raises(Dom2Error, match=r"x_T has shape \[1, 2\]; \[4, 2\] is needed"):
        policy().sample(rand(B, OBS), rand(1, A), start=1)
