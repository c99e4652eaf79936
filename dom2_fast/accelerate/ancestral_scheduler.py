"""diffusers' `DDPMScheduler` and `DDIMScheduler`, by their documented attributes, as tables.

Read are `config`, `alphas_cumprod` and `timesteps`, so every beta schedule (`squaredcos_cap_v2`)
and every spacing of the times (`leading`, `trailing`, `linspace`) comes along. DDIM is what has a
`final_alpha_cumprod`; DDPM has a `previous_timestep` or a `variance_type`.
"""

from __future__ import annotations

import math

import torch

from dom2_fast.accelerate.tables import guess
from dom2_fast.errors import Dom2Error
from dom2_fast.policies.solvers import COLUMNS, SolverPlan

_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large")


def is_ancestral(scheduler) -> bool:
    """Has it steps by alphas_cumprod, and no sigmas as DPM-Solver's schedulers have?"""
    return hasattr(scheduler, "alphas_cumprod") and not hasattr(scheduler, "sigmas")


def plan_of(scheduler, option, predict: str) -> SolverPlan:
    """The walk over the times as they are set. option(name, default): of its config.

    Raises Dom2Error with the reason for what can't be a table.
    """
    ddim = hasattr(scheduler, "final_alpha_cumprod")
    _check(scheduler, option, ddim)
    bound = float(option("clip_sample_range", 1.0)) if option("clip_sample", True) else math.inf
    products = scheduler.alphas_cumprod.double()
    times = [int(t) for t in scheduler.timesteps]
    table = torch.zeros(len(times), COLUMNS, dtype=torch.float64)
    for row, t in zip(table, times, strict=True):
        now = products[t].item()
        then = _next(scheduler, option, t, products, ddim)
        row[0], row[1] = guess("data", predict, math.sqrt(now), math.sqrt(1.0 - now))
        if ddim:  # Song et al. 2021, eq. 12, eta = 0
            row[2] = math.sqrt((1.0 - then) / (1.0 - now))
            row[3] = math.sqrt(then) - math.sqrt(now) * row[2]
        else:  # Ho et al. 2020, eq. 6-7
            alpha = now / then
            row[2] = math.sqrt(alpha) * (1.0 - then) / (1.0 - now)
            row[3] = math.sqrt(then) * (1.0 - alpha) / (1.0 - now)
            variance = max((1.0 - then) / (1.0 - now) * (1.0 - alpha), 1e-20)
            if option("variance_type", "fixed_small") == "fixed_large":
                variance = 1.0 - alpha
            row[5] = math.sqrt(variance) if t > 0 else 0.0
        row[6], row[7] = -bound, bound
    walk = torch.tensor(times, dtype=torch.float64)
    noisy = bool((table[:, 5] != 0.0).any())
    return SolverPlan("scheduler ddim" if ddim else "scheduler ddpm", table, walk, len(walk), noisy)


def _next(scheduler, option, t: int, products: torch.Tensor, ddim: bool) -> float:
    """alphas_cumprod where the step from t leads."""
    if ddim or not hasattr(scheduler, "previous_timestep"):
        count = getattr(scheduler, "num_inference_steps", None) or len(scheduler.timesteps)
        then = t - int(option("num_train_timesteps", len(products))) // count
    else:
        then = int(scheduler.previous_timestep(t))
    if then >= 0:
        return products[then].item()
    return float(scheduler.final_alpha_cumprod) if ddim else 1.0


def _check(scheduler, option, ddim: bool) -> None:
    what = type(scheduler).__name__

    def refuse(why: str):
        raise Dom2Error(f"can't use the scheduler {what}: {why}")

    if not ddim and not hasattr(scheduler, "previous_timestep") and option("variance_type") is None:
        refuse(
            "it has neither sigmas, as DPM-Solver multistep schedulers have, nor "
            "final_alpha_cumprod (DDIM) nor variance_type (DDPM)"
        )
    if option("thresholding", False):
        refuse("thresholding is on; a step can clip a guess to fixed bounds, no more")
    if not ddim and option("variance_type", "fixed_small") not in _VARIANCES:
        refuse(f"its variance_type is {option('variance_type')!r}; accepted are {_VARIANCES}")
    if ddim and option("clip_sample", True):
        refuse(
            "clip_sample: DDIM's step puts the network's noise beside the clipped guess, and a row "
            "of a solver table has the guess alone; set clip_sample=False (the actions are clipped "
            "at the end), with clip_x0=True for what use_clipped_model_output=True does"
        )
    if option("rescale_betas_zero_snr", False):
        refuse("rescale_betas_zero_snr: there is no signal at the first time to guess from")
