"""Solver tables against the published updates, each written out independently."""

import itertools
import math

import numpy as np
import pytest
import tolerances
import torch

from dom2_fast.errors import Dom2Error
from dom2_fast.policies import schedules, solvers

VP = schedules.VPSchedule()
SCHEDULES = {
    "vp-continuous": lambda k: VP,
    "vp": schedules.vp,
    "linear": schedules.linear,
    "cosine": schedules.cosine,
}
DIFFUSION = [name for name in solvers.NAMES if name != "euler"]


def run(plan, eps, x, noise=None):
    """The loop over the table, in numpy; eps(x, time) -> noise."""
    previous = np.zeros_like(x)
    for s, row in enumerate(plan.table.numpy()):
        x0 = np.clip(row[0] * x - row[1] * eps(x, plan.times[s].item()), row[6], row[7])
        z = 0.0 if noise is None else noise[s]
        x, previous = row[2] * x + row[3] * x0 + row[4] * previous + row[5] * z, x0
    return x


def toy_eps(x, t):
    return np.tanh(1.3 * x + 0.2) * np.cos(t)


def alpha_sigma(t):
    log_alpha = -(20.0 - 0.1) / 4.0 * t**2 - 0.1 / 2.0 * t
    return math.exp(log_alpha), math.sqrt(1.0 - math.exp(2.0 * log_alpha))


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(6, 3))


@pytest.mark.parametrize("steps", [1, 3, 5, 10, 20])
def test_dpm1_is_the_closed_formula(steps, x):
    got = run(solvers.plan("dpm1", VP, steps), toy_eps, x)
    grid = np.linspace(1.0, 1e-3, steps + 1)
    for s, t in itertools.pairwise(grid):
        (a_s, v_s), (a_t, v_t) = alpha_sigma(s), alpha_sigma(t)
        h = math.log(a_t / v_t) - math.log(a_s / v_s)
        x = a_t / a_s * x - v_t * math.expm1(h) * toy_eps(x, s)
    np.testing.assert_allclose(got, x, **tolerances.SAME_FORMULA_64)


@pytest.mark.parametrize("steps", [1, 2, 5, 14, 15, 20])
def test_dpmpp_2m_is_the_published_algorithm(steps, x):
    """Lu et al. 2023, algorithm 2, in its own variables (lambda, h, r)."""
    got = run(solvers.plan("dpm++2m", VP, steps), toy_eps, x)
    grid = np.linspace(1.0, 1e-3, steps + 1)
    lam = [math.log(a / v) for a, v in map(alpha_sigma, grid)]
    guesses = []
    for i in range(1, steps + 1):
        (a_s, v_s), (a_t, v_t) = alpha_sigma(grid[i - 1]), alpha_sigma(grid[i])
        guesses.append((x - v_s * toy_eps(x, grid[i - 1])) / a_s)
        h = lam[i] - lam[i - 1]
        if i == 1 or (i == steps and steps < 15):
            d = guesses[-1]
        else:
            r = (lam[i - 1] - lam[i - 2]) / h
            d = (1 + 1 / (2 * r)) * guesses[-1] - 1 / (2 * r) * guesses[-2]
        x = v_t / v_s * x - a_t * math.expm1(-h) * d
    np.testing.assert_allclose(got, x, **tolerances.SAME_FORMULA_64)


@pytest.mark.parametrize("name", ["vp", "linear", "cosine"])
def test_ddpm_is_diffusion_ql(name, x):
    """Diffusion-QL's p_sample_loop with its own buffers, given the same noise."""
    k = 5
    schedule = SCHEDULES[name](k)
    noise = np.random.default_rng(1).normal(size=(k, *x.shape))
    got = run(solvers.plan("ddpm", schedule, k, x0_low=-1.0, x0_high=1.0), toy_eps, x, noise)

    betas = schedule.betas.numpy()
    alphas = 1.0 - betas
    cumprod = np.cumprod(alphas)
    previous = np.append(1.0, cumprod[:-1])
    variance = betas * (1.0 - previous) / (1.0 - cumprod)
    log_variance = np.log(np.clip(variance, 1e-20, None))
    coef1 = betas * np.sqrt(previous) / (1.0 - cumprod)
    coef2 = (1.0 - previous) * np.sqrt(alphas) / (1.0 - cumprod)
    for i in reversed(range(k)):
        eps = toy_eps(x, float(i))
        x0 = np.sqrt(1.0 / cumprod[i]) * x - np.sqrt(1.0 / cumprod[i] - 1.0) * eps
        mean = coef1[i] * np.clip(x0, -1.0, 1.0) + coef2[i] * x
        x = mean + (i > 0) * np.exp(0.5 * log_variance[i]) * noise[k - 1 - i]
    np.testing.assert_allclose(got, x, **tolerances.SAME_FORMULA_64)


