"""Schedulers of diffusers' kind, DPM-Solver multistep, by their documented attributes, as tables.

DDPM's and DDIM's are in `ancestral_scheduler`. Read are `config`, `timesteps` and `sigmas` after
`set_timesteps`; so every spacing of the times that a scheduler offers comes along. A copy is asked,
the scheduler stays as it is.
"""

from __future__ import annotations

import copy
import functools
import math

from dom2_fast.accelerate import ancestral_scheduler
from dom2_fast.accelerate.tables import Point, Rows, falls
from dom2_fast.errors import Dom2Error
from dom2_fast.policies import solvers

_PREDICT = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_KIND = {
    "dpmsolver++": "data",
    "dpmsolver": "noise",
    "sde-dpmsolver++": "data",
    "sde-dpmsolver": "noise",
}
_SOLVER_TYPE = {"midpoint": "midpoint", "heun": "taylor"}


def looks_like_scheduler(obj) -> bool:
    """Whether obj has the structure of a diffusers scheduler."""
    return all(hasattr(obj, n) for n in ("config", "timesteps", "set_timesteps"))


def _option(scheduler, name: str, default=None):
    config = scheduler.config
    value = config.get(name, default) if hasattr(config, "get") else getattr(config, name, default)
    return default if value is None else value


def _check(scheduler) -> None:
    what = type(scheduler).__name__

    def refuse(why: str):
        raise Dom2Error(f"can't use the scheduler {what}: {why}")

    if not hasattr(scheduler, "alphas_cumprod") or not hasattr(scheduler, "sigmas"):
        refuse("it has no alphas_cumprod and sigmas; DPM-Solver multistep schedulers have")
    algorithm, order = _option(scheduler, "algorithm_type"), _option(scheduler, "solver_order")
    if algorithm not in _KIND:
        refuse(f"its algorithm_type is {algorithm!r}; accepted are {list(_KIND)}")
    highest = 2 if algorithm.startswith("sde") else 3
    if order not in range(1, highest + 1):
        refuse(f"its solver_order is {order!r}; 1 to {highest} are accepted for {algorithm}")
    if hasattr(scheduler, "order_list") or hasattr(scheduler, "get_order_list"):
        refuse("it is a singlestep scheduler; take the multistep one, or compat.dpm_solver")
    if _option(scheduler, "solver_type", "midpoint") not in _SOLVER_TYPE:
        refuse(f"its solver_type is none of {list(_SOLVER_TYPE)}")
    if _option(scheduler, "thresholding", False):
        refuse("thresholding is on; a step can clip a guess to fixed bounds, no more")
    if _option(scheduler, "variance_type") in ("learned", "learned_range"):
        refuse("variance_type says that the network returns a variance, too")
    if _option(scheduler, "use_flow_sigmas", False):
        refuse("use_flow_sigmas: alpha^2 + sigma^2 is not 1")
    if _option(scheduler, "prediction_type", "epsilon") not in _PREDICT:
        refuse(f"its prediction_type is none of {list(_PREDICT)}")


def plan_of(scheduler, steps: int | None = None, predict: str = "eps") -> solvers.SolverPlan:
    """The walk of a scheduler, in `steps` steps, or as it is set.

    predict other than "eps" must be what its prediction_type says. Raises Dom2Error with the
    reason for what can't be a table.
    """
    ancestral = ancestral_scheduler.is_ancestral(scheduler)
    if not ancestral:
        _check(scheduler)
    elif _option(scheduler, "prediction_type", "epsilon") not in _PREDICT:
        raise Dom2Error(
            f"can't use the scheduler {type(scheduler).__name__}: its prediction_type is none of "
            f"{list(_PREDICT)}"
        )
    said = _PREDICT[_option(scheduler, "prediction_type", "epsilon")]
    if predict not in ("eps", said):
        raise Dom2Error(f"predict={predict!r}, but the scheduler's prediction_type means {said!r}")
    if steps is not None:
        scheduler = copy.deepcopy(scheduler)
        scheduler.set_timesteps(steps)
    if ancestral:
        option = functools.partial(_option, scheduler)
        return ancestral_scheduler.plan_of(scheduler, option, said)
    times = [float(t) for t in scheduler.timesteps]
    ratios = [float(s) for s in scheduler.sigmas]
    if len(ratios) != len(times) + 1:
        raise Dom2Error(
            f"the scheduler has {len(times)} timesteps and {len(ratios)} sigmas, which should be "
            f"one more; call set_timesteps, or give steps="
        )
    at = [_point(t, s) for t, s in zip([*times, 0.0], ratios, strict=True)]
    algorithm = _option(scheduler, "algorithm_type")
    solver_type = _SOLVER_TYPE[_option(scheduler, "solver_type", "midpoint")]
    rows = Rows(_KIND[algorithm], said, solver_type)
    if rows.kind == "noise" and at[-1].sigma == 0.0:
        raise Dom2Error(
            f"algorithm_type={algorithm!r} can't end at sigma 0; set final_sigmas_type='sigma_min'"
        )
    for i in range(len(times)):
        left, lowers = len(times) - i, _option(scheduler, "lower_order_final", True)
        order = min(_option(scheduler, "solver_order"), i + 1)
        if left == 1 and _lower_last(scheduler, len(times)):
            order = 1
        if left == 2 and lowers and len(times) < 15:
            order = min(order, 2)
        if algorithm.startswith("sde"):
            _stochastic(rows, at[i - 1] if order == 2 else None, at[i], at[i + 1])
        else:
            step = (rows.first, rows.multistep, rows.multistep_third)[order - 1]
            step(*at[i + 1 - order : i + 2])
    return rows.plan(f"{algorithm} {_option(scheduler, 'solver_order')}")


def _point(t: float, ratio: float) -> Point:
    alpha = 1.0 / math.sqrt(1.0 + ratio * ratio)
    return Point(t, alpha, ratio * alpha)


def _lower_last(scheduler, steps: int) -> bool:
    return (
        _option(scheduler, "euler_at_final", False)
        or (_option(scheduler, "lower_order_final", True) and steps < 15)
        or _option(scheduler, "final_sigmas_type", "zero") == "zero"
    )


def _stochastic(rows: Rows, before: Point | None, s: Point, t: Point) -> None:
    """The SDE forms (Lu et al. 2023, section 3.4): a step that also adds noise."""
    h = max(t.lam - s.lam, 0.0)  # equal ends may differ by a rounding
    if rows.kind == "data":
        shrink = t.sigma * s.alpha / (s.sigma * t.alpha)  # e^-h, also where h is infinite
        a = t.sigma / s.sigma * shrink
        b = t.alpha * (1.0 - shrink * shrink)
        noise = t.sigma * math.sqrt(max(1.0 - shrink * shrink, 0.0))
        slope = 0.5 * b
        if rows.solver_type == "taylor" and h > 0.0:
            slope = t.alpha - b / (2.0 * h)
    else:
        a = t.alpha / s.alpha
        b = -2.0 * t.sigma * math.expm1(h)
        noise = t.sigma * math.sqrt(math.expm1(2.0 * h))
        slope = 0.5 * b
        if rows.solver_type == "taylor" and h > 0.0:
            slope = b / h + 2.0 * t.sigma
    d = 0.0 if before is None else slope * h / falls(before, s)
    rows.add(s, a, b + d, -d, noise)
