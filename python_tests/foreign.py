"""Stand-ins for other projects' classes: written from their published descriptions, in plain loops.

They are what `accelerate` is given in the tests, and what its results are compared with. The names
are not the projects' own, as structure alone must tell.
"""

import copy
import functools
import math
import types

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

OBS, A = 5, 2


def rand(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)


# ---- Diffusion-QL (Wang et al. 2023) -------------------------------------------------------------


class Sines(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, t):
        half = self.dim // 2
        w = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000) / (half - 1)))
        angle = t[:, None] * w[None, :]
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


class QLNet(nn.Module):
    """[x, time features, state] -> three layers with Mish."""

    def __init__(self, hidden=16, t_dim=6):
        super().__init__()
        self.time_mlp = nn.Sequential(
            Sines(t_dim), nn.Linear(t_dim, 2 * t_dim), nn.Mish(), nn.Linear(2 * t_dim, t_dim)
        )
        layers = [nn.Linear(OBS + A + t_dim, hidden), nn.Mish()]
        for _ in range(2):
            layers += [nn.Linear(hidden, hidden), nn.Mish()]
        self.mid_layer = nn.Sequential(*layers)
        self.final_layer = nn.Linear(hidden, A)

    def forward(self, x, time, state):
        t = self.time_mlp(time.to(x.dtype))  # so that it runs in float64, too
        return self.final_layer(self.mid_layer(torch.cat([x, t, state], dim=1)))


class Weighted(nn.Module):
    def forward(self, pred, targ, weights=1.0):
        return ((pred - targ) ** 2 * weights).mean()


class QLPolicy(nn.Module):
    """Ancestral sampling by the posterior of Ho et al. 2020, one network call after the other."""

    def __init__(self, model, betas, max_action=1.0, clip_denoised=True, predict_epsilon=True):
        super().__init__()
        self.state_dim, self.action_dim, self.max_action = OBS, A, max_action
        self.model, self.n_timesteps = model, len(betas)
        self.clip_denoised, self.predict_epsilon = clip_denoised, predict_epsilon
        self.loss_fn = Weighted()
        bar = torch.cumprod(1.0 - betas, 0)
        bar_before = torch.cat([torch.ones(1, dtype=betas.dtype), bar[:-1]])
        variance = betas * (1.0 - bar_before) / (1.0 - bar)
        values = {
            "betas": betas,
            "alphas_cumprod": bar,
            "sqrt_alphas_cumprod": bar.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1.0 - bar).sqrt(),
            "sqrt_recip_alphas_cumprod": (1.0 / bar).sqrt(),
            "sqrt_recipm1_alphas_cumprod": (1.0 / bar - 1.0).sqrt(),
            "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
            "posterior_mean_coef1": betas * bar_before.sqrt() / (1.0 - bar),
            "posterior_mean_coef2": (1.0 - bar_before) * (1.0 - betas).sqrt() / (1.0 - bar),
        }
        for name, value in values.items():
            self.register_buffer(name, value)

    def step(self, x, i, state, z):
        t = torch.full((len(x),), i, dtype=torch.long)
        out = self.model(x, t, state)
        x0 = out
        if self.predict_epsilon:
            x0 = self.sqrt_recip_alphas_cumprod[i] * x - self.sqrt_recipm1_alphas_cumprod[i] * out
        if self.clip_denoised:
            x0 = x0.clamp(-self.max_action, self.max_action)
        mean = self.posterior_mean_coef1[i] * x0 + self.posterior_mean_coef2[i] * x
        return mean if i == 0 else mean + (0.5 * self.posterior_log_variance_clipped[i]).exp() * z

    def walk(self, state, x_T, noise):
        """The loop with given draws; noise[0] is that of the first step."""
        x, path = x_T, [x_T]
        for k, i in enumerate(reversed(range(self.n_timesteps))):
            x = self.step(x, i, state, noise[k])
            path.append(x)
        return x, torch.stack(path, 1)

    def p_sample_loop(self, state, shape, verbose=False, return_diffusion=False):
        x = torch.randn(shape, dtype=self.betas.dtype)
        path = [x]
        for i in reversed(range(self.n_timesteps)):
            x = self.step(x, i, state, torch.randn_like(x))
            path.append(x)
        return (x, torch.stack(path, 1)) if return_diffusion else x

    def sample(self, state, *args, **kwargs):
        x = self.p_sample_loop(state, (len(state), self.action_dim), *args, **kwargs)
        return x.clamp(-self.max_action, self.max_action)

    def forward(self, state, *args, **kwargs):
        return self.sample(state, *args, **kwargs)

    def q_sample(self, x_start, t, noise=None):
        noise = torch.randn_like(x_start) if noise is None else noise
        a, s = self.sqrt_alphas_cumprod[t], self.sqrt_one_minus_alphas_cumprod[t]
        return a[:, None] * x_start + s[:, None] * noise

    def p_losses(self, x_start, state, t, weights=1.0):
        noise = torch.randn_like(x_start)
        out = self.model(self.q_sample(x_start, t, noise), t, state)
        return self.loss_fn(out, noise if self.predict_epsilon else x_start, weights)

    def loss(self, x, state, weights=1.0):
        t = torch.randint(0, self.n_timesteps, (len(x),))
        return self.p_losses(x, state, t, weights)


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Sequential(nn.Linear(OBS + A, 8), nn.Mish(), nn.Linear(8, 1))

    def forward(self, state, action):
        return self.q(torch.cat([state, action], -1))


