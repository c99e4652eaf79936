"""What the diffusion-policy algorithms share: the stacked policy, its target, its optimiser.

The learning rules are in `dom2.py`, `bc.py`, `diffusion_ql.py` and `sfbc.py`.
"""

from __future__ import annotations

from functools import cached_property

from torch import nn

from dom2_fast import networks
from dom2_fast.algos.acting import Policies
from dom2_fast.algos.offline import OfflineAgents
from dom2_fast.algos.settings import DiffusionSettings
from dom2_fast.algos.updates import adam, frozen_copy, frozen_view
from dom2_fast.policies import schedules
from dom2_fast.policies.diffusion import DiffusionPolicy


class DiffusionAgents(OfflineAgents):
    """One diffusion policy per agent. Subclasses define `update`.

    `net` learns and `target_net` follows it; `policy` and `target_policy` sample from them.
    """

    def _build(self) -> None:
        c = self.config
        self.net = noise_nets(c, **self.sizes).to(self.device)
        self.target_net = frozen_copy(self.net)
        self.policy = self.make_policy(c, self.net)
        self.target_policy = self.make_policy(c, self.target_net)
        self.actor_optimiser = adam(self.net, c.lr)

    @staticmethod
    def make_policy(c: DiffusionSettings, net: nn.Module) -> DiffusionPolicy:
        """The policy that samples from these networks as the settings say."""
        return DiffusionPolicy(
            net,
            schedule=schedules.get(c.schedule, c.steps),
            solver=c.solver,
            steps=c.steps,
            backend=c.backend,
            clip_x0=c.clip_x0,
            precision=c.precision,
        )

    @cached_property
    def acting_policy(self) -> DiffusionPolicy:
        if self.config.act_with_target:
            return self.target_policy
        # The learning net's own parameters, without its dropout.
        return self.make_policy(self.config, frozen_view(self.net, self.num_agents).eval())

    @classmethod
    def _acting(cls, config, sizes, parts) -> Policies:
        net = noise_nets(config, **sizes).requires_grad_(False).eval()
        net.load_state_dict(parts["target_net" if config.act_with_target else "net"])
        return Policies(cls.make_policy(config, net))

    def learnt(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def _parts(self) -> dict:
        return {
            "net": self.net,
            "target_net": self.target_net,
            "actor_optimiser": self.actor_optimiser,
            **super()._parts(),
        }


def noise_nets(
    c: DiffusionSettings, obs_dim: int, act_dim: int, agents: int
) -> networks.StackedModule:
    """The noise networks of all agents, newly initialised."""

    def make():
        if c.network == "unet":
            return networks.UNetNoiseNet(obs_dim, act_dim)
        sizes = {"hidden": c.hidden, "depth": c.depth, "time_scale": c.time_scale}
        return networks.MLPNoiseNet(obs_dim, act_dim, **sizes)

    return networks.stack([make() for _ in range(agents)])
