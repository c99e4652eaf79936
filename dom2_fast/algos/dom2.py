"""DOM2 (Li, Pan and Huang, arXiv 2307.01472): decentralised offline multi-agent RL with diffusion.

For every agent j on its own, from its own observations, actions and rewards:

    D'     = D + {T in D : Return_j(T) > r} for every r in R_th          (reweighting)
    a'     ~ pi_bar_j(. | o')                                           (DPM-Solver-1)
    y      = r + gamma min_k Qbar_jk(o', a')
    critic : sum_k E (Q_jk(o, a) - y)^2 + zeta E [log sum_a exp Q_jk(o, a) - Q_jk(o, a)]   (CQL)
    actor  : L_bc(a) + L_Q
    targets: Polyak averages of critics and policy

How the policy takes what the critic knows, L_Q, is `q_action`:

    chain    : -eta~ E Q_j1(o, a~),  a~ ~ pi_j(. | o),  eta~ = eta / E |Q_j1(o, a)|, whose gradient
               goes through the whole sampling chain; DOM2's own
    one_step : the same with what one pass of the network makes of a noised action (EDP)
    best     : eta L_bc(a^), a^ the best by Q_j1 of a and `search_actions` samples of pi_j; no
               gradient of Q

On expert data the default is `chain`, elsewhere `best`; docs/tuning.md has why. `best` goes with
the best of several samples in y (`target_candidates`) and when acting (`candidates`).
All agents are one batch: policy parameters are [G, ...], the twin critics' [2 G, ...]. The critics'
y, td and cql are in `critics.py`. `python_tests/algos/plain_dom2.py` has the same losses for one
agent in plain PyTorch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch

from dom2_fast.algos.acting import Policies
from dom2_fast.algos.critics import (
    Conservative,
    TwinCritics,
    critic_nets,
    pick,
    rating,
    uniform_actions,
)
from dom2_fast.algos.diffusion_agents import DiffusionAgents
from dom2_fast.algos.dom2_settings import DOM2Config, settled
from dom2_fast.algos.updates import means, polyak
from dom2_fast.data.sampler import Batch


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
        "q/best": "Q of the best of sampled actions",
        "policy/spread": "deviation of an observation's sampled actions",
        "policy/edge": "share of sampled action components at a bound",
    }
    stages = ("sample", "critic", "actor", "target")
    advice = "lower lr, critic_lr or eta, or clip more (grad_clip)"

    @classmethod
    def settled(cls, config, task: str | None, kind: str | None):
        return settled(config, kind)

    @classmethod
    def _config(cls, state: dict):
        # A run of a version without these settings goes on as it began.
        return super()._config({**state, "config": {"target_candidates": 1} | state["config"]})

    def __init__(self, config, data=None, **sizes) -> None:
        if data is None:  # with data, that says what is left out
            config = self.settled(config, None, None)
        super().__init__(config, data, **sizes)

    def _build(self) -> None:
        super()._build()
        net = critic_nets(self.config, **self.sizes).to(self.device)
        self.critics = TwinCritics(net, self.config, self.sampler)
        self.target_q1 = rating(self.critics.target_net, self.config)

    def update(self) -> dict[str, torch.Tensor]:
        """One update of all agents: critics, then the policy, then the targets."""
        c, batch = self.config, self._draw()
        with self.stage("critic"):
            target = self.td_target(batch)
            if c.zeta:
                critic = self.critic_loss(batch, target, self._proposed(batch))
                loss, q_data = critic.loss, critic.q_data[: self.num_agents]  # Q1(o, a), [G, B]
            else:
                loss, q_data = self.critics.td_loss(batch, target), None
            self.critics.descend(loss, c.grad_clip)
        metrics = {"loss/critic": loss, "q/target": target}
        if c.zeta:
            metrics |= {
                "loss/td": critic.td,
                "loss/cql": critic.cql,
                "q/data": q_data,
                "q/uniform": critic.q_proposed[..., : c.cql_actions],
            }
        if self.step % c.actor_every == 0:
            with self.stage("actor"):
                metrics |= self._policy_step(batch, q_data)
        with self.stage("target"):
            self.critics.follow(c.tau)
            polyak(self.target_net, self.net, c.tau)
        self.step += 1
        return means(metrics)

    def td_target(self, batch: Batch) -> torch.Tensor:
        """y = r + gamma min_k Qbar_k(o', a'), a' ~ pi_bar(. | o'): [G, B].

        With `target_candidates` a' is the best of so many by Qbar_1 (EMaQ, Ghasemipour et al. 2021,
        arXiv 2007.11091, which takes the best by the ensemble).
        """
        act = self.target_policy.act(  # [G, B, A]
            batch.next_obs,
            candidates=self.config.target_candidates,
            critic=self.target_q1,
            generator=self.generator,
        )
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

    def _policy_step(self, batch: Batch, q_data: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Descends L_bc + L_Q; gives what to report the means of.

        `q_data` [G, B] is Q1(o, a) of the batch's own actions, from the critics' pass, if that had
        it. eta~ = eta / E |Q1(o, a)| makes eta independent of the rewards' scale.
        """
        c = self.config
        if c.eta == 0.0 or self.step < c.q_warmup:
            bc = self.bc_loss(batch)
            self.descend(bc)
            return {"loss/bc": bc}
        if c.q_action == "best":
            return self._imitate_best(batch)
        if q_data is None:
            with torch.no_grad():
                q_data = self.critics.rate(batch.act, batch.obs)
        if c.q_action == "chain":  # a~ ~ pi(. | o), the gradient goes through the whole chain
            value, q, _ = self.policy.chain_value(
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
        return {"loss/bc": bc, "loss/actor": loss, "q/policy": q}

    def _imitate_best(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Descends L_bc(a) + eta L_bc(a^), a^ the best by Q1 of a and of samples of the policy.

        Q1's errors can't push a^ out of what the policy, held to the data by L_bc(a), samples.
        """
        c, (G, B, A) = self.config, batch.act.shape
        bc = self.bc_loss(batch)
        with torch.no_grad():
            obs = batch.obs.repeat_interleave(c.search_actions, 1)
            own = self.policy.sample(obs, generator=self.generator).view(G, B, -1, A)
            pool = torch.cat([batch.act.unsqueeze(2), own], 2)  # [G, B, 1 + K, A]
            q, index = self.critics.rate(pool, batch.obs).max(2)
            best = pick(pool, index.unsqueeze(2)).squeeze(2)
        imitation = self.bc_loss(replace(batch, act=best))
        loss = bc + c.eta * imitation
        self.descend(loss)
        return {
            "loss/bc": bc,
            "loss/actor": loss,
            "q/best": q,
            "policy/spread": own.std(2, unbiased=False),
            "policy/edge": (own.abs() >= 1.0).float(),
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
