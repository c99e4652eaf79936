"""Sampling and loss of a diffusion of Diffusion-QL's kind in one op call each.

The posterior's coefficients are read from the object's own buffers, so its schedule may be any.
"""

from __future__ import annotations

import inspect
import math
import operator

import torch

from dom2_fast.accelerate.planned import OBS_NAMES, PlannedPolicy, width
from dom2_fast.errors import Dom2Error
from dom2_fast.lowering.stamp import versions_of
from dom2_fast.ops import backend
from dom2_fast.policies import schedules, solvers

BUFFERS = (
    "betas",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_log_variance_clipped",
)
_ASKED = ("verbose", "return_diffusion")


def predicts_noise(d) -> bool:
    """As found by a trial, or as its attribute predict_epsilon says."""
    return d.__dict__.get("_predicts_noise", getattr(d, "predict_epsilon", True))


def posterior_plan(d) -> solvers.SolverPlan:
    """Ancestral sampling with the buffers of d, all steps (Ho et al. 2020, eq. 6-7)."""
    values = [getattr(d, name).detach().double().cpu().flip(0) for name in BUFFERS[1:]]
    recip, recipm1, coef1, coef2, log_variance = values
    table = torch.zeros(len(recip), solvers.COLUMNS, dtype=torch.float64)
    if predicts_noise(d):
        table[:, 0], table[:, 1] = recip, recipm1
    else:
        table[:, 1] = -1.0
    table[:, 2], table[:, 3] = coef2, coef1
    table[:-1, 5] = torch.exp(0.5 * log_variance[:-1])  # no noise in the last step
    table[:, 7] = _clip(d)
    table[:, 6] = -table[:, 7]
    times = torch.arange(len(recip) - 1, -1, -1, dtype=torch.float64)
    return solvers.SolverPlan("ddpm", table, times, len(recip), len(recip) > 1)


def _clip(d) -> float:
    return float(d.max_action) if getattr(d, "clip_denoised", True) else math.inf


def other_plan(d, solver: str, steps: int | None) -> solvers.SolverPlan:
    """Another solver on the schedule of d, in `steps` of its steps (default all)."""
    schedule = schedules.DiscreteSchedule(d.betas.detach().cpu())
    predict = "eps" if predicts_noise(d) else "x0"
    bound = _clip(d)
    steps = schedule.num_steps if steps is None else steps
    return solvers.plan(solver, schedule, steps, predict=predict, x0_low=-bound, x0_high=bound)


class FastDiffusion:
    """`sample`, `forward`, `p_sample_loop` and `p_losses` of a Diffusion in one op call each.

    Where a step's result is asked for (return_diffusion, another shape, no clipping in
    p_sample_loop), and where the network can't be lowered, the next class's own loop runs.
    """

    def sample(
        self, state, verbose=False, return_diffusion=False, *, x_T=None, noise=None, generator=None
    ):
        """Actions [B, action_dim] in [-max_action, max_action] for state [B, state_dim].

        x_T [B, action_dim] and noise [n_timesteps, B, action_dim], the first step's first, replace
        the draws, which otherwise come from Philox keyed by `generator` (default torch's own).
        Differentiable. With return_diffusion also the path, [B, n_timesteps + 1, action_dim].
        Raises Dom2Error for wrong shapes, dtypes or devices.
        """
        policy = self._policy()
        if noise is None and not return_diffusion and type(state) is torch.Tensor:
            # Few rows, nothing changed: past everything below, which would take as long again.
            quick = policy._quick(state, x_T, generator) if state.dim() == 2 else None
            if quick is not None:
                return quick
        given = (x_T, noise, generator)
        if return_diffusion or policy._programs.get("table") is None:
            self._no_draws(given, "return_diffusion=True, or a network that isn't lowered")
            shape = (len(state), self.action_dim)
            result = self._stepwise(state, shape, verbose, return_diffusion)
            if not return_diffusion:
                return result.clamp(-self.max_action, self.max_action)
            return result[0].clamp(-self.max_action, self.max_action), result[1]
        if not isinstance(state, torch.Tensor) or state.dim() != 2:
            raise Dom2Error(f"state must be a tensor [B, {policy.obs_dim}], got {shape_of(state)}")
        return policy.sample(state, x_T, noise, generator)

    def forward(self, state, *args, **kwargs):
        return self.sample(state, *args, **kwargs)

    def p_sample_loop(
        self,
        state,
        shape,
        verbose=False,
        return_diffusion=False,
        *,
        x_T=None,
        noise=None,
        generator=None,
    ):
        """As `sample`; equal to it, as the last guess is clipped already."""
        whole = tuple(shape) == (len(state), self.action_dim)
        if whole and not return_diffusion and getattr(self, "clip_denoised", True):
            return self.sample(state, verbose, x_T=x_T, noise=noise, generator=generator)
        self._no_draws((x_T, noise, generator), "return_diffusion, another shape or no clipping")
        return self._stepwise(state, shape, verbose, return_diffusion)

    def p_losses(self, *args, **kwargs):
        """The denoising loss of (x_start, state, t, weights=1.0) at steps t [B].

        Draws what the original draws; its own code runs where it computes another loss.
        """
        if self.__dict__.get("_own_loss") or self._policy()._programs.get("row") is None:
            return super().p_losses(*args, **kwargs)
        return self._loss(*args, **kwargs)

    def _loss(self, x_start, state, t, weights=1.0):
        policy = self._policy()
        noise = torch.randn_like(x_start)
        x = self.q_sample(x_start=x_start, t=t, noise=noise)
        rows, _ = policy._grouped(state)
        out = policy._predict(x[None], t[None].to(x.dtype), rows, None)[0]
        target = noise if predicts_noise(self) else x_start
        return self.loss_fn(out, target, weights)

    def _stepwise(self, state, shape, verbose, return_diffusion):
        if self.__dict__.get("_other") is not None:
            raise Dom2Error("another solver's steps aren't returned; leave out return_diffusion")
        return super().p_sample_loop(state, shape, verbose, return_diffusion)

    @staticmethod
    def _no_draws(given, where: str) -> None:
        if any(v is not None for v in given):
            raise Dom2Error(f"x_T, noise and generator can't be given with {where}")

    def _policy(self) -> PlannedPolicy:
        """The policy on self.model, planned for the present buffers."""
        held = self.__dict__.get("_fast")
        if held is not None and held[2] is not None and held[2].fresh(self):
            return held[0]
        # Past Module.__getattr__, which is slow.
        buffers = [self._buffers.get(n) for n in BUFFERS]
        if any(b is None for b in buffers):  # `in` would compare numbers
            buffers = [getattr(self, n) for n in BUFFERS]
        options = (float(self.max_action), _clip(self), predicts_noise(self))
        state = (_Same(buffers), versions_of(buffers), options)
        if held is None or held[0].net is not self._modules["model"]:
            obs_dim = width(self, self.__dict__.get("_obs_dim"), OBS_NAMES, "obs_dim")
            policy = PlannedPolicy(
                self.model,
                self._plan(),
                obs_dim,
                self.action_dim,
                options[0],
                **self.__dict__.get("_options", {}),
            )
        elif held[1] != state:
            policy = held[0]
            policy.act_low, policy.act_high = -options[0], options[0]
            policy.set_plan(self._plan())
        else:
            policy = held[0]
        # Past Module.__setattr__, which would make it a submodule with keys in state_dict.
        self.__dict__["_fast"] = (policy, state, _Unchanged.of(self))
        return policy

    def _plan(self) -> solvers.SolverPlan:
        other = self.__dict__.get("_other")
        return posterior_plan(self) if other is None else other_plan(self, *other)


