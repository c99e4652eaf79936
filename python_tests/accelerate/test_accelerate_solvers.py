"""accelerate on DPM_Solver objects and on score networks that hold one."""

import copy

import numpy as np
import pytest
import torch
from accelerate_problems import F32, F64, close, native, refused, snapshot
from foreign import OBS, A, LinearVP, PlainSolver, QLNet, ScoreUNet, StepsVP, rand, wrap
from torch import nn

from dom2_fast.accelerate import accelerate
from dom2_fast.errors import Dom2Error

SETTINGS = [
    {"steps": 1, "order": 1},
    {"steps": 5, "order": 2},
    {"steps": 12, "order": 2, "skip_type": "time_quadratic"},
    {"steps": 7, "order": 2, "skip_type": "logSNR", "lower_order_final": False},
    {"steps": 6, "order": 2, "solver_type": "taylor", "denoise_to_zero": True},
    {"steps": 4, "order": 2, "method": "singlestep"},
    {"steps": 7, "order": 2, "method": "singlestep", "skip_type": "time_quadratic"},
    {"steps": 6, "order": 2, "method": "singlestep", "skip_type": "logSNR"},
    {"steps": 6, "order": 2, "method": "singlestep", "solver_type": "taylor"},
    {"steps": 5, "order": 1, "method": "singlestep", "denoise_to_zero": True},
    {"steps": 5, "order": 1, "method": "singlestep", "skip_type": "logSNR"},
    {"steps": 7, "order": 2, "method": "singlestep_fixed", "t_start": 0.9, "t_end": 0.02},
    {"steps": 7, "order": 3},
    {"steps": 12, "order": 3, "lower_order_final": False, "skip_type": "logSNR"},
    {"steps": 9, "order": 3, "method": "singlestep"},
    {"steps": 10, "order": 3, "method": "singlestep", "skip_type": "logSNR"},
    {"steps": 8, "order": 3, "method": "singlestep", "solver_type": "taylor"},
    {"steps": 6, "order": 3, "method": "singlestep_fixed", "t_start": 0.9, "t_end": 0.02},
]
SCHEDULES = {"linear": LinearVP(), "discrete": StepsVP(np.linspace(1e-3, 0.2, 30))}


class StateNet(QLNet):
    """Without an attribute that says how wide x is."""


def problem(dtype=F64, batch=7, schedule="linear", algorithm="dpmsolver++", model_type="noise"):
    torch.manual_seed(0)
    net = StateNet().to(dtype)
    obs, x = rand(batch, OBS, dtype=dtype), rand(batch, A, seed=1, dtype=dtype)
    ns = SCHEDULES[schedule]
    fn = wrap(net, ns, model_type=model_type, model_kwargs={"state": obs})
    return net, PlainSolver(fn, ns, algorithm), obs, x


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_solver_walks_as_published(settings, algorithm, schedule):
    _, solver, _, x = problem(schedule=schedule, algorithm=algorithm)
    fast = accelerate(solver, act_dim=A, backend="reference")
    close(fast.sample(x, **settings), solver.sample(x, **settings))


@pytest.mark.parametrize("model_type", ["noise", "x_start", "v", "score"])
@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
def test_whatever_the_network_predicts(model_type, algorithm):
    _, solver, _, x = problem(algorithm=algorithm, model_type=model_type)
    fast = accelerate(solver, act_dim=A, backend="reference")
    for method in ("multistep", "singlestep"):
        call = {"steps": 6, "order": 2, "method": method, "denoise_to_zero": True}
        close(fast.sample(x, **call), solver.sample(x, **call))


@native
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("method", ["multistep", "singlestep"])
@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
def test_native_samples_and_gradients(method, algorithm, order):
    net, solver, obs, x = problem(F32, 65, algorithm=algorithm)
    fast = accelerate(solver, act_dim=A, backend="native")
    exact = copy.deepcopy(net).double()
    x, x64 = x.requires_grad_(), x.detach().double().requires_grad_()
    fn = wrap(exact, solver.noise_schedule, model_kwargs={"state": obs.double()})
    call = {"steps": 6, "order": order, "method": method}
    got = fast.sample(x, **call)
    want = PlainSolver(fn, solver.noise_schedule, algorithm).sample(x64, **call)
    close(got, want)
    got.square().mean().backward()
    want.square().mean().backward()
    close(x.grad, x64.grad)
    for p, q in zip(net.parameters(), exact.parameters(), strict=True):
        close(p.grad, q.grad)


