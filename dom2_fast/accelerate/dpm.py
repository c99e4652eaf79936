"""The settings of dpm-solver's `sample` (Lu et al. 2022, 2023) as a solver table.

A noise schedule is anything with `schedule`, `T`, `total_N`, `marginal_log_mean_coeff(t)` and
`inverse_lambda(lambda)`, as `NoiseScheduleVP` has them; it is asked in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dom2_fast.accelerate.tables import Point, Rows
from dom2_fast.errors import Dom2Error
from dom2_fast.policies import solvers

METHODS = ("multistep", "singlestep", "singlestep_fixed")
SKIP_TYPES = ("time_uniform", "time_quadratic", "logSNR")
_SOLVER_TYPES = {"dpmsolver": "midpoint", "dpm_solver": "midpoint", "taylor": "taylor"}


@dataclass(frozen=True)
class Version:
    """In what the versions of dpm-solver differ; the latest by default.

    lower_below: up to this many steps, not included, lower_order_final ends with order 1.
    by_calls: over logSNR the singlestep walk gives every network call, not every step, an equal
    share of the range, as the first version did.
    third: order 3 is dpm-solver's, as far as a trial shows.
    """

    lower_below: int = 10
    by_calls: bool = False
    third: bool = True


def looks_like_noise_schedule(obj) -> bool:
    """Whether obj has the structure of dpm-solver's NoiseScheduleVP."""
    names = ("schedule", "T", "total_N", "marginal_log_mean_coeff", "inverse_lambda")
    return all(hasattr(obj, name) for name in names)


def model_time(ns, t: float) -> float:
    """The time that a network is called with: t, or 1000 (t - 1 / N) for a discrete schedule.

    The factor is 1000 for every N, as in dpm-solver: a network of N steps meets times
    0 .. 1000 (N - 1) / N.
    """
    return (t - 1.0 / ns.total_N) * 1000.0 if ns.schedule == "discrete" else t


def points(ns, times: torch.Tensor) -> list[Point]:
    """The schedule's alpha and sigma, in float64, at times [n]."""
    log_alpha = ns.marginal_log_mean_coeff(times).double().reshape(-1)
    alpha, sigma = torch.exp(log_alpha), torch.sqrt(-torch.expm1(2.0 * log_alpha))
    return [Point(*p) for p in zip(times.tolist(), alpha.tolist(), sigma.tolist(), strict=True)]


def grid(ns, skip_type: str, start: float, end: float, n: int) -> torch.Tensor:
    """n + 1 times from start to end, uniform in t, in sqrt(t) or in lambda: float64."""
    if skip_type == "logSNR":
        ends = points(ns, torch.tensor([start, end], dtype=torch.float64))
        lam = torch.linspace(ends[0].lam, ends[1].lam, n + 1, dtype=torch.float64)
        return ns.inverse_lambda(lam).double().reshape(-1)
    if skip_type == "time_quadratic":
        return torch.linspace(start**0.5, end**0.5, n + 1, dtype=torch.float64) ** 2
    return torch.linspace(start, end, n + 1, dtype=torch.float64)


