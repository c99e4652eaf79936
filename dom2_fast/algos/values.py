"""State values of every agent, V(o), for algorithms that learn some beside their critics."""

from __future__ import annotations

import torch

from dom2_fast import lowering, networks
from dom2_fast.algos.settings import CriticSettings
from dom2_fast.algos.updates import adam, descend
from dom2_fast.lowering.fused import Programs
from dom2_fast.ops.executor import executor


class Values:
    """One V for each of G agents, learnt side by side; run on the kernels where it can be lowered.

    Args:
        net: the stack, see `value_nets`, on its device.
        config: an algorithm's settings, `value_lr` among them.
    """

    def __init__(self, net: networks.StackedModule, config):
        self.config, self.net = config, net
        self.optimiser = adam(net, config.value_lr)
        self._programs = Programs(net, config.backend, obs_dim=net.obs_dim)

    def __call__(self, obs: torch.Tensor) -> torch.Tensor:
        """V(o) of obs [G, B, O]: [G, B]; differentiable in the parameters."""
        low = self._programs.get("act")
        if low is None:
            return self.net(obs).squeeze(-1)
        weights, table = low.hoist(lowering.grouped_params(self.net), None, obs)
        run, x = executor(self.config.backend, obs), obs.new_empty(*obs.shape[:2], 0)
        how = {"precision": self.config.precision}
        return run.run_program(x, obs, weights, table, low.program, **how).squeeze(-1)

    def descend(self, loss: torch.Tensor, grad_clip: float) -> None:
        """One step of Adam down the losses [G], each agent's gradient clipped on its own."""
        descend(loss, self.optimiser, grad_clip)

    def parts(self) -> dict:
        """What has a state, by its name in a checkpoint."""
        return {"value": self.net, "value_optimiser": self.optimiser}


def value_nets(c: CriticSettings, obs_dim: int, agents: int) -> networks.StackedModule:
    """The V of all agents, newly initialised, of the critics' width and depth."""
    sizes = {"hidden": c.critic_hidden, "depth": c.critic_depth}
    return networks.stack(networks.MLPValue(obs_dim, **sizes) for _ in range(agents))


def expectile_loss(difference: torch.Tensor, tau: float) -> torch.Tensor:
    """E |tau - 1(u < 0)| u^2 of u [G, B]: [G] (Kostrikov et al. 2022, eq. 5); tau in (0, 1)."""
    weight = torch.where(difference < 0.0, 1.0 - tau, tau)
    return (weight * difference.square()).mean(1)
