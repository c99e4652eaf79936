"""One TD3+BC update in PyTorch alone, as one would write it: all agents at once, Adam fused.

`TorchTD3BC`'s networks are `peer_torch.PerAgent` (`eager`) or `peer_torch.Batched` (`batched`).
`LoopTD3BC` (`loop`) is one agent after the other as single-agent code is written (the authors' and
CORL's): Adam as it comes, Polyak averages in a Python loop. The smoothing noise is an argument of
`step`, so that its results can be compared; `update` draws and steps.
"""

import copy

import torch
from peer_torch import PerAgent, Rows, per_agent
from torch import nn


class TorchTD3BC:
    """See dom2_fast.algos.td3_bc for the losses; `agent` is the one whose settings and data serve.

    make: builds a network of a StackedModule: peer_torch.per_agent or peer_torch.batched.
    """

    def __init__(self, agent, make):
        self.c, self.G, self.count = agent.config, agent.num_agents, 0
        self.net, self.critic = make(agent.learner), make(agent.critics.net)
        self.target_net = copy.deepcopy(self.net).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.q1 = self.critic.first(self.G)
        self.actor_optimiser = torch.optim.Adam(self.net.parameters(), self.c.lr, fused=True)
        self.critic_optimiser = torch.optim.Adam(
            self.critic.parameters(), self.c.critic_lr, fused=True
        )
        self.rows = Rows(agent)
        for name in ("obs", "next_obs"):  # once, as the authors' code does
            net = agent.net.template
            self.rows.data[name] = (self.rows.data[name] - net.mean[:, None]) / net.sd[:, None]

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


class LoopTD3BC:
    """The same for one agent after the other."""

    def __init__(self, agent):
        self.c, self.count, self.rows = agent.config, 0, TorchTD3BC(agent, per_agent).rows
        nets, critics = agent.learner.unstack(), agent.critics.net.unstack()
        self.agents = []
        for j, actor in enumerate(nets):
            learnt = actor, critics[j], critics[len(nets) + j]
            targets = [copy.deepcopy(m).requires_grad_(False) for m in learnt]
            actor_adam = torch.optim.Adam(actor.parameters(), self.c.lr)
            critic_adam = torch.optim.Adam(
                [*learnt[1].parameters(), *learnt[2].parameters()], self.c.critic_lr
            )
            self.agents.append((learnt, targets, actor_adam, critic_adam))
        self.net = PerAgent(nets)

    def step(self, obs, act, reward, next_obs, noise):
        self.count += 1
        found = [
            self.one(*agent, *rows)
            for agent, *rows in zip(self.agents, obs, act, reward, next_obs, noise, strict=True)
        ]
        return {k: torch.stack([f[k] for f in found]).mean() for k in found[0]}

    def one(self, learnt, targets, actor_adam, critic_adam, obs, act, reward, next_obs, noise):
        c, (actor, q1, q2), (actor_bar, q1_bar, q2_bar) = self.c, learnt, targets
        with torch.no_grad():
            smoothing = (noise * c.policy_noise).clamp(-c.noise_clip, c.noise_clip)
            next_act = (actor_bar(next_obs) + smoothing).clamp(-1, 1)
            q = torch.min(q1_bar(next_act, next_obs), q2_bar(next_act, next_obs)).squeeze(1)
            y = (reward + c.gamma * q).unsqueeze(1)
        td1, td2 = (nn.functional.mse_loss(q(act, obs), y) for q in (q1, q2))
        critic_adam.zero_grad()
        (td1 + td2).backward()
        critic_adam.step()
        losses = {"loss/td": (td1 + td2).detach() / 2}
        if self.count % c.actor_every:
            return losses
        own = actor(obs)
        q = q1(own, obs)
        bc = nn.functional.mse_loss(own, act)
        loss = bc - c.alpha / q.abs().mean().detach() * q.mean()
        actor_adam.zero_grad()
        loss.backward()
        actor_adam.step()
        for target, source in zip(targets, learnt, strict=True):
            for p, new in zip(target.parameters(), source.parameters(), strict=True):
                p.data.copy_(c.tau * new.data + (1 - c.tau) * p.data)
        return losses | {"loss/bc": bc.detach(), "loss/actor": loss.detach()}

    def update(self):
        obs, act, reward, next_obs = self.rows.draw()
        return self.step(obs, act, reward, next_obs, torch.randn_like(act))
