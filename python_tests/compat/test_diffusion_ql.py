"""The drop-in Diffusion against the formulas of Ho et al. 2020, and against independent loops."""

import copy
import math

import numpy as np
import pytest
import tolerances
import torch
from foreign import OBS, A, QLNet, QLPolicy, rand

from dom2_fast.compat.diffusion_ql import Diffusion
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend

F64 = torch.float64
BUFFERS = [
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
]


def made(schedule="vp", n=5, dtype=torch.float32, **kwargs):
    torch.manual_seed(0)
    kwargs = {"max_action": 1.0, **kwargs}
    return Diffusion(OBS, A, QLNet(), beta_schedule=schedule, n_timesteps=n, **kwargs).to(dtype)


def numbers(schedule, n):
    """The published schedules, one number at a time."""
    if schedule == "linear":
        return [1e-4 + (2e-2 - 1e-4) * i / (n - 1) for i in range(n)]
    if schedule == "vp":
        return [1 - math.exp(-0.1 / n - 4.95 * (2 * i + 1) / n**2) for i in range(n)]

    def f(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - f((i + 1) / n) / f(i / n), 0.999) for i in range(n)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "vp"])
@pytest.mark.parametrize("n", [5, 20, 100])
def test_buffers_are_the_published_numbers(schedule, n):
    d = made(schedule, n)
    b = np.array(numbers(schedule, n))
    bar = np.cumprod(1 - b)
    before = np.append(1.0, bar[:-1])
    variance = b * (1 - before) / (1 - bar)
    want = {
        "betas": b,
        "alphas_cumprod": bar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": bar**0.5,
        "sqrt_one_minus_alphas_cumprod": (1 - bar) ** 0.5,
        "log_one_minus_alphas_cumprod": np.log(1 - bar),
        "sqrt_recip_alphas_cumprod": (1 / bar) ** 0.5,
        "sqrt_recipm1_alphas_cumprod": (1 / bar - 1) ** 0.5,
        "posterior_variance": variance,
        "posterior_mean_coef1": b * before**0.5 / (1 - bar),
        "posterior_mean_coef2": (1 - before) * (1 - b) ** 0.5 / (1 - bar),
    }
    assert [name for name, _ in d.named_buffers() if "." not in name] == BUFFERS
    for name, value in want.items():
        np.testing.assert_allclose(
            getattr(d, name).numpy(), value, **tolerances.DISCRETE_BUFFER_32, err_msg=name
        )
    got = d.posterior_log_variance_clipped
    assert got[0] == pytest.approx(math.log(1e-20))
    torch.testing.assert_close(got[1:], d.posterior_variance[1:].log())


def test_state_dict_keys_are_the_originals():
    keys = [f"model.{n}" for n in QLNet().state_dict()]
    assert sorted(made().state_dict()) == sorted([*BUFFERS, *keys])


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("predict_epsilon", [True, False])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_samples_and_gradients_are_those_of_the_plain_loop(clip, predict_epsilon, dtype):
    if dtype == torch.float32 and not backend.available():
        pytest.skip("the extension is not built")
    bound = 0.7 if clip else 30.0  # unclipped guesses of an untrained network are large
    d = made("vp", 6, dtype, max_action=bound, clip_denoised=clip, predict_epsilon=predict_epsilon)
    d._backend = "native" if dtype == torch.float32 else "reference"
    exact = QLPolicy(QLNet(), d.betas.double(), bound, clip, predict_epsilon).double()
    exact.load_state_dict(d.state_dict(), strict=False)
    state, x_T, noise = rand(9, OBS), rand(9, A, seed=1), rand(6, 9, A, seed=2)
    got = d.sample(state.to(dtype), x_T=x_T.to(dtype), noise=noise.to(dtype))
    state, x_T, noise = (v.to(dtype).double() for v in (state, x_T, noise))
    want = exact.walk(state, x_T, noise)[0].clamp(-bound, bound)
    limit = tolerances.ACCELERATED_32 if dtype == torch.float32 else 1e5 * tolerances.EPS64
    assert tolerances.relative_error(got, want) <= limit
    got.square().sum().backward()
    want.square().sum().backward()
    for p, q in zip(d.parameters(), exact.parameters(), strict=True):
        assert q.grad.norm() > 0 and tolerances.relative_error(p.grad, q.grad) <= limit


