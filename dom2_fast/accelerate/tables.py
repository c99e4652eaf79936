"""DPM-Solver and DPM-Solver++ of orders 1 to 3 as rows of a solver table, in float64.

A row guesses g = p x - q out and moves x' = c_x x + c_x0 g + c_prev g_previous + c_prev2 g_before +
c_noise z, see `solvers`. g is the clean action (kind "data", DPM-Solver++) or the noise (kind
"noise", DPM-Solver): both are affine in x and in what the network returns, and with either one a
step from s to t is x_t = A x_s + B g (Lu et al. 2022, eq. 3.7; Lu et al. 2023, eq. 9):

    data:  A = sigma_t / sigma_s, B = alpha_t - alpha_s A
    noise: A = alpha_t / alpha_s, B = sigma_t - sigma_s A

The second order adds C D with D the slope of g in lambda. The multistep form takes D from the
previous guess. The singlestep form (DPM-Solver-2) evaluates at a time s1 between: that is a row of
its own, and x_s, which its second row needs, is got back from x_s1 = A1 x_s + B1 g_s. The third
order adds E D2 with the second difference D2, from two earlier guesses; its singlestep form
(DPM-Solver-3) is three rows, of which the last gets x_s back from x_s2.
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

    def add(
        self, s: Point, c_x: float, c_x0: float, c_prev=0.0, c_noise=0.0, c_prev2=0.0, kind=None
    ) -> None:
        p, q = guess(kind or self.kind, self.predict, s.alpha, s.sigma)
        self.times.append(s.t)
        self.rows.append([p, q, c_x, c_x0, c_prev, c_noise, -math.inf, math.inf, c_prev2])

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

    def _third(self, s: Point, t: Point) -> tuple[float, float, float, float]:
        """A, B, and the integrals C and E of the first and the second difference's terms, where
        x_t = A x_s + B g + C D1 + E D2 (Lu et al. 2022, eq. 3.4, and Lu et al. 2023, eq. 10).
        """
        a, b = _first(self.kind, s, t)
        h = falls(s, t)
        c = _slope(self.kind, "taylor", b, t, h)
        return a, b, c, (t.alpha / 2 - c / h if self.kind == "data" else t.sigma / 2 + c / h)

    def multistep_third(self, earlier: Point, before: Point, s: Point, t: Point) -> None:
        """One step of order 3 from the guesses at `earlier`, `before` and s."""
        a, b, c, e = self._third(s, t)
        h = falls(s, t)
        r0, r1 = falls(before, s) / h, falls(earlier, before) / h
        # With F = (g - g1) / r0 and F1 = (g1 - g2) / r1 the differences are
        # D1 = F + r0 (F - F1) / (r0 + r1) and D2 = (F - F1) / (r0 + r1).
        w = (c * r0 + e) / (r0 + r1)
        c_prev2 = w / r1
        c_prev = -(c + w) / r0 - c_prev2
        self.add(s, a, b + (c + w) / r0, c_prev, c_prev2=c_prev2)

    def singlestep_third(self, s: Point, s1: Point, s2: Point, t: Point) -> None:
        """One step of order 3 with evaluations at s1 and s2 between: three rows."""
        h = falls(s, t)
        r1, r2 = falls(s, s1) / h, falls(s, s2) / h
        a1, b1 = _first(self.kind, s, s1)
        self.add(s, a1, b1)
        a2, b2, c2, _ = self._third(s, s2)
        q = r2 / r1 * c2  # of g1 - g_s
        self.add(s1, a2 / a1, q, b2 - q - a2 * b1 / a1)
        a, b, c, e = self._third(s, t)
        if self.solver_type == "midpoint":  # D1 = (g2 - g_s) / r2, no D2
            of_1, of_2 = 0.0, c / r2
        else:  # the parabola through the three guesses
            of_1 = (c * r2 - 2.0 * e) / (r2 - r1) / r1
            of_2 = (2.0 * e - c * r1) / (r2 - r1) / r2
        of_s = b - of_1 - of_2 - a * (b2 - q) / a2
        self.add(s2, a / a2, of_2, of_1 - a * q / a2, c_prev2=of_s)

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
