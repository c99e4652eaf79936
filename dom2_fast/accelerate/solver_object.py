"""dpm-solver's `DPM_Solver` objects: what they were made of, and their twins."""

from __future__ import annotations

import functools
import inspect
from dataclasses import replace

import torch
from torch import nn

from dom2_fast.accelerate import dpm
from dom2_fast.accelerate.model_function import kind_of, network_of
from dom2_fast.accelerate.planned import (
    ACT_NAMES,
    PlannedPolicy,
    check_agrees,
    check_lowers,
    distance,
    width,
)
from dom2_fast.accelerate.tables import PREDICTS
from dom2_fast.accelerate.twin import Twin, twin
from dom2_fast.errors import Dom2Error
from dom2_fast.lowering.attributes import attributes_kept

_SETTINGS = (
    "steps",
    "t_start",
    "t_end",
    "order",
    "skip_type",
    "method",
    "lower_order_final",
    "denoise_to_zero",
    "solver_type",
)


def looks_like_solver(obj) -> bool:
    """Whether obj has the structure of dpm-solver's DPM_Solver."""
    ns = getattr(obj, "noise_schedule", None)
    return not isinstance(obj, nn.Module) and dpm.looks_like_noise_schedule(ns)


class Walks:
    """Samples one network by dpm-solver's settings; a policy is kept for each of them, so the
    schedule is read once for each.

    kind, predict: see `dpm.sample_plan`. backend, precision: see `DiffusionPolicy`.
    """

    def __init__(
        self, net: nn.Module, ns, kind: str, predict: str, backend="auto", precision="fp32"
    ):
        if predict not in PREDICTS:
            raise Dom2Error(f"predict is one of {list(PREDICTS)}, got {predict!r}")
        self.net, self.ns, self.kind, self.predict = net, ns, kind, predict
        self.options = {"backend": backend, "precision": precision}
        self.version = dpm.Version()
        self._policies: dict = {}

    def sample(self, x: torch.Tensor, obs: torch.Tensor | None, **settings) -> torch.Tensor:
        """x [B, A] at t_start -> x [B, A] at t_end. obs [B, O], or [1, O] for all rows."""
        if not isinstance(x, torch.Tensor) or x.dim() != 2:
            found = list(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
            raise Dom2Error(f"x must be a tensor [B, act_dim], got {found}")
        if obs is None:
            obs = x.new_zeros(x.size(0), 1)
        if obs.dim() == 2 and obs.size(0) == 1:
            obs = obs.expand(x.size(0), -1)
        key = (x.size(1), obs.size(-1), *sorted(settings.items()))
        policy = self._policies.get(key)
        if policy is None:
            policy = self._policies[key] = self._make(x.size(1), obs.size(-1), settings)
        return policy.sample(obs, x)

    def _make(self, act_dim: int, obs_dim: int, settings) -> PlannedPolicy:
        name = settings.pop("solver", None)
        if name is not None:
            plan = dpm.named_plan(self.ns, name, settings["steps"], self.predict)
        else:
            settings = {"version": self.version, **settings}
            plan = dpm.sample_plan(self.ns, self.kind, self.predict, **settings)
        for (a, o, *_), policy in self._policies.items():
            if (a, o) == (act_dim, obs_dim):
                return policy.with_plan(plan)
        return PlannedPolicy(self.net, plan, obs_dim, act_dim, **self.options)

    def __getstate__(self):
        return {**self.__dict__, "_policies": {}}


# ---- settings of a call --------------------------------------------------------------------------


def settings_of(original, args, kwargs) -> dict:
    """The settings of a call of `original`, a `sample(self, x, ...)`, with its own defaults."""
    try:
        found = _settings(original, args, tuple(kwargs.items()))
    except TypeError:  # a tensor or list among them, or a call that doesn't fit
        found = _settings.__wrapped__(original, args, tuple(kwargs.items()))
    return dict(found)


@functools.lru_cache(maxsize=256)
def _settings(original, args, kwargs) -> dict:
    bound = inspect.signature(original).bind(None, None, *args, **dict(kwargs))
    bound.apply_defaults()
    given = dict(bound.arguments)
    for parameter in bound.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            given.update(given.pop(parameter.name))
    if given.get("return_intermediate"):
        raise Dom2Error("return_intermediate=True: the steps aren't kept; take the original for it")
    _check_known(bound.signature.parameters, given)
    given.setdefault("denoise_to_zero", given.get("denoise", False))
    given.setdefault("lower_order_final", False)
    return {k: given[k] for k in _SETTINGS if k in given}


def _check_known(parameters, given: dict) -> None:
    """Raises Dom2Error for arguments of a fork, such as callbacks, that ask for something."""
    known = (*_SETTINGS, "denoise", "atol", "rtol", "return_intermediate")
    for name, value in list(given.items())[2:]:  # without self and x
        default = parameters[name].default if name in parameters else None
        if name not in known and value is not default and value is not None:
            raise Dom2Error(
                f"{name} is given: the steps run in one call, and nothing else of them is known "
                f"here but {list(_SETTINGS)}; leave it out, or take the original"
            )


# ---- twins ---------------------------------------------------------------------------------------


class SolverTwin(Twin):
    """A DPM_Solver that samples in one op call; everything else is its original's."""

    def sample(self, x, *args, **kwargs):
        """As the original, for orders 1 to 3. Differentiable where torch's grad mode is on."""
        settings = settings_of(self._original.sample, args, kwargs)
        obs = None if self._held is None else self._held.read()
        return self._walks.sample(x, obs, **settings)


def accelerate_solver(solver, *, act_dim=None, backend="auto", precision="fp32"):
    """A twin of a DPM_Solver made with `model_wrapper`, see `accelerate`."""
    what = type(solver).__name__
    kind = kind_of(solver, what)
    called, held, predict = network_of(getattr(solver, "model", None), what)
    obs = None if held is None else held.read()
    act_dim = width(called.net, act_dim, ACT_NAMES, "act_dim")
    obs_dim = 1 if obs is None else _obs_width(obs, what)
    check_lowers(called, obs_dim, act_dim, what)
    walks = Walks(called, solver.noise_schedule, kind, predict, backend, precision)
    trial = Walks(called, solver.noise_schedule, kind, predict, "reference")
    with attributes_kept(called):
        called.eval()
        walks.version = check_algorithm(solver, trial, obs, act_dim, what)
    return twin(solver, SolverTwin, _walks=walks, _held=held)


def _obs_width(obs, what: str) -> int:
    if obs.dim() != 2:
        raise Dom2Error(
            f"can't accelerate {what}: its condition has shape {list(obs.shape)}; [B, width] is "
            f"needed"
        )
    return obs.size(1)


@torch.no_grad()
def check_algorithm(solver, trial: Walks, obs, act_dim: int, what: str) -> dpm.Version:
    """Compares a few calls; returns the version of dpm-solver that they agree with.

    Some versions fail in one method; the others then tell.
    """
    first = next(iter(trial.net.parameters()), torch.zeros(()))
    rows = 3 if obs is None else obs.size(0)
    x = torch.linspace(-1.0, 1.0, rows * act_dim).reshape(rows, act_dim).to(first)
    sample, errors = type(solver).sample, []
    how = "its sample is not dpm-solver's; give its network and schedule instead of it"

    def original(**call):
        """(Settings, samples), or None where the original itself fails."""
        call = {"order": 2, "skip_type": "time_uniform", **call}
        settings = settings_of(sample, (), call)
        try:
            return settings, solver.sample(x, **call)
        except Exception as error:
            errors.append(error)
            return None

    def closest(versions, *results) -> None:
        """Sets the version that comes closest; raises Dom2Error where none agrees."""
        far = []
        for version in versions:
            trial.version, trial._policies = version, {}
            got = [trial.sample(x, obs, **settings) for settings, _ in results]
            far.append(sum(distance(g, want) for g, (_, want) in zip(got, results, strict=True)))
        best = far.index(min(far))
        trial.version, trial._policies = versions[best], {}
        for settings, want in results:
            check_agrees(trial.sample(x, obs, **settings), want, what, how)

    results = [original(steps=3, method=m) for m in ("singlestep", "multistep")]
    if not any(results):
        raise Dom2Error(
            f"can't accelerate {what}: its sample fails on a trial: {errors[0]}"
        ) from errors[0]
    closest([dpm.Version()], *filter(None, results))
    # Away from t = 0, where float32 schedules differ by more than the versions do.
    inside = {"t_start": 0.9 * solver.noise_schedule.T, "t_end": 0.3}
    result = original(steps=3, method="singlestep", skip_type="logSNR", **inside)
    if result is not None:
        closest([dpm.Version(), dpm.Version(by_calls=True)], result)
    if "lower_order_final" in inspect.signature(sample).parameters:
        results = [original(steps=n, method="multistep") for n in (10, 14)]
        versions = [replace(trial.version, lower_below=below) for below in (10, 15)]
        closest(versions, *filter(None, results))
    third = [original(steps=4, method=m, order=3) for m in ("singlestep", "multistep")]
    for settings, want in filter(None, third):
        got = trial.sample(x, obs, **settings)
        if not distance(got, want) <= 1e-3 * (1.0 + want.double().abs().max().item()):
            trial.version = replace(trial.version, third=False)
            break
    return trial.version