class QLAgent:
    """The parts of Diffusion-QL's agent that touch the diffusion."""

    def __init__(self, betas):
        self.model = QLNet()
        self.actor = QLPolicy(self.model, betas)
        self.ema_model = copy.deepcopy(self.actor)
        self.critic = Critic()
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=1e-2)

    def train(self, state, action):
        target = self.critic(state, self.ema_model(state)).detach()
        loss = self.actor.loss(action, state) - self.critic(state, self.actor(state)).mean()
        self.actor_optimizer.zero_grad()
        loss.backward()
        self.actor_optimizer.step()
        for p, q in zip(self.actor.parameters(), self.ema_model.parameters(), strict=True):
            q.data = 0.9 * q.data + 0.1 * p.data
        return target

    def sample_action(self, state):
        rows = torch.as_tensor(state, dtype=torch.float32).reshape(1, -1).repeat(8, 1)
        with torch.no_grad():
            action = self.actor.sample(rows)
            q = self.critic(rows, action).flatten()
            return action[torch.multinomial(F.softmax(q, 0), 1)].numpy().flatten()


def ql_betas(n=5, dtype=torch.float32):
    i = np.arange(1, n + 1)
    return torch.tensor(1 - np.exp(-0.1 / n - 0.5 * 9.9 * (2 * i - 1) / n**2), dtype=dtype)


# ---- DPM-Solver (Lu et al. 2022; DPM-Solver++, Lu et al. 2023) -----------------------------------


class LinearVP:
    """Song et al. 2021; beta from 0.1 to 20, t in (0, 1]."""

    schedule, T, total_N = "linear", 1.0, 1000

    def marginal_log_mean_coeff(self, t):
        return -(20.0 - 0.1) / 4.0 * t**2 - 0.1 / 2.0 * t

    def inverse_lambda(self, lam):
        log_alpha = -0.5 * torch.log1p(torch.exp(-2.0 * lam))
        b, c = 0.1 / 2.0, (20.0 - 0.1) / 4.0
        return (-b + torch.sqrt(b * b - 4.0 * c * log_alpha)) / (2.0 * c)


class StepsVP:
    """log alpha linear between the steps of a discrete schedule."""

    schedule, T = "discrete", 1.0

    def __init__(self, betas):
        self.log_alpha = np.cumsum(np.log1p(-np.asarray(betas, dtype=np.float64))) / 2.0
        self.total_N = len(betas)
        self.t = np.arange(1, self.total_N + 1) / self.total_N

    def marginal_log_mean_coeff(self, t):
        return torch.from_numpy(np.interp(t.double().numpy(), self.t, self.log_alpha))

    def inverse_lambda(self, lam):
        log_alpha = -0.5 * np.log1p(np.exp(-2.0 * lam.double().numpy()))
        return torch.from_numpy(np.interp(log_alpha, self.log_alpha[::-1], self.t[::-1]))


def als(ns, t):
    """alpha, sigma, lambda as numbers."""
    log_alpha = float(ns.marginal_log_mean_coeff(torch.tensor([t], dtype=torch.float64))[0])
    a, s = math.exp(log_alpha), math.sqrt(-math.expm1(2.0 * log_alpha))
    return a, s, math.log(a / s)


