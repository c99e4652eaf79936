"""OMAR (Pan et al., ICML 2022, arXiv 2111.11188): MA-CQL whose actor imitates searched actions.

    actor  : c E (pi(o) - a^)^2 - (1 - c) E Q1(o, pi(o)) + action_penalty E pi(o)^2

a^ maximises Q1(o, .) among the last round's samples and pi(o); it has no gradient. The search:
mu = 0, sigma = 2; in each round a_k = clip(mu + sigma N(0, 1), -1, 1), w = softmax_k Q1(o, a_k),
mu = sum_k w_k a_k, sigma^2 = mean_k (a_k - mu)^2. With `elites` > 0 (OMAR's HalfCheetah code) mu
and sigma are mean and sample deviation of the best so many of this round's actions and the last
elites. sigma stays above 1e-6. Softmax search hardly narrows, since its sigma is not weighted;
elites may settle on a corner, where clipped samples are equal. Critics are those of `cql.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dom2_fast.algos.cql import CQL, CQLConfig
from dom2_fast.algos.critics import pick
from dom2_fast.algos.settings import at_least, setting, within
from dom2_fast.data.sampler import Batch
from dom2_fast.errors import Dom2Error

SIGMA_FLOOR = 1e-6  # a round whose samples agree must not end the search


@dataclass
class OMARConfig(CQLConfig):
    """Every number of the method."""

    coe: float = setting(
        1.0,
        "c, weight of the searched action; 0: MA-CQL",
        "not tuned; OMAR's code on simple_spread; its paper: 0.5 to 0.9",
    )
    search_rounds: int = setting(3, "rounds of the search", "OMAR's code, particle tasks")
    search_samples: int = setting(
        10, "actions per round and observation", "OMAR's code, particle tasks; HalfCheetah: 20"
    )
    search_sigma: float = setting(2.0, "deviation of the first round", "OMAR's code")
    elites: int = setting(
        0, "best actions kept; 0: softmax weights instead", "OMAR's code; HalfCheetah: 5"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "search_sigma", "elites")
        at_least(self, 1, "search_rounds", "search_samples")
        within(self, 0, 1, "coe")
        if self.elites == 1 or self.elites > self.search_samples:
            raise Dom2Error(f"elites must be 0 or 2 to search_samples, not {self.elites}")


class OMAR(CQL):
    """Actors that imitate the best action found near them, on conservative critics."""

    name = "omar"
    config_class = OMARConfig

    def actor_loss(self, batch: Batch, act: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """c E (pi(o) - a^)^2 - (1 - c) E Q1(o, pi(o)), [G]."""
        c = self.config
        rated = act.detach(), q.detach()
        best, _ = search(lambda a: self.critics.rate(a, batch.obs), *rated, c, self.generator)
        if c.coe == 1.0:  # q's gradient, which costs a pass of the critics, counts nothing
            return (act - best).square().mean((1, 2))
        return c.coe * (act - best).square().mean((1, 2)) - (1 - c.coe) * q.mean(1)


@torch.no_grad()
def search(
    rate: Callable,
    act: torch.Tensor,
    q_act: torch.Tensor,
    c: OMARConfig,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best action found and its Q: [G, B, A] and [G, B].

    rate: Q of several actions per observation, [G, B, K, A] -> [G, B, K]. act: pi(o), [G, B, A].
    q_act: its Q, [G, B].
    """
    G, B, A = act.shape
    mu, sigma = torch.zeros_like(act), torch.full_like(act, c.search_sigma)
    kept, kept_q = act.new_empty(G, B, 0, A), act.new_empty(G, B, 0)
    for turn in range(c.search_rounds):
        noise = act.new_empty(G, B, c.search_samples, A).normal_(generator=generator)
        pool = (mu.unsqueeze(2) + sigma.unsqueeze(2) * noise).clamp(-1.0, 1.0)
        pool, q = torch.cat([pool, kept], 2), torch.cat([rate(pool), kept_q], 2)
        if turn == c.search_rounds - 1:  # nothing is drawn by its moments
            break
        if c.elites:
            kept_q, index = q.topk(c.elites, 2)
            kept = pick(pool, index)
            mu, sigma = kept.mean(2), kept.std(2)
        else:
            mu = (q.softmax(2).unsqueeze(-1) * pool).sum(2)
            sigma = (pool - mu.unsqueeze(2)).square().mean(2).sqrt()
        sigma = sigma.clamp(min=SIGMA_FLOOR)
    pool = torch.cat([pool, act.unsqueeze(2)], 2)
    q, index = torch.cat([q, q_act.unsqueeze(2)], 2).max(2, keepdim=True)
    return pick(pool, index).squeeze(2), q.squeeze(2)
