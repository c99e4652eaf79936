"""Diffusion-QL (Wang, Hunt and Zhou, ICLR 2023, arXiv 2208.06193) for every agent on its own.

From agent j's own observations, actions and rewards, with a diffusion policy pi, its slow average
pi_bar, twin critics Q1, Q2 and their Polyak averages (bar):

    y      = r + gamma min_k Qbar_k(o', a'),  a' ~ pi_bar(. | o')
    critic : sum_k E (Q_k(o, a) - y)^2
    actor  : L_bc - eta E Q_i(o, a~) / E |Q_k(o, a~)|,  a~ ~ pi(. | o)
    pi_bar : <- ema_rate pi + (1 - ema_rate) pi_bar, in every ema_every-th update from ema_start on
    acting : one of `candidates` samples, with probability ~ exp(min_k Qbar_k(o, a) / temperature)

(i, k) is (1, 2) or (2, 1), each agent's own fair coin in every update; the normaliser is a constant
to the gradient, which goes through the whole sampling chain. The chain is Diffusion-QL's: its
discrete `vp` schedule, the ancestral sampler, every guess of the action clipped to [-1, 1].

Four switches lead from here to DOM2's losses: zeta > 0 adds its CQL term, `weights` its
reweighting, and schedule = vp-continuous with solver = dpm1 take its sampler. The critics' y, td
and cql are in `critics.py`; `python_tests/algos/plain_diffusion_ql.py` has it in plain PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dom2_fast import networks
from dom2_fast.algos.acting import Policies
from dom2_fast.algos.critics import (
    LowerOfTwins,
    TwinCritics,
    critic_nets,
    uniform_actions,
)
from dom2_fast.algos.diffusion_agents import DiffusionAgents
from dom2_fast.algos.settings import (
    CriticSettings,
    DiffusionConfig,
    at_least,
    one_of,
    setting,
    within,
)
from dom2_fast.algos.updates import frozen_copy, frozen_view, means, polyak
from dom2_fast.data.sampler import Batch
from dom2_fast.lowering import FusedModule


@dataclass
class DiffusionQLConfig(CriticSettings, DiffusionConfig):
    """Every number of the method."""

    weights: str = setting(
        "uniform", "trajectory weights, as DOM2's; uniform: none", "Diffusion-QL weights nothing"
    )
    hidden: int = setting(256, "width of the mlp noise network", "Diffusion-QL")
    time_scale: float = setting(
        1.0, "factor on t before the mlp's sinusoidal features", "Diffusion-QL"
    )
    schedule: str = setting("vp", "noise schedule: vp, vp-continuous or flow", "Diffusion-QL")
    solver: str = setting("ddpm", "ddpm, ddim, dpm1, dpm++2m or, in a flow, euler", "Diffusion-QL")
    steps: int = setting(5, "denoising steps; of the vp schedule, all there are", "Diffusion-QL")
    clip_x0: bool = setting(
        True, "clip every step's guess of the action to [-1, 1], not only the last", "Diffusion-QL"
    )
    lr: float = setting(3e-4, "Adam's learning rate of the policy", "Diffusion-QL")
    tau: float = setting(0.005, "Polyak rate of the target critics", "Diffusion-QL")
    act_with_target: bool = setting(
        False, "act with the slow average of the policy instead of the last one", "Diffusion-QL"
    )
    critic_hidden: int = setting(256, "width of the critics", "Diffusion-QL")
    critic_depth: int = setting(3, "hidden layers of the critics", "Diffusion-QL")
    critic_act: str = setting("mish", "activation of the critics: mish or relu", "Diffusion-QL")
    critic_lr: float = setting(3e-4, "Adam's learning rate of the critics", "Diffusion-QL")
    eta: float = setting(1.0, "weight of the Q term; 0: diffusion BC", "Diffusion-QL: 0.005 to 5")
    zeta: float = setting(0.0, "weight of DOM2's CQL term; 0: none", "Diffusion-QL has none")
    cql_actions: int = setting(10, "uniform actions per observation in the CQL term", "OMAR")
    ema_rate: float = setting(
        0.005, "rate of the policy's slow average, which gives a'", "Diffusion-QL: decay 0.995"
    )
    ema_every: int = setting(5, "updates per step of that average", "Diffusion-QL")
    ema_start: int = setting(
        1000, "updates before the average starts to follow the policy", "Diffusion-QL"
    )
    candidates: int = setting(50, "when acting, choose among so many actions", "Diffusion-QL")
    temperature: float = setting(
        1.0, "of the choice: probability ~ exp(Q / temperature); 0: the best one", "Diffusion-QL"
    )

    schedules: ClassVar = ("vp", "vp-continuous", "flow")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "eta", "zeta", "ema_start", "temperature")
        at_least(self, 1, "cql_actions", "ema_every", "candidates")
        within(self, 0, 1, "ema_rate")
        one_of(self, "critic_act", ("mish", "relu"))


class DiffusionQL(DiffusionAgents):
    """Diffusion policies that climb twin critics, all agents learnt side by side."""

    name = "diffusion_ql"
    config_class = DiffusionQLConfig
    metric_names: ClassVar = {
        "loss/bc": "denoising loss",
        "loss/td": "temporal-difference loss",
        "loss/actor": "actor loss",
        "q/policy": "Q of the policy's actions",
        "q/target": "target y",
    }
    stages = ("sample", "critic", "actor", "target")
    advice = "lower lr, critic_lr or eta, or clip more (grad_clip)"

    def _build(self) -> None:
        super()._build()
        c = self.config
        net = critic_nets(c, **self.sizes, act=c.critic_act).to(self.device)
        self.critics = TwinCritics(net, c, self.sampler)
        self._rated, self._sized = (_Picked(net, c) for _ in range(2))

    def update(self) -> dict[str, torch.Tensor]:
        """One update of all agents: critics, then the policy, then the averages."""
        c, batch = self.config, self._draw()
        with self.stage("critic"):
            y = self.td_target(batch)
            td = self._critic_step(batch, y)
        with self.stage("actor"):
            metrics = self._policy_step(batch)
        with self.stage("target"):
            if self.step >= c.ema_start and self.step % c.ema_every == 0:
                polyak(self.target_net, self.net, c.ema_rate)
            self.critics.follow(c.tau)
        self.step += 1
        return means({"loss/td": td, "q/target": y, **metrics})

    def td_target(self, batch: Batch) -> torch.Tensor:
        """y = r + gamma min_k Qbar_k(o', a'), a' ~ pi_bar(. | o'): [G, B]."""
        with torch.no_grad():
            act = self.target_policy.sample(batch.next_obs, generator=self.generator)  # [G, B, A]
        return self.critics.td_target(batch, act)

    def _critic_step(self, batch: Batch, y: torch.Tensor) -> torch.Tensor:
        """Descends E (Q_k(o, a) - y)^2, with zeta also the CQL term; gives the former, [2 G]."""
        c = self.config
        if c.zeta == 0.0:
            loss = td = self.critics.td_loss(batch, y)
        else:
            proposed = uniform_actions(batch, c.cql_actions, self.generator)
            loss, td, *_ = self.critics.conservative_loss(batch, y, proposed, c.zeta)
        self.critics.descend(loss, c.grad_clip)
        return td

    def _policy_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Descends L_bc - eta E Q_i(o, a~) / E |Q_k(o, a~)|; gives what to report the means of."""
        c = self.config
        bc = self.bc_loss(batch)
        coins = torch.rand(bc.shape, generator=self.generator, device=self.device)  # [G]
        second = (coins <= 0.5).long()  # i: the critic to climb; k is the other one
        climbed = self._rated.pick(second)
        value, q, act = self.policy.chain_value(batch.obs, climbed, generator=self.generator)
        with torch.no_grad():
            other = self._sized.pick(1 - second)(act, batch.obs).squeeze(-1)  # [G, B]
        loss = bc - c.eta * value / other.abs().mean(1).clamp(min=1e-6)
        self.descend(loss)
        return {"loss/bc": bc, "loss/actor": loss, "q/policy": torch.stack([q, other])}

    @property
    def policies(self) -> Policies:
        return _choosing(self.config, self.acting_policy, self.critics.target_net)

    @classmethod
    def _acting(cls, config, sizes, parts) -> Policies:
        policies = super()._acting(config, sizes, parts)
        if config.candidates == 1:
            return policies
        net = critic_nets(config, **sizes, act=config.critic_act).requires_grad_(False)
        net.load_state_dict(parts["target_critic"])
        return _choosing(config, policies.policy, net)

    def learnt(self) -> dict:
        return {**super().learnt(), "critic": self.critics.net}

    def _parts(self) -> dict:
        return {**super()._parts(), **self.critics.parts()}


class _Picked:
    """One critic of each agent's two, without gradients of its own: a copy, made anew by `pick`."""

    def __init__(self, net: networks.StackedModule, c: DiffusionQLConfig):
        groups = net.groups // 2
        self.all = networks.parameters_of(net)
        copied = frozen_copy(frozen_view(net, groups))
        self.one = networks.parameters_of(copied)
        self.first = torch.arange(groups, device=self.all[0].device)
        self.q = FusedModule(copied, backend=c.backend, precision=c.precision)

    @torch.no_grad()
    def pick(self, second: torch.Tensor) -> FusedModule:
        """second: [G], 0 for an agent's first critic, 1 for its second."""
        index = self.first + len(self.first) * second
        torch._foreach_copy_(self.one, [p.index_select(0, index) for p in self.all])
        return self.q


def _choosing(c: DiffusionQLConfig, policy, target_critics) -> Policies:
    """Acting: one of the candidates, by the lower of the target critics."""
    critic = LowerOfTwins(target_critics, c.backend, precision=c.precision)
    return Policies(policy, c.candidates, critic, c.temperature or None)
