"""What docs/migration/ says equals what: other projects' loops, written from what they document.

TorchRL's `DiffusionActor` runs itself where it is installed.
"""

import math

import pytest
import torch
from accelerate_problems import close
from foreign import OBS, A, rand
from torch import nn

import dom2_fast as d2
from dom2_fast import networks


def eps_net():
    torch.manual_seed(0)
    return networks.MLPNoiseNet(OBS, A, hidden=12, time_dim=6).double()


def clean_diffuser(net, obs, x, solver, steps, bound):
    """CleanDiffuser's ContinuousDiffusionSDE.sample, linear schedule, uniform_continuous times."""
    t = torch.linspace(1e-3, 1.0, steps + 1, dtype=torch.float64)
    alpha = (-(20.0 - 0.1) / 4 * t**2 - 0.1 / 2 * t).exp()
    sigma = (1 - alpha**2).sqrt()
    lam, last = (alpha / sigma).log(), None
    for i in range(steps, 0, -1):
        h = lam[i - 1] - lam[i]
        eps = net(x, t[i].expand(len(x)), obs)
        x0 = ((x - sigma[i] * eps) / alpha[i]).clamp(-bound, bound)
        eps = (x - alpha[i] * x0) / sigma[i]
        if solver == "ddim":
            x = alpha[i - 1] * x0 + sigma[i - 1] * eps
        elif solver == "ode_dpmsolver_1":
            x = alpha[i - 1] / alpha[i] * x - sigma[i - 1] * torch.expm1(h) * eps
        else:
            d = x0
            if solver.endswith("2M") and i < steps:
                r = (lam[i] - lam[i + 1]) / h
                d = (1 + 0.5 / r) * x0 - 0.5 / r * last
            x = sigma[i - 1] / sigma[i] * x - alpha[i - 1] * torch.expm1(-h) * d
        last = x0
    return x


# 15 steps: below, our dpm++2m takes its last step by order 1, as dpm-solver does and this doesn't.
@pytest.mark.parametrize("bound", [1.0, 1e6])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("ddim", "ddim"),
        ("ode_dpmsolver_1", "dpm1"),
        ("ode_dpmsolver++_1", "dpm1"),
        ("ode_dpmsolver++_2M", "dpm++2m"),
    ],
)
def test_clean_diffusers_continuous_sde_is_vp_schedule(theirs, ours, bound):
    net, obs, x = eps_net(), rand(7, OBS, seed=1), rand(7, A, seed=2)
    fast = d2.accelerate(
        net, schedule=d2.VPSchedule(), solver=ours, steps=15, clip_x0=True, act_low=-bound,
        act_high=bound, backend="reference",
    )  # fmt: skip
    expected = clean_diffuser(net, obs, x, theirs, 15, bound).clamp(-bound, bound)
    close(fast.sample(obs, x_T=x), expected)


class ChunkMLP(nn.Module):
    """A network of DPPO's layout: net(x [B, T, A], time, cond={"state": [B, To, O]})."""

    def __init__(self, horizon=4, act=3, cond=OBS, width=16, t_dim=6):
        super().__init__()
        self.t_dim, flat = t_dim, horizon * act
        self.time = nn.Sequential(
            networks.SinusoidalTime(t_dim), nn.Linear(t_dim, 12), nn.Mish(), nn.Linear(12, t_dim)
        )
        self.first, self.out = nn.Linear(flat + t_dim + cond, width), nn.Linear(width, flat)
        self.one, self.two, self.act = nn.Linear(width, width), nn.Linear(width, width), nn.ReLU()

    def forward(self, x, time, cond):
        b, horizon, act = x.shape
        x, state = x.view(b, -1), cond["state"].view(b, -1)
        h = self.first(torch.cat([x, self.time(time).view(b, self.t_dim), state], dim=-1))
        h = h + self.two(self.act(self.one(self.act(h))))
        return self.out(h).view(b, horizon, act)


