"""The drop-in solver and schedule against independent formulas and loops."""

import numpy as np
import pytest
import tolerances
import torch
from foreign import OBS, A, LinearVP, PlainSolver, QLNet, StepsVP, rand, wrap

from dom2_fast.compat.dpm_solver import DPM_Solver, NoiseScheduleVP, model_wrapper
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend

F64 = torch.float64
BETAS = np.linspace(1e-3, 0.2, 30)


def schedules(kind):
    """Ours and an independent one."""
    if kind == "linear":
        return NoiseScheduleVP("linear"), LinearVP()
    return NoiseScheduleVP("discrete", betas=torch.from_numpy(BETAS), dtype=F64), StepsVP(BETAS)


def close(got, want):
    torch.testing.assert_close(got, want, **tolerances.SAME_FORMULA_64)


@pytest.mark.parametrize("kind", ["linear", "discrete"])
def test_the_schedule(kind):
    ours, plain = schedules(kind)
    t = torch.linspace(1.0 / ours.total_N, 1.0, 50, dtype=F64)
    log_alpha = plain.marginal_log_mean_coeff(t)
    close(ours.marginal_log_mean_coeff(t), log_alpha)
    close(ours.marginal_alpha(t), log_alpha.exp())
    close(ours.marginal_std(t), (1 - (2 * log_alpha).exp()).sqrt())
    close(ours.marginal_lambda(t), (ours.marginal_alpha(t) / ours.marginal_std(t)).log())
    close(ours.inverse_lambda(ours.marginal_lambda(t)), t)
    assert ours.T == 1.0 and ours.total_N == (1000 if kind == "linear" else 30)


def test_discrete_schedules_go_on_outside_and_drop_what_is_too_noisy():
    ours, _ = schedules("discrete")
    assert ours.log_alpha_array.shape == ours.t_array.shape == (1, 30)
    first, second = ours.log_alpha_array[0, :2].tolist()
    below = ours.marginal_log_mean_coeff(torch.tensor([0.0], dtype=F64))
    assert below.item() == pytest.approx(2 * first - second)
    again = NoiseScheduleVP(
        "discrete", alphas_cumprod=torch.exp(2 * ours.log_alpha_array[0]), dtype=F64
    )
    close(again.log_alpha_array, ours.log_alpha_array)
    noisy = NoiseScheduleVP("discrete", betas=torch.full((30,), 0.5, dtype=F64))
    # lambda of n halvings is -log(2^n - 1) / 2: above -5.1 up to n = 14.
    assert noisy.total_N == 14 and noisy.t_array.dtype == torch.float32


@pytest.mark.parametrize("kind", ["linear", "discrete"])
@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 6},
        {"steps": 11, "skip_type": "logSNR", "solver_type": "taylor"},
        {"steps": 7, "method": "singlestep", "denoise_to_zero": True},
        {"steps": 8, "method": "singlestep_fixed", "skip_type": "time_quadratic"},
        {"steps": 5, "order": 1, "t_start": 0.8, "t_end": 0.1},
    ],
    ids=repr,
)
@pytest.mark.parametrize("model_type", ["noise", "x_start", "v", "score"])
def test_samples_are_those_of_the_plain_solver(kind, algorithm, settings, model_type):
    ours, plain = schedules(kind)
    torch.manual_seed(0)
    net = QLNet().double()
    x, obs = rand(7, A), rand(7, OBS, seed=1)
    kwargs = {"model_type": model_type, "model_kwargs": {"state": obs}}
    fast = DPM_Solver(model_wrapper(net, ours, **kwargs), ours, algorithm, backend="reference")
    want = PlainSolver(wrap(net, plain, **kwargs), plain, algorithm).sample(x, **settings)
    close(fast.sample(x, **settings), want)


@pytest.mark.skipif(not backend.available(), reason="the extension is not built")
def test_native_samples_and_gradients():
    ours, plain = schedules("linear")
    torch.manual_seed(0)
    net = QLNet()
    x, obs = rand(65, A, dtype=torch.float32), rand(65, OBS, seed=1, dtype=torch.float32)
    fn = model_wrapper(net, ours, guidance_type="classifier-free", condition=obs)
    got = DPM_Solver(fn, ours, backend="native").sample(x, 8)
    exact = QLNet().double()
    exact.load_state_dict(net.state_dict())
    fn = wrap(exact, plain, model_kwargs={"state": obs.double()})
    want = PlainSolver(fn, plain).sample(x.double(), 8)
    assert tolerances.relative_error(got, want) <= tolerances.ACCELERATED_32
    got.square().sum().backward()
    want.square().sum().backward()
    for p, q in zip(net.parameters(), exact.parameters(), strict=True):
        assert tolerances.relative_error(p.grad, q.grad) <= tolerances.ACCELERATED_32
    with torch.no_grad():
        assert (
            not DPM_Solver(model_wrapper(net, ours, model_kwargs={"state": obs}), ours)
            .sample(x, 8)
            .requires_grad
        )


