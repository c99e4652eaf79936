"""DOM2 (Li, Pan and Huang, arXiv 2307.01472): decentralised offline multi-agent RL with diffusion.

For every agent j on its own, from its own observations, actions and rewards:

    D'     = D + {T in D : Return_j(T) > r} for every r in R_th          (reweighting)
    a'     ~ pi_bar_j(. | o')                                           (DPM-Solver-1)
    y      = r + gamma min_k Qbar_jk(o', a')
    critic : sum_k E (Q_jk(o, a) - y)^2 + zeta E [log sum_a exp Q_jk(o, a) - Q_jk(o, a)]   (CQL)
    actor  : L_bc - eta~ E Q_j1(o, a~),  a~ ~ pi_j(. | o),  eta~ = eta / E |Q_j1(o, a)|
    targets: Polyak averages of critics and policy

The gradient of the actor's second term goes through the whole sampling chain. All agents are one
batch: policy parameters are [G, ...], the twin critics' [2 G, ...]. The critics' y, td and cql are
in `critics.py`. `python_tests/algos/plain_dom2.py` has the same losses for one agent in plain
PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dom2_fast.algos.acting import Policies
from dom2_fast.algos.critics import (
    Conservative,
    TwinCritics,
    critic_nets,
    rating,
    uniform_actions,
)
from dom2_fast.algos.diffusion_agents import DiffusionAgents
from dom2_fast.algos.settings import (
    TUNED,
    CriticSettings,
    DiffusionConfig,
    at_least,
    one_of,
    setting,
)
from dom2_fast.algos.updates import polyak
from dom2_fast.data.sampler import Batch


@dataclass
class _LossSettings(DiffusionConfig):
    """What the losses weigh; before the critics' settings, where config files have had it."""

    eta: float = setting(
        1.0, "weight of the Q term in the policy's loss", "not published; " + TUNED
    )
    q_warmup: int = setting(
        400, "updates at the start in which the policy learns without the Q term", TUNED
    )
    zeta: float = setting(
        0.2, "weight of the CQL term (OMAR's cql_alpha)", TUNED + "; OMAR: 0.5 to 5 by data set"
    )
    cql_actions: int = setting(10, "uniform actions per observation in the CQL term", "OMAR")
    cql_policy_actions: int = setting(
        0, "further actions in the CQL term, drawn from the policy", "CQL; OMAR uses none in MPE"
    )


@dataclass
class DOM2Config(CriticSettings, _LossSettings):
    """Every number of the method."""

    candidates: int = setting(
        1,
        "when acting, sample so many actions and take the one with the best Q1",
        "DOM2: 1; Diffusion-QL: 50",
    )
    actor_every: int = setting(1, "critic updates per policy update", TUNED)
    q_action: str = setting(
        "chain",
        "the action that the policy's Q term rates: chain, sampled through all denoising steps, or "
        "one_step, what the net makes of the noised action (much less work)",
        "DOM2: chain; one_step: EDP, Kang et al. 2023",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "eta", "zeta", "cql_policy_actions", "q_warmup")
        at_least(self, 1, "cql_actions", "actor_every", "candidates")
        one_of(self, "q_action", ("chain", "one_step"))


