"""TD3+BC and deterministic BC for one agent, written out straightforwardly in PyTorch.

The tests' yardstick, independent of `dom2_fast.algos` on purpose: own networks, own formulas, own
steps. Everything random is an argument.
"""

import copy
import itertools

import torch
from torch import nn


class Net(nn.Module):
    """An MLP over [standardised obs] or [act, standardised obs], with or without tanh."""

    def __init__(self, sizes, mean, sd, tanh):
        super().__init__()
        layers = []
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.mean, self.sd, self.tanh = mean, sd, tanh

    def forward(self, obs, act=None):
        obs = (obs - self.mean) / self.sd
        out = self.layers(obs if act is None else torch.cat([act, obs], 1))
        return torch.tanh(out) if self.tanh else out


class PlainTD3BC:
    """One agent. actor, q1, q2: `Net`s; c: the settings by name."""

    def __init__(self, actor, q1, q2, c):
        self.actor, self.q1, self.q2, self.c = actor, q1, q2, c
        self.actor_bar, self.q1_bar, self.q2_bar = map(copy.deepcopy, (actor, q1, q2))
        self.actor_adam = torch.optim.Adam(actor.parameters(), lr=c.lr)
        self.critic_adam = torch.optim.Adam([*q1.parameters(), *q2.parameters()], lr=c.critic_lr)
        self.count = 0

    def update(self, obs, act, reward, next_obs, noise):
        """noise: N(0, 1) like act."""
        c = self.c
        with torch.no_grad():
            smoothing = (noise * c.policy_noise).clamp(-c.noise_clip, c.noise_clip)
            next_act = (self.actor_bar(next_obs) + smoothing).clamp(-1, 1)
            q = torch.min(self.q1_bar(next_obs, next_act), self.q2_bar(next_obs, next_act))
            y = reward + c.gamma * q.squeeze(1)
        td = [((q(obs, act).squeeze(1) - y) ** 2).mean() for q in (self.q1, self.q2)]
        self.critic_adam.zero_grad()
        (td[0] + td[1]).backward()
        self.critic_adam.step()
        self.count += 1
        losses = {"loss/td": (td[0] + td[1]).item() / 2, "q/target": y.mean().item()}
        if self.count % c.actor_every == 0:
            own = self.actor(obs)
            q = self.q1(obs, own)
            scale = c.alpha / q.abs().mean().detach()
            bc = nn.functional.mse_loss(own, act)
            loss = bc - scale * q.mean()
            self.actor_adam.zero_grad()
            loss.backward()
            self.actor_adam.step()
            for bar, net in (
                (self.actor_bar, self.actor),
                (self.q1_bar, self.q1),
                (self.q2_bar, self.q2),
            ):
                for p, q_ in zip(bar.parameters(), net.parameters(), strict=True):
                    p.data.mul_(1 - c.tau).add_(c.tau * q_.data)
            losses |= {"loss/bc": bc.item(), "loss/actor": loss.item(), "q/policy": q.mean().item()}
        return losses


class PlainBC:
    """One agent: E (pi(o) - a)^2."""

    def __init__(self, actor, c):
        self.actor = actor
        self.adam = torch.optim.Adam(actor.parameters(), lr=c.lr)

    def update(self, obs, act):
        loss = nn.functional.mse_loss(self.actor(obs), act)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return {"loss/bc": loss.item()}
