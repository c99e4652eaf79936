"""Deterministic behaviour cloning: each agent's actor is fitted to the logged actions.

    actor: E (pi(o) - a)^2

The baseline that shows what the diffusion policy adds over a single action per observation. The
actor ends in a tanh, as in TD3; the mean is over rows and action components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dom2_fast.algos.actors import ActorAgents
from dom2_fast.algos.settings import ActorConfig
from dom2_fast.algos.updates import means


@dataclass
class DeterministicBCConfig(ActorConfig):
    """Settings of deterministic BC; the same fields and defaults as TD3+BC's actor."""


class DeterministicBC(ActorAgents):
    """One deterministic actor per agent, fitted to the agent's own (weighted) transitions."""

    name = "bc_det"
    config_class = DeterministicBCConfig
    metric_names: ClassVar = {"loss/bc": "squared error of the actions"}
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
