"""The diffusion policy: noise network, schedule and solver, behind `sample`, `bc_loss`, `act`.

Sampling is one call of `ops.denoise` on the lowered network. How a network becomes a program is in
`lowering`, what a solver is in `solvers`; nothing here knows about training loops.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from dom2_fast import lowering, ops
from dom2_fast.errors import Dom2Error, whole_number
from dom2_fast.lowering.fused import FusedModule
from dom2_fast.networks import Chunked, StackedModule
from dom2_fast.ops import reference
from dom2_fast.ops.executor import executor
from dom2_fast.policies import inputs, schedules, solvers
from dom2_fast.policies.base import Policy, check_reduction, normals

__all__ = ["DiffusionPolicy", "FusedModule", "sample_plain"]


class DiffusionPolicy(Policy):
    """pi(act | obs) as a denoising loop; the parameters are those of `net`.

    Args:
        net: net(x [B, A], t [B], obs [B, O]) -> [B, A], or a StackedModule of G such (then every
            obs and act below is [G, B, ...]).
        schedule: a schedule object or name, see `schedules.get`; t is in (0, 1] for a continuous
            one, the step index for a discrete one.
        solver, steps: see `solvers.plan`. solver defaults to "dpm1", in a flow "euler", steps to 5,
            or to all steps of a discrete schedule. A `solvers.SolverPlan` made elsewhere is taken
            as it is, whatever schedule and predict say.
        predict: what the net returns, "eps" (noise, the default) or "x0" (the action itself); in a
            flow "v" (the velocity eps - act, the default) or "x0".
        act_shape: (T, A) for a net of action chunks, net(x [B, T, A], t, obs) -> [B, T, A];
            actions, x_T and noise are then [..., T, A], critics get [..., T A]. `networks.Chunked`
            is what makes such a net one of rows: stack that for several agents.
        clip_x0: clip the guesses of the action in every step, too. Default: as the solver is
            published (`ddpm` clips, the others don't).

    Other arguments as `Policy`.

    Raises:
        Dom2Error: unknown names and impossible values.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule=None,
        solver: str | solvers.SolverPlan | None = None,
        steps: int | None = None,
        backend: str = "auto",
        act_low: float = -1.0,
        act_high: float = 1.0,
        *,
        predict: str | None = None,
        clip_x0: bool | None = None,
        obs_dim: int | None = None,
        act_dim: int | None = None,
        act_shape: tuple[int, ...] | None = None,
        precision: str = "fp32",
    ):
        if act_shape is not None:
            if isinstance(net, StackedModule):
                raise Dom2Error(
                    "act_shape is for a single network; for several agents, stack "
                    "networks.Chunked(net, act_shape) of each and leave act_shape out"
                )
            net = Chunked(net, act_shape, obs_dim)
        inner = net.template if isinstance(net, StackedModule) else net
        shape = inner.act_shape if isinstance(inner, Chunked) else None
        super().__init__(net, backend, act_low, act_high, precision, obs_dim, act_dim)
        self.act_shape = shape
        self.schedule = schedules.VPSchedule() if schedule is None else schedules.get(schedule)
        self.predict = solvers.prediction(self.schedule, predict)
        self.clip_x0 = clip_x0
        if steps is None and not isinstance(solver, solvers.SolverPlan):
            steps = self.schedule.num_steps or 5
        self.set_solver(solver or getattr(self.schedule, "solver", "dpm1"), steps)
        self._programs.get("table")

    def set_solver(
        self, solver: str | solvers.SolverPlan | None = None, steps: int | None = None
    ) -> None:
        """Changes the solver or the number of steps; the parameters stay."""
        if isinstance(solver, solvers.SolverPlan):
            if steps not in (None, solver.steps):
                raise Dom2Error(f"this plan has {solver.steps} steps, got steps = {steps}")
            self._plan, self.solver, self.steps = solver, solver.name, solver.steps
            return
        solver = self.solver if solver is None else solver
        steps = self.steps if steps is None else steps
        self._plan = self._planned(solver, steps)
        self.solver, self.steps = self._plan.name, steps

    def _planned(self, solver: str, steps: int, start: int = 0) -> solvers.SolverPlan:
        clip = solvers.clips_x0(solver) if self.clip_x0 is None else self.clip_x0
        how = {"x0_low": self.act_low, "x0_high": self.act_high} if clip else {}
        return solvers.plan(solver, self.schedule, steps, predict=self.predict, start=start, **how)

    def prepare(self) -> None:
        """Lowers for sampling and training, train and eval; needed only before torch.compile."""
        self._programs.prepare("table", "row")

    # ---- sampling -----------------------------------------------------------------------------

    def sample(
        self,
        obs: torch.Tensor,
        x_T: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        start: int | None = None,
    ) -> torch.Tensor:
        """Actions [..., A] in [act_low, act_high] for obs [B, O], [O], or [G, B, O] for a stack.

        x_T [..., A] is the starting noise, noise [steps, ..., A] that of the solver's steps; both
        are drawn where not given, from `generator`; default torch's own of the net's device, see
        `ops.make_rng`.
        start: a warm start, for control loops. x_T is then an action near the one sought, such as
        that of the time before; it is noised to the level of step `start` (0 to steps - 1), with
        noise from `generator`, and the steps from there on are taken: steps - start calls of the
        net. `noise` is of those steps.
        Differentiable in the parameters, obs and x_T. Raises Dom2Error for wrong shapes or dtypes,
        a start without x_T or out of range, or on a table that was made elsewhere.
        """
        if start is not None:
            tail, level = self._tail(start)
            return tail.sample(obs, self._renoised(level, obs, x_T, generator), noise, generator)
        if self.act_shape is not None:
            x_T = inputs.flat(x_T, self.act_shape, "x_T")
            noise = inputs.flat(noise, self.act_shape, "noise")
        quick = self._quick(obs, x_T, generator) if noise is None else None
        if quick is not None:
            return inputs.shaped(quick, self.act_shape)
        rows, shape = self._grouped(obs)
        x_T, noise = inputs.starts(x_T, noise, rows, shape, self.act_dim, self.steps)
        out = self._denoise(rows, rows.size(1), x_T, noise, generator)
        return inputs.shaped(out.reshape(*shape, self.act_dim), self.act_shape)

    forward = sample

    def _tail(self, start: int) -> tuple[DiffusionPolicy, tuple[float, float]]:
        """This policy with the steps from `start` on alone, and alpha and sigma at its first time.

        Kept while the settings stay: made anew they took longer than a small network.
        """
        settings = [value for *_, value in self._settings()]
        kept, tail, level = self._tails.get(start, ((), None, ()))
        if tail is None or any(a is not b for a, b in zip(kept, settings, strict=True)):
            if self._plan.name not in solvers.NAMES:
                raise Dom2Error(
                    f"start={start!r}: this policy walks a table that was made elsewhere "
                    f"({self._plan.name}), which can't begin in the middle; choose a solver of "
                    f"{list(solvers.NAMES)} by set_solver"
                )
            plan = self._planned(self.solver, self.steps, start)
            tail = copy.copy(self)
            tail._programs, tail._plan, tail.steps = self._programs, plan, plan.steps
            level = tuple(v.item() for v in self.schedule.alpha_sigma(plan.times[0]))
            self._tails[start] = settings, tail, level
        return tail, level

    def _renoised(self, level, obs, act, generator) -> torch.Tensor:
        """alpha act + sigma eps; level: alpha and sigma."""
        if act is None:
            raise Dom2Error("a warm start (start=) needs x_T, the action to start from; got None")
        rows, shape = self._grouped(obs)
        act = inputs.flat(act, self.act_shape, "x_T")
        act = inputs.like(act, (*shape, self.act_dim), rows, "x_T")
        alpha, sigma = level
        x = alpha * act + sigma * normals(act.shape, act, generator)
        return inputs.shaped(x, self.act_shape)

    def _denoise(self, rows, batch, x_T, noise, generator) -> torch.Tensor:
        low = self._programs.get("table")
        run = None if low is None else executor(self.backend, rows)
        present = self._present(low, run, rows)
        if present is not None:
            return present.denoise(rows, batch, x_T, noise, generator)
        rng = None
        if (
            x_T is None
            or (noise is None and self._plan.needs_noise)
            or (low is not None and low.program.sites)
        ):
            rng = ops.make_rng(generator, rows.device)
        if low is None:
            return sample_plain(
                self.net,
                rows,
                self._plan,
                x_T,
                noise,
                batch=batch,
                rng=rng,
                out_low=self.act_low,
                out_high=self.act_high,
            )
        return run.denoise(
            x_T,
            rows,
            *self._hoisted(low, rows),
            low.program,
            self._plan.table,
            noise,
            batch=batch,
            rng=rng,
            out_low=self.act_low,
            out_high=self.act_high,
            precision=self.precision,
        )

    def chain_value(
        self,
        obs: torch.Tensor,
        critic: FusedModule,
        x_T: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """E Q(obs, a), a = sample(obs): [G], Q, [G, B], and a, [G, B, A]; of the first a gradient.

        The same draws and the same meaning as critic(sample(obs), obs), but where the parameters of
        this policy alone want gradients, they are made in one pass (`ops.chain_value`). obs and x_T
        as in `sample`; critic: stacked like the net.
        """
        rows, shape = self._grouped(obs)
        x_T = inputs.flat(x_T, self.act_shape, "x_T")
        x_T, _ = inputs.starts(x_T, None, rows, shape, self.act_dim, self.steps)
        low, run = self._programs.get("table"), executor(self.backend, rows)
        if low is None or not critic.runs_on(run, rows, self.precision):
            act = self._denoise(rows, rows.size(1), x_T, None, generator)
            return *reference.mean_value(critic(act, rows, generator)), act.detach()
        rng = None
        if x_T is None or self._plan.needs_noise or low.program.sites:
            rng = ops.make_rng(generator, rows.device)
        _, rated, critic_rng = critic.lowered(rows, generator)
        return run.chain_value(
            x_T,
            rows,
            *self._hoisted(low, rows),
            low.program,
            self._plan.table,
            critic=rated,
            critic_rng=critic_rng,
            batch=rows.size(1),
            rng=rng,
            out_low=self.act_low,
            out_high=self.act_high,
            precision=self.precision,
        )

    def _hoisted(self, low, rows):
        """(weights, table) of the present parameters."""
        return low.hoist(lowering.grouped_params(self.net), self._times(rows), rows)

    @torch.no_grad()
    def act(
        self,
        obs: torch.Tensor,
        candidates: int = 1,
        critic=None,
        generator: torch.Generator | None = None,
        temperature: float | None = None,
    ) -> torch.Tensor:
        """Actions for obs, shapes as in `sample`, without grad.

        With candidates > 1 that many are sampled per row and `critic` chooses: the best one, or
        with a temperature > 0 one drawn with probability ~ exp(q / temperature) (Diffusion-QL: 1).
        critic: a module or FusedModule, critic(act, obs) -> [..., 1], stacked like the net. The
        lowered parameters are kept until one changes, see `lowering.stamp`; `frozen()` acts
        without looking for changes.
        """
        if candidates == 1:
            return self.sample(obs, generator=generator)
        rows, shape = self._grouped(obs)
        batch = rows.size(1)
        whole_number("candidates", candidates)
        if critic is None:
            raise Dom2Error(f"a critic has to choose between {candidates} candidates")
        if temperature is not None and not 0.0 < temperature < math.inf:
            raise Dom2Error(f"temperature is a number > 0, or None for the best, got {temperature}")
        acts = self._denoise(rows, batch * candidates, None, None, generator)
        q = self._critic(critic)(acts, rows)
        if q.shape != (*acts.shape[:2], 1):
            raise Dom2Error(f"the critic returns {tuple(q.shape)}, not {(*acts.shape[:2], 1)}")
        act = choose(acts, q, candidates, temperature, generator).reshape(*shape, self.act_dim)
        return inputs.shaped(act, self.act_shape)

    def _critic(self, critic):
        if isinstance(critic, FusedModule) or not isinstance(critic, nn.Module):
            return critic
        if self._fused_critic is None or self._fused_critic[0].module is not critic:
            # In a tuple, so that the critic doesn't become a part of the policy.
            self._fused_critic = (FusedModule(critic, self.backend, precision=self.precision),)
        return self._fused_critic[0]

    # ---- training -----------------------------------------------------------------------------

    def bc_loss(
        self,
        obs: torch.Tensor,
        act: torch.Tensor,
        generator: torch.Generator | None = None,
        reduction: str = "mean",
    ) -> torch.Tensor:
        """Denoising loss, mean over rows and action components (as Diffusion-QL's code takes it):

            E || eps - net(alpha_t act + sigma_t eps, t, obs) ||^2 / A    (Ho et al. 2020, eq. 14)

        t as the schedule draws it; for predict="x0" the target is act, for "v" eps - act. obs
        [B, O] and act [B, A], or [G, B, ...] for a stack. reduction: "mean" (a scalar) or "group"
        ([G], the mean of each group; their sum gives every net of a stack the gradient of its own
        mean).
        """
        rows, x, t, target, _, _ = self._noised(obs, act, generator, reduction)
        loss = self._mean_square(x, t, rows, target, generator)
        return loss.mean() if reduction == "mean" else loss

    def bc_terms(
        self,
        obs: torch.Tensor,
        act: torch.Tensor,
        generator: torch.Generator | None = None,
        reduction: str = "mean",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`bc_loss`, and the actions [..., A] that the net makes out of the noised ones.

        These are (x_t - sigma_t eps_theta) / alpha_t, in a flow x_t - t v_theta, clipped to the
        bounds, of the same pass: the one-step action approximation of EDP (Kang et al. 2023, arXiv
        2305.20081), differentiable at the cost of one pass through the net, not of a whole chain.
        """
        rows, x, t, target, alpha, sigma = self._noised(obs, act, generator, reduction)
        out = self._predict(x, t, rows, generator)
        loss = reference.mean_square(out, target)
        if self.predict == "x0":
            x0 = out
        else:
            x0 = (x - sigma * out) / (alpha if self.predict == "eps" else 1.0)
        x0 = x0.clamp(self.act_low, self.act_high).reshape(act.shape)
        return loss.mean() if reduction == "mean" else loss, x0

    def _noised(self, obs, act, generator, reduction: str):
        """Of each row: obs, x_t, t, what the net should return, alpha_t and sigma_t."""
        check_reduction(reduction)
        rows, shape = self._grouped(obs)
        act = inputs.flat(act, self.act_shape, "act")
        act = inputs.like(act, (*shape, self.act_dim), rows, "act")
        act = act.reshape(*rows.shape[:2], self.act_dim)
        where = {"dtype": rows.dtype, "device": rows.device}
        t = self.schedule.training_times(rows.shape[:2], generator, **where)
        eps = normals(act.shape, rows, generator)
        alpha, sigma = (v.unsqueeze(-1) for v in self.schedule.alpha_sigma(t))
        x = alpha * act + sigma * eps
        target = {"eps": lambda: eps, "x0": lambda: act, "v": lambda: eps - act}[self.predict]()
        return rows, x, t, target, alpha, sigma

    def _predict(self, x, t, rows, generator) -> torch.Tensor:
        """net(x, t, obs) with one t per row: [G, B, A], [G, B], [G, B, O] -> [G, B, A]."""
        training = self._training(t, rows, generator)
        if training is None:
            return _call_net(self.net, x, t, rows)
        run, inputs, rng = training
        return run.run_program(x, *inputs, rng, precision=self.precision)

    def _mean_square(self, x, t, rows, target, generator) -> torch.Tensor:
        """Each group's mean of (net(x, t, obs) - target)^2, [G]; shapes as in `_predict`."""
        training = self._training(t, rows, generator)
        if training is None:
            return reference.mean_square(_call_net(self.net, x, t, rows), target)
        run, inputs, rng = training
        return run.denoising_loss(x, *inputs, target, rng, precision=self.precision)

    def _training(self, t, rows, generator):
        """How a program gives net(x, t, obs) with one t per row, t [G, B] and obs [G, B, O].

        (executor, (rows, weights, table, program), rng); None where the net can't be lowered.
        """
        low = self._programs.get("row")
        if low is None:
            return None
        params = lowering.grouped_params(self.net)
        weights, table = low.hoist(params, None, rows)
        rng = ops.make_rng(generator, rows.device) if low.program.sites else None
        cond = low.cond(params, rows, t)
        return executor(self.backend, rows), (cond, weights, table, low.program), rng

    # ---- what `Policy` asks -------------------------------------------------------------------

    _mode = "table"

    def _solver(self) -> torch.Tensor:
        return self._plan.table

    def _times(self, like: torch.Tensor) -> torch.Tensor:
        return self._plan.times_like(like)

    def _about(self) -> dict[str, str]:
        return {
            "solver": self.solver,
            "steps": str(self.steps),
            "needs_noise": str(self._plan.needs_noise).lower(),
            "schedule": repr(self.schedule),
            "predict": self.predict,
            **({"act_shape": ",".join(map(str, self.act_shape))} if self.act_shape else {}),
        }

    def _start(self) -> None:
        super()._start()
        self._fused_critic = None
        self._tails: dict[int, tuple] = {}  # by start, see `_tail`

    def __getstate__(self):
        return {**super().__getstate__(), "_fused_critic": None, "_tails": None}

    def extra_repr(self) -> str:
        return f"{self.schedule}, solver={self.solver}, steps={self.steps}, backend={self.backend}"


def choose(
    acts: torch.Tensor,
    q: torch.Tensor,
    candidates: int,
    temperature: float | None,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """One of every `candidates` consecutive rows of acts [G, B candidates, A]: [G, B, A].

    q: their values, [G, B candidates, 1]. temperature: None for the best one; else one is drawn
    with probability ~ exp(q / temperature).
    """
    groups, rows, width = acts.shape
    q = q.reshape(-1, candidates)
    if temperature is None:
        index = q.argmax(-1, keepdim=True)
    else:
        index = torch.multinomial(torch.softmax(q / temperature, -1), 1, generator=generator)
    acts = acts.reshape(-1, candidates, width)
    chosen = acts.gather(1, index[:, :, None].expand(-1, 1, width))
    return chosen.reshape(groups, rows // candidates, width)


def _call_net(net, x, t, rows) -> torch.Tensor:
    """net on [G, B, A], [G, B], [G, B, O], whether it is a stack or not."""
    if isinstance(net, StackedModule):
        return net(x, t, rows)
    return net(x[0], t[0], rows[0]).unsqueeze(0)


def sample_plain(
    net, rows, plan, x_T=None, noise=None, *, batch, rng=None, out_low, out_high
) -> torch.Tensor:
    """The denoising loop that calls the network itself in every step: [G, B, A].

    What `DiffusionPolicy.sample` means, with the same draws, for any network. Arguments as in
    `reference.denoise`, with a `SolverPlan`.
    """
    groups = rows.size(0)
    if rows.size(1) != batch:
        rows = rows.repeat_interleave(batch // rows.size(1), 1)
    if x_T is None:
        inner = net.template if isinstance(net, StackedModule) else net
        x_T = reference.draw_start(rng, groups, batch, inner.act_dim, rows)

    def predict(step: int, x: torch.Tensor) -> torch.Tensor:
        t = plan.times[step].to(rows.device, rows.dtype).expand(groups, batch)
        return _call_net(net, x, t, rows)

    return reference.solve(predict, x_T, plan.table, noise, rng, out_low, out_high)
