"""dpm-solver's interface (Lu et al. 2022, 2023) for networks of rows, sampling natively."""

from __future__ import annotations

import torch

from dom2_fast.accelerate import dpm
from dom2_fast.accelerate.model_function import kind_of, network_of
from dom2_fast.accelerate.solver_object import Walks
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import check_precision

_MODEL_TYPES = ("noise", "x_start", "v", "score")
_GUIDANCE = ("uncond", "classifier", "classifier-free")


class NoiseScheduleVP:
    """alpha_t and sigma_t for t in (0, T], linear or through the log alphas of discrete steps.

    schedule: "linear" (beta from continuous_beta_0 to continuous_beta_1) or "discrete" (betas [N]
    or alphas_cumprod [N]; step i is the time (i + 1) / N, log alpha is linear between). Steps whose
    lambda is below -5.1 are left out, as in dpm-solver: total_N counts the others.
    Raises Dom2Error for other names and for fewer than two steps.
    """

    def __init__(
        self,
        schedule="discrete",
        betas=None,
        alphas_cumprod=None,
        continuous_beta_0=0.1,
        continuous_beta_1=20.0,
        dtype=torch.float32,
    ):
        if schedule not in ("discrete", "linear"):
            raise Dom2Error(f"schedule is 'discrete' or 'linear', got {schedule!r}")
        self.schedule = schedule
        self.T = 1.0
        self.total_N = 1000
        if schedule == "linear":
            self.beta_0, self.beta_1 = continuous_beta_0, continuous_beta_1
            return
        if betas is None and alphas_cumprod is None:
            raise Dom2Error("schedule='discrete' takes betas [N] or alphas_cumprod [N]")
        if betas is not None:
            log_alpha = 0.5 * torch.log(1.0 - betas).cumsum(0)
        else:
            log_alpha = 0.5 * torch.log(alphas_cumprod)
        log_alpha = self.numerical_clip_alpha(log_alpha)
        self.total_N = len(log_alpha)
        if self.total_N < 2:
            raise Dom2Error(f"a discrete schedule needs two steps or more, {self.total_N} are left")
        self.log_alpha_array = log_alpha.reshape(1, -1).to(dtype)
        steps = torch.arange(1, self.total_N + 1, dtype=torch.float64) / self.total_N
        self.t_array = steps.reshape(1, -1).to(dtype)

    @staticmethod
    def numerical_clip_alpha(log_alphas, clipped_lambda=-5.1):
        """Without the steps at the end whose lambda is below clipped_lambda: [N] -> [n]."""
        lam = log_alphas - 0.5 * torch.log(-torch.expm1(2.0 * log_alphas))
        return log_alphas[: len(lam) - int((lam < clipped_lambda).sum())]

    def marginal_log_mean_coeff(self, t):
        """log alpha_t, [n] for t [n]."""
        if self.schedule == "linear":
            return -0.25 * t**2 * (self.beta_1 - self.beta_0) - 0.5 * t * self.beta_0
        return _interpolate(t.reshape(-1), self.t_array, self.log_alpha_array)

    def marginal_alpha(self, t):
        return torch.exp(self.marginal_log_mean_coeff(t))

    def marginal_std(self, t):
        """sigma_t; by expm1, so it keeps its digits near t = 0."""
        return torch.sqrt(-torch.expm1(2.0 * self.marginal_log_mean_coeff(t)))

    def marginal_lambda(self, t):
        """log(alpha_t / sigma_t)."""
        log_alpha = self.marginal_log_mean_coeff(t)
        return log_alpha - 0.5 * torch.log(-torch.expm1(2.0 * log_alpha))

    def inverse_lambda(self, lamb):
        """The time t at which lambda is lamb: the inverse of `marginal_lambda`."""
        log_alpha = -0.5 * torch.logaddexp(-2.0 * lamb, torch.zeros_like(lamb))
        if self.schedule == "linear":
            # beta_0 t / 2 + (beta_1 - beta_0) t^2 / 4 = -log alpha, solved without cancellation.
            c = -2.0 * log_alpha
            root = torch.sqrt(self.beta_0**2 + 2.0 * (self.beta_1 - self.beta_0) * c)
            return 2.0 * c / (root + self.beta_0)
        back = self.log_alpha_array.flip(1), self.t_array.flip(1)
        return _interpolate(log_alpha.reshape(-1), *back)


def _interpolate(x, xp, yp) -> torch.Tensor:
    """Piecewise linear y(x) through (xp, yp) [1, K], xp rising; the end pieces go on outside."""
    xp, yp = (v.reshape(-1).to(x.device, x.dtype) for v in (xp, yp))
    right = torch.searchsorted(xp, x.contiguous()).clamp(1, len(xp) - 1)
    left = right - 1
    return yp[left] + (x - xp[left]) * (yp[right] - yp[left]) / (xp[right] - xp[left])


class ModelFn:
    """What `model_wrapper` gives: model_fn(x [B, A], t [B]) -> noise [B, A]."""

    def __init__(self, **parts):
        self.__dict__.update(parts)

    def __call__(self, x, t_continuous):
        called, held, _ = network_of(self, "model_wrapper's function")
        obs = None if held is None else held.read()
        t = t_continuous.expand(len(x))
        ns = self.noise_schedule
        out = called(x, dpm.model_time(ns, t), obs)
        alpha, sigma = (f(t)[:, None] for f in (ns.marginal_alpha, ns.marginal_std))
        if self.model_type == "noise":
            return out
        if self.model_type == "x_start":
            return (x - alpha * out) / sigma
        return alpha * out + sigma * x if self.model_type == "v" else -sigma * out


