"""ITD3, independent TD3 as OMAR's code has it (Pan et al., ICML 2022, arXiv 2111.11188).

From agent j's own observations, actions and rewards, with a deterministic actor pi, twin critics
Q1, Q2 and their Polyak averages (bar):

    y      = r + gamma min_k Qbar_k(o', pi_bar(o'))
    critic : sum_k E (Q_k(o, a) - y)^2
    actor  : -E Q1(o, pi(o)) + action_penalty E pi(o)^2

Unlike TD3 it has no noise on the target action, and actor and targets move in every update. The
penalty's mean is over rows and action components. `cql.py` and `omar.py` change one term each.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch

from dom2_fast.algos import faithful
from dom2_fast.algos.actors import ActorCriticAgents
from dom2_fast.algos.settings import ActorConfig, CriticSettings, at_least, setting, within
from dom2_fast.algos.updates import means
from dom2_fast.data.sampler import Batch


@dataclass
class ITD3Config(CriticSettings, ActorConfig):
    """Every number of the method."""

    normalise_reward: bool = setting(
        False,
        "shift and scale each agent's rewards to mean 0, sd 1, as the weights draw them",
        "OMAR's code takes them as they are",
    )
    lr: float = setting(
        1e-2, "Adam's learning rate of the actor", "not tuned; OMAR's code, with batch norm"
    )
    critic_lr: float = setting(
        1e-2, "Adam's learning rate of the critics", "not tuned; OMAR's code, with batch norm"
    )
    grad_clip: float = setting(
        0.5, "largest gradient norm of one agent's network; 0: no clipping", "OMAR's code"
    )
    tau: float = setting(0.01, "Polyak rate of the target networks", "OMAR's code")
    action_penalty: float = setting(
        1e-3, "weight of the squared actions in the actor's loss", "OMAR's code"
    )

    faithful: bool = setting(
        False,
        "OMAR's own networks (with batch norm), settings, coefficients and, where steps are left "
        "out, number of updates for this data set; a setting that contradicts them is refused",
        "OMAR's code",
    )

    def __new__(cls, *values, **given):
        """Notes which settings are given, by which `faithful` tells a choice from a default."""
        config = super().__new__(cls)
        names = [field.name for field in fields(cls)]
        config.given = {*names[: len(values)], *given}
        return config

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "action_penalty")
        within(self, 0, 1, "tau")

    @property
    def obs_norm(self) -> str:
        return "batch" if self.faithful else super().obs_norm


class ITD3(ActorCriticAgents):
    """Deterministic actors that climb their twin critics, all agents learnt side by side."""

    name = "itd3"
    config_class = ITD3Config
    metric_names: ClassVar = {
        "loss/td": "temporal-difference loss",
        "loss/actor": "actor loss",
        "q/policy": "Q of the policy's actions",
        "q/target": "target y",
    }
    stages = ("sample", "critic", "actor", "target")
    advice = "lower lr or critic_lr, or clip more (grad_clip)"

    @classmethod
    def settled(cls, config, task: str | None, kind: str | None):
        return faithful.settle(config, task, kind) if config.faithful else config

    @property
    def usual_steps(self) -> int | None:
        known = self.config.faithful and self.task is not None
        return faithful.updates(self.task, self.kind) if known else None

    def update(self) -> dict[str, torch.Tensor]:
        """One update of all agents: critics, actor, targets."""
        c, batch = self.config, self._draw()
        with self.stage("critic"):
            with torch.no_grad():
                next_act = self.target_policy.sample(batch.next_obs)  # pi_bar(o'), [G, B, A]
            y = self.critics.td_target(batch, next_act)
            loss, metrics = self.critic_loss(batch, y)
            self.critics.descend(loss, c.grad_clip)
        with self.stage("actor"):
            act = self.policy.sample(batch.obs)  # pi(o), [G, B, A]; one pass serves all terms
            q = self.critics.rate(act, batch.obs)  # [G, B]
            penalty = c.action_penalty * act.square().mean((1, 2))
            loss = self.actor_loss(batch, act, q) + penalty
            self.descend(loss)
        with self.stage("target"):
            self.follow(c.tau)
        self.step += 1
        metrics |= {"loss/actor": loss, "q/policy": q, "q/target": y}
        return means(metrics)

    def critic_loss(self, batch: Batch, y: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """The critics' losses, [2 G], and what to report of them; y is [G, B]."""
        td = self.critics.td_loss(batch, y)
        return td, {"loss/td": td}

    def actor_loss(self, batch: Batch, act: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """The actors' losses without the penalty, [G]; `act` is pi(o), `q` is Q1(o, pi(o))."""
        return -q.mean(1)