@pytest.mark.parametrize("kind", ["linear", "discrete"])
@pytest.mark.parametrize("model_type", ["noise", "x_start", "v", "score"])
def test_the_other_methods(kind, model_type):
    ours, plain = schedules(kind)
    torch.manual_seed(0)
    net = QLNet().double()
    x, obs, t = rand(7, A), rand(7, OBS, seed=1), torch.tensor([0.4], dtype=F64)
    kwargs = {"model_type": model_type, "model_kwargs": {"state": obs}}
    fast = DPM_Solver(model_wrapper(net, ours, **kwargs), ours, "dpmsolver", backend="reference")
    eps = wrap(net, plain, **kwargs)(x, t.expand(7))
    close(fast.noise_prediction_fn(x, t), eps)
    close(fast.model_fn(x, t), eps)
    alpha, sigma = ours.marginal_alpha(t), ours.marginal_std(t)
    x0 = (x - sigma * eps) / alpha
    close(fast.data_prediction_fn(x, t), x0)
    close(fast.denoise_to_zero_fn(x, t), x0)
    two = torch.tensor([0.3, 0.4], dtype=F64)
    z = rand(2, 7, A, seed=2)
    close(fast.add_noise(x, two, z)[1], alpha * x + sigma * z[1])
    assert fast.add_noise(x, t).shape == (7, A)
    times = fast.get_time_steps("time_quadratic", 1.0, 0.04, 2, "cpu")
    torch.testing.assert_close(times, torch.tensor([1.0, 0.36, 0.04]))


def test_the_inverse_leads_back():
    """There and back again on a fine grid; coarse grids differ by their own error."""
    ours, _ = schedules("linear")
    torch.manual_seed(0)
    net = QLNet().double()
    fn = model_wrapper(net, ours, model_kwargs={"state": rand(4, OBS)})
    solver = DPM_Solver(fn, ours, backend="reference")
    x = rand(4, A, seed=1)
    there = {}
    for steps in (50, 200):
        z = solver.inverse(x, steps)
        there[steps] = (solver.sample(z, steps) - x).abs().max().item()
    assert there[200] < there[50] / 4 and there[200] < 0.01


REFUSED = [
    (
        {"correcting_x0_fn": "dynamic_thresholding"},
        "can't accelerate DPM_Solver: correcting_x0_fn "
        "is set; a step can clip a guess to fixed bounds, no more",
    ),
    (
        {"algorithm_type": "ddim"},
        "can't accelerate DPM_Solver: algorithm_type is 'ddim'; "
        "'dpmsolver' and 'dpmsolver++' are accepted",
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refusals_of_options(options, message):
    ours, _ = schedules("linear")
    with pytest.raises(Dom2Error) as error:
        DPM_Solver(model_wrapper(QLNet(), ours), ours, **options)
    assert str(error.value) == message


def test_other_refusals():
    ours, _ = schedules("linear")
    net = QLNet()
    solver = DPM_Solver(model_wrapper(net, ours, model_kwargs={"state": torch.zeros(2, OBS)}), ours)
    cases = [
        (lambda: NoiseScheduleVP("cosine"), "schedule is 'discrete' or 'linear', got 'cosine'"),
        (lambda: NoiseScheduleVP(), "schedule='discrete' takes betas [N] or alphas_cumprod [N]"),
        (
            lambda: NoiseScheduleVP(betas=torch.tensor([0.1])),
            "a discrete schedule needs two steps or more, 1 are left",
        ),
        (
            lambda: model_wrapper(net, ours, "eps"),
            "model_type is one of ['noise', 'x_start', 'v', 'score'], got 'eps'",
        ),
        (
            lambda: model_wrapper(net, ours, guidance_type="none"),
            "guidance_type is one of ['uncond', 'classifier', 'classifier-free'], got 'none'",
        ),
        (
            lambda: solver.sample(torch.zeros(2, A), order=4),
            "order is 1, 2 or 3, got 4: DPM-Solver has no other; ask for order 3, or for more "
            "steps",
        ),
        (
            lambda: solver.sample(torch.zeros(2, A), return_intermediate=True),
            "return_intermediate=True: the steps aren't kept, only the last x",
        ),
        (
            lambda: solver.get_time_steps("log", 1.0, 0.1, 3, "cpu"),
            "skip_type is one of ['time_uniform', 'time_quadratic', 'logSNR'], got 'log'",
        ),
    ]
    for call, message in cases:
        with pytest.raises(Dom2Error) as error:
            call()
        assert str(error.value) == message
