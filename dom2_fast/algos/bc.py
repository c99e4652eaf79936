"""Diffusion behaviour cloning: DOM2's policy and actor update without critics (eta = 0).

The baseline that shows what the critics add; it can use every reweighting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dom2_fast.algos.offline import DiffusionAgents
from dom2_fast.algos.settings import PolicyConfig
from dom2_fast.algos.updates import polyak


@dataclass
class BCConfig(PolicyConfig):
    """Settings of diffusion BC; the same fields and defaults as DOM2's policy."""


class BC(DiffusionAgents):
    """One diffusion policy per agent, fitted to the agent's own (weighted) transitions."""

    name = "bc"
    config_class = BCConfig

    def update(self) -> dict[str, torch.Tensor]:
        batch = self._draw()
        with self.stage("actor"):
            bc = self._actor_step(batch)
        with self.stage("target"):
            polyak(self.target_net, self.net, self.config.tau)
        self.step += 1
        return {"loss/bc": bc.mean()}
