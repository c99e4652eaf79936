"""Gaussian behaviour cloning: each agent's actor is the normal distribution of the logged actions.

    actor: -E log N(a; mu(o), diag(sigma^2))

IQL's actor with weight 1 (Kostrikov et al. 2022). Acting by the mean it is deterministic BC with
learnt deviations; acting by samples (`act_by`) it is what a diffusion policy compares with, which
samples, too. The log density is summed over action components, the mean is over rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dom2_fast.algos.gaussian_agents import GaussianAgents
from dom2_fast.algos.settings import GaussianConfig
from dom2_fast.algos.updates import means


@dataclass
class GaussianBCConfig(GaussianConfig):
    """Settings of Gaussian BC; the same fields and defaults as IQL's actor."""


class GaussianBC(GaussianAgents):
    """One Gaussian actor per agent, fitted to the agent's own (weighted) transitions."""

    name = "bc_gauss"
    config_class = GaussianBCConfig
    metric_names: ClassVar = {"loss/bc": "-log likelihood of the actions"}
    stages = ("sample", "actor")
    advice = "lower lr, or clip more (grad_clip)"

    def update(self) -> dict[str, torch.Tensor]:
        """One update of all agents."""
        batch = self._draw()
        with self.stage("actor"):
            bc = self.bc_loss(batch)
            self.descend(bc)
        self.step += 1
        return means({"loss/bc": bc})