def model_wrapper(
    model,
    noise_schedule,
    model_type="noise",
    model_kwargs=None,
    guidance_type="uncond",
    condition=None,
    unconditional_condition=None,
    guidance_scale=1.0,
    classifier_fn=None,
    classifier_kwargs=None,
):
    """A noise function of (x, t) from a torch.nn.Module, for `DPM_Solver`.

    The module is called model(x, t, condition) with guidance_type="classifier-free", else
    model(x, t, **model_kwargs), in which one tensor [B, width] may vary. Its t is the time for a
    "linear" schedule, 1000 (t - 1 / N) for a "discrete" one. Raises Dom2Error for unknown names.
    """
    if model_type not in _MODEL_TYPES:
        raise Dom2Error(f"model_type is one of {list(_MODEL_TYPES)}, got {model_type!r}")
    if guidance_type not in _GUIDANCE:
        raise Dom2Error(f"guidance_type is one of {list(_GUIDANCE)}, got {guidance_type!r}")
    return ModelFn(
        model=model,
        noise_schedule=noise_schedule,
        model_type=model_type,
        model_kwargs=model_kwargs or {},
        guidance_type=guidance_type,
        condition=condition,
        unconditional_condition=unconditional_condition,
        guidance_scale=guidance_scale,
        classifier_fn=classifier_fn,
        classifier_kwargs=classifier_kwargs or {},
    )


class DPM_Solver:
    """Drop-in for dpm-solver's class, orders 1 to 3.

    model_fn: from `model_wrapper`. algorithm_type: "dpmsolver" or "dpmsolver++".
    correcting_x0_fn and correcting_xt_fn aren't accepted. backend, precision: see
    `DiffusionPolicy`.
    Raises Dom2Error with the reason for what can't be a solver table.
    """

    def __init__(
        self,
        model_fn,
        noise_schedule,
        algorithm_type="dpmsolver++",
        correcting_x0_fn=None,
        correcting_xt_fn=None,
        thresholding_max_val=1.0,
        dynamic_thresholding_ratio=0.995,
        *,
        backend="auto",
        precision="fp32",
    ):
        self.model, self.noise_schedule, self.algorithm_type = (
            model_fn,
            noise_schedule,
            algorithm_type,
        )
        self.correcting_x0_fn, self.correcting_xt_fn = correcting_x0_fn, correcting_xt_fn
        self.thresholding_max_val = thresholding_max_val
        self.dynamic_thresholding_ratio = dynamic_thresholding_ratio
        check_precision(precision)
        kind = kind_of(self, "DPM_Solver")
        called, self._held, predict = network_of(model_fn, "DPM_Solver")
        self._walks = Walks(called, noise_schedule, kind, predict, backend, precision)

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
        """x [B, A] at t_start (default T) -> x [B, A] at t_end (default 1 / total_N), one call.

        method: multistep, singlestep or singlestep_fixed; skip_type: time_uniform, time_quadratic
        or logSNR; solver_type: dpmsolver or taylor. Differentiable unless under torch.no_grad().
        Raises Dom2Error for order 4, method="adaptive" and return_intermediate=True.
        """
        if return_intermediate:
            raise Dom2Error("return_intermediate=True: the steps aren't kept, only the last x")
        obs = None if self._held is None else self._held.read()
        return self._walks.sample(
            x,
            obs,
            steps=steps,
            t_start=t_start,
            t_end=t_end,
            order=order,
            skip_type=skip_type,
            method=method,
            lower_order_final=lower_order_final,
            denoise_to_zero=denoise_to_zero,
            solver_type=solver_type,
        )

    def inverse(self, x, steps=20, t_start=None, t_end=None, *args, **settings):
        """From the action back to the noise: t_start is 1 / total_N and t_end T by default."""
        start = 1.0 / self.noise_schedule.total_N if t_start is None else t_start
        end = self.noise_schedule.T if t_end is None else t_end
        return self.sample(x, steps, start, end, *args, **settings)

    def get_time_steps(self, skip_type, t_T, t_0, N, device):
        """The N + 1 times of a walk from t_T to t_0."""
        if skip_type not in dpm.SKIP_TYPES:
            raise Dom2Error(f"skip_type is one of {list(dpm.SKIP_TYPES)}, got {skip_type!r}")
        times = dpm.grid(self.noise_schedule, skip_type, t_T, t_0, N)
        return times.to(device, torch.get_default_dtype())

    def noise_prediction_fn(self, x, t):
        return self.model(x, t.expand(len(x)))

    def data_prediction_fn(self, x, t):
        """The clean action that the noise at time t implies."""
        ns = self.noise_schedule
        return (x - ns.marginal_std(t) * self.noise_prediction_fn(x, t)) / ns.marginal_alpha(t)

    denoise_to_zero_fn = data_prediction_fn

    def model_fn(self, x, t):
        """The prediction that the algorithm integrates."""
        data = self.algorithm_type == "dpmsolver++"
        return (self.data_prediction_fn if data else self.noise_prediction_fn)(x, t)

    def add_noise(self, x, t, noise=None):
        """alpha_t x + sigma_t noise for x [B, A] and times t [n]: [n, B, A], or [B, A] for one."""
        ns, shape = self.noise_schedule, (-1, *(1,) * x.dim())
        alpha, sigma = ns.marginal_alpha(t).reshape(shape), ns.marginal_std(t).reshape(shape)
        if noise is None:
            noise = torch.randn((len(t), *x.shape), device=x.device, dtype=x.dtype)
        out = alpha * x + sigma * noise
        return out[0] if len(t) == 1 else out
