"""The policy against the network called step by step: samples, losses, actions, compilation."""

import copy
import math

import pytest
import tolerances
import torch
from policy_problems import (
    OBS,
    SCHEDULES,
    A,
    B,
    G,
    NearTarget,
    generator,
    net,
    plain,
    policy,
    rand,
    stack,
)
from torch import nn

from dom2_fast import networks, ops
from dom2_fast.ops import backend
from dom2_fast.policies import schedules
from dom2_fast.policies.diffusion import DiffusionPolicy, FusedModule, sample_plain

# ---- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 5, 10, 20])
def test_dpm1_is_the_closed_formula(steps):
    """x_t = alpha_t / alpha_s x_s - sigma_t (e^h - 1) eps(x_s, s, obs), uniform grid 1 .. 1e-3."""
    p = policy(steps=steps, act_low=-1e6, act_high=1e6)
    obs, x = rand(B, OBS), rand(B, A, seed=1)
    got = p.sample(obs, x)
    grid = torch.linspace(1.0, 1e-3, steps + 1, dtype=torch.float64)
    log_alpha = -(20.0 - 0.1) / 4.0 * grid**2 - 0.1 / 2.0 * grid
    alpha, sigma = log_alpha.exp(), (1.0 - (2.0 * log_alpha).exp()).sqrt()
    lam = torch.log(alpha / sigma)
    for s in range(steps):
        e = p.net(x, grid[s].expand(B), obs)
        x = alpha[s + 1] / alpha[s] * x - sigma[s + 1] * torch.expm1(lam[s + 1] - lam[s]) * e
    torch.testing.assert_close(got, x, **tolerances.SAME_FORMULA_64)


@pytest.mark.skipif(not backend.available(), reason="the compiled extension is not built")
@pytest.mark.parametrize("steps", [1, 3, 5, 10, 20])
def test_native_dpm1_is_the_closed_formula_to_1e_5(steps):
    # Almost without bounds: those of actions would hide most of an untrained network's samples.
    wide = {"steps": steps, "act_low": -1e6, "act_high": 1e6}
    native = policy(net(torch.float32, hidden=64), backend="native", **wide)
    exact = policy(copy.deepcopy(native.net).double(), **wide)
    obs, x_T = rand(65, OBS, dtype=torch.float32), rand(65, A, seed=1, dtype=torch.float32)
    got = native.sample(obs, x_T).double()
    want = exact.sample(obs.double(), x_T.double())
    torch.testing.assert_close(got, want, rtol=tolerances.DPM1_32, atol=tolerances.DPM1_32)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm1", "dpm++2m"])
@pytest.mark.parametrize("predict", ["eps", "x0"])
def test_every_combination_is_the_plain_loop(schedule, solver, predict):
    p = policy(schedule=schedule, solver=solver, steps=7, predict=predict)
    obs, x_T, noise = rand(B, OBS), rand(B, A, seed=1), rand(7, B, A, seed=2)
    want = plain(p, obs, x_T, noise)
    torch.testing.assert_close(p.sample(obs, x_T, noise), want, **tolerances.SAME_FORMULA_64)


@pytest.mark.parametrize("make", [net, stack], ids=["plain", "stack"])
def test_the_draws_of_the_plain_loop_are_the_same(make):
    p = policy(make(), schedule="vp", solver="ddpm", steps=5)
    obs = rand(B, OBS) if p.groups is None else rand(G, B, OBS)
    rows = obs if obs.dim() == 3 else obs[None]
    got = p.sample(obs, generator=generator(3))
    want = sample_plain(
        p.net, rows, p._plan, batch=B, rng=ops.make_rng(generator(3)), out_low=-1.0, out_high=1.0
    )
    torch.testing.assert_close(got.reshape(want.shape), want, **tolerances.SAME_FORMULA_64)


def test_a_stack_samples_each_group_with_its_own_network():
    p = policy(stack())
    obs, x_T = rand(G, B, OBS), rand(G, B, A, seed=1)
    got = p.sample(obs, x_T)
    for g, one in enumerate(p.net.unstack()):
        want = policy(one).sample(obs[g], x_T[g])
        torch.testing.assert_close(got[g], want, **tolerances.SAME_FORMULA_64)


def test_samples_are_clipped():
    p = policy(act_low=-0.1, act_high=0.2)
    got = p.sample(rand(100, OBS))
    assert got.min() == -0.1 and got.max() == 0.2


def test_ddpm_clips_its_guesses_and_the_others_do_not():
    assert policy(solver="ddpm", schedule="vp")._plan.table[:, 6:8].tolist() == [[-1.0, 1.0]] * 5
    assert policy()._plan.table[0, 6:8].tolist() == [-math.inf, math.inf]
    p = policy(clip_x0=True, act_low=-2.0, act_high=3.0)
    assert p._plan.table[0, 6:8].tolist() == [-2.0, 3.0]


