"""MA-CQL: ITD3 with conservative critics (Kumar et al. 2020, arXiv 2006.04779), as in OMAR's code.

    critic : sum_k E (Q_k(o, a) - y)^2 + zeta E [log sum_n exp(Q_k(o, u_n) + d log 2) - Q_k(o, a)]

with `cql_actions` uniform actions u_n in [-1, 1]^d, whose log density is -d log 2. y and the actor
are those of `itd3.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dom2_fast.algos.critics import uniform_actions
from dom2_fast.algos.itd3 import ITD3, ITD3Config
from dom2_fast.algos.settings import at_least, setting
from dom2_fast.data.sampler import Batch


@dataclass
class CQLConfig(ITD3Config):
    """Every number of the method."""

    zeta: float = setting(
        1.0, "weight of the CQL term", "not tuned; OMAR's code: 0.5 to 5 by data set"
    )
    cql_actions: int = setting(10, "uniform actions per observation in the CQL term", "OMAR's code")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "zeta")
        at_least(self, 1, "cql_actions")


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
        found = self.critics.conservative_loss(batch, y, uniform, c.zeta)
        return found.loss, {
            "loss/td": found.td,
            "loss/cql": found.cql,
            "q/data": found.q_data[:G],
            "q/uniform": found.q_proposed[:G],
        }
