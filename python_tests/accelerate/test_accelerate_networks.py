"""accelerate on networks: what they predict, how they are called, whose schedule they follow."""

import copy
import pickle

import numpy as np
import pytest
import torch
from accelerate_problems import F32, F64, close, draws, native, refused
from foreign import (
    OBS,
    A,
    LinearVP,
    LNResnet,
    MultistepScheduler,
    PlainSolver,
    QLPolicy,
    StepsVP,
    rand,
    wrap,
)

import dom2_fast
from dom2_fast import networks
from dom2_fast.accelerate import accelerate
from dom2_fast.errors import Dom2Error
from dom2_fast.policies import schedules


class Net(networks.MLPNoiseNet):
    pass


def net(dtype=F64, **kwargs):
    torch.manual_seed(0)
    return Net(OBS, A, **{"hidden": 12, "time_dim": 6, **kwargs}).to(dtype)


BIG = {"act_low": -1e6, "act_high": 1e6, "backend": "reference"}


def as_eps(predict, out, x, a, s):
    return {
        "eps": out,
        "x0": (x - a * out) / s,
        "v": a * out + s * x,
        "score": -s * out,
    }[predict]


@pytest.mark.parametrize("predict", ["eps", "x0", "v", "score"])
def test_a_network_samples_by_dpm_solver_whatever_it_predicts(predict):
    n = net()
    fast = accelerate(n, steps=6, predict=predict, **BIG)
    obs, x, _ = draws(6, dtype=F64)
    got = fast.sample(obs, x_T=x)
    t = torch.linspace(1.0, 1e-3, 7, dtype=F64)
    alpha, sigma = schedules.VPSchedule().alpha_sigma(t)
    lam = torch.log(alpha / sigma)
    for s in range(6):
        eps = as_eps(predict, n(x, t[s].expand(7), obs), x, alpha[s], sigma[s])
        h = lam[s + 1] - lam[s]
        x = alpha[s + 1] / alpha[s] * x - sigma[s + 1] * torch.expm1(h) * eps
    close(got, x)


def test_a_network_keeps_its_forward_and_its_keys():
    n = net(F32)
    wide = {"act_low": -1e6, "act_high": 1e6}  # else the bounds are most of what is compared
    fast = accelerate(n, **wide)
    assert isinstance(fast, Net) and list(fast.state_dict()) == list(n.state_dict())
    obs, x_T, _ = draws(5)
    t = torch.full((7,), 0.3)
    assert torch.equal(fast(x_T, t, obs), n(x_T, t, obs))
    policy = dom2_fast.DiffusionPolicy(n, steps=5, **wide)
    assert torch.equal(fast.sample(obs, x_T), policy.sample(obs, x_T))
    g = torch.Generator()
    losses = [p.bc_loss(obs, x_T, g.manual_seed(1)) for p in (fast, policy)]
    assert torch.equal(*losses)
    losses[0].backward()
    with torch.no_grad():
        for p in fast.parameters():
            p -= 0.1 * p.grad
    close(fast.sample(obs, x_T), policy.sample(obs, x_T))
    assert fast.act(obs[0]).shape == (A,)


@pytest.mark.parametrize("dtype", [F64, pytest.param(F32, marks=native)])
def test_idql_networks_with_their_own_order_of_arguments(dtype):
    torch.manual_seed(0)
    n = LNResnet().to(dtype)
    call = lambda net, x, t, obs: net(obs, x, t[:, None])  # noqa: E731
    options = {"schedule": "vp", "solver": "ddpm", "obs_dim": OBS, "act_dim": A, "call": call}
    fast = accelerate(n, backend="reference" if dtype == F64 else "native", **options)
    obs, x_T, noise = draws(5, dtype=dtype)
    assert not torch.equal(fast.sample(obs, x_T, noise), fast.sample(obs, x_T, noise))  # dropout
    fast.eval()
    assert not n.training and not n.blocks[0].dropout.training
    got = fast.sample(obs, x_T, noise)
    exact = copy.deepcopy(n).double()
    plain = QLPolicy(None, schedules.vp(5).betas)
    plain.model = lambda x, t, state: exact(state, x, t[:, None].to(x.dtype))
    want, _ = plain.double().walk(obs.double(), x_T.double(), noise.double())
    close(got, want)
    assert list(fast.state_dict()) == list(n.state_dict())