class Rows(nn.Module):
    """The wrapper of docs/migration/dppo.md."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t, obs):
        return self.net(x, t, cond={"state": obs.unflatten(1, (1, -1))})


def dppo(net, obs, x, z, schedule):
    """DPPO's ancestral chain with denoised_clip_value 1; z: noise of each step."""
    bar = schedule.alphas_cumprod
    for k, i in enumerate(reversed(range(len(bar)))):
        before = bar[i - 1] if i else torch.tensor(1.0, dtype=torch.float64)
        beta = 1 - bar[i] / before
        eps = net(x, torch.full((len(x),), float(i), dtype=torch.float64), {"state": obs[:, None]})
        x0 = ((x - (1 - bar[i]).sqrt() * eps) / bar[i].sqrt()).clamp(-1, 1)
        mean = beta * before.sqrt() / (1 - bar[i]) * x0
        mean = mean + (1 - before) * (1 - beta).sqrt() / (1 - bar[i]) * x
        x = mean + (beta * (1 - before) / (1 - bar[i])).sqrt() * z[k] * (i > 0)
    return x


def test_dppos_chunks_are_act_shape():
    torch.manual_seed(1)
    net, schedule = ChunkMLP().double(), d2.schedules.cosine(10)
    obs, x, z = rand(7, OBS, seed=3), rand(7, 4, 3, seed=4), rand(10, 7, 4, 3, seed=5)
    policy = d2.DiffusionPolicy(
        Rows(net), schedule, "ddpm", obs_dim=OBS, act_shape=(4, 3), backend="reference"
    )
    expected = dppo(net, obs, x, z, schedule).clamp(-1, 1)
    close(policy.sample(obs, x_T=x, noise=z), expected)
    native = d2.DiffusionPolicy(
        Rows(net.float()), schedule, "ddpm", obs_dim=OBS, act_shape=(4, 3), backend="native"
    )
    act = native.sample(obs.float(), x_T=x.float(), noise=z.float())
    # float32 against float64; the bound is that of the action, 1, times what ten steps add up.
    assert (act - expected).abs().max() < 1e3 * torch.finfo(torch.float32).eps


def test_dppos_ddim_is_one_with_clipped_guesses():
    """It computes the noise again from the clipped guess, as a solver table's rows do."""
    torch.manual_seed(1)
    net, schedule = ChunkMLP().double(), d2.schedules.cosine(20)
    obs, x = rand(7, OBS, seed=6), rand(7, 4, 3, seed=7)
    policy = d2.DiffusionPolicy(
        Rows(net),
        schedule,
        "ddim",
        obs_dim=OBS,
        act_shape=(4, 3),
        clip_x0=True,
        backend="reference",
    )
    bar, y = schedule.alphas_cumprod, x
    for i in reversed(range(20)):
        before = bar[i - 1] if i else torch.tensor(1.0, dtype=torch.float64)
        eps = net(y, torch.full((7,), float(i), dtype=torch.float64), {"state": obs[:, None]})
        x0 = ((y - (1 - bar[i]).sqrt() * eps) / bar[i].sqrt()).clamp(-1, 1)
        eps = (y - bar[i].sqrt() * x0) / (1 - bar[i]).sqrt()
        y = before.sqrt() * x0 + (1 - before).sqrt() * eps
    close(policy.sample(obs, x_T=x), y)


def test_torchrls_diffusion_actor():
    """Its chain is DDPM without clipping, its variance beta, its time a number among the inputs."""
    torchrl = pytest.importorskip("torchrl.modules", reason="pip install 'dom2-fast[peers]'")
    diffusers = pytest.importorskip("diffusers", reason="its scheduler says what the chain is")
    torch.manual_seed(2)
    actor = torchrl.DiffusionActor(action_dim=A, obs_dim=OBS, num_steps=20)
    chain = actor.module
    obs = rand(7, OBS, seed=8, dtype=torch.float32)
    chain(obs)  # makes its lazy layer
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=20, beta_start=1e-4, beta_end=0.02, clip_sample=False,
        variance_type="fixed_large",
    )  # fmt: skip
    fast = d2.accelerate(
        chain.score_network, schedule=scheduler, steps=20, obs_dim=OBS, act_dim=A, act_low=-1e3,
        act_high=1e3, call=lambda net, x, t, obs: net(torch.cat([x, obs, t[:, None]], -1)),
    )  # fmt: skip
    from tensordict.nn import InteractionType, set_interaction_type

    with set_interaction_type(InteractionType.DETERMINISTIC):
        expected = chain(obs)
    ours = fast.sample(obs, x_T=torch.zeros(7, A), noise=torch.zeros(20, 7, A))
    assert (ours - expected).abs().max() < 1e3 * torch.finfo(torch.float32).eps * math.sqrt(20)