def test_the_number_of_steps_that_lowers_the_last_order_is_the_originals():
    for below in (10, 15):
        _, solver, _, x = problem()
        solver.lower_below = below
        fast = accelerate(solver, act_dim=A, backend="reference")
        close(fast.sample(x, 12), solver.sample(x, 12))
    solver.lower_below = 13
    with pytest.raises(Dom2Error, match="its sample is not dpm-solver's"):
        accelerate(solver, act_dim=A)


def test_conditions_by_guidance_and_none_at_all():
    net, solver, obs, x = problem()
    ns = solver.noise_schedule
    call = {"steps": 5, "order": 2}
    want = solver.sample(x, **call)
    by_condition = PlainSolver(wrap(net, ns, guidance_type="classifier-free", condition=obs), ns)
    close(accelerate(by_condition, act_dim=A, backend="reference").sample(x, **call), want)

    class Free(nn.Module):
        act_dim = A

        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, t):
            return self.net(x, t, torch.cat([x, x, x], -1)[:, :OBS])

    alone = PlainSolver(wrap(Free(), ns), ns)
    close(accelerate(alone, backend="reference").sample(x, **call), alone.sample(x, **call))


def test_another_condition_in_the_same_place():
    net, solver, obs, x = problem()
    kwargs = {"state": obs}
    solver = PlainSolver(wrap(net, solver.noise_schedule, model_kwargs=kwargs), LinearVP())
    fast = accelerate(solver, act_dim=A, backend="reference")
    first = fast.sample(x, 4)
    kwargs["state"] = 2.0 * obs
    close(fast.sample(x, 4), solver.sample(x, 4))
    assert not torch.equal(fast.sample(x, 4), first)
    kwargs["state"] = obs[:1]  # one row for all
    kwargs["state"], rows = obs[:1].expand(7, -1), fast.sample(x, 4)
    close(rows, solver.sample(x, 4))


def test_it_behaves_as_the_original_and_its_parameters_are_shared():
    net, solver, _, x = problem()
    fast = accelerate(solver, act_dim=A, backend="reference")
    assert isinstance(fast, PlainSolver)
    assert fast.value(x, 0.5).equal(solver.value(x, 0.5))
    before = fast.sample(x, 5)
    fast.sample(x, 5).square().sum().backward()
    with torch.no_grad():
        for p in net.parameters():
            p -= 0.01 * p.grad
    assert (fast.sample(x, 5) - before).abs().max() > 1e-6
    close(fast.sample(x, 5), solver.sample(x, 5))


def test_the_originals_defaults_hold():
    _, solver, _, x = problem()
    fast = accelerate(solver, act_dim=A, backend="reference")
    close(fast.sample(x), solver.sample(x))  # 20 steps, order 2, multistep


SAMPLE_REFUSALS = [
    (
        {"order": 4},
        "order is 1, 2 or 3, got 4: DPM-Solver has no other; ask for order 3, or for more steps",
    ),
    (
        {"method": "adaptive"},
        "method='adaptive' chooses its steps by the samples, and a solver "
        "table is made before there are any; choose one of ['multistep', 'singlestep', "
        "'singlestep_fixed']",
    ),
    (
        {"method": "euler"},
        "method is one of ['multistep', 'singlestep', 'singlestep_fixed'], got 'euler'",
    ),
    (
        {"skip_type": "log"},
        "skip_type is one of ['time_uniform', 'time_quadratic', 'logSNR'], got 'log'",
    ),
    ({"solver_type": "heun"}, "solver_type is 'dpmsolver' or 'taylor', got 'heun'"),
    ({"steps": 0}, "steps is a whole number of 1 or more, got 0"),
    ({"steps": 1}, "method='multistep' of order 2 takes 2 steps or more"),
    (
        {"steps": 1, "method": "singlestep_fixed"},
        "one step of order 2 calls the network 2 times: more steps",
    ),
    ({"steps": 1001}, "1001 network calls; 1 to 1000 are possible"),
    ({"t_end": -1.0}, "t_start and t_end must be positive and differ, got 1.0, -1.0"),
    (
        {"return_intermediate": True},
        "return_intermediate=True: the steps aren't kept; take the original for it",
    ),
]


