"""Diffusion-QL's `Diffusion` (Wang et al. 2023) and agents that hold some, by their structure.

The posterior's coefficients are read from the object's own buffers, so its schedule may be any.
"""

from __future__ import annotations

import copy
import functools
import math

import torch
from torch import nn

from dom2_fast import schedules, solvers
from dom2_fast.accelerate.planned import OBS_NAMES, PlannedPolicy, check_agrees, check_lowers, width
from dom2_fast.accelerate.twin import Twin, twin
from dom2_fast.errors import Dom2Error
from dom2_fast.lowering.stamp import versions_of

_BUFFERS = (
    "betas", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_mean_coef1",
    "posterior_mean_coef2", "posterior_log_variance_clipped",
)  # fmt: skip


def looks_like_diffusion(obj) -> bool:
    return isinstance(obj, nn.Module) and hasattr(obj, "betas") and hasattr(obj, "p_sample_loop")


def posterior_plan(d) -> solvers.SolverPlan:
    """Ancestral sampling with the buffers of d, all steps (Ho et al. 2020, eq. 6-7)."""
    values = [getattr(d, name).detach().double().cpu().flip(0) for name in _BUFFERS[1:]]
    recip, recipm1, coef1, coef2, log_variance = values
    table = torch.zeros(len(recip), 8, dtype=torch.float64)
    if getattr(d, "predict_epsilon", True):
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
    predict = "eps" if getattr(d, "predict_epsilon", True) else "x0"
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
        given = (x_T, noise, generator)
        policy = self._policy()
        if return_diffusion or policy._programs.get("table") is None:
            self._no_draws(given, "return_diffusion=True, or a network that isn't lowered")
            shape = (len(state), self.action_dim)
            result = self._stepwise(state, shape, verbose, return_diffusion)
            if not return_diffusion:
                return result.clamp(-self.max_action, self.max_action)
            return result[0].clamp(-self.max_action, self.max_action), result[1]
        if not isinstance(state, torch.Tensor) or state.dim() != 2:
            raise Dom2Error(f"state must be a tensor [B, {policy.obs_dim}], got {_shape(state)}")
        return policy.sample(state, x_T, noise, generator)

    def forward(self, state, *args, **kwargs):
        return self.sample(state, *args, **kwargs)

    def p_sample_loop(
        self, state, shape, verbose=False, return_diffusion=False, *,
        x_T=None, noise=None, generator=None,
    ):  # fmt: skip
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
        target = noise if getattr(self, "predict_epsilon", True) else x_start
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
        # Past Module.__getattr__, which is slow.
        buffers = [self._buffers.get(n) for n in _BUFFERS]
        if None in buffers:
            buffers = [getattr(self, n) for n in _BUFFERS]
        options = (float(self.max_action), _clip(self), getattr(self, "predict_epsilon", True))
        state = (_Same(buffers), versions_of(buffers), options)
        if held is None or held[0].net is not self._modules["model"]:
            obs_dim = width(self, self.__dict__.get("_obs_dim"), OBS_NAMES, "obs_dim")
            policy = PlannedPolicy(
                self.model, self._plan(), obs_dim, self.action_dim, options[0],
                **self.__dict__.get("_options", {}),
            )  # fmt: skip
        elif held[1] != state:
            policy = held[0]
            policy.act_low, policy.act_high = -options[0], options[0]
            policy.set_plan(self._plan())
        else:
            return held[0]
        # Past Module.__setattr__, which would make it a submodule with keys in state_dict.
        self.__dict__["_fast"] = (policy, state)
        return policy

    def _plan(self) -> solvers.SolverPlan:
        other = self.__dict__.get("_other")
        return posterior_plan(self) if other is None else other_plan(self, *other)


class _Same(list):
    """Tensors that equal others where they are the same objects."""

    def __eq__(self, other):
        return all(a is b for a, b in zip(self, other, strict=True))

    __hash__ = None


def _shape(value):
    return list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__


class DiffusionTwin(FastDiffusion, Twin):
    """A Diffusion that samples in one op call; everything else is its original's."""


class AgentTwin(Twin):
    """An agent whose diffusions are accelerated; everything else is its original's."""


def accelerate_diffusion(
    d, *, solver=None, steps=None, obs_dim=None, backend="auto", precision="fp32"
):
    """A twin of a Diffusion. Raises Dom2Error, condition by condition, for one that isn't."""
    what = type(d).__name__
    _check_structure(d, what)
    obs_dim = width(d, obs_dim, OBS_NAMES, "obs_dim")
    check_lowers(d.model, obs_dim, d.action_dim, what)
    own = solver is None and steps is None
    if own and isinstance(d, FastDiffusion):
        raise Dom2Error(f"{what} samples natively already; use it, or give solver= and steps=")
    if not own:
        other = (solver or "ddpm", steps)
        other_plan(d, *other)  # raises for an unknown name or too many steps
    else:
        other = None
        _check_algorithm(d, obs_dim, what)
    run = {"backend": backend, "precision": precision}
    made = twin(d, DiffusionTwin, _other=other, _obs_dim=obs_dim, _options=run)
    made._policy()  # lowered now, not in the first call
    made.__dict__["_own_loss"] = not _loss_agrees(made)
    return made


