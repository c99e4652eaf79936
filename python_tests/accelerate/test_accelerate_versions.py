"""accelerate on what versions of dpm-solver and networks that hold one differ in."""

import copy
import functools

import numpy as np
import pytest
import torch
from accelerate_problems import F64, close, refused
from foreign import OBS, A, MultistepScheduler, PlainSolver, ScoreUNet, StepsVP, rand, wrap
from test_accelerate_solvers import StateNet, problem, score_net

from dom2_fast.accelerate import accelerate
from dom2_fast.errors import Dom2Error


@pytest.mark.parametrize("by_calls", [False, True])
@pytest.mark.parametrize("steps", [4, 5])
def test_how_the_singlestep_walk_shares_the_log_snr_is_the_originals(by_calls, steps):
    _, solver, _, x = problem()
    solver.by_calls = by_calls
    fast = accelerate(solver, act_dim=A, backend="reference")
    call = {"steps": steps, "order": 2, "method": "singlestep", "skip_type": "logSNR"}
    close(fast.sample(x, **call), solver.sample(x, **call))


@pytest.mark.parametrize("below", [10, 15])
def test_versions_that_differ_little_are_told_apart(below):
    """By less than what a trial must agree to: the closest is taken, not the first that agrees."""
    torch.manual_seed(0)
    net = StateNet().to(F64)
    obs, x = rand(7, OBS), rand(7, A, seed=1)
    ns = StepsVP(np.linspace(1e-3, 0.2, 30))
    with torch.no_grad():
        list(net.parameters())[-2].mul_(1e-3)
    solver = PlainSolver(wrap(net, ns, model_kwargs={"state": obs}), ns, "dpmsolver")
    solver.lower_below = below
    fast = accelerate(solver, act_dim=A, backend="reference")
    close(fast.sample(x, 12), solver.sample(x, 12))


class Half(PlainSolver):
    """One whose singlestep walk, or every walk, fails."""

    fails = ("singlestep",)

    @functools.wraps(PlainSolver.sample)
    def sample(self, *args, method="multistep", **more):
        if method in self.fails:
            raise TypeError("a missing argument")
        return super().sample(*args, method=method, **more)


def test_a_solver_that_fails_in_one_method_is_accepted_by_the_others():
    _, solver, _, x = problem()
    half = Half(solver.model, solver.noise_schedule)
    fast = accelerate(half, act_dim=A, backend="reference")
    close(fast.sample(x, 6), half.sample(x, 6))
    half.fails = ("singlestep", "multistep")
    refused(
        half, "can't accelerate Half: its sample fails on a trial: a missing argument", act_dim=A
    )


class Watched(PlainSolver):
    def sample(
        self,
        x,
        steps=20,
        order=2,
        skip_type="time_uniform",
        method="multistep",
        t_start=None,
        t_end=None,
        solver_type="dpmsolver",
        callback=None,
    ):
        return super().sample(
            x, steps, t_start, t_end, order, skip_type, method, False, solver_type=solver_type
        )


def test_arguments_of_a_fork_are_refused_where_they_ask_for_something():
    _, solver, _, x = problem()
    watched = Watched(solver.model, solver.noise_schedule)
    fast = accelerate(watched, act_dim=A, backend="reference")
    close(fast.sample(x, 6, callback=None), watched.sample(x, 6))
    with pytest.raises(Dom2Error, match="callback is given: the steps run in one call"):
        fast.sample(x, 6, callback=print)


class Loose(PlainSolver):
    def sample(self, x, steps=20, order=2, method="multistep", skip_type="time_uniform", **more):
        more = {"lower_order_final": False, **more}
        return super().sample(x, steps, order=order, method=method, skip_type=skip_type, **more)


def test_settings_among_the_other_arguments_of_a_fork_count():
    _, solver, _, x = problem()
    loose = Loose(solver.model, solver.noise_schedule)
    fast = accelerate(loose, act_dim=A, backend="reference")
    for more in ({"t_end": 0.2}, {"solver_type": "taylor", "denoise_to_zero": True}):
        close(fast.sample(x, 6, **more), loose.sample(x, 6, **more))
    with pytest.raises(Dom2Error, match="eta is given"):
        fast.sample(x, 6, eta=0.5)


class AttributeNet(ScoreUNet):
    """One that takes its condition from an attribute; as an argument it fails."""

    def forward(self, x, t, condition=None):
        if condition is not None:
            x = torch.cat([condition, x])
        if self.condition.shape[0] == x.shape[0]:
            return super().forward(x, t, self.condition)
        raise AssertionError


@pytest.mark.filterwarnings("ignore:To copy construct")
def test_a_score_network_whose_condition_is_an_attribute():
    torch.manual_seed(0)
    net, plain = AttributeNet().to(F64), score_net(F64)
    net.load_state_dict(plain.state_dict())
    fast = accelerate(net, backend="reference")
    assert net.condition is None
    states = rand(3, OBS).numpy().astype(np.float32)
    results = []
    for one in (net, fast, plain):
        torch.manual_seed(1)
        results.append(torch.from_numpy(one.sample(states)))
    close(results[1], results[0])
    close(results[2], results[0])