def test_ddim_is_the_published_update(x):
    """Song et al. 2021, eq. 12 with sigma = 0, on every second of ten steps."""
    schedule = schedules.cosine(10)
    plan = solvers.plan("ddim", schedule, 4)
    assert plan.times.tolist() == [9.0, 6.0, 3.0, 0.0]
    got = run(plan, toy_eps, x)
    cumprod = schedule.alphas_cumprod.numpy()
    for i, j in [(9, 6), (6, 3), (3, 0), (0, None)]:
        eps = toy_eps(x, float(i))
        now, then = cumprod[i], 1.0 if j is None else cumprod[j]
        x = np.sqrt(then) * (x - np.sqrt(1 - now) * eps) / np.sqrt(now) + np.sqrt(1 - then) * eps
    np.testing.assert_allclose(got, x, **tolerances.SAME_FORMULA_64)


def test_ancestral_variance_of_the_continuous_schedule():
    """One step's mean and variance are the posterior q(x_t | x_s, x0) of two joint Gaussians."""
    plan = solvers.plan("ddpm", VP, 4)
    (a_s, v_s), (a_t, v_t) = alpha_sigma(1.0), alpha_sigma(0.75025)
    _, _, c_x, c_x0, _, c_noise, *_ = plan.table[0].tolist()
    ratio = a_s / a_t
    gain = ratio * v_t**2 / v_s**2  # covariance(x_t, x_s) / variance(x_s)
    assert c_x == pytest.approx(gain, rel=1e-10)
    assert c_x0 == pytest.approx(a_t - gain * a_s, rel=1e-10)
    assert c_noise**2 == pytest.approx(v_t**2 - gain * ratio * v_t**2, rel=1e-10)
    assert plan.table[-1, 5] == 0.0


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", DIFFUSION)
@pytest.mark.parametrize("predict", ["eps", "x0"])
def test_all_finite_from_1_to_20_steps(schedule, name, predict, x):
    def net(x, t):
        return toy_eps(x, t)

    for steps in range(1, 21):
        for k in {steps, 20, 1000}:
            plan = solvers.plan(
                name, SCHEDULES[schedule](k), steps, predict=predict, x0_low=-1.0, x0_high=1.0
            )
            assert plan.steps == steps and plan.times.shape == (steps,)
            assert len(set(plan.times.tolist())) == steps
            assert torch.isfinite(plan.table).all(), (steps, k)
            noise = np.random.default_rng(2).normal(size=(steps, *x.shape))
            assert np.isfinite(run(plan, net, x, noise)).all(), (steps, k)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", DIFFUSION)
def test_a_perfect_network_leads_to_the_action(schedule, name):
    """Data at one point a: eps(x, t) = (x - alpha a) / sigma. Deterministic solvers must end at a
    (the continuous ones at alpha(1e-3) a plus what noise is left there)."""
    target = np.array([[0.3, -0.8]])
    chosen = SCHEDULES[schedule](20)

    def eps(x, t):
        alpha, sigma = (float(v) for v in chosen.alpha_sigma(torch.tensor(t).double()))
        return (x - alpha * target) / sigma

    noise = np.random.default_rng(3).normal(size=(20, 1, 2))
    x = np.random.default_rng(4).normal(size=(1, 2))
    got = run(solvers.plan(name, chosen, 20), eps, x, noise)
    left = alpha_sigma(1e-3)[1] if chosen.continuous else 0.0
    np.testing.assert_allclose(got, target, atol=4.0 * left + 1e-9)


def test_predicting_x0_reads_the_guess_from_the_network(x):
    """A network that returns the action that toy_eps implies gives the same path."""

    def as_x0(x, t):
        alpha, sigma = alpha_sigma(t)
        return (x - sigma * toy_eps(x, t)) / alpha

    eps_path = run(solvers.plan("dpm1", VP, 5), toy_eps, x)
    x0_path = run(solvers.plan("dpm1", VP, 5, predict="x0"), as_x0, x)
    np.testing.assert_allclose(x0_path, eps_path, **tolerances.SAME_FORMULA_64)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("ode_dpmsolver_1", "dpm1"), ("ode_dpmsolver++_2M", "dpm++2m"), ("DDPM", "ddpm")],
)
def test_aliases(alias, name):
    assert solvers.canonical(alias) == name
    assert torch.equal(solvers.plan(alias, VP, 3).table, solvers.plan(name, VP, 3).table)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("heun", VP, 5), "unknown solver 'heun'.*ddpm.*dpm1.*ode_dpmsolver_1"),
        ((None, VP, 5), "unknown solver None"),
        (("dpm1", VP, 0), "from 1 to 1000, got 0"),
        (("dpm1", VP, 2.0), "whole number"),
        (("dpm1", VP, True), "whole number"),
        (("dpm1", schedules.vp(5), 6), "6 steps asked of a schedule that has 5"),
    ],
)
def test_bad_settings(args, message):
    with pytest.raises(Dom2Error, match=message):
        solvers.plan(*args)


def test_bad_prediction():
    with pytest.raises(Dom2Error, match="'eps' or 'x0'"):
        solvers.plan("dpm1", VP, 5, predict="v")
