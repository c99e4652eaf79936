"""Policies of one pass: a deterministic and a Gaussian actor, net(obs), behind the same methods as
`DiffusionPolicy`.

Such a network is a program without x, and acting a chain of no steps. Nothing here knows about
training loops.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from dom2_fast import lowering, ops
from dom2_fast.errors import Dom2Error
from dom2_fast.lowering.fused import FusedModule, Programs
from dom2_fast.networks import StackedModule
from dom2_fast.ops import reference
from dom2_fast.ops.executor import executor
from dom2_fast.policies import inputs
from dom2_fast.policies.base import Policy, check_reduction, name_of, normals
from dom2_fast.policies.solvers import COLUMNS

__all__ = ["DeterministicPolicy", "GaussianPolicy"]

NO_STEPS = torch.zeros(0, COLUMNS, dtype=torch.float64)  # the solver table of a policy of one pass


class ActorPolicy(Policy):
    """What the two have in common: net(obs [B, O]) -> [B, out_dim], of one pass."""

    _mode = "act"
    kind: str  # in a file's notes, for people

    def _solver(self) -> torch.Tensor:
        return NO_STEPS

    def __init__(self, net, *args, **kwargs):
        super().__init__(net, *args, **kwargs)
        low = self._programs.get("act")
        if low is not None:
            self._check_width(low.program.out.width)

    @property
    def out_dim(self) -> int:
        """How many columns the net returns."""
        return self.act_dim

    def prepare(self) -> None:
        """Lowers for train and eval mode at once; needed only before torch.compile."""
        self._programs.prepare("act")
        self._acting().prepare("act")

    def _check_width(self, width: int) -> None:
        if width != self.out_dim:
            raise Dom2Error(
                f"{type(self).__name__} takes a net(obs) that returns {self.out_dim} columns for "
                f"actions of {self.act_dim}; {name_of(self.net)} returns {width}"
            )

    def _action(self, obs: torch.Tensor, generator) -> torch.Tensor:
        """What the net does for obs without drawing: its action, or their mean; clipped."""
        quick = self._quick(obs, None, generator)
        if quick is not None:
            return quick
        rows, shape = self._grouped(obs)
        low = self._acting().get("act")
        if low is None:
            out = self._plain(rows)[..., : self.act_dim].clamp(self.act_low, self.act_high)
            return out.reshape(*shape, self.act_dim)
        run = executor(self.backend, rows)
        present = self._present(low, run, rows)
        if present is not None:
            out = present.denoise(rows, rows.size(1), generator=generator)
        else:
            weights, table = low.hoist(lowering.grouped_params(self.net), None, rows)
            rng = ops.make_rng(generator, rows.device) if low.program.sites else None
            out = run.denoise(
                None,
                rows,
                weights,
                table,
                low.program,
                NO_STEPS,
                batch=rows.size(1),
                rng=rng,
                out_low=self.act_low,
                out_high=self.act_high,
                precision=self.precision,
            )
        return out.reshape(*shape, self.act_dim)

    def _out(self, rows: torch.Tensor, generator=None) -> torch.Tensor:
        """net(obs) of obs [G, B, O], [G, B, out_dim]; differentiable."""
        lowered = self._lowered(rows, generator)
        if lowered is None:
            return self._plain(rows)
        run, program, rng = lowered
        return run.run_program(_no_x(rows), rows, *program, rng, precision=self.precision)

    def _lowered(self, rows, generator):
        """(executor, (weights, table, program), rng) as `ops` takes them; None: can't be."""
        low = self._programs.get("act")
        if low is None:
            return None
        weights, table = low.hoist(lowering.grouped_params(self.net), None, rows)
        rng = ops.make_rng(generator, rows.device) if low.program.sites else None
        return executor(self.backend, rows), (weights, table, low.program), rng

    def _plain(self, rows) -> torch.Tensor:
        if isinstance(self.net, StackedModule):
            out = self.net(rows)
        else:
            out = self.net(rows[0]).unsqueeze(0)
        self._check_width(out.size(-1))
        return out

    def _about(self) -> dict[str, str]:
        return {"kind": self.kind, "solver": "none", "steps": "0", "needs_noise": "false"}

    def extra_repr(self) -> str:
        return f"obs_dim={self.obs_dim}, act_dim={self.act_dim}, backend={self.backend}"


