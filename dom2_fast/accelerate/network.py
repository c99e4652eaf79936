"""A noise (or x0, v, score) network with a schedule: a twin that also samples."""

from __future__ import annotations

import math

from torch import nn

from dom2_fast.accelerate import dpm, scheduler
from dom2_fast.accelerate.planned import (
    ACT_NAMES,
    OBS_NAMES,
    Called,
    PlannedPolicy,
    check_lowers,
    width,
)
from dom2_fast.accelerate.tables import PREDICTS, bounded, guess
from dom2_fast.accelerate.twin import Twin, twin
from dom2_fast.errors import Dom2Error
from dom2_fast.policies import schedules, solvers


class NetworkTwin(Twin):
    """A network that can sample; its forward, parameters and keys are its original's."""

    def sample(self, obs, x_T=None, noise=None, generator=None):
        """Actions [B, A] for obs [B, O] or [O], see `DiffusionPolicy.sample`."""
        return self._fast.sample(obs, x_T, noise, generator)

    def act(self, obs, candidates=1, critic=None, generator=None, temperature=None):
        """Actions without grad, the best of `candidates`, see `DiffusionPolicy.act`."""
        return self._fast.act(obs, candidates, critic, generator, temperature)

    def bc_loss(self, obs, act, generator=None):
        """The denoising loss, see `DiffusionPolicy.bc_loss`; for eps and x0 on our schedules."""
        if not self._has_loss:
            raise Dom2Error(
                "bc_loss is for networks that predict eps or x0 on a schedule of this package; "
                "train this one by its own loss: the parameters are shared"
            )
        return self._fast.bc_loss(obs, act, generator)

    def train(self, mode: bool = True):
        # The program is made from the original, whose own flag is not one of a shared submodule.
        self._fast.net.train(mode)
        return super().train(mode)


def plan_for(schedule, solver, steps, predict, low, high, clip_x0) -> solvers.SolverPlan:
    """The walk of a network over a schedule of ours, of dpm-solver's or of diffusers' kind."""
    if predict not in PREDICTS:
        raise Dom2Error(f"predict is one of {list(PREDICTS)}, got {predict!r}")
    if scheduler.looks_like_scheduler(schedule):
        if solver is not None:
            raise Dom2Error("a scheduler says itself what the solver is; leave out solver=")
        plan = scheduler.plan_of(schedule, steps, predict)
        return bounded(plan, low, high) if clip_x0 else plan
    if dpm.looks_like_noise_schedule(schedule):
        plan = dpm.named_plan(schedule, solver or "dpm1", steps or 5, predict)
        return bounded(plan, low, high) if clip_x0 else plan
    schedule = schedules.VPSchedule() if schedule is None else schedules.get(schedule)
    solver = solver or getattr(schedule, "solver", "dpm1")
    steps = (schedule.num_steps or 5) if steps is None else steps
    clips = solvers.clips_x0(solver) if clip_x0 is None else clip_x0
    bounds = {"x0_low": low, "x0_high": high} if clips else {}
    if predict in ("eps", "x0") or isinstance(schedule, schedules.FlowSchedule):
        return solvers.plan(solver, schedule, steps, predict=predict, **bounds)
    plan = solvers.plan(solver, schedule, steps, **bounds)
    _, alpha, sigma = solvers.grid(schedule, steps)
    for row, a, s in zip(plan.table, alpha.tolist(), sigma.tolist(), strict=False):
        row[0], row[1] = guess("data", predict, a, s)
    return plan


def accelerate_network(
    net: nn.Module,
    *,
    schedule=None,
    solver=None,
    steps=None,
    predict="eps",
    obs_dim=None,
    act_dim=None,
    act_low=-1.0,
    act_high=1.0,
    clip_x0=None,
    call=None,
    backend="auto",
    precision="fp32",
):
    """A twin of a network net(x, t, obs), see `accelerate`."""
    if not (math.isfinite(act_low) and math.isfinite(act_high) and act_low < act_high):
        raise Dom2Error(f"act_low < act_high, both finite, are needed: {act_low}, {act_high}")
    obs_dim = width(net, obs_dim, OBS_NAMES, "obs_dim")
    act_dim = width(net, act_dim, ACT_NAMES, "act_dim")
    plan = plan_for(schedule, solver, steps, predict, act_low, act_high, clip_x0)
    called = net if call is None else Called(net, call)
    check_lowers(called, obs_dim, act_dim, type(net).__name__)
    policy = PlannedPolicy(called, plan, obs_dim, act_dim, backend=backend, precision=precision)
    policy.act_low, policy.act_high = float(act_low), float(act_high)
    ours = schedule is None or isinstance(schedule, str) or hasattr(schedule, "alpha_sigma")
    has_loss = ours and predict in ("eps", "x0")
    if has_loss:
        policy.schedule = schedules.VPSchedule() if schedule is None else schedules.get(schedule)
        policy.predict = predict
    return twin(net, NetworkTwin, _fast=policy, _has_loss=has_loss)