def wrap(
    model,
    ns,
    model_type="noise",
    model_kwargs=None,
    guidance_type="uncond",
    condition=None,
    guidance_scale=1.0,
    unconditional_condition=None,
    classifier_fn=None,
):
    """Noise of (x, t), from a network that returns the noise, the data, v or the score."""
    model_kwargs = model_kwargs or {}

    def noise_pred_fn(x, t, cond=None):
        given = (t - 1.0 / ns.total_N) * 1000.0 if ns.schedule == "discrete" else t
        more = () if cond is None else (cond,)
        out = model(x, given.to(x.dtype), *more, **model_kwargs)
        a, s, _ = als(ns, float(t[0]))
        if model_type == "noise":
            return out
        if model_type == "x_start":
            return (x - a * out) / s
        return a * out + s * x if model_type == "v" else -s * out

    def model_fn(x, t):
        assert guidance_type in ("uncond", "classifier-free"), (guidance_type, classifier_fn)
        assert guidance_scale == 1.0 or unconditional_condition is None
        return noise_pred_fn(x, t, condition if guidance_type == "classifier-free" else None)

    return model_fn


class PlainSolver:
    """Singlestep and multistep solvers of orders 1 to 3, in the variables of the papers."""

    def __init__(
        self,
        model_fn,
        noise_schedule,
        algorithm_type="dpmsolver++",
        correcting_x0_fn=None,
        correcting_xt_fn=None,
    ):
        self.model = lambda x, t: model_fn(x, t.expand(x.shape[0]))
        self.noise_schedule, self.algorithm_type = noise_schedule, algorithm_type
        self.correcting_x0_fn, self.correcting_xt_fn = correcting_x0_fn, correcting_xt_fn
        self.lower_below, self.by_calls = 10, False

    def value(self, x, t):
        eps = self.model(x, torch.tensor([t], dtype=torch.float64))
        a, s, _ = als(self.noise_schedule, t)
        return (x - s * eps) / a if self.algorithm_type == "dpmsolver++" else eps

    def update(self, x, s, t, m, slope=0.0, solver_type="dpmsolver"):
        """One step from s to t with value m at s and its slope in lambda."""
        (a_s, v_s, l_s), (a_t, v_t, l_t) = als(self.noise_schedule, s), als(self.noise_schedule, t)
        h = l_t - l_s
        if self.algorithm_type == "dpmsolver++":
            phi = math.expm1(-h)
            second = -0.5 * a_t * phi * h if solver_type == "dpmsolver" else a_t * (phi + h)
            return v_t / v_s * x - a_t * phi * m + second * slope
        phi = math.expm1(h)
        second = -0.5 * v_t * phi * h if solver_type == "dpmsolver" else -v_t * (phi - h)
        return a_t / a_s * x - v_t * phi * m + second * slope

    def third(self, x, s, t, m, d1, d2):
        """With the integrals of 1, lambda and lambda^2 / 2 against the exponential, to order 3."""
        (a_s, v_s, l_s), (a_t, v_t, l_t) = als(self.noise_schedule, s), als(self.noise_schedule, t)
        h = l_t - l_s
        if self.algorithm_type == "dpmsolver++":
            phi_1 = math.expm1(-h)
            phi_2 = phi_1 / h + 1.0
            phi_3 = phi_2 / h - 0.5
            return v_t / v_s * x - a_t * phi_1 * m + a_t * phi_2 * d1 - a_t * phi_3 * d2
        phi_1 = math.expm1(h)
        phi_2 = phi_1 / h - 1.0
        phi_3 = phi_2 / h - 0.5
        return a_t / a_s * x - v_t * phi_1 * m - v_t * phi_2 * d1 - v_t * phi_3 * d2

    def singlestep_third(self, x, skip_type, start, end, solver_type):
        """DPM-Solver-3 (Lu et al. 2022, algorithm 5) at inner times s1, s2."""
        s, s1, s2, t = self.times(skip_type, start, end, 3)
        l0, l1, l2, l3 = (als(self.noise_schedule, u)[2] for u in (s, s1, s2, t))
        r1, r2 = (l1 - l0) / (l3 - l0), (l2 - l0) / (l3 - l0)
        m = self.value(x, s)
        m1 = self.value(self.third(x, s, s1, m, 0.0, 0.0), s1)
        m2 = self.value(self.third(x, s, s2, m, r2 / r1 * (m1 - m), 0.0), s2)
        if solver_type == "dpmsolver":
            return self.third(x, s, t, m, (m2 - m) / r2, 0.0)
        d10, d11 = (m1 - m) / r1, (m2 - m) / r2
        d1, d2 = (r2 * d10 - r1 * d11) / (r2 - r1), 2.0 * (d11 - d10) / (r2 - r1)
        return self.third(x, s, t, m, d1, d2)

    def multistep_third(self, x, times, values):
        """One step from the last three values, at times[:3]."""
        l2, l1, l0, end = (als(self.noise_schedule, u)[2] for u in times)
        m2, m1, m0 = values
        r0, r1 = (l0 - l1) / (end - l0), (l1 - l2) / (end - l0)
        d10, d11 = (m0 - m1) / r0, (m1 - m2) / r1
        d1, d2 = d10 + r0 / (r0 + r1) * (d10 - d11), (d10 - d11) / (r0 + r1)
        return self.third(x, times[2], times[3], m0, d1, d2)

    def times(self, skip_type, start, end, n):
        if skip_type == "logSNR":
            ends = [als(self.noise_schedule, t)[2] for t in (start, end)]
            lam = np.linspace(*ends, n + 1)
            return self.noise_schedule.inverse_lambda(torch.from_numpy(lam)).tolist()
        if skip_type == "time_quadratic":
            return (np.linspace(start**0.5, end**0.5, n + 1) ** 2).tolist()
        return np.linspace(start, end, n + 1).tolist()

    def sample(
        self,
        x,
        steps=20,
        t_start=None,
        t_end=None,
        order=2,
        skip_type="time_uniform",
        method="multistep",
        lower_order_final=True,
        denoise_to_zero=False,
        solver_type="dpmsolver",
        atol=0.0078,
        rtol=0.05,
        return_intermediate=False,
    ):
        ns = self.noise_schedule
        start = ns.T if t_start is None else t_start
        end = 1.0 / ns.total_N if t_end is None else t_end
        if method == "multistep":
            t, values = self.times(skip_type, start, end, steps), []
            lowers = lower_order_final and steps < self.lower_below
            for i in range(steps):
                values.append(self.value(x, t[i]))
                now = min(order, i + 1, steps - i) if lowers else min(order, i + 1)
                if now == 3:
                    x = self.multistep_third(x, t[i - 2 : i + 2], values[-3:])
                    continue
                slope = 0.0
                if now == 2:
                    slope = values[-1] - values[-2]
                    slope = slope / (als(ns, t[i])[2] - als(ns, t[i - 1])[2])
                x = self.update(x, t[i], t[i + 1], values[-1], slope, solver_type)
        else:
            orders = [order] * (steps // order)
            if method == "singlestep" and order == 3:
                k = steps // 3 + 1
                orders = [[3] * (k - 2) + [2, 1], [3] * (k - 1) + [1], [3] * (k - 1) + [2]]
                orders = orders[steps % 3]
            elif method == "singlestep":
                orders += [1] * (steps % order)
            if method == "singlestep" and (skip_type != "logSNR" or self.by_calls):
                fine = self.times(skip_type, start, end, steps)
                t = [fine[k] for k in np.cumsum([0, *orders])]
            else:
                t = self.times(skip_type, start, end, len(orders))
            for k, n in enumerate(orders):
                if n == 3:
                    x = self.singlestep_third(x, skip_type, t[k], t[k + 1], solver_type)
                    continue
                m = self.value(x, t[k])
                slope = 0.0
                if n == 2:
                    mid = self.times(skip_type, t[k], t[k + 1], 2)[1]
                    m_mid = self.value(self.update(x, t[k], mid, m), mid)
                    slope = (m_mid - m) / (als(ns, mid)[2] - als(ns, t[k])[2])
                x = self.update(x, t[k], t[k + 1], m, slope, solver_type)
        if denoise_to_zero:
            a, s, _ = als(ns, end)
            x = (x - s * self.model(x, torch.tensor([end], dtype=torch.float64))) / a
        return x


# ---- SfBC (Chen et al. 2023) ---------------------------------------------------------------------


def mean_and_std(t, device=None):
    t = torch.tensor(t, device=device)  # takes t for a number: what a trace can't follow
    log_alpha = -(20.0 - 0.1) / 4.0 * t**2 - 0.1 / 2.0 * t
    return torch.exp(log_alpha), torch.sqrt(-torch.expm1(2.0 * log_alpha))


class HandSiLU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Fourier(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.W = nn.Parameter(torch.randn(dim // 2), requires_grad=False)

    def forward(self, t):
        angle = t[:, None] * self.W[None, :] * 2 * np.pi
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)


class ResBlock(nn.Module):
    def __init__(self, n_in, n_out, n_t):
        super().__init__()
        self.time_mlp = nn.Sequential(HandSiLU(), nn.Linear(n_t, n_out))
        self.dense1 = nn.Sequential(nn.Linear(n_in, n_out), HandSiLU())
        self.dense2 = nn.Sequential(nn.Linear(n_out, n_out), HandSiLU())
        self.modify_x = nn.Linear(n_in, n_out) if n_in != n_out else nn.Identity()

    def forward(self, x, t):
        return self.dense2(self.dense1(x) + self.time_mlp(t)) + self.modify_x(x)


class ScoreUNet(nn.Module):
    """A residual U-Net over the action; score = -noise / sigma; holds its solver and condition."""

    def __init__(self, order=2, widths=(12, 8, 6), embed=4):
        super().__init__()
        w1, w2, w3 = widths
        self.output_dim, self.obs_dim = A, OBS
        self.embed = nn.Sequential(Fourier(embed), nn.Linear(embed, embed))
        self.pre_sort_condition = nn.Sequential(nn.Linear(OBS, embed), HandSiLU())
        self.sort_t = nn.Sequential(nn.Linear(2 * embed, 10), HandSiLU(), nn.Linear(10, 10))
        self.down1, self.down2 = ResBlock(A, w1, 10), ResBlock(w1, w2, 10)
        self.down3, self.mid = ResBlock(w2, w3, 10), ResBlock(w3, w3, 10)
        self.up3, self.up2 = ResBlock(2 * w3, w2, 10), ResBlock(2 * w2, w1, 10)
        self.last = nn.Linear(2 * w1, A)
        self.marginal_prob_std = functools.partial(mean_and_std, device=None)
        self.noise_schedule = LinearVP()
        self.dpm_solver = PlainSolver(self.noise_fn, self.noise_schedule, "dpmsolver")
        self.order, self.condition = order, None

    def noise_fn(self, x, t):
        t = t.to(x.dtype)
        return -self(x, t) * self.marginal_prob_std(t)[1][:, None]

    def forward(self, x, t, condition=None):
        if condition is None:
            condition = self.condition.expand(x.shape[0], -1)
        e = self.sort_t(torch.cat([self.pre_sort_condition(condition), self.embed(t)], dim=-1))
        d1 = self.down1(x, e)
        d2 = self.down2(d1, e)
        d3 = self.down3(d2, e)
        u3 = self.up3(torch.cat([d3, self.mid(d3, e)], -1), e)
        u2 = self.up2(torch.cat([d2, u3], -1), e)
        self.h = self.last(torch.cat([d1, u2], -1))
        return self.h / self.marginal_prob_std(t)[1][:, None]

    def sample(self, states, sample_per_state=2, diffusion_steps=6):
        first = next(self.parameters())
        rows = torch.as_tensor(states).to(first).repeat_interleave(sample_per_state, 0)
        with torch.no_grad():
            self.condition = rows
            x = torch.randn(len(rows), A).to(first)
            out = self.dpm_solver.sample(
                x, steps=diffusion_steps, order=self.order, method="singlestep"
            )
            self.condition = None
        return out.reshape(len(states), sample_per_state, A).numpy()


# ---- IDQL (Hansen-Estruch et al. 2023) -----------------------------------------------------------


class LNBlock(nn.Module):
    def __init__(self, width, p):
        super().__init__()
        self.dropout, self.norm = nn.Dropout(p), nn.LayerNorm(width)
        self.wide, self.back = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.back(F.mish(self.wide(self.norm(self.dropout(x)))))


class LNResnet(nn.Module):
    """Residual blocks of LayerNorm and a wide layer; called net(obs, act, t [B, 1])."""

    def __init__(self, width=12, blocks=2, features=6, p=0.1):
        super().__init__()
        self.kernel = nn.Parameter(0.2 * torch.randn(features // 2, 1))
        self.cond = nn.Sequential(nn.Linear(features, 8), nn.Mish(), nn.Linear(8, 8))
        self.dense = nn.Linear(OBS + A + 8, width)
        self.blocks = nn.ModuleList(LNBlock(width, p) for _ in range(blocks))
        self.out = nn.Linear(width, A)

    def forward(self, obs, act, t):
        angle = 2 * math.pi * t @ self.kernel.T
        cond = self.cond(torch.cat([angle.cos(), angle.sin()], -1))
        x = self.dense(torch.cat([act, obs, cond], -1))
        for block in self.blocks:
            x = block(x)
        return self.out(F.mish(x))


# ---- schedulers of diffusers' kind ---------------------------------------------------------------


class MultistepScheduler:
    """DPM-Solver multistep with the documented attributes; `step` is the published update."""

    def __init__(self, num_train_timesteps=100, **config):
        defaults = {
            "solver_order": 2,
            "algorithm_type": "dpmsolver++",
            "solver_type": "midpoint",
            "prediction_type": "epsilon",
            "lower_order_final": True,
            "final_sigmas_type": "zero",
            "thresholding": False,
            "euler_at_final": False,
            "variance_type": None,
        }
        self.config = types.SimpleNamespace(**{**defaults, **config})
        self.betas = torch.linspace(1e-4, 0.08, num_train_timesteps, dtype=torch.float64)
        self.alphas_cumprod = torch.cumprod(1.0 - self.betas, 0)
        self.sigmas = ((1.0 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)

    def set_timesteps(self, n):
        times = np.linspace(0, len(self.betas) - 1, n + 1).round()[::-1][:-1].astype(np.int64)
        all_sigmas = ((1.0 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()
        last = 0.0 if self.config.final_sigmas_type == "zero" else all_sigmas[0].item()
        ends = torch.tensor([last], dtype=torch.float64)
        self.timesteps = torch.from_numpy(times.copy())
        self.sigmas = torch.cat([all_sigmas[self.timesteps], ends])

    def walk(self, net, obs, x, noise):
        """All steps: net(x, t, obs) is called at every timestep."""
        c, n, last = self.config, len(self.timesteps), None
        data = c.algorithm_type.endswith("++")
        for i, t in enumerate(self.timesteps.tolist()):
            r_s, r_t = self.sigmas[i].item(), self.sigmas[i + 1].item()
            a_s, a_t = (1 / math.sqrt(1 + r * r) for r in (r_s, r_t))
            v_s, v_t = r_s * a_s, r_t * a_t
            h = math.inf if r_t == 0 else math.log(r_s) - math.log(r_t)
            out = net(x, torch.full((len(x),), float(t), dtype=x.dtype), obs)
            x0 = {
                "epsilon": (x - v_s * out) / a_s,
                "sample": out,
                "v_prediction": a_s * x - v_s * out,
            }[c.prediction_type]
            m = x0 if data else (x - a_s * x0) / v_s
            lower = c.final_sigmas_type == "zero" or (c.lower_order_final and n < 15)
            d = None
            if c.solver_order == 2 and i > 0 and not (i == n - 1 and lower):
                d = (m - last) / (math.log(self.sigmas[i - 1].item()) - math.log(r_s)) * h
            x, last = self.update(c, x, m, d, noise[i], h, a_s, v_s, a_t, v_t), m
        return x

    @staticmethod
    def update(c, x, m, d, z, h, a_s, v_s, a_t, v_t):
        half = c.solver_type == "midpoint"
        d = 0.0 if d is None else d
        if c.algorithm_type == "dpmsolver++":
            phi = math.expm1(-h)
            return v_t / v_s * x - a_t * phi * m + (-0.5 * phi if half else phi / h + 1) * a_t * d
        if c.algorithm_type == "dpmsolver":
            phi = math.expm1(h)
            return a_t / a_s * x - v_t * phi * m - (0.5 * phi if half else phi / h - 1) * v_t * d
        if c.algorithm_type == "sde-dpmsolver++":
            w = -math.expm1(-2 * h)
            x = v_t / v_s * math.exp(-h) * x + a_t * w * m + v_t * math.sqrt(w) * z
            return x + a_t * (0.5 * w if half else w / (-2 * h) + 1) * d
        phi = math.expm1(h)
        x = a_t / a_s * x - 2 * v_t * phi * m + v_t * math.sqrt(math.expm1(2 * h)) * z
        return x - v_t * (phi if half else 2 * (phi / h - 1)) * d
