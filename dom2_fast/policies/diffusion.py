"""The diffusion policy: noise network, schedule and solver, behind `sample`, `bc_loss`, `act`.

Sampling is one call of `ops.denoise` on the lowered network. How a network becomes a program is in
`lowering`, what a solver is in `solvers`; nothing here knows about training loops.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from dom2_fast import lowering, ops
from dom2_fast.errors import Dom2Error
from dom2_fast.lowering.fused import FusedModule, Programs, check_backend, executor
from dom2_fast.lowering.stamp import Stamp, versions_of
from dom2_fast.networks import StackedModule
from dom2_fast.ops import backend, reference
from dom2_fast.policies import inputs, schedules, solvers

__all__ = ["DiffusionPolicy", "FusedModule", "sample_plain"]


class DiffusionPolicy(nn.Module):
    """pi(act | obs) as a denoising loop; the parameters are those of `net`.

    net: net(x [B, A], t [B], obs [B, O]) -> [B, A], or a StackedModule of G such (then every obs
        and act below is [G, B, ...]).
    schedule: a schedule object or name, see `schedules.get`; t is in (0, 1] for a continuous one,
        the step index for a discrete one.
    solver, steps: see `solvers.plan`. steps defaults to 5, or to all steps of a discrete schedule.
    predict: what the net returns, "eps" (noise) or "x0" (the action itself).
    act_low, act_high: bounds of every action component; samples are clipped to them.
    clip_x0: clip the guesses of the action in every step, too. Default: as the solver is published
        (`ddpm` clips, the others don't).
    backend: "auto" (lowered where the net can be, else its own forward with one warning), "native"
        (raises instead of falling back), "reference" (plain PyTorch).
    precision: of matrix products: "fp32", or "bf16" (operands rounded to bf16, about twice as fast
        on tensor cores and AVX512-BF16; docs/precision.md says how far samples move).

    Raises Dom2Error for unknown names and impossible values.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule=None,
        solver: str = "dpm1",
        steps: int | None = None,
        backend: str = "auto",
        act_low: float = -1.0,
        act_high: float = 1.0,
        *,
        predict: str = "eps",
        clip_x0: bool | None = None,
        obs_dim: int | None = None,
        act_dim: int | None = None,
        precision: str = "fp32",
    ):
        super().__init__()
        ops.check_precision(precision)
        self.precision = precision
        if not (math.isfinite(act_low) and math.isfinite(act_high) and act_low < act_high):
            raise Dom2Error(f"act_low < act_high, both finite, are needed: {act_low}, {act_high}")
        self.net = net
        self.schedule = schedules.VPSchedule() if schedule is None else schedules.get(schedule)
        self.act_low, self.act_high = float(act_low), float(act_high)
        self.predict, self.clip_x0 = predict, clip_x0
        self.backend = check_backend(backend)
        inner = net.template if isinstance(net, StackedModule) else net
        self.obs_dim = lowering.width_of(inner, "obs_dim", obs_dim)
        self.act_dim = lowering.width_of(inner, "act_dim", act_dim)
        self.groups = net.groups if isinstance(net, StackedModule) else None
        self.set_solver(solver, (self.schedule.num_steps or 5) if steps is None else steps)
        self._start()
        self._programs.get("table")

    def set_solver(self, solver: str | None = None, steps: int | None = None) -> None:
        """Changes the solver or the number of steps; the parameters stay."""
        solver = self.solver if solver is None else solver
        steps = self.steps if steps is None else steps
        clip = solvers.clips_x0(solver) if self.clip_x0 is None else self.clip_x0
        bounds = {"x0_low": self.act_low, "x0_high": self.act_high} if clip else {}
        self._plan = solvers.plan(solver, self.schedule, steps, predict=self.predict, **bounds)
        self.solver, self.steps = self._plan.name, steps
        self._times: dict = {}
        self._kept = self._seen = self._actor = None

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
    ) -> torch.Tensor:
        """Actions [..., A] in [act_low, act_high] for obs [B, O], [O], or [G, B, O] for a stack.

        x_T [..., A] is the starting noise, noise [steps, ..., A] that of the solver's steps; both
        are drawn where not given, from `generator`; default torch's own of the net's device, see
        `ops.make_rng`.
        Differentiable in the parameters, obs and x_T. Raises Dom2Error for wrong shapes or dtypes.
        """
        if (
            noise is None
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and self._actor is not None
        ):
            quick = self._actor.sample(obs, x_T, generator)
            if quick is not None:
                return quick
        rows, shape = self._grouped(obs)
        x_T, noise = inputs.starts(x_T, noise, rows, shape, self.act_dim, self.steps)
        out = self._denoise(rows, rows.size(1), x_T, noise, generator)
        return out.reshape(*shape, self.act_dim)

    forward = sample

    def _denoise(self, rows, batch, x_T, noise, generator) -> torch.Tensor:
        low = self._programs.get("table")
        rng = None
        if x_T is None or (noise is None and self._plan.needs_noise) or (
            low is not None and low.program.sites
        ):  # fmt: skip
            rng = ops.make_rng(generator, rows.device)
        if low is None:
            return sample_plain(
                self.net, rows, self._plan, x_T, noise, batch=batch, rng=rng,
                out_low=self.act_low, out_high=self.act_high,
            )  # fmt: skip
        run = executor(self.backend, rows)
        made = self._hoist(low, rows, run)
        return run.denoise(
            x_T, rows, made["weights"], made["table"], low.program, self._plan.table, noise,
            batch=batch, rng=rng, out_low=self.act_low, out_high=self.act_high,
            precision=self.precision, **made["more"],
        )  # fmt: skip

    def chain_value(
        self,
        obs: torch.Tensor,
        critic: FusedModule,
        x_T: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """E Q(obs, a), a = sample(obs): [G], and Q itself, [G, B]. Only the mean has a gradient.

        The same draws and the same meaning as critic(sample(obs), obs), but where the parameters of
        this policy alone want gradients, they are made in one pass (`ops.chain_value`). obs and x_T
        as in `sample`; critic: stacked like the net.
        """
        rows, shape = self._grouped(obs)
        x_T, _ = inputs.starts(x_T, None, rows, shape, self.act_dim, self.steps)
        low, run = self._programs.get("table"), executor(self.backend, rows)
        if low is None or not critic.runs_on(run, rows, self.precision):
            act = self._denoise(rows, rows.size(1), x_T, None, generator)
            return reference.mean_value(critic(act, rows, generator))
        rng = None
        if x_T is None or self._plan.needs_noise or low.program.sites:
            rng = ops.make_rng(generator, rows.device)
        _, rated, critic_rng = critic.lowered(rows, generator)
        made = self._hoist(low, rows, run)
        return run.chain_value(
            x_T, rows, made["weights"], made["table"], low.program, self._plan.table,
            critic=rated, critic_rng=critic_rng, batch=rows.size(1), rng=rng,
            out_low=self.act_low, out_high=self.act_high, precision=self.precision,
        )  # fmt: skip

    def _hoist(self, low, rows, run) -> dict:
        """What ops.denoise takes of the parameters; kept between calls until one changes."""
        times = self._times.get((rows.dtype, rows.device))
        if times is None:
            times = self._plan.times.to(rows.device, rows.dtype)
            self._times[rows.dtype, rows.device] = times
        keep = backend.available() and not (
            torch.is_grad_enabled() or torch.compiler.is_compiling()
        )
        if keep and self._kept is not None:
            made, kept_low, kept_run, stamp = self._kept
            if kept_low is low and kept_run is run and stamp.fresh():
                return made
        params = lowering.grouped_params(self.net)
        weights, table = low.hoist(params, times, rows)
        made = {"weights": weights, "table": table, "more": {}}
        self._kept = self._actor = None
        if keep:
            # A target network changes before every call; only a second call with the same
            # parameters makes it worth the time to watch them and to lay them out for the kernel.
            versions = versions_of(params.values())
            if versions is not None and versions == self._seen:
                stamp = Stamp(self.net, self._settings())
                self._kept = (made, low, run, stamp)
                if run is ops:
                    made["more"]["packed"] = ops.pack_weights(weights, low.program, self.precision)
                    if rows.is_cpu:
                        self._actor = ops.actor(
                            low.program, table, self._plan.table, made["more"]["packed"],
                            stacked=self.groups is not None, out_low=self.act_low,
                            out_high=self.act_high, watch=stamp.watch, precision=self.precision,
                        )  # fmt: skip
            self._seen = versions
        return made

    def _settings(self) -> list[tuple]:
        """What, besides the net's state, decides what sampling does."""
        names = ("_plan", "act_low", "act_high", "backend", "precision")
        return [
            (self._modules, "net", self.net),
            *((self.__dict__, name, self.__dict__[name]) for name in names),
        ]

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
        lowered parameters are kept until one changes, see `lowering.stamp`.
        """
        if candidates == 1:
            return self.sample(obs, generator=generator)
        rows, shape = self._grouped(obs)
        batch = rows.size(1)
        if isinstance(candidates, bool) or not isinstance(candidates, int) or candidates < 1:
            raise Dom2Error(f"candidates is a whole number of 1 or more, got {candidates!r}")
        if critic is None:
            raise Dom2Error(f"a critic has to choose between {candidates} candidates")
        if temperature is not None and not 0.0 < temperature < math.inf:
            raise Dom2Error(f"temperature is a number > 0, or None for the best, got {temperature}")
        acts = self._denoise(rows, batch * candidates, None, None, generator)
        q = self._critic(critic)(acts, rows)
        if q.shape != (*acts.shape[:2], 1):
            raise Dom2Error(f"the critic returns {tuple(q.shape)}, not {(*acts.shape[:2], 1)}")
        q = q.reshape(-1, candidates)
        if temperature is None:
            best = q.argmax(-1, keepdim=True)
        else:
            best = torch.multinomial(torch.softmax(q / temperature, -1), 1, generator=generator)
        acts = acts.reshape(-1, candidates, self.act_dim)
        index = best[:, :, None].expand(-1, 1, self.act_dim)
        return acts.gather(1, index).reshape(*shape, self.act_dim)

    def _critic(self, critic):
        if isinstance(critic, FusedModule) or not isinstance(critic, nn.Module):
            return critic
        if self._fused_critic is None or self._fused_critic[0].module is not critic:
            # In a tuple, so that the critic doesn't become a part of the policy.
            self._fused_critic = (FusedModule(critic, self.backend, precision=self.precision),)
        return self._fused_critic[0]

    def export(self, path) -> None:
        """Writes all that `sample` needs to one file, see `export.export`."""
        from dom2_fast.policies.exported import export

        export(self, path)

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

        t as the schedule draws it; for predict="x0" the target is act. obs [B, O] and act
        [B, A], or [G, B, ...] for a stack. reduction: "mean" (a scalar) or "group" ([G], the mean
        of each group; their sum gives every net of a stack the gradient of its own mean).
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

        These are (x_t - sigma_t eps_theta) / alpha_t, clipped to the bounds, of the same pass: the
        one-step action approximation of EDP (Kang et al. 2023, arXiv 2305.20081), differentiable at
        the cost of one pass through the net instead of a whole chain.
        """
        rows, x, t, target, alpha, sigma = self._noised(obs, act, generator, reduction)
        out = self._predict(x, t, rows, generator)
        loss = reference.mean_square(out, target)
        x0 = (x - sigma * out) / alpha if self.predict == "eps" else out
        x0 = x0.clamp(self.act_low, self.act_high).reshape(act.shape)
        return loss.mean() if reduction == "mean" else loss, x0

    def _noised(self, obs, act, generator, reduction: str):
        """Of each row: obs, x_t, t, what the net should return, alpha_t and sigma_t."""
        if reduction not in ("mean", "group"):
            raise Dom2Error(f"reduction is 'mean' or 'group', got {reduction!r}")
        rows, shape = self._grouped(obs)
        act = inputs.like(act, (*shape, self.act_dim), rows, "act")
        act = act.reshape(*rows.shape[:2], self.act_dim)
        where = {"dtype": rows.dtype, "device": rows.device}
        t = self.schedule.training_times(rows.shape[:2], generator, **where)
        at = rows.device if generator is None else generator.device
        eps = torch.randn(act.shape, generator=generator, dtype=rows.dtype, device=at)
        eps = eps.to(rows.device)
        alpha, sigma = (v.unsqueeze(-1) for v in self.schedule.alpha_sigma(t))
        x = alpha * act + sigma * eps
        return rows, x, t, eps if self.predict == "eps" else act, alpha, sigma

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

    # ---- inputs -------------------------------------------------------------------------------

    def _grouped(self, obs: torch.Tensor):
        """obs as [G, B, O] and the shape of its results without the last dimension."""
        # The net's dtype and device are its first parameter's; looked up through its owner because
        # `.to()` may replace it.
        want = obs if self._first is None else self._first[0][self._first[1]]
        dtype, device = getattr(want, "dtype", None), getattr(want, "device", None)
        return inputs.grouped(obs, self.obs_dim, self.groups, dtype, device, "the network")

    # ---- copies -------------------------------------------------------------------------------

    def _start(self) -> None:
        dims = {"x_dim": self.act_dim, "obs_dim": self.obs_dim}
        self._programs = Programs(self.net, self.backend, **dims)
        self._kept = self._seen = self._actor = None
        self._fused_critic = None
        owners = (m._parameters for m in self.net.modules())
        self._first = next(((o, n) for o in owners for n, p in o.items() if p is not None), None)

    def __getstate__(self):
        """Without what is made from the rest, so that copies and pickles make their own."""
        made = {
            "_programs": None,
            "_kept": None,
            "_seen": None,
            "_actor": None,
            "_fused_critic": None,
            "_first": None,
        }
        return {**self.__dict__, **made}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._start()

    def extra_repr(self) -> str:
        return f"{self.schedule}, solver={self.solver}, steps={self.steps}, backend={self.backend}"


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
