"""Twin critics of every agent: their targets, losses and steps, for all algorithms that have some.

With the critics Q_1, Q_2 of an agent, their targets Qbar (Polyak averages) and a' that the
algorithm chooses:

    y   = r~ + gamma min_k Qbar_k(o', a')                      (Fujimoto et al. 2018, TD3, eq. 10)
    td  = E (Q_k(o, a) - y)^2
    cql = E [log sum_a exp Q_k(o, a) - Q_k(o, a)]                    (Kumar et al. 2020, CQL, eq. 4)

r~ is the reward, shifted and scaled as `normalise_reward` and `reward_scale` say. Episodes end at a
time limit, which is no terminal state, so y bootstraps there too unless `mask_done` is set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from dom2_fast import networks
from dom2_fast.algos.settings import CriticSettings
from dom2_fast.algos.updates import adam, descend, frozen_copy, frozen_view, polyak
from dom2_fast.data.sampler import Batch, TrajectorySampler
from dom2_fast.lowering import FusedModule
from dom2_fast.ops import reference


class Conservative(NamedTuple):
    """What a conservative loss [2 G] is made of; only the loss has a gradient."""

    loss: torch.Tensor  # td + weight * cql
    td: torch.Tensor
    cql: torch.Tensor
    q_data: torch.Tensor  # [2 G, B]
    q_proposed: torch.Tensor  # [2 G, B, M]


class Rewards:
    """r~, the rewards that critics learn from: shifted and scaled for each agent.

    `shift` and `sd` are [G, 1]; 0 and 1 without `normalise_reward` or without a sampler.
    """

    def __init__(self, config, groups: int, device, sampler: TrajectorySampler | None = None):
        self.config = config
        shift, sd = torch.zeros(groups, 1), torch.ones(groups, 1)
        if config.normalise_reward and sampler is not None:
            for j, (mean, deviation) in enumerate(sampler.reward_moments()):
                shift[j], sd[j] = mean, max(deviation, 1e-6)
        self.shift, self.sd = shift.to(device), sd.to(device)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """[G, B]."""
        return self.config.reward_scale * (batch.reward - self.shift) / self.sd


def discount(config: CriticSettings, batch: Batch) -> torch.Tensor | float:
    """gamma, or with `mask_done` gamma (1 - done), [G, B]."""
    return config.gamma * (1.0 - batch.done) if config.mask_done else config.gamma


class TwinCritics:
    """Two critics for each of G agents, learnt side by side.

    `net` holds 2 G networks, first all agents' Q_1, then all agents' Q_2; `target_net` follows it.
    `q` and `target_q` run them on the kernels, [2 G, B, A], [2 G, B, O] -> [2 G, B, 1]; `q1`, [G,
    ...], shares the memory of `net`'s first half and is for policies to climb: its parameters have
    no gradients. A critic that can't be lowered runs as the module it is.

    Args:
        net: the stack, see `critic_nets`, on its device.
        config: an algorithm's settings, `CriticSettings` among them.
        sampler: whose rewards `normalise_reward` measures. None: rewards are taken as they are.
    """

    def __init__(
        self, net: networks.StackedModule, config, sampler: TrajectorySampler | None = None
    ):
        self.config, self.net = config, net
        groups = net.groups // 2
        self.target_net = frozen_copy(net)
        self.optimiser = adam(net, config.critic_lr)
        how = {"backend": config.backend, "precision": config.precision}
        self.q = FusedModule(net, **how)
        self.target_q = FusedModule(self.target_net, **how)
        self.q1 = rating(net, config)
        self.reward = Rewards(config, groups, next(net.parameters()).device, sampler)

    @torch.no_grad()
    def td_target(self, batch: Batch, next_act: torch.Tensor) -> torch.Tensor:
        """y = r~ + gamma min_k Qbar_k(o', a') for the actions a' [G, B, A]: [G, B]."""
        c = self.config
        q = self.target_q(twice(self.seen(next_act)), twice(batch.next_obs)).squeeze(-1)  # [2 G, B]
        q = torch.minimum(*q.chunk(2))
        return self.reward(batch) + discount(c, batch) * q

    def seen(self, act: torch.Tensor) -> torch.Tensor:
        """What the networks are given of actions [G, ..., A]: here the actions themselves."""
        return act

    def td_loss(self, batch: Batch, target: torch.Tensor) -> torch.Tensor:
        """E (Q_k(o, a) - y)^2 of every critic, [2 G]; `target` is y, [G, B]."""
        y = twice(target).unsqueeze(-1)
        return mean_square(self.q, twice(self.seen(batch.act)), twice(batch.obs), y)

    def conservative_loss(
        self,
        batch: Batch,
        target: torch.Tensor,
        proposed: torch.Tensor | Sequence[torch.Tensor],
        weight: float,
        log_density: torch.Tensor | None = None,
    ) -> Conservative:
        """E (Q_k(o, a) - y)^2 + weight E [log sum_m exp(Q_k(o, u_m) - log p(u_m)) - Q_k(o, a)].

        The integral over actions is estimated by importance sampling from the density p that the
        actions were drawn from, as in CQL (Kumar et al. 2020, appendix F).

        Args:
            target: y, [G, B]. proposed: the actions u, [G, B, M, A], the same for both twins; or
                several such, which critics that look at many actions at once look at one by one.
            log_density: log p(u), [G, B, M]. None: the u are uniform in [-1, 1]^A.
        """
        parts = [proposed] if isinstance(proposed, torch.Tensor) else proposed
        parts = [self.seen(part) for part in parts]
        proposed = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        act = self.seen(batch.act)
        if log_density is None:
            log_density = uniform_log_density(proposed.size(3))
        lowered = self.q.lowered(proposed)
        if lowered is None:
            acts = torch.cat([act.unsqueeze(2), proposed], 2).flatten(1, 2)  # [G, B(1+M), A]
            q = self.q(twice(acts), twice(batch.obs))
            loss, td, cql, q = reference.conservative(
                q, target, 1 + proposed.size(2), weight, log_density
            )
        else:
            run, program, rng = lowered
            how = {"cql_weight": weight, "log_density": log_density, "precision": self.q.precision}
            loss, td, cql, q = run.conservative_loss(
                act, proposed, batch.obs, *program, target, rng, **how
            )
        return Conservative(loss, td, cql, q[..., 0], q[..., 1:])

    def rate(self, act: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        """Q_1 of one or several actions per observation: [G, B, (K,) A] -> [G, B, (K)].

        For policies to climb: differentiable in act, without gradients of the critics.
        """
        return self.q1(self.seen(act).flatten(1, -2), obs).view(act.shape[:-1])

    def descend(self, loss: torch.Tensor, grad_clip: float) -> None:
        """One step of Adam down the losses [2 G], each critic's gradient clipped on its own."""
        descend(loss, self.optimiser, grad_clip)

    def follow(self, tau: float) -> None:
        """The targets' Polyak step: Qbar <- tau Q + (1 - tau) Qbar."""
        polyak(self.target_net, self.net, tau)

    def parts(self) -> dict:
        """What has a state, by its name in a checkpoint."""
        return {
            "critic": self.net,
            "target_critic": self.target_net,
            "critic_optimiser": self.optimiser,
        }


class LowerOfTwins(FusedModule):
    """min_k Q_k(o, a) of a stack of twin critics: [G, B, A], [G, B, O] -> [G, B, 1]."""

    def forward(self, x, obs, generator=None):
        return torch.minimum(*super().forward(twice(x), twice(obs), generator).chunk(2))


def mean_square(
    module: FusedModule, x: torch.Tensor, obs: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """E (module(x, o) - target)^2 of each network of a stack, [K], for a target [K, B, width].

    The mean is over rows and columns. Of a critic and y the temporal-difference loss.
    """
    lowered = module.lowered(x)
    if lowered is None:
        return reference.mean_square(module(x, obs), target)
    run, program, rng = lowered
    return run.denoising_loss(x, obs, *program, target, rng, precision=module.precision)


def critic_nets(
    c: CriticSettings,
    obs_dim: int,
    act_dim: int,
    agents: int,
    kind: type = networks.MLPCritic,
    act: str = "relu",
) -> networks.StackedModule:
    """The 2 G critics of all agents, newly initialised; `act` names their activation."""
    sizes = {"hidden": c.critic_hidden, "depth": c.critic_depth, "act": act}
    return networks.stack(kind(obs_dim, act_dim, **sizes) for _ in range(2 * agents))


def rating(net: networks.StackedModule, config) -> FusedModule:
    """The first critics alone, sharing memory with all 2 G of them, without gradients of theirs."""
    view = frozen_view(net, net.groups // 2)
    return FusedModule(view, backend=config.backend, precision=config.precision)


def uniform_actions(batch: Batch, count: int, generator: torch.Generator) -> torch.Tensor:
    """That many actions per observation, uniform in [-1, 1]^A, for a CQL term: [G, B, count, A]."""
    groups, rows, width = batch.act.shape
    like = {"dtype": batch.act.dtype, "device": batch.act.device}
    return torch.rand((groups, rows, count, width), generator=generator, **like) * 2 - 1


def uniform_log_density(width: int) -> float:
    """The log density of the actions that `uniform_actions` draws: 0.5 per component."""
    return width * math.log(0.5)


def twice(x: torch.Tensor) -> torch.Tensor:
    """[G, ...] -> [2 G, ...]: the same for an agent's first and second critic."""
    return torch.cat([x, x])


def pick(pool: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Actions by number: [G, B, K, A], [G, B, N] -> [G, B, N, A]."""
    return pool.gather(2, index.unsqueeze(-1).expand(*index.shape, pool.size(3)))