def test_the_pieces_are_the_formulas():
    d = made(dtype=F64, max_action=0.5)
    x, z, state = rand(5, A), rand(5, A, seed=1), rand(5, OBS, seed=2)
    t = torch.tensor([0, 1, 2, 3, 4])
    bar = d.alphas_cumprod[t][:, None]
    noisy = d.q_sample(x, t, z)
    torch.testing.assert_close(noisy, bar.sqrt() * x + (1 - bar).sqrt() * z)
    back = d.predict_start_from_noise(noisy, t, z)
    torch.testing.assert_close(back, x, **tolerances.DISCRETE_BUFFER_32)
    mean, variance, log_variance = d.q_posterior(x, noisy, t)
    b, before = d.betas[t][:, None], d.alphas_cumprod_prev[t][:, None]
    by_hand = b * before.sqrt() * x + (1 - before) * (1 - b).sqrt() * noisy
    torch.testing.assert_close(mean, by_hand / (1 - bar))
    assert variance.shape == (5, 1) and variance[0] == 0.0
    torch.testing.assert_close(log_variance[1:].exp(), variance[1:])
    x0 = d.predict_start_from_noise(noisy, t, d.model(noisy, t, state)).clamp(-0.5, 0.5)
    torch.testing.assert_close(
        d.p_mean_variance(noisy, t, state)[0], d.q_posterior(x0, noisy, t)[0]
    )
    torch.manual_seed(0)
    one = d.p_sample(noisy, t, state)
    torch.manual_seed(0)
    steps = log_variance.mul(0.5).exp() * torch.randn_like(noisy)
    steps[0] = 0.0
    torch.testing.assert_close(one, d.p_mean_variance(noisy, t, state)[0] + steps)


@pytest.mark.parametrize("loss_type", ["l1", "l2"])
def test_losses(loss_type):
    d = made(dtype=F64, loss_type=loss_type)
    d._backend = "reference"
    x, state, weights = rand(8, A).tanh(), rand(8, OBS, seed=1), rand(8, 1, seed=2).exp()
    t = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    torch.manual_seed(3)
    got = d.p_losses(x, state, t, weights)
    torch.manual_seed(3)
    z = torch.randn_like(x)
    error = d.model(d.q_sample(x, t, z), t, state) - z
    error = error.abs() if loss_type == "l1" else error.square()
    torch.testing.assert_close(got, (error * weights).mean())
    torch.manual_seed(4)
    got = d.loss(x, state)
    torch.manual_seed(4)
    torch.testing.assert_close(got, d.p_losses(x, state, torch.randint(0, 5, (8,))))


def test_the_path_is_that_of_the_steps():
    d = made(max_action=0.3)
    state = rand(4, OBS, dtype=torch.float32)
    x, path = d.p_sample_loop(state, (4, A), return_diffusion=True, verbose=True)
    assert path.shape == (4, 6, A) and torch.equal(path[:, -1], x)
    with pytest.raises(Dom2Error) as error:
        d.sample(state, return_diffusion=True, x_T=path[:, 0])
    assert str(error.value) == (
        "x_T, noise and generator can't be given with return_diffusion=True, or a network that "
        "isn't lowered"
    )
    assert d.sample(state, return_diffusion=True)[0].abs().max() <= 0.3


def test_a_network_that_cannot_be_lowered_runs_step_by_step():
    class Odd(QLNet):
        def forward(self, x, time, state):
            return super().forward(x, time, state).softmax(-1)

    torch.manual_seed(0)
    d = Diffusion(OBS, A, Odd(), 1.0, "vp", 5)
    state = rand(4, OBS, dtype=torch.float32)
    with pytest.warns(RuntimeWarning, match="Odd runs step by step in PyTorch"):
        got = d.sample(state)
    assert got.shape == (4, A)
    torch.manual_seed(1)
    a = d.sample(state)
    torch.manual_seed(1)
    assert torch.equal(a, d.p_sample_loop(state, (4, A)).clamp(-1, 1))
    assert d.loss(got, state).requires_grad


def test_training_as_in_diffusion_ql():
    """A behaviour-cloning loss and a step through the sampler; both must go down."""
    torch.manual_seed(0)
    d = Diffusion(OBS, A, QLNet(), 1.0, "vp", 5)
    optimiser = torch.optim.Adam(d.parameters(), lr=1e-2)
    state = rand(256, OBS, dtype=torch.float32)
    history = []
    for _ in range(60):
        loss = d.loss(torch.tanh(state[:, :A]), state) + d(state).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert np.mean(history[-10:]) < 0.8 * np.mean(history[:10])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"schedule": "quadratic"},
            "beta_schedule is one of ['linear', 'cosine', 'vp'], got 'quadratic'",
        ),
        ({"loss_type": "huber"}, "loss_type is one of ['l1', 'l2'], got 'huber'"),
        ({"n": 0}, "n_timesteps is a whole number of 1 or more, got 0"),
        ({"n": 2.5}, "n_timesteps is a whole number of 1 or more, got 2.5"),
    ],
)
def test_bad_settings(kwargs, message):
    with pytest.raises(Dom2Error) as error:
        made(**kwargs)
    assert str(error.value) == message


def test_an_ema_copy_stands_alone():
    d = made()
    other = copy.deepcopy(d)
    state, x_T = rand(3, OBS, dtype=torch.float32), rand(3, A, seed=1, dtype=torch.float32)
    noise = torch.zeros(5, 3, A)
    want = d.sample(state, x_T=x_T, noise=noise)
    assert torch.equal(other.sample(state, x_T=x_T, noise=noise), want)
    for p in other.parameters():
        p.data = p.data * 0.5
    assert not torch.equal(other.sample(state, x_T=x_T, noise=noise), want)
    assert torch.equal(d.sample(state, x_T=x_T, noise=noise), want)
