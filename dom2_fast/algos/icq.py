"""ICQ, implicit constraint Q-learning (Yang et al., NeurIPS 2021, arXiv 2106.03400), per agent.

ICQ-softmax as in the authors' code, from agent j's own observations, actions and rewards, with a
Gaussian actor pi, one critic Q and its Polyak average Qbar. a' is the next action of the log, N the
number of rows of the batch:

    w      = min((N / alpha) softmax_b(Qbar(o', a') / beta), 1)
    critic : E (Q(o, a) - y)^2,  y = r~ + gamma w Qbar(o', a')
    actor  : -E N softmax_b(A / beta) log pi(a | o),  A = r~ + gamma Q(o', a') - Q(o, a), a constant
    target : Polyak average of the critic

The actor's step takes the critic of this update. Softmax and mean are over the batch. With large
beta all softmaxes are 1 / N: the code's alpha of 2 then halves the discount, and the actor is
Gaussian BC. Rows without a next action, the last ones of trajectories, are never drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from dom2_fast import networks
from dom2_fast.algos.critics import Rewards, discount, mean_square
from dom2_fast.algos.gaussian_agents import GaussianAgents
from dom2_fast.algos.settings import (
    CriticSettings,
    GaussianConfig,
    above,
    at_least,
    setting,
    within,
)
from dom2_fast.algos.updates import adam, descend, frozen_copy, means, polyak
from dom2_fast.lowering import FusedModule


@dataclass
class ICQConfig(CriticSettings, GaussianConfig):
    """Every number of the method."""

    normalise_reward: bool = setting(
        False,
        "shift and scale each agent's rewards to mean 0, sd 1, as the weights draw them",
        "ICQ takes them as they are",
    )
    critic_lr: float = setting(
        3e-3, "Adam's learning rate of the critic", "as IQL's here, not tuned; ICQ: 3e-4"
    )
    alpha: float = setting(
        1.0, "divides the weight w of the next value", "1: no halved discount; ICQ's main.py: 2"
    )
    beta: float = setting(
        10.0,
        "temperature of both softmaxes",
        "hardly tuned, docs/algorithms.md; ICQ's main.py: 600",
    )
    weight_decay: float = setting(1e-4, "of the actor, Adam's", "ICQ")
    tau: float = setting(
        0.02, "Polyak rate of the target network", "as IQL's here, not tuned; ICQ: 0.005"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        above(self, 0, "alpha", "beta")
        at_least(self, 0, "weight_decay")
        within(self, 0, 1, "tau")


class ICQ(GaussianAgents):
    """Gaussian actors weighted by a softmax of advantages of the log's own actions."""

    name = "icq"
    config_class = ICQConfig
    metric_names: ClassVar = {
        "loss/td": "temporal-difference loss",
        "loss/actor": "actor loss",
        "q/advantage": "advantage of the data's actions",
        "q/target": "target y",
    }
    stages = ("sample", "critic", "actor", "target")
    advice = "lower lr or critic_lr, raise beta, or clip (grad_clip)"
    next_acts = True

    def _build(self) -> None:
        super()._build()
        c = self.config
        self.critic = critic_nets(c, **self.sizes).to(self.device)
        self.target_critic = frozen_copy(self.critic)
        how = {"backend": c.backend, "precision": c.precision}
        self.q = FusedModule(self.critic, **how)
        self.target_q = FusedModule(self.target_critic, **how)
        self.reward = Rewards(c, self.num_agents, self.device, self.sampler)
        self.critic_optimiser = adam(self.critic, c.critic_lr)
        self.actor_optimiser.param_groups[0]["weight_decay"] = c.weight_decay

    def update(self) -> dict[str, torch.Tensor]:
        """One update of all agents: critic, actor, target."""
        c, batch = self.config, self._draw()
        rows = batch.act.size(1)  # N
        with torch.no_grad(), self.stage("critic"):
            reward, gamma = self.reward(batch), discount(c, batch)
            q = self.target_q(batch.next_act, batch.next_obs).squeeze(-1)  # [G, B]
            weight = (rows / c.alpha * (q / c.beta).softmax(1)).clamp(max=1.0)
            y = reward + gamma * weight * q
        with self.stage("critic"):
            td = mean_square(self.q, batch.act, batch.obs, y.unsqueeze(-1))
            descend(td, self.critic_optimiser, c.grad_clip)
        with self.stage("actor"):
            with torch.no_grad():
                acts = torch.cat([batch.act, batch.next_act], 1)
                q = self.q(acts, torch.cat([batch.obs, batch.next_obs], 1)).squeeze(-1)
                now, after = q.chunk(2, 1)
                advantage = reward + gamma * after - now
                weight = rows * (advantage / c.beta).softmax(1)
            loss = self.weighted_loss(batch, weight)
            self.descend(loss)
        with self.stage("target"):
            polyak(self.target_critic, self.critic, c.tau)
        self.step += 1
        metrics = {"loss/td": td, "loss/actor": loss, "q/advantage": advantage, "q/target": y}
        return means(metrics)

    def learnt(self) -> dict[str, nn.Module]:
        return {**super().learnt(), "critic": self.critic}

    def _parts(self) -> dict:
        return {
            **super()._parts(),
            "critic": self.critic,
            "target_critic": self.target_critic,
            "critic_optimiser": self.critic_optimiser,
        }


def critic_nets(
    c: CriticSettings, obs_dim: int, act_dim: int, agents: int
) -> networks.StackedModule:
    """One critic for each agent, newly initialised."""
    sizes = {"hidden": c.critic_hidden, "depth": c.critic_depth}
    return networks.stack(networks.MLPCritic(obs_dim, act_dim, **sizes) for _ in range(agents))
