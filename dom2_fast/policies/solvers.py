"""Solvers as tables: how to walk from noise to an action, one row of nine numbers per step.

The loop that reads a table is `reference.denoise`, the same for every solver:

    x0 = clip(inv_alpha x - sigma_over_alpha eps, x0_low, x0_high)
    x' = c_x x + c_x0 x0 + c_prev x0_previous + c_prev2 x0_before_that + c_noise z

Rows are (inv_alpha, sigma_over_alpha, c_x, c_x0, c_prev, c_noise, x0_low, x0_high, c_prev2), in
float64.
Below, s is the time of a step, t < s the time it leads to. The VP SDE is walked on the uniform grid
from 1 to 1e-3; a discrete schedule from step K - 1 (strided where fewer steps are asked for), and a
flow from 1, to the clean action, alpha = 1 and sigma = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from dom2_fast.errors import Dom2Error
from dom2_fast.policies.schedules import DIFFUSION_PREDICTS, SAMPLE_T_END, FlowSchedule

MAX_STEPS = 1000
COLUMNS = 9  # of a row

# Ours first; the others are the names that CleanDiffuser, dpm-solver and diffusers users know.
_ALIASES = {
    "ddpm": "ddpm",
    "ddim": "ddim",
    "dpm1": "dpm1",
    "dpm++2m": "dpm++2m",
    "euler": "euler",
    "ode_dpmsolver_1": "dpm1",
    "ode_dpmsolver++_1": "dpm1",  # order one: the noise and data forms are the same update
    "dpmsolver_1": "dpm1",
    "dpmsolver++_1": "dpm1",
    "ode_dpmsolver++_2m": "dpm++2m",
    "dpmsolver++_2m": "dpm++2m",
    "dpmsolver++": "dpm++2m",
}
NAMES = ("ddpm", "ddim", "dpm1", "dpm++2m", "euler")


@dataclass(frozen=True)
class SolverPlan:
    """A solver made ready. table: float64 [S, 9]; times: float64 [S], of the network calls."""

    name: str
    table: torch.Tensor
    times: torch.Tensor
    steps: int
    needs_noise: bool  # does any step add noise?
    _converted: dict = field(default_factory=dict, init=False, compare=False, repr=False)

    def times_like(self, like: torch.Tensor) -> torch.Tensor:
        """`times` in the dtype and on the device of `like`; made once for each."""
        key = like.dtype, like.device
        if key not in self._converted:
            self._converted[key] = self.times.to(like.device, like.dtype)
        return self._converted[key]

    def __getstate__(self):
        return {**self.__dict__, "_converted": {}}


def canonical(name: str) -> str:
    """Our name of a solver (capitals don't matter); Dom2Error lists the names for another."""
    key = name.lower() if isinstance(name, str) else name
    if key not in _ALIASES:
        raise Dom2Error(
            f"unknown solver {name!r}; choose from {list(NAMES)} (also accepted: "
            f"{[a for a in _ALIASES if a not in NAMES]})"
        )
    return _ALIASES[key]


def clips_x0(name: str) -> bool:
    """Does the solver clip its guesses of the action by default? `ddpm`, as in Diffusion-QL."""
    return canonical(name) == "ddpm"


def plan(
    name: str,
    schedule,
    steps: int,
    *,
    predict: str | None = None,
    x0_low: float = -math.inf,
    x0_high: float = math.inf,
    start: int = 0,
) -> SolverPlan:
    """The table of a solver.

    name: `ddpm` (ancestral; Ho et al. 2020, eq. 6-7), `ddim` (Song et al. 2021, eq. 12, eta = 0),
    `dpm1` (DPM-Solver-1, Lu et al. 2022, eq. 3.7), `dpm++2m` (Lu et al. 2023, algorithm 2), or an
    alias. On a `FlowSchedule` `euler` (x' = x - (s - t) v, Lipman et al. 2023), which `ddim` and
    `dpm1` are there, too, or `dpm++2m`.
    steps: 1 to 1000, for a discrete schedule at most its number of steps.
    predict: what the network returns, see `prediction`. x0_low, x0_high: clip of the guesses x0.
    start: walk from the time of this step on alone, as if nothing came before it: steps - start
    rows.
    Raises Dom2Error for an unknown name, one that the schedule hasn't got, or steps or start out of
    range.
    """
    name = canonical(name)
    predict = prediction(schedule, predict)
    flow = isinstance(schedule, FlowSchedule)
    if name == ("ddpm" if flow else "euler"):
        raise Dom2Error(
            "solver 'ddpm' draws noise, a flow has none: choose euler, ddim, dpm1 or dpm++2m"
            if flow
            else f"solver 'euler' is for schedule 'flow', not for {schedule}: dpm1 is the first "
            f"order there"
        )
    times, alpha, sigma = grid(schedule, steps)
    if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < steps:
        raise Dom2Error(
            f"start is a step of the {steps}, from 0 (all of them) to {steps - 1} (the last "
            f"alone), got {start!r}"
        )
    times, alpha, sigma, steps = times[start:], alpha[start:], sigma[start:], steps - start
    table = torch.zeros(steps, COLUMNS, dtype=torch.float64)
    if predict == "v":  # x_s = (1 - s) act + s eps and v = eps - act
        table[:, 0] = 1.0
        table[:, 1] = sigma[:-1]
    elif predict == "eps":
        table[:, 0] = 1.0 / alpha[:-1]
        table[:, 1] = sigma[:-1] / alpha[:-1]
    else:  # x0 = 0 x + 1 out
        table[:, 1] = -1.0
    table[:, 2:6] = _COEFFICIENTS[name](alpha, sigma)
    table[:, 6] = x0_low
    table[:, 7] = x0_high
    return SolverPlan(name, table, times, steps, bool((table[:, 5] != 0.0).any()))


def prediction(schedule, predict: str | None = None) -> str:
    """What a network returns: "eps", the noise, or "x0", the action; in a flow "v" = eps - x0 or
    "x0". None stands for the first of them; Dom2Error for another one.
    """
    accepted = getattr(schedule, "predicts", DIFFUSION_PREDICTS)
    predict = accepted[0] if predict is None else predict
    if predict not in accepted:
        raise Dom2Error(f"predict is {' or '.join(map(repr, accepted))} here, got {predict!r}")
    return predict


def grid(schedule, steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """times [S] of the network calls, and alpha, sigma [S + 1] at them and at the end."""
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise Dom2Error(f"steps is a whole number from 1 to {MAX_STEPS}, got {steps!r}")
    if schedule.continuous:
        end = getattr(schedule, "sample_end", SAMPLE_T_END)
        t = torch.linspace(1.0, end, steps + 1, dtype=torch.float64)
        alpha, sigma = schedule.alpha_sigma(t)
        return t[:-1], alpha, sigma
    k = schedule.num_steps
    if steps > k:
        raise Dom2Error(
            f"{steps} steps asked of a schedule that has {k}; ask for {k} or fewer, or make the "
            f"schedule longer"
        )
    times = torch.linspace(k - 1, 0, steps, dtype=torch.float64).round()
    alpha, sigma = schedule.alpha_sigma(times)
    one = torch.ones(1, dtype=torch.float64)
    return times, torch.cat([alpha, one]), torch.cat([sigma, 0.0 * one])


def _first_order(alpha, sigma):
    """x_t = (sigma_t / sigma_s) x_s + (alpha_t - alpha_s sigma_t / sigma_s) x0, no noise.

    With x0 = (x_s - sigma_s eps) / alpha_s this is DPM-Solver-1,
    x_t = (alpha_t / alpha_s) x_s - sigma_t (e^h - 1) eps, and DDIM. In a flow, x0 = x_s - s v, it
    is the step of Euler, x_t = x_s - (s - t) v.
    """
    c = torch.zeros(len(alpha) - 1, 4, dtype=torch.float64)
    c[:, 0] = sigma[1:] / sigma[:-1]
    c[:, 1] = alpha[1:] - alpha[:-1] * c[:, 0]
    return c


def _ancestral(alpha, sigma):
    """Mean and deviation of q(x_t | x_s, x0), with no noise in the last step.

    The ratios of alpha^2 stand for the products of 1 - beta between s and t, so on a full discrete
    grid this is Diffusion-QL's posterior to the last bit of float64.
    """
    c = torch.zeros(len(alpha) - 1, 4, dtype=torch.float64)
    a_s, a_t, v_s, v_t = alpha[:-1], alpha[1:], sigma[:-1] ** 2, sigma[1:] ** 2
    ratio = a_s / a_t  # sqrt(1 - beta)
    beta = 1.0 - ratio**2
    c[:, 0] = v_t * ratio / v_s
    c[:, 1] = a_t * beta / v_s
    c[:-1, 3] = torch.sqrt(beta * v_t / v_s)[:-1]
    return c


def _dpmpp_2m(alpha, sigma):
    """Second order from the previous guess. First order in the first step, and in the last one
    where there are fewer than 15 (dpm-solver's lower_order_final) or where it leads to the clean
    action, whose lambda is infinite.
    """
    c = _first_order(alpha, sigma)
    steps = len(c)
    lam = torch.log(alpha) - torch.log(sigma)
    last = steps - 1 if steps < 15 or sigma[-1] == 0.0 else steps
    for i in range(1, last):
        h, h_previous = lam[i + 1] - lam[i], lam[i] - lam[i - 1]
        half_ratio = 0.5 * h / h_previous  # 1 / (2 r) of the paper
        c_d = c[i, 1].clone()  # equals alpha_t (1 - e^-h)
        c[i, 1] = c_d * (1.0 + half_ratio)
        c[i, 2] = -c_d * half_ratio
    return c


_COEFFICIENTS = {
    "ddpm": _ancestral,
    "ddim": _first_order,
    "dpm1": _first_order,
    "dpm++2m": _dpmpp_2m,
    "euler": _first_order,
}
