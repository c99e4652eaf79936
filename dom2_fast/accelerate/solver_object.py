"""dpm-solver's `DPM_Solver` objects: what they were made of, and their twins."""

from __future__ import annotations

import functools
import inspect
import types

import torch
from torch import nn

from dom2_fast.accelerate import dpm
from dom2_fast.accelerate.planned import (
    ACT_NAMES,
    Called,
    PlannedPolicy,
    check_agrees,
    check_lowers,
    width,
)
from dom2_fast.accelerate.tables import PREDICTS
from dom2_fast.accelerate.twin import Twin, twin
from dom2_fast.errors import Dom2Error
from dom2_fast.lowering.attributes import attributes_kept

_PREDICT = {"noise": "eps", "x_start": "x0", "v": "v", "score": "score"}
_SETTINGS = ("steps", "t_start", "t_end", "order", "skip_type", "method", "lower_order_final",
             "denoise_to_zero", "solver_type")  # fmt: skip


def looks_like_solver(obj) -> bool:
    ns = getattr(obj, "noise_schedule", None)
    return not isinstance(obj, nn.Module) and dpm.looks_like_noise_schedule(ns)


class Walks:
    """Samples one network by dpm-solver's settings; a policy is kept for each of them, so the
    schedule is read once for each.

    kind, predict: see `dpm.sample_plan`. backend: see `DiffusionPolicy`.
    """

    def __init__(self, net: nn.Module, ns, kind: str, predict: str, backend: str = "auto"):
        if predict not in PREDICTS:
            raise Dom2Error(f"predict is one of {list(PREDICTS)}, got {predict!r}")
        self.net, self.ns, self.kind, self.predict, self.backend = net, ns, kind, predict, backend
        self.lower_below = dpm.LOWER_BELOW
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
            settings = {"lower_below": self.lower_below, **settings}
            plan = dpm.sample_plan(self.ns, self.kind, self.predict, **settings)
        for (a, o, *_), policy in self._policies.items():
            if (a, o) == (act_dim, obs_dim):
                return policy.with_plan(plan)
        return PlannedPolicy(self.net, plan, obs_dim, act_dim, backend=self.backend)

    def __getstate__(self):
        return {**self.__dict__, "_policies": {}}


# ---- what a solver object was made of ------------------------------------------------------------


def variables(fn, depth: int = 4) -> dict:
    """Names and values that a function closes over, through the functions among them."""
    if isinstance(fn, types.FunctionType):
        cells = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False)
        found = {name: cell.cell_contents for name, cell in cells}
    else:
        found = dict(getattr(fn, "__dict__", {}))
    for value in list(found.values()) if depth else ():
        if callable(value) and not isinstance(value, (nn.Module, type)):
            found = {**variables(value, depth - 1), **found}
    return found


def network_of(model_fn, what: str):
    """(Called network, Held obs or None, predict) of what `model_wrapper` made.

    Raises Dom2Error for guidance, several conditions and functions that weren't made by it.
    """
    v = variables(model_fn)
    net, kind = v.get("model"), v.get("model_type")
    if not isinstance(net, nn.Module) or kind not in _PREDICT:
        raise Dom2Error(
            f"can't accelerate {what}: its model function doesn't show its network; make it by "
            f"model_wrapper(net, noise_schedule, model_type, ...) with net a torch.nn.Module and "
            f"model_type one of {list(_PREDICT)}"
        )
    guidance, scale = v.get("guidance_type", "uncond"), v.get("guidance_scale", 1.0)
    if guidance == "classifier":
        raise Dom2Error(
            f"can't accelerate {what}: guidance_type='classifier' takes a gradient in every step, "
            f"and a step program has none"
        )
    guided = guidance == "classifier-free"
    if guided and scale != 1.0 and v.get("unconditional_condition") is not None:
        raise Dom2Error(
            f"can't accelerate {what}: guidance_scale is {scale}; 1 is accepted, where the network "
            f"is called once in a step"
        )
    kwargs = v.get("model_kwargs") or {}
    tensors = {k: x for k, x in kwargs.items() if isinstance(x, torch.Tensor)}
    condition = v.get("condition") if guided else None
    if len(tensors) + (condition is not None) > 1:
        raise Dom2Error(
            f"can't accelerate {what}: its network takes {len(tensors) + (condition is not None)} "
            f"conditions; one tensor [B, width] is accepted: join them"
        )
    if condition is not None:
        held = Held({"condition": condition}, "condition")
        return Called(net, Positional(dict(kwargs))), held, _PREDICT[kind]
    name = next(iter(tensors), None)
    held = None if name is None else Held(kwargs, name)
    fixed = {k: x for k, x in kwargs.items() if k != name}
    return Called(net, Keyword(name, fixed)), held, _PREDICT[kind]


class Held:
    """The condition, read where it is kept, as callers may put another there between two calls."""

    def __init__(self, mapping: dict, name: str):
        self.mapping, self.name = mapping, name

    def read(self) -> torch.Tensor:
        return self.mapping[self.name]


