"""SfBC (Chen et al., ICLR 2023, arXiv 2209.14548) for every agent on its own.

From agent j's own observations, actions and rewards, with a diffusion model mu of the behaviour
and one critic:

    mu     : E || eps - eps_theta(alpha_t a + sigma_t eps, o, t) ||^2
    critic : E (Q~(o, a) - R~)^2, R~ the standardised return after the row
    plan   : V(o) = sum_m softmax_m(plan_alpha Q~(o, a_m)) Q~(o, a_m), a_m ~ mu(. | o), of all rows,
             then R from the ends of the trajectories on, see `planned_returns.py`
    acting : one of `candidates` samples of mu, with probability ~ exp(alpha Q~(o, a))

SfBC fits mu first, then the critic, for 100 epochs to returns of the log and 99 to planned ones.
Here an update is one step of both from the same rows, and updates plan_every, 2 plan_every, ... up
to `plans` times begin with a planning pass, after which the critic starts anew. A pass samples
plan_actions actions for every row of the data, whatever the weights: that many times `steps` calls
of the network per row and agent.

`python_tests/algos/plain_sfbc.py` has all of it in plain PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dom2_fast import networks
from dom2_fast.algos.acting import Policies
from dom2_fast.algos.critics import mean_square
from dom2_fast.algos.diffusion_agents import DiffusionAgents
from dom2_fast.algos.planned_returns import PlannedReturns
from dom2_fast.algos.settings import DiffusionConfig, above, at_least, one_of, setting, within
from dom2_fast.algos.updates import adam, descend, means, polyak
from dom2_fast.lowering import FusedModule

CHUNK = 4096  # rows per call of the planning pass; each has plan_actions samples


@dataclass
class SfBCConfig(DiffusionConfig):
    """Every number of the method."""

    weights: str = setting(
        "uniform", "trajectory weights, as DOM2's; uniform: none", "SfBC weights nothing"
    )
    gamma: float = setting(0.99, "discount", "SfBC")
    critic_hidden: int = setting(256, "width of the critic", "SfBC")
    critic_depth: int = setting(2, "hidden layers of the critic, SiLU", "SfBC")
    critic_lr: float = setting(1e-3, "Adam's learning rate of the critic", "SfBC")
    plans: int = setting(1, "planning passes; 0: returns of the log alone", "SfBC, K - 1")
    plan_every: int = setting(1000, "updates before each pass", "SfBC: 24,400 of batch 4,096")
    plan_actions: int = setting(16, "sampled actions per row in a pass", "SfBC")
    plan_alpha: float = setting(20.0, "inverse temperature of V", "SfBC")
    plan_floor: str = setting(
        "own",
        "what V bounds from below: own, the row's target itself, or next, what follows it",
        "SfBC's code; next: CleanDiffuser's SfBC",
    )
    reset_critic: bool = setting(True, "the critic starts anew after a pass", "SfBC")
    candidates: int = setting(32, "when acting, choose among so many actions", "SfBC")
    alpha: float = setting(100.0, "inverse temperature of that choice", "SfBC")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "plans")
        at_least(
            self,
            1,
            "critic_hidden",
            "critic_depth",
            "plan_every",
            "plan_actions",
            "candidates",
        )
        above(self, 0, "critic_lr", "plan_alpha", "alpha")
        within(self, 0, 1, "gamma")
        one_of(self, "plan_floor", ("own", "next"))


class SfBC(DiffusionAgents):
    """Behaviour models and critics that choose among their samples, all agents side by side."""

    name = "sfbc"
    config_class = SfBCConfig
    metric_names: ClassVar = {
        "loss/bc": "denoising loss",
        "loss/critic": "critic loss",
        "q/target": "standardised return",
        "q/planned": "share of rows whose planned value exceeds their return",
    }
    stages = ("sample", "plan", "critic", "actor", "target")
    advice = "lower lr or critic_lr, or clip more (grad_clip)"

    def _build(self) -> None:
        super()._build()
        c = self.config
        self.critic = critic_nets(c, **self.sizes).to(self.device)
        self.critic_optimiser = adam(self.critic, c.critic_lr)
        self.q = fused(c, self.critic)  # Q~: [G, B, A], [G, B, O] -> [G, B, 1]
        self.returns = None
        if self.sampler is not None:
            like = next(self.critic.parameters())
            self.returns = PlannedReturns(
                self.sampler.data, self.num_agents, c.gamma, like.dtype, like.device
            )

    def update(self) -> dict[str, torch.Tensor]:
        """One step of behaviour models and critics, behind a planning pass where one is due."""
        c, metrics = self.config, {}
        due, rest = divmod(self.step, c.plan_every)
        if rest == 0 and 1 <= due <= c.plans:
            with self.stage("plan"):
                metrics["q/planned"] = torch.tensor(self.plan())
        batch = self._draw()
        with self.stage("critic"):
            target = self.returns.targets.gather(1, batch.index.to(self.device))  # [G, B]
            loss = mean_square(self.q, batch.act, batch.obs, target.unsqueeze(-1))
            descend(loss, self.critic_optimiser, c.grad_clip)
        with self.stage("actor"):
            bc = self.bc_loss(batch)
            self.descend(bc)
        with self.stage("target"):
            polyak(self.target_net, self.net, c.tau)
        self.step += 1
        return metrics | means({"loss/bc": bc, "loss/critic": loss, "q/target": target})

    def plan(self) -> float:
        """A planning pass: new targets for all rows; gives the share of rows that V raises."""
        c = self.config
        share = self.returns.plan(self.values(), c.plan_floor)
        if c.reset_critic:
            fresh = critic_nets(c, **self.sizes)
            self.critic.load_state_dict(fresh.state_dict())
            self.critic_optimiser = adam(self.critic, c.critic_lr)
        return share

    @torch.no_grad()
    def values(self) -> torch.Tensor:
        """V of every row of the data, in standardised units: [G, N]."""
        c, data = self.config, self.sampler.data
        like, found = next(self.critic.parameters()), []
        for first in range(0, len(data), CHUNK):
            rows = [data.obs[j][first : first + CHUNK] for j in range(self.num_agents)]
            obs = torch.stack(rows).to(like.device, like.dtype)  # [G, n, O]
            many = obs.repeat_interleave(c.plan_actions, 1)
            act = self.acting_policy.sample(many, generator=self.generator)  # [G, n M, A]
            q = self.q(act, obs).view(*obs.shape[:2], c.plan_actions)
            found.append((torch.softmax(c.plan_alpha * q, 2) * q).sum(2))
        return torch.cat(found, 1)

    @property
    def policies(self) -> Policies:
        c = self.config
        return Policies(self.acting_policy, c.candidates, self.q, 1.0 / c.alpha)

    @classmethod
    def _acting(cls, config, sizes, parts) -> Policies:
        policies = super()._acting(config, sizes, parts)
        if config.candidates == 1:
            return policies
        net = critic_nets(config, **sizes).requires_grad_(False)
        net.load_state_dict(parts["critic"])
        return Policies(policies.policy, config.candidates, fused(config, net), 1.0 / config.alpha)

    def learnt(self) -> dict:
        return {**super().learnt(), "critic": self.critic}

    def _parts(self) -> dict:
        planned = {} if self.returns is None else {"returns": self.returns}
        own = {"critic": self.critic, "critic_optimiser": self.critic_optimiser}
        return {**super()._parts(), **own, **planned}


def critic_nets(c: SfBCConfig, obs_dim: int, act_dim: int, agents: int) -> networks.StackedModule:
    """One critic for each agent, always with the same initial weights for a seed."""
    sizes = {"hidden": c.critic_hidden, "depth": c.critic_depth, "act": "silu"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(c.seed)
        return networks.stack(networks.MLPCritic(obs_dim, act_dim, **sizes) for _ in range(agents))


def fused(c: SfBCConfig, net: networks.StackedModule) -> FusedModule:
    """The network with one native call per pass, as the settings ask for."""
    return FusedModule(net, c.backend, precision=c.precision)