class Checked(StateNet):
    """One that looks whether its inputs have as many rows."""

    def forward(self, x, time, state):
        assert x.shape[0] == state.shape[0] and x.size(0) == time.size(0)
        return super().forward(x, time, state)


class Counted(StateNet):
    def forward(self, x, time, state):
        return super().forward(x, time, state) if x.shape[0] == 7 else x


def test_networks_may_compare_numbers_of_rows_and_not_ask_how_many():
    torch.manual_seed(0)
    net = Checked().to(F64)
    plan = {"solver": "dpm1", "steps": 3, "obs_dim": OBS, "act_dim": A}
    obs, x = rand(4, OBS), rand(4, A, seed=1)
    got = accelerate(net, backend="reference", **plan).sample(obs, x_T=x)
    plain = StateNet().to(F64)
    plain.load_state_dict(net.state_dict())
    want = accelerate(plain, backend="reference", **plan).sample(obs, x_T=x)
    assert torch.equal(got, want)
    with pytest.raises(Dom2Error, match="can't trace Counted"):
        accelerate(Counted(), **plan)


@pytest.mark.parametrize("algorithm", ["sde-dpmsolver", "sde-dpmsolver++", "dpmsolver++"])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
def test_a_scheduler_may_end_where_it_stands(algorithm, solver_type):
    """Spacings that end at the last sigma twice, equal but for a rounding."""
    kind = {"algorithm_type": algorithm, "solver_type": solver_type}
    scheduler = MultistepScheduler(**kind, final_sigmas_type="sigma_min", lower_order_final=False)
    scheduler.set_timesteps(5)
    scheduler.sigmas[-1] = scheduler.sigmas[-2] * (1.0 + 1e-14)
    torch.manual_seed(0)
    net, wide = StateNet().to(F64), {"act_low": -1e6, "act_high": 1e6, "backend": "reference"}
    fast = accelerate(net, schedule=scheduler, obs_dim=OBS, act_dim=A, **wide)
    obs, x, noise = rand(4, OBS), rand(4, A, seed=1), rand(5, 4, A, seed=2)
    got = fast.sample(obs, x, noise)
    scheduler.timesteps, scheduler.sigmas = scheduler.timesteps[:-1], scheduler.sigmas[:-1]
    short = accelerate(net, schedule=scheduler, obs_dim=OBS, act_dim=A, **wide)
    torch.testing.assert_close(got, short.sample(obs, x, noise[:-1]), atol=1e-6, rtol=1e-6)


def test_a_scheduler_that_stands_still_is_refused():
    scheduler = MultistepScheduler(final_sigmas_type="sigma_min", lower_order_final=False)
    scheduler.set_timesteps(5)
    scheduler.sigmas[2] = scheduler.sigmas[1]
    what = (
        r"two steps of the walk have the same noise level \(sigma 0.9\d+ at the times 79 and 59\)"
    )
    with pytest.raises(Dom2Error, match=what):
        accelerate(StateNet(), schedule=scheduler, obs_dim=OBS, act_dim=A)


def test_a_function_around_a_network():
    """What model_wrapper is often given: its network and condition are the variables around it."""
    net, solver, obs, x = problem()
    other, unit = 2.0 * obs, 0.5
    ns = solver.noise_schedule
    fn = wrap(lambda x, t: unit * net(x, t, state=obs), ns)
    fast = accelerate(PlainSolver(fn, ns), act_dim=A, backend="reference")
    close(fast.sample(x, 6), PlainSolver(fn, ns).sample(x, 6))
    first = fast.sample(x, 6)
    obs = other
    close(fast.sample(x, 6), PlainSolver(fn, ns).sample(x, 6))
    assert (fast.sample(x, 6) - first).abs().max() > 1e-6
    close(copy.deepcopy(fast).sample(x, 6), fast.sample(x, 6))


def test_a_function_around_a_network_with_its_condition_as_an_argument():
    net, solver, obs, x = problem()
    ns = solver.noise_schedule
    for parts in (
        {
            "model": lambda x, t, c: net(x, t, c),
            "guidance_type": "classifier-free",
            "condition": obs,
        },
        {"model": lambda x, t, s: net(x, t, s), "model_kwargs": {"s": obs}},
    ):
        fn = wrap(ns=ns, **parts)
        fast = accelerate(PlainSolver(fn, ns), act_dim=A, backend="reference")
        close(fast.sample(x, 6), solver.sample(x, 6))


def test_functions_that_take_more_than_one_network_or_condition():
    net, solver, obs, _ = problem()
    ns, more = solver.noise_schedule, rand(7, OBS, seed=3)
    two = PlainSolver(wrap(lambda x, t: net(x, t, obs) - net(x, t, more), ns), ns)
    refused(
        two,
        "the model function takes ['more', 'obs'] from around it, each a Tensor; one is "
        "accepted: join them, or give model_wrapper the network itself",
        act_dim=A,
    )