SCHEDULERS = [
    {},
    {"solver_order": 1},
    {"solver_type": "heun", "final_sigmas_type": "sigma_min", "lower_order_final": False},
    {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "solver_type": "heun"},
    {"algorithm_type": "sde-dpmsolver++"},
    {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun", "final_sigmas_type": "sigma_min"},
    {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"},
    {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min", "solver_type": "heun"},
    {"prediction_type": "sample"},
    {"prediction_type": "v_prediction"},
]


@pytest.mark.parametrize("config", SCHEDULERS, ids=repr)
@pytest.mark.parametrize("steps", [1, 5, 16])
def test_schedulers_of_diffusers_kind(config, steps):
    n, scheduler = net(), MultistepScheduler(**config)
    before = scheduler.timesteps
    fast = accelerate(n, schedule=scheduler, steps=steps, **BIG)
    assert scheduler.timesteps is before
    obs, x_T, noise = draws(steps, dtype=F64)
    scheduler.set_timesteps(steps)
    want = scheduler.walk(n, obs, x_T, noise)
    close(fast.sample(obs, x_T, noise), want)
    as_set = accelerate(n, schedule=scheduler, **BIG)  # without steps: as it is set
    assert torch.equal(as_set.sample(obs, x_T, noise), fast.sample(obs, x_T, noise))


def test_refusals_of_schedulers():
    cases = [
        (
            {"solver_order": 4},
            "its solver_order is 4; 1 to 3 are accepted for dpmsolver++",
        ),
        (
            {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"},
            "its solver_order is 3; 1 to 2 are accepted for sde-dpmsolver++",
        ),
        (
            {"algorithm_type": "deis"},
            "its algorithm_type is 'deis'; accepted are ['dpmsolver++', "
            "'dpmsolver', 'sde-dpmsolver++', 'sde-dpmsolver']",
        ),
        (
            {"thresholding": True},
            "thresholding is on; a step can clip a guess to fixed bounds, no more",
        ),
        (
            {"variance_type": "learned"},
            "variance_type says that the network returns a variance, too",
        ),
        ({"solver_type": "bh1"}, "its solver_type is none of ['midpoint', 'heun']"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas: alpha^2 + sigma^2 is not 1"),
        (
            {"prediction_type": "flow"},
            "its prediction_type is none of ['epsilon', 'sample', 'v_prediction']",
        ),
    ]
    for config, why in cases:
        message = f"can't use the scheduler MultistepScheduler: {why}"
        refused(net(), message, schedule=MultistepScheduler(**config), steps=5)
    scheduler = MultistepScheduler()
    refused(
        net(),
        "a scheduler says itself what the solver is; leave out solver=",
        schedule=scheduler,
        solver="ddpm",
    )
    refused(
        net(),
        "the scheduler has 100 timesteps and 100 sigmas, which should be one more; call "
        "set_timesteps, or give steps=",
        schedule=scheduler,
    )
    refused(
        net(),
        "algorithm_type='dpmsolver' can't end at sigma 0; set final_sigmas_type='sigma_min'",
        schedule=MultistepScheduler(algorithm_type="dpmsolver"),
        steps=5,
    )
    refused(
        net(),
        "predict='v', but the scheduler's prediction_type means 'eps'",
        schedule=scheduler,
        predict="v",
        steps=5,
    )


def test_refusals_of_networks():
    refused(net(), "predict is one of ['eps', 'x0', 'v', 'score'], got 'noise'", predict="noise")
    refused(net(), "act_low < act_high, both finite, are needed: 1.0, 1.0", act_low=1.0)
    refused(
        LNResnet(),
        "can't accelerate LNResnet: it has none of the attributes ['act_dim', "
        "'action_dim', 'output_dim', 'a_dim'] that say how wide that input is; give act_dim=",
        obs_dim=OBS,
    )
    refused(
        net(),
        "solver='ddpm' needs a schedule of this package; on this one: ddim, dpm1, dpm++2m",
        schedule=StepsVP([0.1, 0.2]),
        solver="ddpm",
    )
    fast = accelerate(net(), predict="v", **BIG)
    with pytest.raises(Dom2Error) as error:
        fast.bc_loss(rand(2, OBS), rand(2, A))
    assert str(error.value) == (
        "bc_loss is for networks that predict eps or x0 on a schedule of this package; train this "
        "one by its own loss: the parameters are shared"
    )


SCHEDULES = {"linear": LinearVP(), "discrete": StepsVP(np.linspace(1e-3, 0.2, 30))}


@pytest.mark.parametrize("ns", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize(("solver", "order"), [("dpm1", 1), ("ddim", 1), ("dpm++2m", 2)])
def test_schedules_of_dpm_solvers_kind(ns, solver, order):
    n = net()
    fast = accelerate(n, schedule=ns, solver=solver, steps=6, **BIG)
    obs, x, _ = draws(6, dtype=F64)
    plain = PlainSolver(wrap(n, ns, model_kwargs={"obs": obs}), ns)
    close(fast.sample(obs, x_T=x), plain.sample(x, 6, order=order))


def test_clipped_guesses():
    n, ns = net(), LinearVP()
    options = {**BIG, "act_low": -60.0, "act_high": 60.0}
    fast = accelerate(n, schedule=ns, steps=4, clip_x0=True, **options)
    ours = accelerate(n, steps=4, clip_x0=True, **options)  # the same schedule and times
    obs, x, _ = draws(6, dtype=F64)
    close(fast.sample(obs, x_T=x), ours.sample(obs, x_T=x))
    free = accelerate(n, schedule=ns, steps=4, **options)
    assert not torch.equal(free.sample(obs, x_T=x), fast.sample(obs, x_T=x))


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))], ids=["deepcopy", "pickle"]
)
def test_copies_and_pickles_stand_alone(again):
    n = net(F32)
    fast = accelerate(n, act_low=-1e6, act_high=1e6)
    obs, x_T, _ = draws(5)
    want = fast.sample(obs, x_T)
    other = again(fast)
    assert isinstance(other, Net)
    with torch.no_grad():
        for p in n.parameters():
            p.zero_()
    assert torch.equal(other.sample(obs, x_T), want)
    assert not torch.equal(fast.sample(obs, x_T), want)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert torch.equal(other.sample(obs, x_T), fast.sample(obs, x_T))


def test_the_package_is_callable_too():
    assert dom2_fast.accelerate(net(F32)).sample(torch.zeros(2, OBS)).shape == (2, A)
    assert dom2_fast.accelerate(net(F32)).sample(torch.zeros(2, OBS)).shape == (2, A)