def check_settings(steps, order, skip_type, method, solver_type) -> None:
    """Raises Dom2Error for settings that a solver table can't hold, and says why."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise Dom2Error(f"steps is a whole number of 1 or more, got {steps!r}")
    if method == "adaptive":
        raise Dom2Error(
            "method='adaptive' chooses its steps by the samples, and a solver table is made before "
            f"there are any; choose one of {list(METHODS)}"
        )
    if method not in METHODS:
        raise Dom2Error(f"method is one of {list(METHODS)}, got {method!r}")
    if isinstance(order, bool) or order not in (1, 2, 3):
        raise Dom2Error(
            f"order is 1, 2 or 3, got {order!r}: DPM-Solver has no other; ask for order 3, or for "
            f"more steps"
        )
    if skip_type not in SKIP_TYPES:
        raise Dom2Error(f"skip_type is one of {list(SKIP_TYPES)}, got {skip_type!r}")
    if solver_type not in _SOLVER_TYPES:
        raise Dom2Error(f"solver_type is 'dpmsolver' or 'taylor', got {solver_type!r}")
    if method == "multistep" and steps < order:
        raise Dom2Error(f"method='multistep' of order {order} takes {order} steps or more")
    if method == "singlestep_fixed" and steps < order:
        raise Dom2Error(f"one step of order {order} calls the network {order} times: more steps")


def sample_plan(
    ns,
    kind: str,
    predict: str,
    *,
    steps=20,
    t_start=None,
    t_end=None,
    order=2,
    skip_type="time_uniform",
    method="multistep",
    lower_order_final=True,
    denoise_to_zero=False,
    solver_type="dpmsolver",
    version: Version | None = None,
) -> solvers.SolverPlan:
    """The walk that `DPM_Solver.sample` does with these settings.

    kind: "data" (dpmsolver++) or "noise" (dpmsolver). predict: see `tables.guess`.
    Raises Dom2Error, see `check_settings`, and for times that aren't positive.
    """
    check_settings(steps, order, skip_type, method, solver_type)
    end = 1.0 / ns.total_N if t_end is None else float(t_end)
    start = float(ns.T) if t_start is None else float(t_start)
    if not (start > 0.0 and end > 0.0) or start == end:
        raise Dom2Error(f"t_start and t_end must be positive and differ, got {start}, {end}")
    version = version or Version()
    if order == 3 and not version.third:
        raise Dom2Error(
            "order 3 of this solver is not dpm-solver's: on a trial its samples differed; choose "
            "order 1 or 2, or give its network and schedule instead of it"
        )
    rows = Rows(kind, predict, _SOLVER_TYPES[solver_type])
    if method == "multistep":
        _multistep(
            rows,
            points(ns, grid(ns, skip_type, start, end, steps)),
            order,
            lower_order_final and steps < version.lower_below,
        )
    else:
        _singlestep(rows, ns, method, steps, order, skip_type, start, end, version.by_calls)
    if denoise_to_zero:
        rows.clean(points(ns, torch.tensor([end], dtype=torch.float64))[0])
    rows.times = [model_time(ns, t) for t in rows.times]
    return rows.plan(f"dpm-solver {kind} {method} {order}")


def _multistep(rows: Rows, at: list[Point], order: int, lower_last: bool) -> None:
    steps = len(at) - 1
    for i in range(steps):
        now = min(order, i + 1, steps - i if lower_last else order)
        (rows.first, rows.multistep, rows.multistep_third)[now - 1](*at[i + 1 - now : i + 2])


def _singlestep(rows: Rows, ns, method, steps, order, skip_type, start, end, by_calls) -> None:
    if method == "singlestep_fixed":
        orders = [order] * (steps // order)
        outer = grid(ns, skip_type, start, end, len(orders))
    else:
        orders = _orders(order, steps)
        if skip_type == "logSNR" and not by_calls:  # there the steps share the range evenly
            outer = grid(ns, skip_type, start, end, len(orders))
        else:
            ends = torch.cumsum(torch.tensor([0, *orders]), 0)
            outer = grid(ns, skip_type, start, end, steps)[ends]
    for k, n in enumerate(orders):
        at = points(ns, grid(ns, skip_type, outer[k].item(), outer[k + 1].item(), n))
        # Times between are found by their lambda, which is that of the inner grid.
        (rows.first, rows.singlestep, rows.singlestep_third)[n - 1](*at)


def _orders(order: int, steps: int) -> list[int]:
    """The orders of the singlestep walk's steps, `steps` network calls together."""
    whole, rest = divmod(steps, order)
    if order == 3 and rest == 0:
        return [3] * (whole - 1) + [2, 1]
    return [order] * whole + [rest] * (rest > 0)


def named_plan(ns, solver: str, steps: int, predict: str) -> solvers.SolverPlan:
    """A solver by one of our names on a schedule of dpm-solver's kind, uniform in t."""
    name = solvers.canonical(solver)
    if name in ("ddpm", "euler"):
        raise Dom2Error(
            f"solver={name!r} needs a schedule of this package; on this one: ddim, dpm1, dpm++2m"
        )
    order = 2 if name == "dpm++2m" else 1
    return sample_plan(ns, "data", predict, steps=steps, order=order)
