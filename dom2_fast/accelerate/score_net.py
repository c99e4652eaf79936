"""SfBC's score networks (Chen et al. 2023), which hold the solver that samples them."""

from __future__ import annotations

import torch
from torch import nn

from dom2_fast.accelerate import dpm
from dom2_fast.accelerate.model_function import kind_of
from dom2_fast.accelerate.planned import ACT_NAMES, OBS_NAMES, Called, check_lowers, width
from dom2_fast.accelerate.solver_object import (
    Walks,
    check_algorithm,
    looks_like_solver,
    settings_of,
)
from dom2_fast.accelerate.twin import Twin, twin
from dom2_fast.errors import Dom2Error
from dom2_fast.lowering.attributes import attributes_kept


def looks_like_score_net(obj) -> bool:
    """Whether obj has the structure of SfBC's score network."""
    has = isinstance(obj, nn.Module) and callable(getattr(obj, "marginal_prob_std", None))
    return has and looks_like_solver(getattr(obj, "dpm_solver", None))


class BoundSolver:
    """Stands in for `net.dpm_solver`: samples net with the condition that it holds at the time."""

    def __init__(self, net, walks: Walks, original, solver: str | None):
        self.net, self.walks, self.original, self.solver = net, walks, original, solver
        self.noise_schedule = walks.ns

    def sample(self, x, *args, **kwargs):
        settings = settings_of(self.original, args, kwargs)
        if self.solver is not None:
            settings = {"steps": settings["steps"], "solver": self.solver}
        return self.walks.sample(x, self.net.condition, **settings)


class ScoreTwin(Twin):
    """A score network whose sampling is one op call; everything else is its original's."""

    def train(self, mode: bool = True):
        self.dpm_solver.walks.net.train(mode)
        return super().train(mode)


class _Recorder(BoundSolver):
    def __init__(self, original, walks: Walks):
        self.original, self.walks = original, walks

    def sample(self, x, *args, **kwargs):
        settings, walks = settings_of(self.original, args, kwargs), self.walks
        dpm.sample_plan(walks.ns, walks.kind, walks.predict, **settings)
        return torch.zeros_like(x)


def accelerate_score_net(
    net, *, solver=None, obs_dim=None, act_dim=None, backend="auto", precision="fp32"
):
    """A twin of an SfBC score network: net(x, t, condition), dpm_solver, marginal_prob_std."""
    what = type(net).__name__
    kind = kind_of(net.dpm_solver, what)
    obs_dim = width(net, obs_dim, OBS_NAMES, "obs_dim")
    act_dim = width(net, act_dim, ACT_NAMES, "act_dim")
    original = type(net.dpm_solver).sample
    if solver is not None:
        dpm.named_plan(net.noise_schedule, solver, 5, "score")  # raises for an unknown name
    called = _called(net, obs_dim, act_dim, what)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), attributes_kept(net):
        net.eval()
        version = _check_score_net(net, called, kind, solver, obs_dim, act_dim, what)
    walks = Walks(called, net.dpm_solver.noise_schedule, kind, "score", backend, precision)
    walks.version = version
    made = twin(net, ScoreTwin)
    made.__dict__["dpm_solver"] = BoundSolver(made, walks, original, solver)
    return made


def _called(net: nn.Module, obs_dim: int, act_dim: int, what: str) -> nn.Module:
    """The network, or, where net(x, t, condition) isn't possible, one that sets net.condition."""
    try:
        check_lowers(net, obs_dim, act_dim, what)
        return net
    except Dom2Error as error:
        called = Called(net, _with_condition)
        try:
            check_lowers(called, obs_dim, act_dim, what)
        except Dom2Error:
            raise error from None
        return called


def _with_condition(net, x, t, obs):
    held = net.__dict__.get("condition")
    net.condition = obs
    try:
        return net(x, t)
    finally:
        net.condition = held


def _check_score_net(net, called, kind: str, solver, obs_dim: int, act_dim: int, what: str):
    """Trials of the solver that it holds and of its own sample; leaves traces in attributes.

    Returns the solver's version.
    """
    first, original = next(iter(net.parameters())), type(net.dpm_solver).sample
    net.condition = torch.linspace(-0.8, 0.8, 3 * obs_dim).reshape(3, obs_dim).to(first)
    trial = Walks(called, net.dpm_solver.noise_schedule, kind, "score", "reference")
    version = check_algorithm(net.dpm_solver, trial, net.condition, act_dim, what)
    if solver is not None or not hasattr(net, "sample"):
        return version
    net.dpm_solver = _Recorder(original, trial)
    try:
        net.sample(torch.zeros(1, obs_dim).numpy())
    except Dom2Error as error:
        raise Dom2Error(
            f"can't accelerate {what}: its sample asks for what a solver table can't hold: "
            f"{error}. Give solver='dpm1' or 'dpm++2m' to sample it by that one instead"
        ) from error
    except Exception as error:
        raise Dom2Error(f"can't accelerate {what}: its sample fails on a trial: {error}") from error
    return version
