"""Noise schedules: x_t = alpha_t act + sigma_t eps, continuous in t or in K steps.

A schedule says how much noise there is at a time. How to walk from noise to data is in `solvers`.
Diffusion's have alpha_t^2 + sigma_t^2 = 1; flow matching's, alpha_t + sigma_t = 1, is the straight
line from the action to the noise. All constants are float64; `alpha_sigma` answers in the dtype it
is asked in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from dom2_fast.errors import Dom2Error

TRAIN_T_MIN = 1e-5  # continuous training times are U(1e-5, 1), as in SfBC
SAMPLE_T_END = 1e-3  # and sampling stops here (DPM-Solver's advice for 15 steps or fewer)
DIFFUSION_PREDICTS = ("eps", "x0")  # what a network may return, the first by default
BETA_MAX = 0.999  # no discrete step destroys more (Nichol & Dhariwal 2021)


@dataclass(frozen=True)
class VPSchedule:
    """Continuous variance-preserving SDE, linear beta(t), t in (0, 1] (Song et al. 2021, eq. 11).

    log alpha_t = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2. Raises Dom2Error unless
    0 < beta_min <= beta_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    continuous = True
    num_steps = None
    predicts = DIFFUSION_PREDICTS
    solver = "dpm1"  # by default
    sample_end = SAMPLE_T_END

    def __post_init__(self):
        if not 0.0 < self.beta_min <= self.beta_max < math.inf:
            raise Dom2Error(
                f"VPSchedule needs 0 < beta_min <= beta_max, got {self.beta_min}, {self.beta_max}"
            )

    def log_alpha(self, t: torch.Tensor) -> torch.Tensor:
        return -t * (0.25 * (self.beta_max - self.beta_min) * t + 0.5 * self.beta_min)

    def alpha_sigma(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha_t and sigma_t, any shape. sigma via expm1, so it keeps its digits near t = 0."""
        log_alpha = self.log_alpha(t)
        return torch.exp(log_alpha), torch.sqrt(-torch.expm1(2.0 * log_alpha))

    def lambda_(self, t: torch.Tensor) -> torch.Tensor:
        """Half the log signal-to-noise ratio, log(alpha_t / sigma_t)."""
        log_alpha = self.log_alpha(t)
        return log_alpha - 0.5 * torch.log(-torch.expm1(2.0 * log_alpha))

    def training_times(self, shape, generator=None, *, dtype=torch.float32, device=None):
        """t ~ U(1e-5, 1), of the shape asked for."""
        u = _uniform(shape, generator, dtype, device)
        return u.mul_(1.0 - TRAIN_T_MIN).add_(TRAIN_T_MIN)


@dataclass(frozen=True)
class FlowSchedule:
    """Flow matching on straight lines: alpha_t = 1 - t, sigma_t = t, t in [0, 1].

    Conditional optimal transport of Lipman et al. 2023 (arXiv 2210.02747), rectified flow of Liu et
    al. 2023 (arXiv 2209.03003), both with time counted from the data to the noise here, as in all
    schedules. A network learns the velocity dx_t / dt = v = eps - act, so act = x_t - t v; it has a
    meaning at t = 1, where noise predictions have none. Sampled in one step, it is the one-step
    policy of FQL and of OM2P.
    """

    continuous = True
    num_steps = None
    predicts = ("v", "x0")
    solver = "euler"
    sample_end = 0.0

    def alpha_sigma(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha_t and sigma_t, any shape."""
        return 1.0 - t, t

    def lambda_(self, t: torch.Tensor) -> torch.Tensor:
        """Half the log signal-to-noise ratio, log(alpha_t / sigma_t): -inf at t = 1."""
        return torch.log1p(-t) - torch.log(t)

    def training_times(self, shape, generator=None, *, dtype=torch.float32, device=None):
        """t ~ U[0, 1), of the shape asked for."""
        return _uniform(shape, generator, dtype, device)


class DiscreteSchedule:
    """K noise steps, index 0 (least noise) to K - 1; build it with `vp`, `linear` or `cosine`.

    betas: K numbers in (0, 1), from which alphas_cumprod[i] = prod_{j <= i} (1 - betas[j]) and
    alpha_i = sqrt(alphas_cumprod[i]) (Ho et al. 2020). Raises Dom2Error for other betas.
    """

    continuous = False
    predicts = DIFFUSION_PREDICTS
    solver = "dpm1"

    def __init__(self, betas, name: str = "custom"):
        betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu")
        if betas.dim() != 1 or len(betas) < 1:
            raise Dom2Error(f"betas must be a list of one number or more, got {betas.shape}")
        if not bool(((betas > 0.0) & (betas < 1.0)).all()):
            raise Dom2Error(f"every beta must lie strictly between 0 and 1, got {betas.tolist()}")
        self.name = name
        self.betas = betas
        self.alphas_cumprod = torch.cumprod(1.0 - betas, 0)
        # The sum of -log1p(-beta) keeps the digits that 1 - alphas_cumprod loses at tiny betas.
        log_alpha = 0.5 * torch.cumsum(torch.log1p(-betas), 0)
        self._alpha = torch.exp(log_alpha)
        self._sigma = torch.sqrt(-torch.expm1(2.0 * log_alpha))
        self._tables = {}

    @property
    def num_steps(self) -> int:
        return len(self.betas)

    def alpha_sigma(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha and sigma at step indices `t` (float or integer tensor of any shape)."""
        dtype = t.dtype if t.dtype.is_floating_point else torch.float64
        alpha, sigma = self._table(dtype, t.device)
        index = t.long()
        return alpha[index], sigma[index]

    def lambda_(self, t: torch.Tensor) -> torch.Tensor:
        """Half the log signal-to-noise ratio, log(alpha / sigma)."""
        alpha, sigma = self.alpha_sigma(t)
        return torch.log(alpha) - torch.log(sigma)

    def training_times(self, shape, generator=None, *, dtype=torch.float32, device=None):
        """Uniform step indices 0 .. K - 1 as floating numbers, of the shape asked for."""
        u = _uniform(shape, generator, dtype, device)
        # u < 1, but u * K may round up to K.
        return u.mul_(self.num_steps).floor_().clamp_(max=self.num_steps - 1)

    def _table(self, dtype, device):
        key = (dtype, device)
        if key not in self._tables:
            self._tables[key] = (self._alpha.to(device, dtype), self._sigma.to(device, dtype))
        return self._tables[key]

    def __getstate__(self):
        return {**self.__dict__, "_tables": {}}

    def __repr__(self):
        return f"{self.name}({self.num_steps})"


def vp(num_steps: int = 5, beta_min: float = 0.1, beta_max: float = 10.0) -> DiscreteSchedule:
    """Diffusion-QL's `vp`: beta_i = 1 - exp(-b_min/K - (b_max - b_min)(2i - 1) / (2 K^2))."""
    k = _check_steps(num_steps)
    i = torch.arange(1, k + 1, dtype=torch.float64)
    rate = beta_min / k + 0.5 * (beta_max - beta_min) * (2.0 * i - 1.0) / k**2
    return DiscreteSchedule(-torch.expm1(-rate), "vp")


def linear(
    num_steps: int = 20, beta_start: float | None = None, beta_end: float | None = None
) -> DiscreteSchedule:
    """Linearly rising noise (Ho et al. 2020).

    With `beta_start` and `beta_end`: exactly linspace(beta_start, beta_end, K), as in Diffusion-QL
    (1e-4, 2e-2). Without: DDPM's rates 1e-4 .. 2e-2 per 1000 steps, scaled by 1000 / K. That
    scaling alone makes betas > 1 for K < 20, so beta = 1 - exp(-rate) is taken: the same noise in
    total at every K, and never 1 (at K = 1000 it differs from DDPM's own by 1 % at most).
    """
    k = _check_steps(num_steps)
    if (beta_start is None) != (beta_end is None):
        raise Dom2Error("linear takes both beta_start and beta_end, or neither")
    if beta_start is not None:
        return DiscreteSchedule(
            torch.linspace(beta_start, beta_end, k, dtype=torch.float64), "linear"
        )
    rate = torch.linspace(0.1 / k, 20.0 / k, k, dtype=torch.float64)
    if k == 1:
        rate[0] = 0.5 * (0.1 + 20.0)
    return DiscreteSchedule(-torch.expm1(-rate), "linear")


def cosine(num_steps: int = 20, s: float = 0.008) -> DiscreteSchedule:
    """alphas_cumprod ~ cos^2, each beta clipped to 0.999 (Nichol & Dhariwal 2021, eq. 17)."""
    k = _check_steps(num_steps)
    i = torch.arange(k + 1, dtype=torch.float64)
    f = torch.cos((i / k + s) / (1.0 + s) * (math.pi / 2.0)) ** 2
    return DiscreteSchedule((1.0 - f[1:] / f[:-1]).clamp(max=BETA_MAX), "cosine")


_CONTINUOUS = {"vp-continuous": VPSchedule, "flow": FlowSchedule}
_NAMED = {"vp": vp, "linear": linear, "cosine": cosine}


def get(schedule, num_steps: int | None = None):
    """A schedule from an object or from a name: `vp-continuous`, `flow`, `vp`, `linear`, `cosine`.

    num_steps is K of a discrete one. Raises Dom2Error for an unknown name.
    """
    if hasattr(schedule, "alpha_sigma"):
        return schedule
    if isinstance(schedule, str) and schedule in _CONTINUOUS:
        return _CONTINUOUS[schedule]()
    if isinstance(schedule, str) and schedule in _NAMED:
        return _NAMED[schedule]() if num_steps is None else _NAMED[schedule](num_steps)
    raise Dom2Error(
        f"unknown schedule {schedule!r}; choose from {[*_CONTINUOUS, *_NAMED]} or give an object"
    )


def _check_steps(num_steps: int) -> int:
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise Dom2Error(f"a discrete schedule needs 1 step or more, got {num_steps!r}")
    return num_steps


def _uniform(shape, generator, dtype, device):
    where = generator.device if generator is not None else device
    return torch.rand(shape, generator=generator, dtype=dtype, device=where).to(device)
