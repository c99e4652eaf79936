"""IQL, implicit Q-learning (Kostrikov et al., ICLR 2022, arXiv 2110.06169), for each agent alone.

From agent j's own observations, actions and rewards, with a Gaussian actor pi, a state value V,
twin critics Q1, Q2 and their Polyak averages (bar), in this order, each step with what the steps
before it have changed:

    value  : E |expectile - 1(u < 0)| u^2,  u = min_k Qbar_k(o, a) - V(o)
    actor  : -E min(exp(temperature u), weight_clip) log pi(a | o), the weights being constants
    critic : sum_k E (Q_k(o, a) - y)^2,  y = r~ + gamma V(o')
    targets: Polyak averages of the critics

No action outside of the data is ever rated. The actor's learning rate follows a cosine to 0 over
`decay_steps` updates (0: it stays). r~ is the reward times `return_span` over the spread of the
agent's returns, best minus worst: what `temperature` means depends on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from dom2_fast import networks
from dom2_fast.algos.critics import TwinCritics, critic_nets, discount, twice
from dom2_fast.algos.gaussian_agents import GaussianAgents
from dom2_fast.algos.settings import (
    GRID,
    CriticSettings,
    GaussianConfig,
    above,
    at_least,
    setting,
    within,
)
from dom2_fast.algos.updates import means
from dom2_fast.algos.values import Values, expectile_loss, value_nets
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error


@dataclass
class IQLConfig(CriticSettings, GaussianConfig):
    """Every number of the method."""

    normalise_reward: bool = setting(
        False,
        "shift and scale each agent's rewards to mean 0, sd 1, as the weights draw them",
        "IQL scales by the returns instead, see return_span",
    )
    return_span: float = setting(
        25.0,
        "scale each agent's rewards so that its best and worst trajectories' returns lie this far "
        "apart; 0: take them as they are",
        "steps of an episode of the particle tasks; IQL: 1000, those of locomotion",
    )
    critic_lr: float = setting(3e-3, "Adam's learning rate of the critics", GRID + "; IQL: 3e-4")
    value_lr: float = setting(3e-3, "Adam's learning rate of V", GRID + "; IQL: 3e-4")
    decay_steps: int = setting(
        0,
        "updates over which a cosine takes the actor's learning rate to 0; 0: it stays",
        "IQL: 1,000,000, all of its updates",
    )
    orthogonal_init: bool = setting(
        True, "orthogonal weights times sqrt(2), biases 0, to begin with", "IQL"
    )
    expectile: float = setting(0.7, "of Q that V is", "IQL, locomotion; antmaze: 0.9")
    temperature: float = setting(
        10.0, "inverse temperature of the actor's weights", GRID + "; IQL: 3, in antmaze 10"
    )
    weight_clip: float = setting(100.0, "largest weight of a transition in the actor's loss", "IQL")
    tau: float = setting(0.02, "Polyak rate of the target networks", GRID + "; IQL: 0.005")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "return_span", "decay_steps", "temperature")
        above(self, 0, "value_lr", "weight_clip", "expectile")
        within(self, 0, 1, "tau", "expectile")
        if self.expectile == 1.0:
            raise Dom2Error("expectile must be less than 1, whose V would only ever rise")
        if self.normalise_reward and self.return_span:
            raise Dom2Error(
                f"normalise_reward and return_span = {self.return_span:g} both scale the rewards: "
                "set normalise_reward to false or return_span to 0"
            )


class IQL(GaussianAgents):
    """Gaussian actors weighted by advantages of values that are learnt in the data alone."""

    name = "iql"
    config_class = IQLConfig
    metric_names: ClassVar = {
        "loss/td": "temporal-difference loss",
        "loss/value": "expectile loss of V",
        "loss/actor": "actor loss",
        "q/advantage": "advantage of the data's actions",
        "q/target": "target y",
    }
    stages = ("sample", "value", "actor", "critic", "target")
    advice = "lower lr, critic_lr or value_lr, or clip (grad_clip)"

    @staticmethod
    def make_nets(c: IQLConfig, **sizes: int) -> networks.StackedModule:
        net = GaussianAgents.make_nets(c, **sizes)
        if c.orthogonal_init:
            orthogonal(net)
        return net

    def _build(self) -> None:
        super()._build()
        c = self.config
        critics, values = critic_nets(c, **self.sizes), value_nets(c, self.obs_dim, self.num_agents)
        if c.orthogonal_init:
            orthogonal(critics)
            orthogonal(values)
        self.critics = TwinCritics(critics.to(self.device), c, self.sampler)
        self.value = Values(values.to(self.device), c)
        if c.return_span and self.sampler is not None:
            spans = return_spans(self.sampler.data, self.num_agents) / c.return_span
            self.critics.reward.sd.copy_(spans.unsqueeze(1))

    def update(self) -> dict[str, torch.Tensor]:
        """One update of all agents: V, actor, critics, targets."""
        c, batch = self.config, self._draw()
        with self.stage("value"):
            with torch.no_grad():
                q = self.critics.target_q(twice(batch.act), twice(batch.obs)).squeeze(-1)
                q = torch.minimum(*q.chunk(2))  # [G, B]
            value_loss = expectile_loss(q - self.value(batch.obs), c.expectile)
            self.value.descend(value_loss, c.grad_clip)
        with torch.no_grad(), self.stage("value"):  # both actor and critics take the new V
            v, next_v = self.value(torch.cat([batch.obs, batch.next_obs], 1)).chunk(2, 1)
            advantage = q - v
            y = self.critics.reward(batch) + discount(c, batch) * next_v
        with self.stage("actor"):
            weight = (c.temperature * advantage).exp().clamp(max=c.weight_clip)
            actor_loss = self.weighted_loss(batch, weight)
            self.actor_optimiser.param_groups[0]["lr"] = self.actor_lr()
            self.descend(actor_loss)
        with self.stage("critic"):
            td = self.critics.td_loss(batch, y)
            self.critics.descend(td, c.grad_clip)
        with self.stage("target"):
            self.critics.follow(c.tau)
        self.step += 1
        metrics = {"loss/td": td, "loss/value": value_loss, "loss/actor": actor_loss}
        metrics |= {"q/advantage": advantage, "q/target": y}
        return means(metrics)

    def actor_lr(self) -> float:
        """The actor's learning rate of the next update."""
        c = self.config
        if not c.decay_steps:
            return c.lr
        return c.lr * 0.5 * (1.0 + math.cos(math.pi * min(self.step / c.decay_steps, 1.0)))

    def learnt(self) -> dict[str, nn.Module]:
        return {**super().learnt(), "critic": self.critics.net, "value": self.value.net}

    def _parts(self) -> dict:
        return {**super()._parts(), **self.critics.parts(), **self.value.parts()}


def return_spans(data: TrajectoryDataset, agents: int) -> torch.Tensor:
    """The best minus the worst return of each agent's trajectories, [G] float64.

    Raises Dom2Error where an agent's are all the same.
    """
    returns = data.returns[:agents]
    spans = returns.amax(1) - returns.amin(1)
    for j, span in enumerate(spans.tolist()):
        if not span > 0.0:
            raise Dom2Error(
                f"return_span scales rewards by the spread of an agent's returns, and those of "
                f"agent {j} are all {float(returns[j, 0]):g}: set return_span to 0"
            )
    return spans


@torch.no_grad()
def orthogonal(net: networks.StackedModule) -> None:
    """Every linear layer of every network of the stack: orthogonal times sqrt(2), bias 0."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            for weight in layer.weight:
                nn.init.orthogonal_(weight, math.sqrt(2.0))
            nn.init.zeros_(layer.bias)
