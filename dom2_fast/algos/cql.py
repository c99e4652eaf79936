"""MA-CQL: ITD3 with conservative critics (Kumar et al. 2020, arXiv 2006.04779), as in OMAR's code.

    critic : sum_k E (Q_k(o, a) - y)^2 + zeta E [log sum_n exp(Q_k(o, u_n) - log p_n) - Q_k(o, a)]

The u_n are `cql_actions` uniform actions in [-1, 1]^d, p_n = 2^-d; and `cql_policy_actions` each of
clip(pi(o) + e) and clip(pi(o') + e), e ~ N(0, cql_policy_noise^2), p_n = N(e; 0, ...): the density
of the noise before clipping. All of them are rated at o. OMAR uses the latter two in HalfCheetah
alone, and subtracts p_n where log p_n is meant; here it is the logarithm. y and the actor are those
of `itd3.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from dom2_fast.algos.critics import uniform_actions, uniform_log_density
from dom2_fast.algos.itd3 import ITD3, ITD3Config
from dom2_fast.algos.settings import above, at_least, setting
from dom2_fast.data.sampler import Batch


@dataclass
class CQLConfig(ITD3Config):
    """Every number of the method."""

    zeta: float = setting(
        1.0, "weight of the CQL term", "not tuned; OMAR's code: 0.5 to 5 by data set"
    )
    cql_actions: int = setting(10, "uniform actions per observation in the CQL term", "OMAR's code")
    cql_policy_actions: int = setting(
        0,
        "further actions in the CQL term: so many by the policy at o, and as many by it at o'",
        "OMAR's code, particle tasks; HalfCheetah: 10",
    )
    cql_policy_noise: float = setting(0.2, "deviation of the noise on these", "OMAR's code")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "zeta", "cql_policy_actions")
        at_least(self, 1, "cql_actions")
        above(self, 0, "cql_policy_noise")


class CQL(ITD3):
    """Deterministic actors that climb conservative critics."""

    name = "cql"
    config_class = CQLConfig
    metric_names: ClassVar = {
        **ITD3.metric_names,
        "loss/cql": "CQL term",
        "q/data": "Q of the data's actions",
        "q/uniform": "Q of uniform actions",
    }
    advice = "lower lr or critic_lr, or change zeta"

    def critic_loss(self, batch: Batch, y: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """TD + zeta CQL of every critic, [2 G]."""
        c, G = self.config, self.num_agents
        uniform = uniform_actions(batch, c.cql_actions, self.generator)
        proposed, log_density = [uniform], None
        if c.cql_policy_actions:
            here, there = (self.own_actions(obs) for obs in (batch.obs, batch.next_obs))
            proposed = [uniform, here[0], there[0]]
            flat = torch.full_like(uniform[..., 0], uniform_log_density(uniform.size(3)))
            log_density = torch.cat([flat, here[1], there[1]], 2)
        found = self.critics.conservative_loss(batch, y, proposed, c.zeta, log_density)
        return found.loss, {
            "loss/td": found.td,
            "loss/cql": found.cql,
            "q/data": found.q_data[:G],
            "q/uniform": found.q_proposed[:G, :, : c.cql_actions],
        }

    @torch.no_grad()
    def own_actions(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The policy's actions at obs [G, B, O] with noise, clipped: [G, B, P, A]; log p [G, B, P].

        p is the density of the noise. What clipping piles up on the bounds has none, so that it is
        the one of the unclipped action that counts.
        """
        c, act = self.config, self.policy.sample(obs)
        sd, (G, B, A) = c.cql_policy_noise, act.shape
        z = act.new_empty(G, B, c.cql_policy_actions, A).normal_(generator=self.generator)
        log_density = -0.5 * z.square().sum(3) - A * math.log(sd * math.sqrt(2 * math.pi))
        return (act.unsqueeze(2) + sd * z).clamp(-1.0, 1.0), log_density