def test_steps_default_to_5_or_to_the_schedules_own():
    assert policy().steps == 5
    assert policy(schedule=schedules.cosine(9)).steps == 9


def test_set_solver():
    p = policy()
    p.set_solver("ode_dpmsolver++_2M", 8)
    assert (p.solver, p.steps) == ("dpm++2m", 8)
    obs, x_T = rand(B, OBS), rand(B, A, seed=1)
    fresh = policy(p.net, solver="dpm++2m", steps=8)
    assert torch.equal(p.sample(obs, x_T), fresh.sample(obs, x_T))


def test_obs_shapes():
    p = policy()
    assert p.sample(rand(OBS)).shape == (A,)
    assert p.sample(rand(B, OBS)).shape == (B, A)
    assert p.sample(rand(0, OBS)).shape == (0, A)
    assert p.act(rand(OBS)).shape == (A,)
    assert policy(stack()).sample(rand(G, B, OBS)).shape == (G, B, A)


def test_the_generator_decides():
    p = policy()
    obs = rand(B, OBS)
    assert torch.equal(p.sample(obs, generator=generator(1)), p.sample(obs, generator=generator(1)))
    assert not torch.equal(p.sample(obs, generator=generator(1)), p.sample(obs))
    torch.manual_seed(5)
    first = p.sample(obs)
    torch.manual_seed(5)
    assert torch.equal(p.sample(obs), first)


def test_gradients_against_finite_differences():
    p = policy(net(hidden=6, depth=2), steps=3, act_low=-1e3, act_high=1e3)
    names = [n for n, _ in p.net.named_parameters()]
    obs, x_T = rand(2, OBS).requires_grad_(), rand(2, A, seed=1).requires_grad_()
    leaves = [q.detach().clone().requires_grad_() for q in p.net.parameters()]

    def f(obs, x_T, *values):
        state = {f"net.{n}": v for n, v in zip(names, values, strict=True)}
        return torch.func.functional_call(p, state, (), {"obs": obs, "x_T": x_T})

    assert torch.autograd.gradcheck(f, (obs, x_T, *leaves))


def test_gradients_are_those_of_the_plain_loop():
    p = policy(stack(), steps=4)
    obs, x_T = rand(G, B, OBS).requires_grad_(), rand(G, B, A, seed=1).requires_grad_()
    leaves = [obs, x_T, *p.net.parameters()]
    got = torch.autograd.grad(p.sample(obs, x_T).square().sum(), leaves)
    want = torch.autograd.grad(plain(p, obs, x_T, None).square().sum(), leaves)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, **tolerances.SAME_FORMULA_64)


# ---- training ------------------------------------------------------------------------------------


def loss_by_hand(p, obs, act, g):
    t = p.schedule.training_times(act.shape[:-1], g, dtype=torch.float64)
    eps = torch.randn(act.shape, generator=g, dtype=torch.float64)
    alpha, sigma = p.schedule.alpha_sigma(t)
    x = alpha[..., None] * act + sigma[..., None] * eps
    return ((p.net(x, t, obs) - (eps if p.predict == "eps" else act)) ** 2).mean(-1)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("predict", ["eps", "x0"])
def test_bc_loss_is_the_formula(schedule, predict):
    p = policy(stack(), schedule=schedule, predict=predict)
    obs, act = rand(G, B, OBS), rand(G, B, A, seed=1).clamp(-1, 1)
    want = loss_by_hand(p, obs, act, generator(2))
    got = p.bc_loss(obs, act, generator(2))
    torch.testing.assert_close(got, want.mean(), **tolerances.SAME_FORMULA_64)
    per_group = p.bc_loss(obs, act, generator(2), reduction="group")
    torch.testing.assert_close(per_group, want.mean(1), **tolerances.SAME_FORMULA_64)
    leaves = list(p.net.parameters())
    for g, w in zip(
        torch.autograd.grad(got, leaves), torch.autograd.grad(want.mean(), leaves), strict=True
    ):
        torch.testing.assert_close(g, w, **tolerances.SAME_FORMULA_64)


def test_bc_training_finds_the_action():
    """Actions are a function of the observation; a few hundred updates must find it."""
    torch.manual_seed(0)
    p = DiffusionPolicy(networks.MLPNoiseNet(1, 1, hidden=32, depth=2, time_scale=10.0))
    optimiser = torch.optim.Adam(p.parameters(), lr=5e-3)
    # Down to zero: what is tested is where training leads, not the noise of its last steps.
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=600)
    for _ in range(600):
        obs = torch.rand(128, 1) * 2 - 1
        optimiser.zero_grad()
        p.bc_loss(obs, 0.6 * torch.sign(obs)).backward()
        optimiser.step()
        decay.step()
    p.set_solver(steps=10)
    obs = torch.cat([torch.full((64, 1), -0.5), torch.full((64, 1), 0.5)])
    act = p.act(obs, generator=generator())
    # A policy that ignores obs is off by 0.6; half of that takes one that reads it.
    assert (act - 0.6 * torch.sign(obs)).abs().mean() < 0.3
    assert (torch.sign(act) == torch.sign(obs)).float().mean() > 0.9


