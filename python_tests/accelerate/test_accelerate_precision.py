"""precision of accelerated objects: handed on to their policies, and close to float32.

The tolerance is the rounding of bf16 over a few steps, for actions in [-1, 1]; where the products
are in float32 whatever is asked, it holds all the more.
"""

import copy

import pytest
import torch
from accelerate_problems import F32, diffusion, draws, native, refused
from foreign import OBS, A, QLAgent, ql_betas, rand
from test_accelerate_solvers import StateNet, problem, score_net

from dom2_fast import compat
from dom2_fast.accelerate import accelerate
from dom2_fast.errors import Dom2Error

BF16 = {"atol": 0.05, "rtol": 0.0}
UNKNOWN = "precision is 'fp16'; it must be one of 'fp32', 'bf16'"


@native
def test_a_diffusion_and_its_copies():
    d = diffusion()
    fast = accelerate(d, precision="bf16")
    state, x_T, noise = draws(5)
    want = accelerate(d).sample(state, x_T=x_T, noise=noise)
    for one in (fast, copy.deepcopy(fast)):
        torch.testing.assert_close(one.sample(state, x_T=x_T, noise=noise), want, **BF16)
        assert one._policy().precision == "bf16"
    torch.manual_seed(0)
    loss = fast.loss(x_T.tanh(), state)
    torch.manual_seed(0)
    torch.testing.assert_close(loss, d.loss(x_T.tanh(), state), atol=0.05, rtol=0.05)


def test_an_agent():
    fast = accelerate(QLAgent(ql_betas()), precision="bf16")
    assert fast.actor._policy().precision == fast.ema_model._policy().precision == "bf16"


@native
def test_a_network():
    torch.manual_seed(0)
    net = StateNet().to(F32)
    plan = {"solver": "dpm1", "steps": 5, "obs_dim": OBS, "act_dim": A}
    obs, x = rand(9, OBS, dtype=F32), rand(9, A, seed=1, dtype=F32)
    fast = accelerate(net, precision="bf16", **plan)
    assert fast._fast.precision == "bf16"
    want = accelerate(net, **plan).sample(obs, x_T=x)
    torch.testing.assert_close(fast.sample(obs, x_T=x), want, **BF16)


@native
def test_a_solver_and_the_class_of_its_name():
    net, solver, obs, x = problem(F32)
    fast = accelerate(solver, act_dim=A, precision="bf16")
    call = {"steps": 6, "order": 2, "t_end": 0.2}
    want = accelerate(solver, act_dim=A).sample(x, **call)
    # The samples aren't bounded here, so the tolerance is of their size.
    bound = 0.05 * (1.0 + want.abs().max().item())
    torch.testing.assert_close(fast.sample(x, **call), want, atol=bound, rtol=0.0)
    c = compat.dpm_solver
    ns = c.NoiseScheduleVP("linear")
    fn = c.model_wrapper(net, ns, model_kwargs={"state": obs})
    made = c.DPM_Solver(fn, ns, precision="bf16")
    torch.testing.assert_close(made.sample(x, **call), want, atol=bound, rtol=0.0)
    for one in (fast, made):
        assert [p.precision for p in one._walks._policies.values()] == ["bf16"]


@native
@pytest.mark.filterwarnings("ignore:To copy construct")
def test_a_score_network():
    fast = accelerate(score_net(F32), precision="bf16")
    fast.sample(rand(2, OBS, dtype=F32).numpy())
    policies = fast.dpm_solver.walks._policies.values()
    assert [p.precision for p in policies] == ["bf16"]


def test_unknown_precisions_are_refused():
    refused(diffusion(), UNKNOWN, precision="fp16")
    refused(QLAgent(ql_betas()), UNKNOWN, precision="fp16")
    refused(StateNet(), UNKNOWN, precision="fp16", obs_dim=OBS, act_dim=A)
    net, solver, obs, _ = problem()
    refused(solver, UNKNOWN, precision="fp16", act_dim=A)
    refused(score_net(), UNKNOWN, precision="fp16")
    c = compat.dpm_solver
    ns = c.NoiseScheduleVP("linear")
    fn = c.model_wrapper(net, ns, model_kwargs={"state": obs})
    with pytest.raises(Dom2Error) as error:
        c.DPM_Solver(fn, ns, precision="fp16")
    assert str(error.value) == UNKNOWN