class DeterministicPolicy(ActorPolicy):
    """act = net(obs), clipped to the bounds.

    Args:
        net: net(obs [B, O]) -> act [B, A] within the bounds, such as `networks.MLPActor`, or a
            StackedModule of G such (then every obs and act below is [G, B, ...]).

    Other arguments and errors as `Policy`.
    """

    kind = "deterministic"

    def sample(self, obs: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """The actions [..., A] for obs [B, O], [O], or [G, B, O] for a stack.

        Differentiable in the parameters and obs. generator: of dropout masks, in training.
        Raises Dom2Error for wrong shapes or dtypes.
        """
        return self._action(obs, generator)

    forward = sample

    @torch.no_grad()
    def act(self, obs: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Actions for obs, shapes as in `sample`, without grad."""
        return self._action(obs, generator)

    def bc_loss(
        self,
        obs: torch.Tensor,
        act: torch.Tensor,
        generator: torch.Generator | None = None,
        reduction: str = "mean",
    ) -> torch.Tensor:
        """E (net(obs) - act)^2, mean over rows and action components.

        obs [B, O] and act [B, A], or [G, B, ...] for a stack. reduction: "mean" (a scalar) or
        "group" ([G], the mean of each group; their sum gives every net of a stack the gradient of
        its own mean).
        """
        check_reduction(reduction)
        rows, shape = self._grouped(obs)
        target = inputs.like(act, (*shape, self.act_dim), rows, "act")
        target = target.reshape(*rows.shape[:2], self.act_dim)
        lowered = self._lowered(rows, generator)
        if lowered is None:
            loss = reference.mean_square(self._plain(rows), target)
        else:
            run, program, rng = lowered
            x = _no_x(rows)
            loss = run.denoising_loss(x, rows, *program, target, rng, precision=self.precision)
        return loss.mean() if reduction == "mean" else loss

    def chain_value(
        self,
        obs: torch.Tensor,
        critic: FusedModule,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """E Q(obs, a), a = pi(obs): [G], Q, [G, B], and a, [G, B, A]; of the first a gradient.

        The deterministic policy gradient (Silver et al. 2014), with the same meaning as
        critic(sample(obs), obs); where the parameters of this policy alone want gradients, they are
        made in one pass (`ops.chain_value`). critic: stacked like the net.
        """
        rows, _ = self._grouped(obs)
        lowered = self._lowered(rows, generator)
        if lowered is None or not critic.runs_on(lowered[0], rows, self.precision):
            act = self._out(rows, generator).clamp(self.act_low, self.act_high)
            return *reference.mean_value(critic(act, rows, generator)), act.detach()
        run, program, rng = lowered
        _, rated, critic_rng = critic.lowered(rows, generator)
        return run.chain_value(
            None,
            rows,
            *program,
            NO_STEPS,
            critic=rated,
            critic_rng=critic_rng,
            batch=rows.size(1),
            rng=rng,
            out_low=self.act_low,
            out_high=self.act_high,
            precision=self.precision,
        )


class GaussianPolicy(ActorPolicy):
    """act ~ N(mean, diag(exp(log_std))^2), both from net(obs); samples are clipped to the bounds.

    Args:
        net: net(obs [B, O]) -> [B, 2 A], means within the bounds, then log standard deviations,
            such as `networks.MLPGaussianActor` (with a tanh mean, as IQL's actor), or a
            StackedModule of G such (then every obs and act below is [G, B, ...]).
        log_std_low, log_std_high: the log deviations are clipped to these, by default [-5, 2] (as
            in IQL, Kostrikov et al. 2022).

    Other arguments and errors as `Policy`. `frozen()` and `export` act by the mean.
    """

    kind = "gaussian, acts by its mean"

    def __init__(self, net: nn.Module, *args, log_std_low=-5.0, log_std_high=2.0, **kwargs):
        super().__init__(net, *args, **kwargs)
        if not -math.inf < log_std_low < log_std_high < math.inf:
            raise Dom2Error(
                f"log_std_low < log_std_high, both finite, are needed: {log_std_low}, "
                f"{log_std_high}"
            )
        self.log_std_low, self.log_std_high = float(log_std_low), float(log_std_high)

    @property
    def out_dim(self) -> int:
        return 2 * self.act_dim

    def _start(self) -> None:
        super()._start()
        dims = {"obs_dim": self.obs_dim, "out_dim": self.act_dim}
        self._means = Programs(self.net, "reference", **dims)  # `_programs` has warned already

    def _acting(self) -> Programs:
        return self._means

    def __getstate__(self):
        return {**super().__getstate__(), "_means": None}

    def distribution(
        self, obs: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean and the log standard deviation, [..., A] each, for obs as in `sample`.

        Differentiable in the parameters and obs. generator: of dropout masks, in training.
        """
        rows, shape = self._grouped(obs)
        mean, log_std = self._moments(rows, generator)
        return mean.reshape(*shape, self.act_dim), log_std.reshape(*shape, self.act_dim)

    def _moments(self, rows, generator):
        mean, log_std = self._out(rows, generator).split(self.act_dim, -1)
        return mean, log_std.clamp(self.log_std_low, self.log_std_high)

    def log_prob(
        self, obs: torch.Tensor, act: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """log N(act; mean, std), summed over the action components: [B], [G, B] for a stack.

        The density of the normal distribution, without regard to the bounds. Differentiable in the
        parameters, obs and act.
        """
        rows, shape = self._grouped(obs)
        act = inputs.like(act, (*shape, self.act_dim), rows, "act")
        mean, log_std = self._moments(rows, generator)
        return _log_density(act.reshape(mean.shape), mean, log_std).reshape(shape)

    def sample(
        self,
        obs: torch.Tensor,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Actions mean + std noise, [..., A], clipped, for obs [B, O], [O], or [G, B, O].

        noise [..., A]: standard normal, drawn from `generator` where not given. Differentiable in
        the parameters, obs and noise (the reparametrisation of Kingma and Welling 2014).
        Raises Dom2Error for wrong shapes or dtypes.
        """
        rows, shape = self._grouped(obs)
        if noise is not None:
            noise = inputs.like(noise, (*shape, self.act_dim), rows, "noise")
        return self._drawn(rows, noise, generator).reshape(*shape, self.act_dim)

    forward = sample

    def _drawn(self, rows, noise, generator) -> torch.Tensor:
        shape = (*rows.shape[:2], self.act_dim)
        noise = normals(shape, rows, generator) if noise is None else noise.reshape(shape)
        mean, log_std = self._moments(rows, generator)
        return (mean + log_std.exp() * noise).clamp(self.act_low, self.act_high)

    @torch.no_grad()
    def act(
        self,
        obs: torch.Tensor,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> torch.Tensor:
        """Actions for obs, shapes as in `sample`, without grad: the mean, clipped, or samples."""
        if not deterministic:
            return self.sample(obs, generator=generator)
        return self._action(obs, generator)

    def bc_loss(
        self,
        obs: torch.Tensor,
        act: torch.Tensor,
        generator: torch.Generator | None = None,
        reduction: str = "mean",
    ) -> torch.Tensor:
        """E -log_prob(obs, act), mean over rows; shapes and reduction as `DeterministicPolicy`."""
        check_reduction(reduction)
        rows, shape = self._grouped(obs)
        act = inputs.like(act, (*shape, self.act_dim), rows, "act")
        mean, log_std = self._moments(rows, generator)
        loss = -_log_density(act.reshape(mean.shape), mean, log_std).mean(1)
        return loss.mean() if reduction == "mean" else loss

    def chain_value(
        self,
        obs: torch.Tensor,
        critic: FusedModule,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """E Q(obs, a), a = sample(obs, noise): [G], Q, [G, B], and a, [G, B, A]; the first alone
        has a gradient. critic: stacked like the net.
        """
        rows, shape = self._grouped(obs)
        if noise is not None:
            noise = inputs.like(noise, (*shape, self.act_dim), rows, "noise")
        act = self._drawn(rows, noise, generator)
        return *reference.mean_value(critic(act, rows, generator)), act.detach()


def _log_density(act, mean, log_std) -> torch.Tensor:
    """[G, B, A] each -> [G, B]."""
    z = (act - mean) * torch.exp(-log_std)
    return (-0.5 * z.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum(-1)


def _no_x(rows: torch.Tensor) -> torch.Tensor:
    return rows.new_empty(*rows.shape[:2], 0)
