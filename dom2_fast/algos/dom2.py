"""DOM2 (Li, Pan and Huang, arXiv 2307.01472): decentralised offline multi-agent RL with diffusion.

For every agent j on its own, from its own observations, actions and rewards:

    D'     = D + {T in D : Return_j(T) > r} for every r in R_th          (reweighting)
    a'     ~ pi_bar_j(. | o')                                           (DPM-Solver-1)
    y      = r + gamma min_k Qbar_jk(o', a')
    critic : sum_k E (Q_jk(o, a) - y)^2 + zeta E [log sum_a exp Q_jk(o, a) - Q_jk(o, a)]   (CQL)
    actor  : L_bc - eta~ E Q_j1(o, a~),  a~ ~ pi_j(. | o),  eta~ = eta / E |Q_j1(o, a)|
    targets: Polyak averages of critics and policy

The gradient of the actor's second term goes through the whole sampling chain. Episodes end at a
time limit, which is no terminal state, so y bootstraps there too. All agents are one batch: policy
parameters are [G, ...], the twin critics' [2 G, ...], first all agents' Q1, then all agents' Q2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from dom2_fast import networks
from dom2_fast.algos.offline import DiffusionAgents, Policies
from dom2_fast.algos.settings import TUNED, PolicyConfig, at_least, one_of, setting, within
from dom2_fast.algos.updates import adam, descend, frozen_copy, frozen_view, polyak
from dom2_fast.data.sampler import Batch
from dom2_fast.lowering import FusedModule


@dataclass
class DOM2Config(PolicyConfig):
    """Every number of the method."""

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
    gamma: float = setting(0.95, "discount", "OMAR's code")
    normalise_reward: bool = setting(
        True,
        "shift and scale each agent's rewards to mean 0, sd 1, as the weights draw them",
        TUNED,
    )
    reward_scale: float = setting(1.0, "rewards are multiplied by this, after that", TUNED)
    mask_done: bool = setting(
        False, "don't bootstrap where the data says done", "OMAR's dones are time limits"
    )
    critic_hidden: int = setting(64, "width of the critics", "OMAR, particle tasks")
    critic_depth: int = setting(2, "hidden layers of the critics", "OMAR")
    critic_lr: float = setting(3e-3, "Adam's learning rate of the critics", TUNED)
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
        at_least(
            self, 1, "cql_actions", "critic_hidden", "critic_depth", "actor_every", "candidates"
        )
        within(self, 0, 1, "gamma")
        one_of(self, "q_action", ("chain", "one_step"))


class DOM2(DiffusionAgents):
    """Diffusion policies with twin conservative critics, all agents learnt side by side."""

    name = "dom2"
    config_class = DOM2Config

    def _build(self) -> None:
        super()._build()
        c, G = self.config, self.num_agents
        self.reward_shift, self.reward_sd = torch.zeros(G, 1), torch.ones(G, 1)
        if c.normalise_reward and self.sampler is not None:
            for j, (mean, sd) in enumerate(self.sampler.reward_moments()):
                self.reward_shift[j], self.reward_sd[j] = mean, max(sd, 1e-6)
        self.reward_shift, self.reward_sd = (
            t.to(self.device) for t in (self.reward_shift, self.reward_sd)
        )
        self.critic = networks.stack(
            networks.MLPCritic(
                self.obs_dim, self.act_dim, hidden=c.critic_hidden, depth=c.critic_depth
            )
            for _ in range(2 * G)
        ).to(self.device)
        self.target_critic = frozen_copy(self.critic)
        self.critic_optimiser = adam(self.critic, c.critic_lr)
        how = {"backend": c.backend, "precision": c.precision}
        self.q = FusedModule(self.critic, **how)  # [2 G, ...]
        self.target_q = FusedModule(self.target_critic, **how)
        # The critics' first half, sharing its memory: what the actor climbs, no weight gradients.
        self.q1 = FusedModule(frozen_view(self.critic, G), **how)  # [G, ...]

    def update(self) -> dict[str, torch.Tensor]:
        """One update of all agents: critics, then the policy, then the targets."""
        batch = self._draw()
        with self.stage("critic"):
            q_data, metrics = self._critic_step(batch)
        if self.step % self.config.actor_every == 0:
            with self.stage("actor"):
                metrics |= self._policy_step(batch, q_data)
        with self.stage("target"):
            polyak(self.target_critic, self.critic, self.config.tau)
            polyak(self.target_net, self.net, self.config.tau)
        self.step += 1
        return metrics

    @torch.no_grad()
    def td_target(self, batch: Batch) -> torch.Tensor:
        """y = r + gamma min_k Qbar_k(o', a'), a' ~ pi_bar(. | o'): [G, B]."""
        c = self.config
        act = self.target_policy.sample(batch.next_obs, generator=self.generator)  # [G, B, A]
        q = self.target_q(twice(act), twice(batch.next_obs)).squeeze(-1)  # [2 G, B]
        q = torch.minimum(*q.chunk(2))
        keep = 1.0 - batch.done if c.mask_done else 1.0
        reward = c.reward_scale * (batch.reward - self.reward_shift) / self.reward_sd
        return reward + c.gamma * keep * q

    def critic_loss(
        self, batch: Batch, target: torch.Tensor, proposed: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """TD + zeta CQL of every critic, [2 G], and its parts, which have no gradient.

        The log-integral over actions is estimated by importance sampling as in OMAR's code:
        logsumexp_m (Q(o, u_m) - log 0.5^A) over uniform u_m in [-1, 1]^A.

        Args:
            target: y, [G, B]. proposed: the actions u, [G, B, M, A], the same for both twins.
        """
        run, program, rng = self.q.lowered(proposed)
        loss, td, cql, q = run.conservative_loss(
            batch.act, proposed, batch.obs, *program, target, rng, precision=self.q.precision,
            cql_weight=self.config.zeta, log_density=proposed.size(3) * math.log(0.5),
        )  # fmt: skip
        return loss, {"td": td, "cql": cql, "q_data": q[..., 0], "q_proposed": q[..., 1:]}

    def _critic_step(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Gives Q1 of the data, [G, B], and what to log."""
        target = self.td_target(batch)
        loss, parts = self.critic_loss(batch, target, self._proposed(batch))
        descend(loss, self.critic_optimiser, self.config.grad_clip)
        q1 = parts["q_data"][: self.num_agents]
        return q1, {
            "loss/critic": loss.detach().mean(),
            "loss/td": parts["td"].mean(),
            "loss/cql": parts["cql"].mean(),
            "q/data": q1.mean(),
            "q/uniform": parts["q_proposed"][..., : self.config.cql_actions].mean(),
            "q/target": target.mean(),
        }

    def _proposed(self, batch: Batch) -> torch.Tensor:
        """Actions of the CQL term: uniform ones, then (if asked for) the policy's: [G, B, M, A]."""
        c, (G, B, A) = self.config, batch.act.shape
        shape = (G, B, c.cql_actions, A)
        where = {"dtype": batch.act.dtype, "device": self.device}
        uniform = torch.rand(shape, generator=self.generator, **where) * 2 - 1
        if c.cql_policy_actions == 0:
            return uniform
        obs = batch.obs.repeat_interleave(c.cql_policy_actions, 1)  # [G, B P, O]
        with torch.no_grad():
            own = self.policy.sample(obs, generator=self.generator)
        return torch.cat([uniform, own.view(G, B, c.cql_policy_actions, A)], 2)

    def q_loss(
        self, act: torch.Tensor, obs: torch.Tensor, q_data: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """-eta~ E Q1(o, a~) of the policy's actions a~ [G, B, A]: [G], and Q1 itself, [G, B].

        eta~ = eta / E |Q1(o, a)| makes eta independent of the rewards' scale; `q_data` [G, B] is Q1
        of the batch's own actions, from the critics' pass.
        """
        q = self.q1(act, obs).squeeze(-1)  # [G, B]
        return -self._q_scale(q_data) * q.mean(1), q

    def _q_scale(self, q_data: torch.Tensor) -> torch.Tensor:
        return self.config.eta / q_data.abs().mean(1).clamp(min=1e-6)  # [G]

    def _policy_step(self, batch: Batch, q_data: torch.Tensor) -> dict[str, torch.Tensor]:
        c = self.config
        if c.eta == 0.0 or self.step < c.q_warmup:
            return {"loss/bc": self._actor_step(batch).mean()}
        if c.q_action == "chain":  # q_loss of a~ ~ pi(. | o), through the whole chain
            mean, q = self.policy.chain_value(batch.obs, self.q1, generator=self.generator)
            loss = -self._q_scale(q_data) * mean
            bc = self._actor_step(batch, loss)
        else:
            bc, act = self.policy.bc_terms(
                batch.obs, batch.act, generator=self.generator, reduction="group"
            )
            loss, q = self.q_loss(act, batch.obs, q_data)
            descend(bc + loss, self.actor_optimiser, c.grad_clip)
            bc = bc.detach()
        return {
            "loss/bc": bc.mean(),
            "loss/actor": (bc + loss.detach()).mean(),
            "q/policy": q.detach().mean(),
        }

    @property
    def policies(self) -> Policies:
        c = self.config
        return Policies(self._acting_policy(), self.obs_dim, self.num_agents, c.candidates, self.q1)

    def _parts(self) -> dict:
        return {
            **super()._parts(),
            "critic": self.critic,
            "target_critic": self.target_critic,
            "critic_optimiser": self.critic_optimiser,
        }


def twice(x: torch.Tensor) -> torch.Tensor:
    """[G, ...] -> [2 G, ...]: the same for an agent's first and second critic."""
    return torch.cat([x, x])
