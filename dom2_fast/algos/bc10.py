"""Filtered behaviour cloning, %BC: diffusion BC on the best tenth of the trajectories.

The same policy, loss and update as `bc.py`; only the default of `weights` differs. It shows what
choosing good episodes explains by itself. Chen et al. 2021 (Decision Transformer, arXiv 2106.01345)
call it "10 % BC". Each agent chooses by its own returns; any other BC is filtered by the same
weights (`--reweight top_k:0.1`).
"""

from __future__ import annotations

from dataclasses import dataclass

from dom2_fast.algos.bc import BC, BCConfig
from dom2_fast.algos.settings import WEIGHTS
from dom2_fast.config import setting


@dataclass
class FilteredBCConfig(BCConfig):
    """Settings of filtered BC; as diffusion BC's but for `weights`."""

    weights: str = setting(
        "top_k:0.1",
        WEIGHTS,
        "10 % BC of the Decision Transformer paper",
    )


class FilteredBC(BC):
    """One diffusion policy per agent, fitted to the agent's best trajectories."""

    name = "bc10"
    config_class = FilteredBCConfig
