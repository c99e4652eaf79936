"""DPM-Solver and DPM-Solver++ of orders 1 and 2 as rows of a solver table, in float64.

A row guesses g = p x - q out and moves x' = c_x x + c_x0 g + c_prev g_previous + c_noise z, see
`solvers`. g is the clean action (kind "data", DPM-Solver++) or the noise (kind "noise",
DPM-Solver): both are affine in x and in what the network returns, and with either one a step from
s to t is x_t = A x_s + B g (Lu et al. 2022, eq. 3.7; Lu et al. 2023, eq. 9):

    data:  A = sigma_t / sigma_s, B = alpha_t - alpha_s A
    noise: A = alpha_t / alpha_s, B = sigma_t - sigma_s A

The second order adds C D with D the slope of g in lambda. The multistep form takes D from the
previous guess. The singlestep form (DPM-Solver-2) evaluates at a time s1 between: that is a row of
its own, and x_s, which its second row needs, is got back from x_s1 = A1 x_s + B1 g_s. The third
order needs two earlier guesses; a row has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from dom2_fast.errors import Dom2Error
from dom2_fast.policies.solvers import MAX_STEPS, SolverPlan

PREDICTS = ("eps", "x0", "v", "score")


@dataclass(frozen=True)
class Point:
    """A time of the walk: t, and alpha, sigma there. sigma = 0 is the clean action."""

    t: float
    alpha: float
    sigma: float

    @property
    def lam(self) -> float:
        return math.inf if self.sigma == 0.0 else math.log(self.alpha) - math.log(self.sigma)


def guess(kind: str, predict: str, alpha: float, sigma: float) -> tuple[float, float]:
    """(p, q) of g = p x - q out. predict: what the network returns, one of PREDICTS.

    eps; x0; v = alpha eps - sigma x0 (Salimans & Ho 2022); score = -eps / sigma (Song et al. 2021).
    """
    data = kind == "data"
    if predict == "eps":
        return (1.0 / alpha, sigma / alpha) if data else (0.0, -1.0)
    if predict == "x0":
        return (0.0, -1.0) if data else (1.0 / sigma, alpha / sigma)
    if predict == "v":
        return (alpha, sigma) if data else (sigma, -alpha)
    return (1.0 / alpha, -(sigma**2) / alpha) if data else (0.0, sigma)


def _first(kind: str, s: Point, t: Point) -> tuple[float, float]:
    """A, B."""
    if kind == "data":
        a = t.sigma / s.sigma
        return a, t.alpha - s.alpha * a
    a = t.alpha / s.alpha
    return a, t.sigma - s.sigma * a


def _slope(kind: str, solver_type: str, b: float, t: Point, h: float) -> float:
    """C: half of B, or the exact integral of the slope's term (solver_type "taylor")."""
    if solver_type == "midpoint" or h == 0.0:
        return 0.5 * b
    return t.alpha - b / h if kind == "data" else t.sigma + b / h


def falls(s: Point, t: Point) -> float:
    """lambda_t - lambda_s, by which a slope divides. Raises Dom2Error where it is 0."""
    if t.lam == s.lam:
        raise Dom2Error(
            f"two steps of the walk have the same noise level (sigma {s.sigma:.6g} at the times "
            f"{s.t:.6g} and {t.t:.6g}), between which there is no slope; ask for fewer steps"
        )
    return t.lam - s.lam


class Rows:
    """Collects rows: kind "data" or "noise", solver_type "midpoint" or "taylor"."""

    def __init__(self, kind: str, predict: str, solver_type: str = "midpoint"):
        self.kind, self.predict, self.solver_type = kind, predict, solver_type
        self.times: list[float] = []
        self.rows: list[list[float]] = []

    def add(self, s: Point, c_x: float, c_x0: float, c_prev=0.0, c_noise=0.0, kind=None) -> None:
        p, q = guess(kind or self.kind, self.predict, s.alpha, s.sigma)
        self.times.append(s.t)
        self.rows.append([p, q, c_x, c_x0, c_prev, c_noise, -math.inf, math.inf])

    def first(self, s: Point, t: Point) -> None:
        """One step of order 1."""
        self.add(s, *_first(self.kind, s, t))

    def multistep(self, before: Point, s: Point, t: Point) -> None:
        """One step of order 2 from the guesses at `before` and s."""
        a, b = _first(self.kind, s, t)
        h = t.lam - s.lam
        d = _slope(self.kind, self.solver_type, b, t, h) * h / falls(before, s)
        self.add(s, a, b + d, -d)

    def singlestep(self, s: Point, between: Point, t: Point) -> None:
        """One step of order 2 with an evaluation between: two rows."""
        a, b = _first(self.kind, s, t)
        a1, b1 = _first(self.kind, s, between)
        h = t.lam - s.lam
        d = _slope(self.kind, self.solver_type, b, t, h) * h / falls(s, between)
        self.add(s, a1, b1)
        self.add(between, a / a1, d, b - d - a * b1 / a1)

    def clean(self, s: Point) -> None:
        """Ends at the guess of the clean action itself."""
        self.add(s, 0.0, 1.0, kind="data")

    def plan(self, name: str) -> SolverPlan:
        """Raises Dom2Error for more rows than an op takes."""
        if not 1 <= len(self.rows) <= MAX_STEPS:
            raise Dom2Error(f"{len(self.rows)} network calls; 1 to {MAX_STEPS} are possible")
        table = torch.tensor(self.rows, dtype=torch.float64)
        times = torch.tensor(self.times, dtype=torch.float64)
        noisy = bool((table[:, 5] != 0.0).any())
        return SolverPlan(name, table, times, len(self.rows), noisy)


def bounded(plan: SolverPlan, low: float, high: float) -> SolverPlan:
    """The plan with every guess clipped to [low, high]."""
    table = plan.table.clone()
    table[:, 6], table[:, 7] = low, high
    return SolverPlan(plan.name, table, plan.times, plan.steps, plan.needs_noise)
