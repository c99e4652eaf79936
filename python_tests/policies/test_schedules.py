"""Schedules against their formulas, written out again here."""

import math

import numpy as np
import pytest
import tolerances
import torch

from dom2_fast.errors import Dom2Error
from dom2_fast.policies import schedules


def test_continuous_vp_is_the_closed_form():
    t = torch.linspace(1e-5, 1.0, 7, dtype=torch.float64)
    alpha, sigma = schedules.VPSchedule().alpha_sigma(t)
    want = np.exp(-(20.0 - 0.1) / 4.0 * t.numpy() ** 2 - 0.1 / 2.0 * t.numpy())
    np.testing.assert_allclose(alpha.numpy(), want, **tolerances.SAME_FORMULA_64)
    np.testing.assert_allclose(sigma.numpy() ** 2, 1.0 - want**2, **tolerances.SAME_FORMULA_64)


def test_continuous_lambda_is_half_the_log_signal_to_noise_ratio():
    t = torch.tensor([1e-3, 0.3, 1.0], dtype=torch.float64)
    schedule = schedules.VPSchedule()
    alpha, sigma = schedule.alpha_sigma(t)
    torch.testing.assert_close(schedule.lambda_(t), torch.log(alpha / sigma))


def test_sigma_keeps_its_digits_in_float32_near_zero():
    t = torch.tensor([1e-5])
    _, sigma = schedules.VPSchedule().alpha_sigma(t)
    _, exact = schedules.VPSchedule().alpha_sigma(t.double())
    torch.testing.assert_close(sigma.double(), exact, rtol=8 * tolerances.EPS32, atol=0.0)


def test_vp_is_diffusion_ql():
    k = 5
    t = np.arange(1, k + 1)
    want = 1.0 - np.exp(-0.1 / k - 0.5 * (10.0 - 0.1) * (2 * t - 1) / k**2)
    np.testing.assert_allclose(schedules.vp(k).betas.numpy(), want, **tolerances.SAME_FORMULA_64)


def test_linear_with_ends_is_a_linspace():
    betas = schedules.linear(7, 1e-4, 2e-2).betas.numpy()
    np.testing.assert_allclose(betas, np.linspace(1e-4, 2e-2, 7), **tolerances.SAME_FORMULA_64)


def test_linear_at_1000_steps_is_ddpm_within_a_percent():
    betas = schedules.linear(1000).betas.numpy()
    np.testing.assert_allclose(betas, np.linspace(1e-4, 2e-2, 1000), rtol=0.0101)


@pytest.mark.parametrize("k", [1, 2, 5, 20, 50, 1000])
def test_linear_destroys_as_much_at_every_length(k):
    # The rates of DDPM sum to 10.05 over the whole chain.
    log = math.log(schedules.linear(k).alphas_cumprod[-1].item())
    assert log == pytest.approx(-10.05, rel=1e-12)


def test_cosine_follows_its_curve_until_the_clip():
    k, s = 10, 0.008
    curve = [math.cos((i / k + s) / (1 + s) * math.pi / 2) ** 2 for i in range(k + 1)]
    schedule = schedules.cosine(k)
    want = np.array(curve[1:k]) / curve[0]
    np.testing.assert_allclose(
        schedule.alphas_cumprod[:-1].numpy(), want, **tolerances.SAME_FORMULA_64
    )
    assert schedule.betas[-1].item() == 0.999


@pytest.mark.parametrize("make", [schedules.vp, schedules.linear, schedules.cosine])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 10, 19, 20, 100])
def test_every_length_is_valid(make, k):
    schedule = make(k)
    alpha, sigma = schedule.alpha_sigma(torch.arange(k, dtype=torch.float64))
    assert schedule.num_steps == k and not schedule.continuous
    assert ((schedule.betas > 0) & (schedule.betas < 1)).all()
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(k, dtype=torch.float64))
    assert (alpha[1:] < alpha[:-1]).all() and (alpha > 0).all()


def test_training_times():
    g = torch.Generator().manual_seed(0)
    t = schedules.VPSchedule().training_times((3, 1000), g)
    assert t.shape == (3, 1000) and t.min() >= 1e-5 and t.max() <= 1.0
    i = schedules.vp(5).training_times((3, 1000), g)
    assert set(i.unique().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    # 3,000 uniform draws of five: each count within 5 standard deviations of 600.
    assert (torch.bincount(i.long().flatten()) - 600).abs().max() < 5 * math.sqrt(3000 * 0.2 * 0.8)


def test_training_times_repeat_with_the_generator():
    draws = [
        schedules.vp(9).training_times((4,), torch.Generator().manual_seed(3)) for _ in range(2)
    ]
    assert torch.equal(*draws)


def test_get():
    given = schedules.cosine(3)
    assert schedules.get(given) is given
    assert schedules.get("vp", 7).num_steps == 7
    assert schedules.get("vp-continuous").continuous
    with pytest.raises(Dom2Error, match=r"unknown schedule 'sigmoid'.*cosine"):
        schedules.get("sigmoid")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.vp(0), "1 step or more"),
        (lambda: schedules.cosine(2.5), "1 step or more"),
        (lambda: schedules.linear(5, 0.1, 1.5), "strictly between 0 and 1"),
        (lambda: schedules.linear(5, 0.1), "both beta_start and beta_end"),
        (lambda: schedules.DiscreteSchedule([[0.1]]), "a list of one number or more"),
        (lambda: schedules.DiscreteSchedule([0.1, float("nan")]), "strictly between"),
        (lambda: schedules.VPSchedule(2.0, 1.0), "beta_min <= beta_max"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(Dom2Error, match=message):
        make()
