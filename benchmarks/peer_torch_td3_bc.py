"""One TD3+BC update in PyTorch alone, as one would write it: all agents at once, Adam fused.

The networks are `peer_torch.PerAgent` (`eager`) or `peer_torch.Batched` (`batched`). The smoothing
noise is an argument of `step`, so that its results can be compared; `update` draws and steps.
"""

import copy

import torch
from peer_torch import Rows
from torch import nn


class TorchTD3BC:
    """See dom2_fast.algos.td3_bc for the losses; `agent` is the one whose settings and data serve.

    make: builds a network of a StackedModule: peer_torch.per_agent or peer_torch.batched.
    """

    def __init__(self, agent, make):
        self.c, self.G, self.count = agent.config, agent.num_agents, 0
        self.net, self.critic = make(agent.net), make(agent.critics.net)
        self.target_net = copy.deepcopy(self.net).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.q1 = self.critic.first(self.G)
        self.actor_optimiser = torch.optim.Adam(self.net.parameters(), self.c.lr, fused=True)
        self.critic_optimiser = torch.optim.Adam(
            self.critic.parameters(), self.c.critic_lr, fused=True
        )
        self.rows = Rows(agent)

    def step(self, obs, act, reward, next_obs, noise):
        """One update; gives the losses. noise: N(0, 1) like act."""
        c = self.c
        with torch.no_grad():
            smoothing = (noise * c.policy_noise).clamp(-c.noise_clip, c.noise_clip)
            next_act = (self.target_net(next_obs) + smoothing).clamp(-1, 1)
            both = torch.cat([next_act, next_act]), torch.cat([next_obs, next_obs])
            q = torch.minimum(*self.target_critic(*both).squeeze(-1).chunk(2))
            y = reward + c.gamma * q
        q = self.critic(torch.cat([act, act]), torch.cat([obs, obs])).squeeze(-1)
        td = (q - torch.cat([y, y])).square().mean(1)  # [2 G]
        self.critic_optimiser.zero_grad(set_to_none=True)
        td.sum().backward()
        self.critic_optimiser.step()
        self.count += 1
        losses = {"loss/td": td.detach().mean()}
        if self.count % c.actor_every:
            return losses
        own = self.net(obs)
        q = self.q1(own, obs).squeeze(-1)  # [G, B]
        scale = c.alpha / q.detach().abs().mean(1)
        bc = nn.functional.mse_loss(own, act, reduction="none").mean((1, 2))
        loss = bc - scale * q.mean(1)
        self.actor_optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        self.actor_optimiser.step()
        with torch.no_grad():
            for target, source in (
                (self.target_critic, self.critic),
                (self.target_net, self.net),
            ):
                torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), c.tau)
        return losses | {"loss/bc": bc.detach().mean(), "loss/actor": loss.detach().mean()}

    def update(self):
        obs, act, reward, next_obs = self.rows.draw()
        return self.step(obs, act, reward, next_obs, torch.randn_like(act))