class DOM2(DiffusionAgents):
    """Diffusion policies with twin conservative critics, all agents learnt side by side."""

    name = "dom2"
    config_class = DOM2Config
    metric_names: ClassVar = {
        "loss/bc": "denoising loss",
        "loss/critic": "critic loss",
        "loss/td": "temporal-difference loss",
        "loss/cql": "CQL penalty",
        "loss/actor": "actor loss",
        "q/data": "Q of the data's actions",
        "q/policy": "Q of the policy's actions",
        "q/uniform": "Q of uniform actions",
        "q/target": "target y",
    }
    stages = ("sample", "critic", "actor", "target")
    advice = "lower lr, critic_lr or eta, or clip more (grad_clip)"

    def _build(self) -> None:
        super()._build()
        net = critic_nets(self.config, **self.sizes).to(self.device)
        self.critics = TwinCritics(net, self.config, self.sampler)

    def update(self) -> dict[str, torch.Tensor]:
        """One update of all agents: critics, then the policy, then the targets."""
        c, batch = self.config, self._draw()
        with self.stage("critic"):
            target = self.td_target(batch)
            critic = self.critic_loss(batch, target, self._proposed(batch))
            self.critics.descend(critic.loss, c.grad_clip)
            q_data = critic.q_data[: self.num_agents]  # Q1 of the data's actions, [G, B]
        metrics = {
            "loss/critic": critic.loss.detach().mean(),
            "loss/td": critic.td.mean(),
            "loss/cql": critic.cql.mean(),
            "q/data": q_data.mean(),
            "q/uniform": critic.q_proposed[..., : c.cql_actions].mean(),
            "q/target": target.mean(),
        }
        if self.step % c.actor_every == 0:
            with self.stage("actor"):
                metrics |= self._policy_step(batch, q_data)
        with self.stage("target"):
            self.critics.follow(c.tau)
            polyak(self.target_net, self.net, c.tau)
        self.step += 1
        return metrics

    def td_target(self, batch: Batch) -> torch.Tensor:
        """y = r + gamma min_k Qbar_k(o', a'), a' ~ pi_bar(. | o'): [G, B]."""
        with torch.no_grad():
            act = self.target_policy.sample(batch.next_obs, generator=self.generator)  # [G, B, A]
        return self.critics.td_target(batch, act)

    def critic_loss(
        self, batch: Batch, target: torch.Tensor, proposed: torch.Tensor
    ) -> Conservative:
        """TD + zeta CQL of every critic, [2 G], and its parts; `proposed` as `_proposed` gives."""
        return self.critics.conservative_loss(batch, target, proposed, self.config.zeta)

    def _proposed(self, batch: Batch) -> torch.Tensor:
        """Actions of the CQL term: uniform ones, then (if asked for) the policy's: [G, B, M, A]."""
        c, (G, B, A) = self.config, batch.act.shape
        uniform = uniform_actions(batch, c.cql_actions, self.generator)
        if c.cql_policy_actions == 0:
            return uniform
        obs = batch.obs.repeat_interleave(c.cql_policy_actions, 1)  # [G, B P, O]
        with torch.no_grad():
            own = self.policy.sample(obs, generator=self.generator)
        return torch.cat([uniform, own.view(G, B, c.cql_policy_actions, A)], 2)

    def _policy_step(self, batch: Batch, q_data: torch.Tensor) -> dict[str, torch.Tensor]:
        """Descends L_bc - eta~ E Q1(o, a~), with eta~ = eta / E |Q1(o, a)|.

        That makes eta independent of the rewards' scale; `q_data` [G, B] is Q1(o, a) of the batch's
        own actions, from the critics' pass.
        """
        c = self.config
        if c.eta == 0.0 or self.step < c.q_warmup:
            bc = self.bc_loss(batch)
            self.descend(bc)
            return {"loss/bc": bc.detach().mean()}
        if c.q_action == "chain":  # a~ ~ pi(. | o), the gradient goes through the whole chain
            value, q = self.policy.chain_value(
                batch.obs, self.critics.q1, generator=self.generator
            )  # E Q1(o, a~) [G], Q1 [G, B]
            bc = self.bc_loss(batch)
        else:
            bc, act = self.policy.bc_terms(
                batch.obs, batch.act, generator=self.generator, reduction="group"
            )
            q = self.critics.q1(act, batch.obs).squeeze(-1)  # [G, B]
            value = q.mean(1)
        scale = c.eta / q_data.abs().mean(1).clamp(min=1e-6)  # eta~, [G]
        loss = bc - scale * value
        self.descend(loss)
        return {
            "loss/bc": bc.detach().mean(),
            "loss/actor": loss.detach().mean(),
            "q/policy": q.detach().mean(),
        }

    @property
    def policies(self) -> Policies:
        return Policies(self.acting_policy, self.config.candidates, self.critics.q1)

    @classmethod
    def _acting(cls, config, sizes, parts) -> Policies:
        policies = super()._acting(config, sizes, parts)
        if config.candidates == 1:
            return policies
        critic = critic_nets(config, **sizes)
        critic.load_state_dict(parts["critic"])
        return Policies(policies.policy, config.candidates, rating(critic, config))

    def learnt(self) -> dict:
        return {**super().learnt(), "critic": self.critics.net}

    def _parts(self) -> dict:
        return {**super()._parts(), **self.critics.parts()}
