"""Gaussian BC, IQL and ICQ for one agent, written out straightforwardly in PyTorch.

The tests' yardstick, independent of `dom2_fast.algos` on purpose. c: the settings by name; mean, v,
q, q1, q2: `plain_td3_bc.Net`s; scale: what rewards are multiplied by.
"""

import copy
import math

import torch
from torch import nn


class Gaussian(nn.Module):
    """N(mean(obs), exp(log_std)^2)."""

    def __init__(self, mean, log_std):
        super().__init__()
        self.mean, self.log_std = mean, nn.Parameter(log_std.clone())

    def log_prob(self, obs, act):
        sd = torch.exp(torch.clamp(self.log_std, -5, 2))
        return torch.distributions.Normal(self.mean(obs), sd).log_prob(act).sum(1)


def step(loss, adam):
    adam.zero_grad()
    loss.backward()
    adam.step()


def follow(bar, net, tau):
    for p, q in zip(bar.parameters(), net.parameters(), strict=True):
        p.data.mul_(1 - tau).add_(tau * q.data)


class PlainGaussianBC:
    def __init__(self, actor, c):
        self.actor, self.adam = actor, torch.optim.Adam(actor.parameters(), lr=c.lr)
        self.nets = {"net": [actor]}

    def update(self, obs, act, *_):
        loss = -self.actor.log_prob(obs, act).mean()
        step(loss, self.adam)
        return {"loss/bc": loss.item()}


class PlainIQL:
    def __init__(self, actor, q1, q2, v, c, scale):
        self.actor, self.q1, self.q2, self.v, self.c, self.scale = actor, q1, q2, v, c, scale
        self.q1_bar, self.q2_bar = copy.deepcopy(q1), copy.deepcopy(q2)
        self.actor_adam = torch.optim.Adam(actor.parameters(), lr=c.lr)
        self.v_adam = torch.optim.Adam(v.parameters(), lr=c.value_lr)
        self.q_adam = torch.optim.Adam([*q1.parameters(), *q2.parameters()], lr=c.critic_lr)
        self.nets = {"net": [actor], "value": [v], "critic": [q1, q2]}
        self.nets["target_critic"] = [self.q1_bar, self.q2_bar]
        self.count = 0

    def update(self, obs, act, reward, next_obs, done, _):
        c = self.c
        with torch.no_grad():
            q = torch.min(self.q1_bar(obs, act), self.q2_bar(obs, act)).squeeze(1)
        u = q - self.v(obs).squeeze(1)
        value_loss = torch.where(u > 0, c.expectile * u**2, (1 - c.expectile) * u**2).mean()
        step(value_loss, self.v_adam)
        with torch.no_grad():
            advantage = q - self.v(obs).squeeze(1)
            weight = torch.clamp(torch.exp(c.temperature * advantage), max=c.weight_clip)
            keep = 1 - done if c.mask_done else 1
            y = self.scale * reward + c.gamma * keep * self.v(next_obs).squeeze(1)
        actor_loss = -(weight * self.actor.log_prob(obs, act)).mean()
        if c.decay_steps:
            share = min(self.count, c.decay_steps) / c.decay_steps
            self.actor_adam.param_groups[0]["lr"] = c.lr * (1 + math.cos(math.pi * share)) / 2
        step(actor_loss, self.actor_adam)
        td = [((q(obs, act).squeeze(1) - y) ** 2).mean() for q in (self.q1, self.q2)]
        step(td[0] + td[1], self.q_adam)
        follow(self.q1_bar, self.q1, c.tau)
        follow(self.q2_bar, self.q2, c.tau)
        self.count += 1
        return {
            "loss/td": (td[0] + td[1]).item() / 2,
            "loss/value": value_loss.item(),
            "loss/actor": actor_loss.item(),
            "q/advantage": advantage.mean().item(),
            "q/target": y.mean().item(),
        }


class PlainICQ:
    def __init__(self, actor, q, c):
        self.actor, self.q, self.c, self.q_bar = actor, q, c, copy.deepcopy(q)
        decay = {"weight_decay": c.weight_decay}
        self.actor_adam = torch.optim.Adam(actor.parameters(), lr=c.lr, **decay)
        self.q_adam = torch.optim.Adam(q.parameters(), lr=c.critic_lr)
        self.nets = {"net": [actor], "critic": [q], "target_critic": [self.q_bar]}

    def update(self, obs, act, reward, next_obs, done, next_act):
        c, n = self.c, len(obs)
        gamma = c.gamma * (1 - done) if c.mask_done else c.gamma
        with torch.no_grad():
            q_next = self.q_bar(next_obs, next_act).squeeze(1)
            w = (n / c.alpha * torch.softmax(q_next / c.beta, 0)).clamp(0, 1)
            y = reward + gamma * w * q_next
        td = ((self.q(obs, act).squeeze(1) - y) ** 2).mean()
        step(td, self.q_adam)
        with torch.no_grad():
            advantage = reward + gamma * self.q(next_obs, next_act).squeeze(1)
            advantage = advantage - self.q(obs, act).squeeze(1)
            w = n * torch.softmax(advantage / c.beta, 0)
        loss = -(w * self.actor.log_prob(obs, act)).mean()
        step(loss, self.actor_adam)
        follow(self.q_bar, self.q, c.tau)
        return {
            "loss/td": td.item(),
            "loss/actor": loss.item(),
            "q/advantage": advantage.mean().item(),
            "q/target": y.mean().item(),
        }