def test_training_mode_drops_and_eval_mode_does_not():
    torch.manual_seed(0)
    unet = networks.UNetNoiseNet(OBS, A, widths=(8, 6, 4), embed=4).double()
    p = policy(unet, act_low=-1e3, act_high=1e3)
    obs, x_T = rand(B, OBS), rand(B, A, seed=1)
    assert not torch.equal(p.sample(obs, x_T), p.sample(obs, x_T))
    p.eval()
    assert torch.equal(p.sample(obs, x_T), p.sample(obs, x_T))
    torch.testing.assert_close(
        p.sample(obs, x_T), plain(p, obs, x_T, None), **tolerances.SAME_FORMULA_64
    )


@pytest.mark.skipif(not backend.available(), reason="the compiled extension is not built")
def test_native_masks_are_the_references():
    torch.manual_seed(0)
    unets = networks.stack([networks.UNetNoiseNet(OBS, A, (9, 6, 4), embed=4) for _ in range(G)])
    native = policy(unets, backend="native", solver="ddpm", schedule="vp")
    exact = policy(copy.deepcopy(unets).double(), solver="ddpm", schedule="vp")
    obs = rand(G, B, OBS, dtype=torch.float32)
    got = native.sample(obs, generator=generator(4))
    want = exact.sample(obs.double(), generator=generator(4))
    torch.testing.assert_close(got.double(), want, rtol=0.0, atol=tolerances.DPM1_32)


# ---- acting --------------------------------------------------------------------------------------


def test_the_best_candidate_wins():
    p = policy()
    obs = rand(B, OBS)
    got = p.act(obs, candidates=7, critic=NearTarget(), generator=generator(1))
    many = p._denoise(obs[None], 7 * B, None, None, generator(1))[0].reshape(B, 7, A)
    distance = ((many - torch.tanh(obs[:, None, :A])) ** 2).sum(-1)
    want = many[torch.arange(B), distance.argmin(1)]
    assert torch.equal(got, want)
    assert not got.requires_grad


def test_a_stack_of_critics_chooses_for_a_stack_of_policies():
    p = policy(stack())
    critics = networks.stack([networks.MLPCritic(OBS, A, hidden=6).double() for _ in range(G)])
    obs = rand(G, B, OBS)
    fused = FusedModule(critics, "reference")
    got = p.act(obs, candidates=5, critic=fused, generator=generator(1))
    many = p._denoise(obs, 5 * B, None, None, generator(1)).reshape(G, B, 5, A)
    q = critics(many.reshape(G, 5 * B, A), obs.repeat_interleave(5, 1)).reshape(G, B, 5)
    best = q.argmax(-1)[..., None, None].expand(G, B, 1, A)
    assert torch.equal(got, many.gather(2, best)[:, :, 0])
    assert torch.equal(p.act(obs, 5, critics, generator(1)), got)


def test_temperature_draws_by_the_softmax_of_q():
    class TwoValues(nn.Module):
        obs_dim, act_dim = OBS, A

        def forward(self, act, obs):
            return act[:, :1] * 1e3

    p = policy(act_low=-1e3, act_high=1e3)
    obs = rand(1, OBS).expand(400, OBS)
    cold = p.act(obs, 2, TwoValues(), generator(1), temperature=1e-3)
    assert torch.equal(cold, p.act(obs, 2, TwoValues(), generator(1)))
    hot = p.act(obs, 2, TwoValues(), generator(1), temperature=1e9)
    same = (hot == cold).all(1).double().mean().item()
    # A fair coin, 400 times: within four standard deviations of one half.
    assert abs(same - 0.5) < 4 * 0.5 / math.sqrt(400)


# ---- torch.compile -------------------------------------------------------------------------------


@pytest.mark.skipif(not backend.available(), reason="the compiled extension is not built")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
def test_compiles_as_one_graph():
    p = policy(stack(torch.float32), backend="auto")
    critic = FusedModule(networks.stack([networks.MLPCritic(OBS, A) for _ in range(G)]))
    p.prepare()
    obs, x_T = rand(G, B, OBS, dtype=torch.float32), rand(G, B, A, seed=1, dtype=torch.float32)

    def objective(obs, x_T):
        return critic(p.sample(obs, x_T), obs).sum()

    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    leaves = list(p.parameters())
    got = torch.autograd.grad(compiled(obs, x_T), leaves)
    want = torch.autograd.grad(objective(obs, x_T), leaves)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)
    loss = torch.compile(p.bc_loss, fullgraph=True, backend="aot_eager")
    assert torch.isfinite(loss(obs, x_T))
