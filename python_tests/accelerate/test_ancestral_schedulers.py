"""DDPM and DDIM schedulers against their published steps, and against diffusers where installed."""

import math
import types

import pytest
import torch
from accelerate_problems import F64, close
from foreign import OBS, A, rand

from dom2_fast import accelerate, networks
from dom2_fast.errors import Dom2Error

BIG = {"act_low": -1e6, "act_high": 1e6}
EPSILON_STEPS = [1, 4, 10]


def net():
    torch.manual_seed(0)
    return networks.MLPNoiseNet(OBS, A, hidden=12, time_dim=6).double()


class Scheduler:
    """The documented attributes of diffusers' schedulers; `step` is the published update.

    Betas by `squaredcos_cap_v2`: Nichol & Dhariwal 2021, eq. 17, capped at 0.999.
    """

    def __init__(self, **config):
        defaults = {
            "num_train_timesteps": 100,
            "prediction_type": "epsilon",
            "timestep_spacing": "leading",
            "clip_sample": False,
            "clip_sample_range": 1.0,
            "thresholding": False,
            "steps_offset": 0,
        }
        self.config = types.SimpleNamespace(**{**self.own, **defaults, **config})
        n = self.config.num_train_timesteps
        bar = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
        betas = [min(1 - bar((i + 1) / n) / bar(i / n), 0.999) for i in range(n)]
        self.alphas_cumprod = torch.cumprod(1.0 - torch.tensor(betas, dtype=F64), 0)
        self.set_timesteps(n)

    def set_timesteps(self, count):
        n = self.config.num_train_timesteps
        self.num_inference_steps = count
        if self.config.timestep_spacing == "leading":
            times = [i * (n // count) + self.config.steps_offset for i in range(count)][::-1]
        else:
            times = [round(n - i * n / count) - 1 for i in range(count)]
        self.timesteps = torch.tensor(times)

    def walk(self, net, obs, x, noise):
        for k, t in enumerate(self.timesteps.tolist()):
            out = net(x, torch.full((len(x),), float(t), dtype=F64), obs)
            x = self.step(out, t, x, noise[k])
        return x

    def parts(self, out, t, x):
        now, n = self.alphas_cumprod[t], self.config.num_train_timesteps
        previous = t - n // self.num_inference_steps
        then = self.alphas_cumprod[previous] if previous >= 0 else self.last
        if self.config.prediction_type == "epsilon":
            x0 = (x - (1 - now).sqrt() * out) / now.sqrt()
        elif self.config.prediction_type == "sample":
            x0 = out
        else:
            x0 = now.sqrt() * x - (1 - now).sqrt() * out
        if self.config.clip_sample:
            x0 = x0.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        return now, then, x0


class DDPM(Scheduler):
    own = {"variance_type": "fixed_small"}  # noqa: RUF012
    last = torch.ones((), dtype=F64)

    def step(self, out, t, x, z):
        now, then, x0 = self.parts(out, t, x)
        beta = 1 - now / then
        mean = then.sqrt() * beta / (1 - now) * x0
        mean = mean + (now / then).sqrt() * (1 - then) / (1 - now) * x
        variance = ((1 - then) / (1 - now) * beta).clamp(min=1e-20)
        if self.config.variance_type == "fixed_large":
            variance = beta
        return mean + (t > 0) * variance.sqrt() * z


class DDIM(Scheduler):
    own = {"set_alpha_to_one": True}  # noqa: RUF012

    def __init__(self, **config):
        super().__init__(**config)
        one = self.config.set_alpha_to_one
        self.final_alpha_cumprod = self.last = (
            torch.ones((), dtype=F64) if one else self.alphas_cumprod[0]
        )

    def step(self, out, t, x, z):
        now, then, x0 = self.parts(out, t, x)
        eps = (x - now.sqrt() * x0) / (1 - now).sqrt()
        return then.sqrt() * x0 + (1 - then).sqrt() * eps


CASES = [
    (DDPM, {}),
    (DDPM, {"clip_sample": True}),
    (DDPM, {"clip_sample": True, "clip_sample_range": 0.5, "prediction_type": "sample"}),
    (DDPM, {"timestep_spacing": "trailing", "variance_type": "fixed_large"}),
    (DDPM, {"prediction_type": "v_prediction"}),
    (DDIM, {}),
    (DDIM, {"timestep_spacing": "trailing"}),
    (DDIM, {"set_alpha_to_one": False, "steps_offset": 1}),
    (DDIM, {"prediction_type": "sample"}),
]


@pytest.mark.parametrize(("kind", "config"), CASES)
@pytest.mark.parametrize("steps", EPSILON_STEPS)
def test_a_scheduler_is_walked_as_published(kind, config, steps):
    n, scheduler = net(), kind(**config)
    fast = accelerate(n, schedule=scheduler, steps=steps, backend="reference", **BIG)
    assert len(scheduler.timesteps) == 100  # a copy was set
    obs, x_T, noise = rand(5, OBS), rand(5, A, seed=1), rand(steps, 5, A, seed=2)
    scheduler.set_timesteps(steps)
    close(fast.sample(obs, x_T, noise), scheduler.walk(n, obs, x_T, noise))


def test_against_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    kinds = {"DDPMScheduler": True, "DDIMScheduler": False}
    for name, clips in kinds.items():
        for spacing in ("leading", "trailing"):
            scheduler = getattr(diffusers, name)(
                100, beta_schedule="squaredcos_cap_v2", clip_sample=clips, timestep_spacing=spacing
            )
            n = net()
            fast = accelerate(n, schedule=scheduler, steps=10, backend="reference", **BIG)
            obs, x, noise = rand(5, OBS), rand(5, A, seed=1), rand(10, 5, A, seed=2)
            got = fast.sample(obs, x, noise)
            scheduler.set_timesteps(10)
            for k, t in enumerate(scheduler.timesteps):
                out = n(x, torch.full((5,), float(t), dtype=F64), obs)
                drawn = scheduler.step(out, t, x, generator=torch.Generator().manual_seed(k))
                if clips and t > 0:  # its noise is its own: put ours in its place
                    z = torch.randn(
                        x.shape, generator=torch.Generator().manual_seed(k), dtype=out.dtype
                    )
                    deviation = fast._fast._plan.table[k, 5]
                    x = drawn.prev_sample + deviation * (noise[k] - z)
                else:
                    x = drawn.prev_sample
            assert (got - x).abs().max() < 1e-4 * x.abs().max(), (name, spacing)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (DDIM, {"clip_sample": True}, "DDIM.s step.*clip_sample=False.*clip_x0=True"),
        (DDPM, {"thresholding": True}, "thresholding is on"),
        (DDPM, {"variance_type": "learned"}, "variance_type is 'learned'"),
        (DDIM, {"rescale_betas_zero_snr": True}, "no signal at the first time"),
        (DDPM, {"prediction_type": "flow"}, "prediction_type is none of"),
        (DDPM, {"variance_type": None}, "neither sigmas.*nor final_alpha_cumprod"),
    ],
)
def test_refusals(kind, config, message):
    with pytest.raises(Dom2Error, match=message):
        accelerate(net(), schedule=kind(**config), steps=5)
