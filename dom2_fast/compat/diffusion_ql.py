"""Diffusion-QL's `Diffusion` (Wang et al. 2023; Ho et al. 2020) with native sampling and loss."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dom2_fast.accelerate.fast_diffusion import FastDiffusion
from dom2_fast.errors import Dom2Error


def linear_beta_schedule(timesteps, beta_start=1e-4, beta_end=2e-2, dtype=torch.float32):
    """Evenly spaced betas, whatever the number of steps: [timesteps]."""
    return torch.tensor(np.linspace(beta_start, beta_end, timesteps), dtype=dtype)


def cosine_beta_schedule(timesteps, s=0.008, dtype=torch.float32):
    """Nichol & Dhariwal 2021, eq. 17, no beta above 0.999: [timesteps]."""
    u = np.linspace(0.0, 1.0, timesteps + 1)
    f = np.cos((u + s) / (1.0 + s) * (math.pi / 2.0)) ** 2
    return torch.tensor(np.clip(1.0 - f[1:] / f[:-1], 0.0, 0.999), dtype=dtype)


def vp_beta_schedule(timesteps, dtype=torch.float32):
    """The linear VP SDE from 0.1 to 10 in steps (Xiao et al. 2022): [timesteps]."""
    i = np.arange(1, timesteps + 1)
    rate = 0.1 / timesteps + 0.5 * (10.0 - 0.1) * (2 * i - 1) / timesteps**2
    return torch.tensor(-np.expm1(-rate), dtype=dtype)


_SCHEDULES = {
    "linear": linear_beta_schedule,
    "cosine": cosine_beta_schedule,
    "vp": vp_beta_schedule,
}


class _Weighted(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self._loss = loss

    def forward(self, pred, targ, weights=1.0):
        return (self._loss(pred, targ, reduction="none") * weights).mean()


_LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss}


def extract(a: torch.Tensor, t: torch.Tensor, x_shape) -> torch.Tensor:
    """a[t], shaped to multiply a tensor of shape x_shape: [B, 1, ...]."""
    return a.gather(-1, t).reshape(len(t), *(1,) * (len(x_shape) - 1))


class _Formulas(nn.Module):
    """Everything but sampling and the loss, step by step in PyTorch."""

    def __init__(
        self,
        state_dim,
        action_dim,
        model,
        max_action,
        beta_schedule="linear",
        n_timesteps=100,
        loss_type="l2",
        clip_denoised=True,
        predict_epsilon=True,
    ):
        super().__init__()
        if beta_schedule not in _SCHEDULES:
            raise Dom2Error(f"beta_schedule is one of {list(_SCHEDULES)}, got {beta_schedule!r}")
        if loss_type not in _LOSSES:
            raise Dom2Error(f"loss_type is one of {list(_LOSSES)}, got {loss_type!r}")
        if int(n_timesteps) != n_timesteps or n_timesteps < 1:
            raise Dom2Error(f"n_timesteps is a whole number of 1 or more, got {n_timesteps!r}")
        self.state_dim, self.action_dim, self.max_action = state_dim, action_dim, max_action
        self.model = model
        self.n_timesteps = int(n_timesteps)
        self.clip_denoised, self.predict_epsilon = clip_denoised, predict_epsilon
        self.loss_fn = _Weighted(_LOSSES[loss_type])
        betas = _SCHEDULES[beta_schedule](self.n_timesteps)
        for name, value in _buffers(betas).items():
            self.register_buffer(name, value)

    def predict_start_from_noise(self, x_t, t, noise):
        """The clean action that noise (the network's output) implies; itself for x0 networks."""
        if not self.predict_epsilon:
            return noise
        a = extract(self.sqrt_recip_alphas_cumprod, t, x_t.shape)
        b = extract(self.sqrt_recipm1_alphas_cumprod, t, x_t.shape)
        return a * x_t - b * noise

    def q_posterior(self, x_start, x_t, t):
        """Mean, variance and clipped log variance of q(x_{t-1} | x_t, x_0) (Ho et al., eq. 7)."""
        a = extract(self.posterior_mean_coef1, t, x_t.shape)
        b = extract(self.posterior_mean_coef2, t, x_t.shape)
        variance = extract(self.posterior_variance, t, x_t.shape)
        log_variance = extract(self.posterior_log_variance_clipped, t, x_t.shape)
        return a * x_start + b * x_t, variance, log_variance

    def p_mean_variance(self, x, t, s):
        """q_posterior at the network's guess of the clean action, clipped to max_action."""
        x0 = self.predict_start_from_noise(x, t=t, noise=self.model(x, t, s))
        if self.clip_denoised:
            x0 = x0.clamp(-self.max_action, self.max_action)
        return self.q_posterior(x_start=x0, x_t=x, t=t)

    def p_sample(self, x, t, s):
        """One step: x [B, A] at steps t [B] -> x at t - 1; no noise at t = 0."""
        mean, _, log_variance = self.p_mean_variance(x=x, t=t, s=s)
        noisy = (t != 0).to(x.dtype).reshape(len(x), *(1,) * (x.dim() - 1))
        return mean + noisy * torch.exp(0.5 * log_variance) * torch.randn_like(x)

    def p_sample_loop(self, state, shape, verbose=False, return_diffusion=False):
        """All steps, called one by one: x, or x and the path [B, n_timesteps + 1, A]."""
        x = torch.randn(shape, device=self.betas.device)
        path = [x]
        for i in reversed(range(self.n_timesteps)):
            t = torch.full((shape[0],), i, device=self.betas.device, dtype=torch.long)
            x = self.p_sample(x, t, state)
            path.append(x)
        return (x, torch.stack(path, dim=1)) if return_diffusion else x

    def q_sample(self, x_start, t, noise=None):
        """x_start with the noise of steps t [B] (Ho et al., eq. 4)."""
        noise = torch.randn_like(x_start) if noise is None else noise
        a = extract(self.sqrt_alphas_cumprod, t, x_start.shape)
        b = extract(self.sqrt_one_minus_alphas_cumprod, t, x_start.shape)
        return a * x_start + b * noise

    def p_losses(self, x_start, state, t, weights=1.0):
        """The denoising loss at steps t [B] (Ho et al., eq. 14), by the network's own forward."""
        noise = torch.randn_like(x_start)
        out = self.model(self.q_sample(x_start=x_start, t=t, noise=noise), t, state)
        return self.loss_fn(out, noise if self.predict_epsilon else x_start, weights)

    def loss(self, x, state, weights=1.0):
        """The denoising loss of actions x [B, A], at uniform steps; weights broadcast to [B, A]."""
        t = torch.randint(0, self.n_timesteps, (len(x),), device=x.device)
        return self.p_losses(x, state, t, weights)


class Diffusion(FastDiffusion, _Formulas):
    """Drop-in for Diffusion-QL's class: the same arguments, methods, buffers and state_dict keys.

    model: net(x [B, A], t [B], state [B, S]) -> [B, A]. beta_schedule: linear, cosine or vp.
    `sample(state)` is one native call; `x_T`, `noise` and `generator` are extra. `verbose` prints
    nothing. Raises Dom2Error for unknown names.
    """


def _buffers(betas: torch.Tensor) -> dict[str, torch.Tensor]:
    alphas = 1.0 - betas
    cumprod = torch.cumprod(alphas, 0)
    before = torch.cat([torch.ones(1), cumprod[:-1]])
    variance = betas * (1.0 - before) / (1.0 - cumprod)
    return {
        "betas": betas,
        "alphas_cumprod": cumprod,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": torch.sqrt(cumprod),
        "sqrt_one_minus_alphas_cumprod": torch.sqrt(1.0 - cumprod),
        "log_one_minus_alphas_cumprod": torch.log(1.0 - cumprod),
        "sqrt_recip_alphas_cumprod": torch.sqrt(1.0 / cumprod),
        "sqrt_recipm1_alphas_cumprod": torch.sqrt(1.0 / cumprod - 1.0),
        "posterior_variance": variance,
        # The first variance is 0; its logarithm is never used, but has to be a number.
        "posterior_log_variance_clipped": torch.log(variance.clamp(min=1e-20)),
        "posterior_mean_coef1": betas * torch.sqrt(before) / (1.0 - cumprod),
        "posterior_mean_coef2": (1.0 - before) * torch.sqrt(alphas) / (1.0 - cumprod),
    }
