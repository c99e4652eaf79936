"""Flow matching through the same loop: the schedule, Euler's table, the loss, one step."""

import itertools

import numpy as np
import pytest
import tolerances
import torch
from policy_problems import OBS, A, B, G, generator, net, plain, policy, rand, stack
from test_solvers import run, toy_eps

import dom2_fast as d2
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend
from dom2_fast.policies import schedules, solvers
from dom2_fast.policies.frozen import load_policy

FLOW = schedules.FlowSchedule()


def test_the_schedule_is_a_straight_line():
    t = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
    alpha, sigma = FLOW.alpha_sigma(t)
    assert torch.equal(alpha + sigma, torch.ones(5, dtype=torch.float64))
    assert torch.equal(sigma, t)
    inner = t[1:-1]
    torch.testing.assert_close(FLOW.lambda_(inner), torch.log((1 - inner) / inner))
    times = FLOW.training_times((4000,), generator())
    assert times.min() >= 0.0 and times.max() < 1.0
    assert abs(times.mean() - 0.5) < tolerances.SIGMAS * (1 / 12 / 4000) ** 0.5
    assert schedules.get("flow") == FLOW == d2.FlowSchedule()


@pytest.mark.parametrize("steps", [1, 3, 5, 20])
@pytest.mark.parametrize("name", ["euler", "dpm1", "ddim"])
def test_euler_is_the_formula(name, steps):
    """x <- x - v / steps from t = 1 to 0, as Lipman et al. 2023 sample with Euler's method."""
    x = np.random.default_rng(0).normal(size=(6, 3))
    got = run(solvers.plan(name, FLOW, steps), toy_eps, x)
    for t in np.linspace(1.0, 0.0, steps + 1)[:-1]:
        x = x - toy_eps(x, t) / steps
    np.testing.assert_allclose(got, x, **tolerances.SAME_FORMULA_64)


def test_second_order_is_dpm_solver_in_the_lambda_of_the_flow():
    """Lu et al. 2023, algorithm 2, with alpha = 1 - t; both ends, where lambda is infinite, are of
    first order: the first step has no guess before it, and before the second one r is infinite."""
    steps = 6
    x = np.random.default_rng(1).normal(size=(5, 2))
    got = run(solvers.plan("dpm++2m", FLOW, steps), toy_eps, x)
    grid = np.linspace(1.0, 0.0, steps + 1)
    guesses = []
    for i, (s, t) in enumerate(itertools.pairwise(grid)):
        guesses.append(x - s * toy_eps(x, s))
        d = guesses[-1]
        if 2 <= i < steps - 1:
            lam = [np.log((1 - u) / u) for u in grid[i - 1 : i + 2]]
            r = (lam[1] - lam[0]) / (lam[2] - lam[1])
            d = d + (d - guesses[-2]) / (2 * r)
        x = t / s * x + ((1 - t) - (1 - s) * t / s) * d
    np.testing.assert_allclose(got, x, **tolerances.SAME_FORMULA_64)


@pytest.mark.parametrize("predict", ["v", "x0"])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_perfect_network_leads_to_the_action_in_any_number_of_steps(predict, steps):
    target = np.array([[0.3, -0.8]])
    perfect = {"v": lambda x, t: (x - target) / t, "x0": lambda x, t: target}
    plan = solvers.plan("euler", FLOW, steps, predict=predict)
    got = run(plan, perfect[predict], np.array([[1.2, 0.4]]))
    np.testing.assert_allclose(got, target, **tolerances.SAME_FORMULA_64)


def test_one_step_is_x_minus_v():
    """The one-step policy of FQL (Park et al. 2025) and OM2P: a = clip(eps - v(eps, 1, o))."""
    p = policy(schedule="flow", steps=1)
    obs, x_T = rand(B, OBS), rand(B, A, seed=1)
    want = (x_T - p.net(x_T, torch.ones(B, dtype=x_T.dtype), obs)).clamp(-1, 1)
    torch.testing.assert_close(p.sample(obs, x_T), want, **tolerances.SAME_FORMULA_64)


@pytest.mark.parametrize("make", [net, stack])
@pytest.mark.parametrize("solver", ["euler", "dpm++2m"])
def test_a_policy_is_the_plain_loop_with_gradients(make, solver):
    p = policy(make(), schedule="flow", solver=solver, steps=4)
    shape = (B,) if p.groups is None else (G, B)
    obs, x_T = rand(*shape, OBS).requires_grad_(), rand(*shape, A, seed=1).requires_grad_()
    got, want = p.sample(obs, x_T), plain(p, obs, x_T, None)
    torch.testing.assert_close(got, want, **tolerances.SAME_FORMULA_64)
    leaves = [obs, x_T, *p.net.parameters()]
    pair = [torch.autograd.grad(v.square().sum(), leaves) for v in (got, want)]
    for g, w in zip(*pair, strict=True):
        torch.testing.assert_close(g, w, **tolerances.SAME_FORMULA_64)


