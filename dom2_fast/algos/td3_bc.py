"""TD3+BC (Fujimoto and Gu, NeurIPS 2021, arXiv 2106.06860) for every agent on its own.

From agent j's own observations, actions and rewards, with a deterministic actor pi, twin critics
Q1, Q2 and their Polyak averages (bar):

    a'     = clip(pi_bar(o') + clip(policy_noise N(0, 1), -noise_clip, noise_clip), -1, 1)
    y      = r + gamma min_k Qbar_k(o', a')
    critic : sum_k E (Q_k(o, a) - y)^2
    actor  : E (pi(o) - a)^2 - lambda E Q1(o, pi(o)),  lambda = alpha / E |Q1(o, pi(o))|
    targets: Polyak averages of critics and actor

The actor and all targets move in every `actor_every`-th update only; lambda is a constant to the
gradient. The means are over rows and action components, as in the authors' code. The critics' y is
in `critics.py`; `python_tests/algos/plain_td3_bc.py` has all of it in plain PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dom2_fast.algos.actors import ActorCriticAgents
from dom2_fast.algos.settings import ActorConfig, CriticSettings, at_least, setting, within
from dom2_fast.algos.updates import means
from dom2_fast.data.sampler import Batch


@dataclass
class TD3BCConfig(CriticSettings, ActorConfig):
    """Every number of the method."""

    normalise_reward: bool = setting(
        False,
        "shift and scale each agent's rewards to mean 0, sd 1, as the weights draw them",
        "TD3+BC takes them as they are",
    )
    critic_lr: float = setting(3e-4, "Adam's learning rate of the critics", "TD3+BC")
    alpha: float = setting(
        2.5, "weight of the Q term in the actor's loss; 0: deterministic BC", "TD3+BC"
    )
    policy_noise: float = setting(0.2, "deviation of the noise on a'", "TD3")
    noise_clip: float = setting(0.5, "bound of that noise", "TD3")
    actor_every: int = setting(2, "critic updates per update of actor and targets", "TD3")
    tau: float = setting(0.005, "Polyak rate of the target networks", "TD3")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "alpha", "policy_noise", "noise_clip")
        at_least(self, 1, "actor_every")
        within(self, 0, 1, "tau")


class TD3BC(ActorCriticAgents):
    """Deterministic actors held to the data, with twin critics, all agents learnt side by side."""

    name = "td3_bc"
    config_class = TD3BCConfig
    metric_names: ClassVar = {
        "loss/td": "temporal-difference loss",
        "loss/bc": "squared error of the actions",
        "loss/actor": "actor loss",
        "q/policy": "Q of the policy's actions",
        "q/target": "target y",
    }
    stages = ("sample", "critic", "actor", "target")
    advice = "lower lr, critic_lr or alpha, or clip (grad_clip)"

    def update(self) -> dict[str, torch.Tensor]:
        """One update of all agents: critics, and every second time actor and targets."""
        c, batch = self.config, self._draw()
        with self.stage("critic"):
            y = self.td_target(batch)
            td = self.critics.td_loss(batch, y)  # E (Q_k(o, a) - y)^2, [2 G]
            self.critics.descend(td, c.grad_clip)
        self.step += 1
        metrics = {"loss/td": td, "q/target": y}
        if self.step % c.actor_every:
            return means(metrics)
        with self.stage("actor"):
            act = self.policy.sample(batch.obs)  # pi(o), [G, B, A]; one pass serves both terms
            q = self.critics.q1(act, batch.obs).squeeze(-1)  # [G, B]
            bc = (act - batch.act).square().mean((1, 2))
            scale = c.alpha / q.detach().abs().mean(1).clamp(min=1e-6)  # lambda, [G]
            loss = bc - scale * q.mean(1)
            self.descend(loss)
        with self.stage("target"):
            self.follow(c.tau)
        return means(metrics | {"loss/bc": bc, "loss/actor": loss, "q/policy": q})

    @torch.no_grad()
    def td_target(self, batch: Batch) -> torch.Tensor:
        """y = r + gamma min_k Qbar_k(o', a') with the smoothed target action a': [G, B]."""
        c = self.config
        act = self.target_policy.sample(batch.next_obs)  # [G, B, A]
        noise = torch.empty_like(act).normal_(generator=self.generator) * c.policy_noise
        act = (act + noise.clamp(-c.noise_clip, c.noise_clip)).clamp(-1.0, 1.0)
        return self.critics.td_target(batch, act)