@pytest.mark.parametrize(("settings", "message"), SAMPLE_REFUSALS)
def test_settings_that_no_table_holds(settings, message):
    _, solver, _, x = problem()
    fast = accelerate(solver, act_dim=A, backend="reference")
    with pytest.raises(Dom2Error) as error:
        fast.sample(x, **settings)
    assert str(error.value) == message


def test_refusals_of_solvers():
    net, solver, obs, _ = problem()
    ns = solver.noise_schedule
    what = "can't accelerate PlainSolver: "

    def made(correct=None, **parts):
        return PlainSolver(wrap(net, ns, **parts), ns, correcting_x0_fn=correct)

    one = {"state": obs}
    refused(
        made(lambda x, t: x),
        what + "correcting_x0_fn is set; a step can clip a guess to fixed bounds, no more",
    )
    refused(
        PlainSolver(lambda x, t: x, ns),
        what + "its model function doesn't show its network; "
        "make it by model_wrapper(net, noise_schedule, model_type, ...) with net a "
        "torch.nn.Module, or a function that takes one, and at most one tensor, from around "
        "it, and model_type one of ['noise', 'x_start', 'v', 'score']",
    )
    refused(
        made(model_kwargs=one, guidance_type="classifier"),
        what + "guidance_type='classifier' "
        "takes a gradient in every step, and a step program has none",
    )
    refused(
        made(
            guidance_type="classifier-free",
            condition=obs,
            unconditional_condition=obs,
            guidance_scale=2.0,
        ),
        what + "guidance_scale is 2.0; 1 is accepted, where the network is called once in a step",
    )
    refused(
        made(model_kwargs={"state": obs, "more": obs}),
        what + "its network takes 2 conditions; one tensor [B, width] is accepted: join them",
    )
    refused(
        made(model_kwargs={"state": obs[0]}),
        what + "its condition has shape [5]; [B, width] is needed",
        act_dim=A,
    )
    refused(
        made(model_kwargs=one),
        "can't accelerate StateNet: it has none of the attributes "
        "['act_dim', 'action_dim', 'output_dim', 'a_dim'] that say how wide that input is; "
        "give act_dim=",
    )
    refused(
        made(model_kwargs=one, model_type="noise", guidance_type="own"),
        what + "its sample fails on a trial: ('own', None)",
        act_dim=A,
    )
    solver.algorithm_type = "unipc"
    refused(solver, what + "algorithm_type is 'unipc'; 'dpmsolver' and 'dpmsolver++' are accepted")
    fast = accelerate(made(model_kwargs=one), act_dim=A, backend="reference")
    with pytest.raises(Dom2Error) as error:
        fast.sample(torch.zeros(2, 3, 4, 4))
    assert str(error.value) == "x must be a tensor [B, act_dim], got [2, 3, 4, 4]"


# ---- score networks ------------------------------------------------------------------------------


def score_net(dtype=F32, **kwargs):
    torch.manual_seed(0)
    return ScoreUNet(**kwargs).to(dtype)


def in_double(net):
    """Another of the same parameters; a copy's solver would still call the original."""
    exact = ScoreUNet(net.order).double()
    exact.load_state_dict(net.state_dict())
    return exact


@pytest.mark.parametrize("dtype", [F64, pytest.param(F32, marks=native)])
@pytest.mark.filterwarnings("ignore:To copy construct")
def test_a_score_network_samples_as_it_did(dtype):
    net = score_net(dtype)
    fast = accelerate(net, backend="reference" if dtype == F64 else "native")
    exact = in_double(net)
    states = rand(3, OBS).numpy()
    torch.manual_seed(1)
    want = exact.sample(states.astype(np.float32))
    torch.manual_seed(1)  # its own code draws the start, so the draws are the same
    got = fast.sample(states.astype(np.float32))
    close(torch.from_numpy(got), torch.from_numpy(want))
    assert isinstance(fast, ScoreUNet) and list(fast.state_dict()) == list(net.state_dict())
    assert net.dpm_solver is not fast.dpm_solver and type(net.dpm_solver) is PlainSolver