@pytest.mark.skipif(not backend.available(), reason="the compiled extension is not built")
def test_the_kernel_samples_it(tmp_path):
    p = policy(net(torch.float32, hidden=64), backend="native", schedule="flow")
    assert (p.solver, p.steps, p.predict) == ("euler", 5, "v")
    exact = policy(net(hidden=64), schedule="flow")
    exact.net.load_state_dict({k: v.double() for k, v in p.net.state_dict().items()})
    obs, x_T = rand(33, OBS, dtype=torch.float32), rand(33, A, seed=1, dtype=torch.float32)
    want = exact.sample(obs.double(), x_T.double())
    p.export(tmp_path / "p.safetensors")
    with torch.no_grad():
        for one in (p, p.frozen(), load_policy(tmp_path / "p.safetensors")):
            got = one.sample(obs, x_T)
            assert tolerances.relative_error(got, want) <= tolerances.DPM1_32


@pytest.mark.parametrize("predict", ["v", "x0"])
def test_the_loss_is_the_formula(predict):
    p = policy(stack(), schedule="flow", predict=predict)
    obs, act = rand(G, B, OBS), rand(G, B, A, seed=1).clamp(-1, 1)
    g = generator(2)
    t = torch.rand((G, B), generator=g, dtype=torch.float64)
    eps = torch.randn((G, B, A), generator=g, dtype=torch.float64)
    x = (1 - t)[..., None] * act + t[..., None] * eps
    out = p.net(x, t, obs)
    want = (out - (eps - act if predict == "v" else act)).square().mean()
    torch.testing.assert_close(p.bc_loss(obs, act, generator(2)), want)
    loss, x0 = p.bc_terms(obs, act, generator(2))
    torch.testing.assert_close(loss, want)
    guess = x - t[..., None] * out if predict == "v" else out
    torch.testing.assert_close(x0, guess.clamp(-1, 1))


def test_training_finds_two_actions():
    """Of actions that are 0.6 or -0.6, samples are near one of them, in twenty steps."""
    torch.manual_seed(0)
    n = d2.networks.MLPNoiseNet(1, 1, hidden=32, time_scale=100.0)
    p = d2.DiffusionPolicy(n, "flow", steps=20)
    optimiser = torch.optim.Adam(p.parameters(), lr=1e-2)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=600)
    for _ in range(600):
        optimiser.zero_grad()
        act = 0.6 * torch.randint(2, (256, 1)).mul(2).sub(1.0)
        p.bc_loss(torch.zeros(256, 1), act).backward()
        optimiser.step()
        decay.step()
    with torch.no_grad():
        act = p.sample(torch.zeros(1000, 1))
    near = ((act.abs() - 0.6).abs() < 0.2).float().mean()
    assert near > 0.9 and abs(act.sign().mean()) < 0.2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: solvers.plan("ddpm", FLOW, 5), "draws noise, a flow has none: choose euler"),
        (
            lambda: solvers.plan("euler", schedules.VPSchedule(), 5),
            "'euler' is for schedule 'flow'",
        ),
        (lambda: solvers.plan("euler", FLOW, 5, predict="eps"), "'v' or 'x0' here, got 'eps'"),
        (lambda: policy(schedule="flow", predict="eps"), "'v' or 'x0' here, got 'eps'"),
        (lambda: schedules.get("flows"), "unknown schedule 'flows'.*'flow'"),
        (lambda: d2.accelerate(net(), schedule="flow"), "'v' or 'x0' here, got 'eps'"),
        (lambda: d2.BCConfig(schedule="vp"), "must be one of vp-continuous, flow, not 'vp'"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(Dom2Error, match=message):
        make()


def test_accelerate_takes_a_velocity():
    n = net(torch.float32)
    fast = d2.accelerate(n, schedule="flow", predict="v", steps=3)
    own = d2.DiffusionPolicy(n, "flow", steps=3)
    obs, x_T = rand(B, OBS, dtype=torch.float32), rand(B, A, dtype=torch.float32)
    assert torch.equal(fast.sample(obs, x_T), own.sample(obs, x_T))


@pytest.mark.parametrize("name", ["bc", "dom2", "diffusion_ql"])
def test_algorithms_train_on_it(name):
    from small_data import dataset

    kind = d2.algos.algorithm(name)
    solver = {} if name != "diffusion_ql" else {"solver": "euler"}
    c = kind.config_class(
        schedule="flow", hidden=8, batch_size=4, weights="uniform", backend="reference", **solver
    )
    agents = kind(c, dataset())
    assert agents.policy.schedule == FLOW
    assert all(np.isfinite(v.item()) for v in agents.update().values())
