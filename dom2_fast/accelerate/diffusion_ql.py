"""Diffusion-QL's `Diffusion` (Wang et al. 2023) and agents that hold some, by their structure."""

from __future__ import annotations

import copy
import functools
import math

import torch
from torch import nn

from dom2_fast.accelerate.fast_diffusion import (
    BUFFERS,
    FastDiffusion,
    asked,
    posterior_plan,
    predicts_noise,
    shape_of,
)
from dom2_fast.accelerate.planned import OBS_NAMES, PlannedPolicy, check_agrees, check_lowers, width
from dom2_fast.accelerate.twin import Twin, twin
from dom2_fast.errors import Dom2Error


def looks_like_diffusion(obj) -> bool:
    """Whether obj has the structure of Diffusion-QL's Diffusion."""
    return isinstance(obj, nn.Module) and hasattr(obj, "betas") and hasattr(obj, "p_sample_loop")


class DiffusionTwin(FastDiffusion, Twin):
    """A Diffusion that samples in one op call; everything else is its original's."""

    def sample(self, state, *args, x_T=None, noise=None, generator=None, **kwargs):
        """As `FastDiffusion.sample`; a fork's own arguments are refused where they are given."""
        given = asked(self._original.sample, args, kwargs) if args or kwargs else {}
        return super().sample(state, **given, x_T=x_T, noise=noise, generator=generator)


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
    own, said = solver is None and steps is None, hasattr(d, "predict_epsilon")
    if own and isinstance(d, FastDiffusion):
        raise Dom2Error(f"{what} samples natively already; use it, or give solver= and steps=")
    try:
        kind = _check_algorithm(d, obs_dim, what) if own or not said else None
    except Dom2Error:  # one that samples otherwise may be sampled by another solver
        if own:
            raise
        kind = True
    found = {} if said else {"_predicts_noise": kind}
    other = None if own else (solver or "ddpm", steps)
    run = {"backend": backend, "precision": precision}
    made = twin(d, DiffusionTwin, _other=other, _obs_dim=obs_dim, _options=run, **found)
    made._policy()  # lowered now, not in the first call
    made.__dict__["_own_loss"] = not _loss_agrees(made)
    return made


def _check_structure(d, what: str) -> None:
    def refuse(why: str):
        raise Dom2Error(
            f"can't accelerate {what}: {why}. A Diffusion-QL diffusion has model(x, t, state), "
            f"action_dim, max_action, n_timesteps and the buffers {list(BUFFERS)}"
        )

    if not isinstance(getattr(d, "model", None), nn.Module):
        refuse("its attribute model is no torch.nn.Module")
    steps = getattr(d, "n_timesteps", None)
    if isinstance(steps, bool) or not isinstance(steps, int):
        refuse(f"its n_timesteps is {steps!r}, no whole number")
    for name in BUFFERS:
        value = getattr(d, name, None)
        if not isinstance(value, torch.Tensor) or value.shape != (steps,):
            refuse(f"{name} is {shape_of(value)}, not a tensor [{steps}]")
    action_dim = getattr(d, "action_dim", None)
    if isinstance(action_dim, bool) or not isinstance(action_dim, int):
        refuse(f"its action_dim is {action_dim!r}, no whole number")
    try:
        bound = float(d.max_action)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        refuse("its max_action is not one number, the bound of every component")
    if not 0.0 < bound < math.inf:
        refuse(f"its max_action is {bound}, no bound")


def _check_algorithm(d, obs_dim: int, what: str) -> bool:
    """Its own samples, on a copy and with known draws, against ancestral sampling.

    Returns whether its network predicts noise: as it says, or, where it doesn't, as it samples.
    """
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
        kinds = [predicts_noise(d)] if hasattr(d, "predict_epsilon") else [True, False]
        errors = []
        for kind in kinds:
            other.__dict__["_predicts_noise"] = kind
            plan = posterior_plan(other)
            policy = PlannedPolicy(other.model, plan, obs_dim, d.action_dim, bound, "reference")
            try:
                check_agrees(
                    policy.sample(state, x_T, noise),
                    want,
                    what,
                    "give solver= and steps= to sample it by a solver of this package instead",
                )
                return kind
            except Dom2Error as error:
                errors.append(error)
        raise errors[0]


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
    """Attribute name -> Diffusion, of those that an agent holds."""
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
