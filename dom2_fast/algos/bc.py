"""Diffusion behaviour cloning: DOM2's policy and actor update without critics (eta = 0).

    policy: E || eps - eps_theta(alpha_t a + sigma_t eps, o, t) ||^2
    target: its Polyak average, which acts

The baseline that shows what the critics add; it can use every reweighting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dom2_fast.algos.diffusion_agents import DiffusionAgents
from dom2_fast.algos.settings import DiffusionConfig
from dom2_fast.algos.updates import means, polyak


@dataclass
class BCConfig(DiffusionConfig):
    """Settings of diffusion BC; the same fields and defaults as DOM2's policy."""


class BC(DiffusionAgents):
    """One diffusion policy per agent, fitted to the agent's own (weighted) transitions."""

    name = "bc"
    config_class = BCConfig
    metric_names: ClassVar = {"loss/bc": "denoising loss"}
    stages = ("sample", "actor", "target")
    advice = "lower lr, or clip more (grad_clip)"

    def update(self) -> dict[str, torch.Tensor]:
        """One update of all agents: the policy, then its target."""
        batch = self._draw()
        with self.stage("actor"):
            bc = self.bc_loss(batch)
            self.descend(bc)
        with self.stage("target"):
            polyak(self.target_net, self.net, self.config.tau)
        self.step += 1
        return means({"loss/bc": bc})