class _Unchanged:
    """Is all that a policy was planned from as it was? In about two microseconds."""

    SETTINGS = ("max_action", "clip_denoised", "predict_epsilon", "_predicts_noise")

    @classmethod
    def of(cls, d) -> _Unchanged | None:
        """None where it can't be told: no extension, settings that are tensors, no such buffers."""
        found = cls()
        found.settings = found._now(d)
        buffers = [(d._buffers, n, d._buffers.get(n)) for n in BUFFERS]
        tensors = [b for *_, b in buffers]
        if (
            not backend.available()
            or any(isinstance(v, torch.Tensor) for v in found.settings)
            or not all(isinstance(b, torch.Tensor) for b in tensors)
            or versions_of(tensors) is None
        ):
            return None
        entries = [*buffers, (d._modules, "model", d._modules["model"])]
        marks = [(b, b._version, b.data_ptr()) for b in tensors]
        found.watch = backend.extension().Watch(entries, marks, [])
        return found

    def _now(self, d) -> list:
        own = d.__dict__  # first: what isn't there takes Module.__getattr__ long to miss
        return [own[n] if n in own else getattr(d, n, None) for n in self.SETTINGS]

    def __deepcopy__(self, memo) -> None:
        return None  # a copy looks at its own tensors

    def __reduce__(self):
        return type(None), ()

    def fresh(self, d) -> bool:
        same = all(map(operator.is_, self._now(d), self.settings))
        return same and self.watch.fresh()


class _Same(list):
    """Tensors that equal others where they are the same objects."""

    def __eq__(self, other):
        return all(a is b for a, b in zip(self, other, strict=True))

    __hash__ = None


def asked(original, args, kwargs) -> dict:
    """verbose and return_diffusion of a call of `original`, a `sample(self, state, ...)`.

    Raises Dom2Error for other arguments that ask for something, which only the original knows.
    """
    if not (args or kwargs):
        return {}
    parameters = list(inspect.signature(original).parameters.values())[2:]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in named] or list(_ASKED)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if len(args) > len(names):
        raise Dom2Error(f"sample takes state and {names}, got {len(args)} arguments more")
    defaults = {p.name: p.default for p in named}
    for name in [n for n in given if n not in _ASKED]:
        value = given.pop(name)
        if value is not None and value is not defaults.get(name):
            raise Dom2Error(
                f"{name} is given, of which the native loop knows nothing; leave it out, or take "
                f"the original"
            )
    return given


def shape_of(value):
    """A tensor's shape, or another value's type, for a message."""
    return list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