class Positional:
    """net(x, t, obs, **fixed)."""

    def __init__(self, fixed: dict):
        self.fixed = fixed

    def __call__(self, net, x, t, obs):
        return net(x, t, obs, **self.fixed)


class Keyword:
    """net(x, t, name=obs, **fixed), or net(x, t, **fixed) without a name."""

    def __init__(self, name: str | None, fixed: dict):
        self.name, self.fixed = name, fixed

    def __call__(self, net, x, t, obs):
        named = {} if self.name is None else {self.name: obs}
        return net(x, t, **named, **self.fixed)


def kind_of(solver, what: str) -> str:
    """ "data" or "noise"; Dom2Error for corrections of the guesses, which aren't affine."""
    for name in ("correcting_x0_fn", "correcting_xt_fn", "thresholding"):
        if getattr(solver, name, None):
            raise Dom2Error(
                f"can't accelerate {what}: {name} is set; a step can clip a guess to fixed bounds, "
                f"no more"
            )
    algorithm = getattr(solver, "algorithm_type", None)
    if algorithm is None:
        return "data" if getattr(solver, "predict_x0", False) else "noise"
    if algorithm not in ("dpmsolver", "dpmsolver++"):
        raise Dom2Error(
            f"can't accelerate {what}: algorithm_type is {algorithm!r}; 'dpmsolver' and "
            f"'dpmsolver++' are accepted"
        )
    return "data" if algorithm == "dpmsolver++" else "noise"


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
    if given.get("return_intermediate"):
        raise Dom2Error("return_intermediate=True: the steps aren't kept; take the original for it")
    given.setdefault("denoise_to_zero", given.get("denoise", False))
    given.setdefault("lower_order_final", False)
    return {k: given[k] for k in _SETTINGS if k in given}


# ---- twins ---------------------------------------------------------------------------------------


class SolverTwin(Twin):
    """A DPM_Solver that samples in one op call; everything else is its original's."""

    def sample(self, x, *args, **kwargs):
        """As the original, for orders 1 and 2. Differentiable where torch's grad mode is on."""
        settings = settings_of(self._original.sample, args, kwargs)
        obs = None if self._held is None else self._held.read()
        return self._walks.sample(x, obs, **settings)


def accelerate_solver(solver, *, act_dim=None, backend="auto"):
    """A twin of a DPM_Solver made with `model_wrapper`, see `accelerate`."""
    what = type(solver).__name__
    kind = kind_of(solver, what)
    called, held, predict = network_of(getattr(solver, "model", None), what)
    obs = None if held is None else held.read()
    act_dim = width(called.net, act_dim, ACT_NAMES, "act_dim")
    obs_dim = 1 if obs is None else _obs_width(obs, what)
    check_lowers(called, obs_dim, act_dim, what)
    walks = Walks(called, solver.noise_schedule, kind, predict, backend)
    trial = Walks(called, solver.noise_schedule, kind, predict, "reference")
    with attributes_kept(called):
        called.eval()
        walks.lower_below = check_algorithm(solver, trial, obs, act_dim, what)
    return twin(solver, SolverTwin, _walks=walks, _held=held)


def _obs_width(obs, what: str) -> int:
    if obs.dim() != 2:
        raise Dom2Error(
            f"can't accelerate {what}: its condition has shape {list(obs.shape)}; [B, width] is "
            f"needed"
        )
    return obs.size(1)


@torch.no_grad()
def check_algorithm(solver, trial: Walks, obs, act_dim: int, what: str) -> int:
    """Compares a few calls; returns the number of steps below which it lowers its last order."""
    first = next(iter(trial.net.parameters()), torch.zeros(()))
    rows = 3 if obs is None else obs.size(0)
    x = torch.linspace(-1.0, 1.0, rows * act_dim).reshape(rows, act_dim).to(first)
    sample = type(solver).sample
    how = "its sample is not dpm-solver's; give its network and schedule instead of it"

    def compare(**call):
        settings = settings_of(sample, (), call)
        try:
            want = solver.sample(x, **call)
        except Exception as error:
            raise Dom2Error(
                f"can't accelerate {what}: its sample fails on a trial: {error}"
            ) from error
        check_agrees(trial.sample(x, obs, **settings), want, what, how)

    call = {"order": 2, "skip_type": "time_uniform"}
    compare(steps=3, method="singlestep", **call)
    compare(steps=3, method="multistep", **call)
    if "lower_order_final" not in inspect.signature(sample).parameters:
        return dpm.LOWER_BELOW
    for below in (dpm.LOWER_BELOW, 15):  # versions of dpm-solver differ
        trial.lower_below, trial._policies = below, {}
        try:
            for steps in (10, 14):
                compare(steps=steps, method="multistep", **call)
        except Dom2Error:
            if below == 15:
                raise
        else:
            return below
    raise AssertionError