@pytest.mark.filterwarnings("ignore:To copy construct")
def test_training_a_score_network_trains_the_original():
    net = score_net(F64)
    fast = accelerate(net, backend="reference")
    with torch.no_grad():
        for p in fast.parameters():
            p.mul_(0.9)
    x, fast.condition = rand(4, A), rand(4, OBS, seed=1)
    net.condition = fast.condition
    call = {"steps": 4, "order": 2}
    close(fast.dpm_solver.sample(x, **call), net.dpm_solver.sample(x, **call))
    with torch.no_grad():
        t = torch.full((4,), 0.5, dtype=F64)
        assert torch.equal(fast(x, t), net(x, t))
    twice = copy.deepcopy(fast)
    assert torch.equal(twice.dpm_solver.sample(x, **call), fast.dpm_solver.sample(x, **call))
    assert twice.dpm_solver.net is twice and twice.dpm_solver.walks.net is not net


@pytest.mark.filterwarnings("ignore:To copy construct")
def test_sampling_of_order_three():
    """As SfBC's own sample asks for it, draw for draw."""
    net = score_net(order=3)
    exact, fast = in_double(net), accelerate(net)
    states = np.ones((2, OBS), dtype=np.float32)
    torch.manual_seed(1)
    got = fast.sample(states, diffusion_steps=15)
    torch.manual_seed(1)
    x = torch.randn(4, A).double()
    exact.condition = torch.ones(4, OBS, dtype=F64)
    want = exact.dpm_solver.sample(x, 15, order=3, method="singlestep")
    close(torch.from_numpy(got).reshape(4, A), want)


@pytest.mark.filterwarnings("ignore:To copy construct")
def test_sampling_of_order_four_is_refused_unless_a_solver_is_named():
    net = score_net(order=4)
    refused(
        net,
        "can't accelerate ScoreUNet: its sample asks for what a solver table can't hold: "
        "order is 1, 2 or 3, got 4: DPM-Solver has no other; ask for order 3, or for more steps. "
        "Give solver='dpm1' or 'dpm++2m' to sample it by that one instead",
    )
    fast = accelerate(net, solver="dpm++2m")
    exact = in_double(net)
    torch.manual_seed(1)
    got = fast.sample(np.ones((2, OBS), dtype=np.float32), diffusion_steps=12)
    torch.manual_seed(1)
    x = torch.randn(4, A).double()
    exact.condition = torch.ones(4, OBS, dtype=F64)
    exact.dpm_solver.algorithm_type = "dpmsolver++"
    want = exact.dpm_solver.sample(x, 12, order=2)
    close(torch.from_numpy(got).reshape(4, A), want)


@pytest.mark.filterwarnings("ignore:To copy construct")
def test_a_score_network_as_a_plain_network():
    net = score_net(F64)
    del net.dpm_solver
    fast = accelerate(
        net, predict="score", steps=3, act_low=-1e6, act_high=1e6, backend="reference"
    )
    obs, x = rand(4, OBS), rand(4, A, seed=1)
    net.condition = obs
    ns = LinearVP()
    solver = PlainSolver(lambda x, t: -_sigma(ns, t) * net(x, t), ns)
    want = solver.sample(x, 3, order=1)
    close(fast.sample(obs, x_T=x), want)


def _sigma(ns, t):
    return torch.sqrt(-torch.expm1(2.0 * ns.marginal_log_mean_coeff(t[:, None])))


@pytest.mark.filterwarnings("ignore:To copy construct")
def test_a_refusal_leaves_no_trace_of_a_trace():
    """The forward writes self.h; tracing and trial calls must not leave theirs behind."""
    net = score_net(order=4)
    before = snapshot(net)
    with pytest.raises(Dom2Error):
        accelerate(net)
    assert snapshot(net) == before and not hasattr(net, "h")