def _check_structure(d, what: str) -> None:
    def refuse(why: str):
        raise Dom2Error(
            f"can't accelerate {what}: {why}. A Diffusion-QL diffusion has model(x, t, state), "
            f"action_dim, max_action, n_timesteps and the buffers {list(_BUFFERS)}"
        )

    if not isinstance(getattr(d, "model", None), nn.Module):
        refuse("its attribute model is no torch.nn.Module")
    steps = getattr(d, "n_timesteps", None)
    if isinstance(steps, bool) or not isinstance(steps, int):
        refuse(f"its n_timesteps is {steps!r}, no whole number")
    for name in _BUFFERS:
        value = getattr(d, name, None)
        if not isinstance(value, torch.Tensor) or value.shape != (steps,):
            refuse(f"{name} is {_shape(value)}, not a tensor [{steps}]")
    action_dim = getattr(d, "action_dim", None)
    if isinstance(action_dim, bool) or not isinstance(action_dim, int):
        refuse(f"its action_dim is {action_dim!r}, no whole number")
    try:
        bound = float(d.max_action)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        refuse("its max_action is not one number, the bound of every component")
    if not 0.0 < bound < math.inf:
        refuse(f"its max_action is {bound}, no bound")


def _check_algorithm(d, obs_dim: int, what: str) -> None:
    """Its own samples, on a copy and with known draws, against ancestral sampling."""
    try:
        other = copy.deepcopy(d).eval()
    except Exception as error:
        raise Dom2Error(f"can't accelerate {what}: no copy for a trial: {error}") from error
    first = next(iter(other.model.parameters()), d.betas)
    where = {"device": first.device, "dtype": first.dtype}
    cuda = [first.device] if first.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=cuda):
        state = torch.linspace(-0.8, 0.8, 3 * obs_dim, **where).reshape(3, obs_dim)
        _seed(cuda)
        try:
            want = other.sample(state)
        except Exception as error:
            raise Dom2Error(
                f"can't accelerate {what}: its sample fails on a trial: {error}"
            ) from error
        _seed(cuda)
        x_T = torch.randn(3, d.action_dim, **where)
        noise = torch.stack([torch.randn_like(x_T) for _ in range(d.n_timesteps)])
        bound = float(d.max_action)
        plan = posterior_plan(d)
        policy = PlannedPolicy(other.model, plan, obs_dim, d.action_dim, bound, "reference")
        check_agrees(
            policy.sample(state, x_T, noise), want, what,
            "give solver= and steps= to sample it by a solver of this package instead",
        )  # fmt: skip


def _loss_agrees(made) -> bool:
    """Is its own p_losses the denoising loss? Where not, or where it takes more, it stays."""
    cuda = [made.betas.device] if made.betas.device.type == "cuda" else []
    losses = []
    with torch.no_grad(), torch.random.fork_rng(devices=cuda):
        try:
            other = copy.deepcopy(made).eval()
            first = next(iter(other.model.parameters()), made.betas)
            state = torch.linspace(-0.8, 0.8, 3 * made._obs_dim).reshape(3, -1).to(first)
            x = torch.linspace(0.8, -0.8, 3 * made.action_dim).reshape(3, -1).to(first)
            t = torch.arange(3, device=first.device) % made.n_timesteps
            weights = torch.linspace(0.5, 1.5, 3).reshape(3, 1).to(first)
            for loss in (other._loss, functools.partial(made._original.p_losses, other)):
                _seed(cuda)
                losses.append(loss(x, state, t, weights).item())
        except Exception:  # whatever its loss needs, it isn't this one
            return False
    return abs(losses[0] - losses[1]) <= 1e-3 * (1.0 + abs(losses[1]))


def _seed(cuda) -> None:
    torch.default_generator.manual_seed(0)
    if cuda:
        torch.cuda.manual_seed(0)


def diffusions_in(agent) -> dict:
    held = dict(getattr(agent, "__dict__", {}))
    held.update(held.get("_modules") or {})
    return {name: v for name, v in held.items() if looks_like_diffusion(v)}


def accelerate_agent(agent, **options):
    """A twin of an agent: every attribute that is a Diffusion accelerated, optimisers shared."""
    found, made = diffusions_in(agent), {}
    for name, d in found.items():
        if id(d) not in made:
            try:
                made[id(d)] = accelerate_diffusion(d, **options)
            except Dom2Error as error:
                raise Dom2Error(f"{type(agent).__name__}.{name}: {error}") from error
    new = {name: made[id(d)] for name, d in found.items()}
    if isinstance(agent, nn.Module):
        result = twin(agent, AgentTwin)
        result._modules.update({n: v for n, v in new.items() if n in result._modules})
        return result
    return twin(agent, AgentTwin, **new)
