"""ITD3, MA-CQL and OMAR with OMAR's own networks, for one agent, in PyTorch's own modules.

The tests' yardstick: nn.BatchNorm1d in training mode on every network's input, as in OMAR's code,
and one twin critic with one normalisation. Everything random is an argument.
"""

import copy
import math

import torch
from torch import nn


def mlp(linears):
    """Linear layers with ReLU between them."""
    layers = [m for linear in linears for m in (linear, nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Actor(nn.Module):
    def __init__(self, linears):
        super().__init__()
        self.norm, self.layers = nn.BatchNorm1d(linears[0].in_features), mlp(linears)

    def forward(self, obs):
        return torch.tanh(self.layers(self.norm(obs)))


class Twin(nn.Module):
    def __init__(self, linears1, linears2):
        super().__init__()
        self.norm = nn.BatchNorm1d(linears1[0].in_features)
        self.one, self.two = mlp(linears1), mlp(linears2)

    def forward(self, obs, act):
        """Both values of act [B, A], or of act [B, K, A] in one pass: [B] or [B, K] each."""
        many = obs if act.dim() == 2 else obs.repeat_interleave(act.size(1), 0)
        x = self.norm(torch.cat([act.reshape(-1, act.size(-1)), many], 1))
        return self.one(x).view(act.shape[:-1]), self.two(x).view(act.shape[:-1])


class PlainFaithful:
    """One agent; c: the settings, kind: itd3, cql or omar."""

    def __init__(self, actor, critic, c, kind):
        self.actor, self.critic, self.c, self.kind = actor, critic, c, kind
        self.actor_bar, self.critic_bar = copy.deepcopy(actor), copy.deepcopy(critic)
        self.adams = {
            actor: torch.optim.Adam(actor.parameters(), lr=c.lr),
            critic: torch.optim.Adam(critic.parameters(), lr=c.critic_lr),
        }

    def update(self, obs, act, reward, next_obs, uniform, noise, own_noise=()):
        """Arguments as of PlainOMAR.update."""
        c = self.c
        with torch.no_grad():
            next_act = self.actor_bar(next_obs)
            y = reward + c.gamma * torch.min(*self.critic_bar(next_obs, next_act))
        data = self.critic(obs, act)
        loss = sum(((q - y) ** 2).mean() for q in data)
        if self.kind != "itd3":
            terms = [[], []]
            flat = uniform.new_full(uniform.shape[:2], -act.size(1) * math.log(2))
            for acts, log_density in [(uniform, flat), *self.own(obs, next_obs, own_noise)]:
                for found, q in zip(terms, self.critic(obs, acts), strict=True):
                    found.append(q - log_density)
            for found, q in zip(terms, data, strict=True):
                loss = loss + c.zeta * (torch.logsumexp(torch.cat(found, 1), 1) - q).mean()
        self.step(loss, self.critic)
        own = self.moments_kept(obs)
        value = self.critic(obs, own)[0]
        loss = -value.mean()
        if self.kind == "omar":
            best = self.search(obs, own.detach(), value.detach(), noise)
            loss = c.coe * ((own - best) ** 2).mean() - (1 - c.coe) * value.mean()
        loss = loss + c.action_penalty * (own**2).mean()
        self.step(loss, self.actor)
        pairs = (self.actor_bar, self.actor), (self.critic_bar, self.critic)
        for bar, net in pairs:
            for p, q in zip(bar.parameters(), net.parameters(), strict=True):
                p.data.mul_(1 - c.tau).add_(c.tau * q.data)
        return loss.item()

    def moments_kept(self, obs):
        """pi(o); this call alone moves the running moments."""
        self.actor.norm.momentum = 0.1
        act = self.actor(obs)
        self.actor.norm.momentum = 0.0
        return act

    @torch.no_grad()
    def own(self, obs, next_obs, own_noise):
        self.actor.norm.momentum = 0.0
        for o, z in zip((obs, next_obs), own_noise, strict=False):
            e = self.c.cql_policy_noise * z
            normal = torch.distributions.Normal(0.0, self.c.cql_policy_noise)
            yield (self.actor(o)[:, None] + e).clamp(-1, 1), normal.log_prob(e).sum(2)

    def step(self, loss, net):
        self.adams[net].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), self.c.grad_clip)
        self.adams[net].step()

    @torch.no_grad()
    def search(self, obs, own, value, noise):
        mu, sigma = torch.zeros_like(own), torch.full_like(own, self.c.search_sigma)
        rows, kept, kept_q = torch.arange(len(own)), [], []
        for z in noise:
            acts = (mu[:, None] + sigma[:, None] * z).clamp(-1, 1)
            q = self.critic(obs, acts)[0]
            if self.c.elites:
                acts, q = torch.cat([acts, *kept], 1), torch.cat([q, *kept_q], 1)
                order = q.argsort(1, descending=True)[:, : self.c.elites]
                kept = [torch.stack([acts[rows, k] for k in order.T], 1)]
                kept_q = [torch.stack([q[rows, k] for k in order.T], 1)]
                mu, sigma = kept[0].mean(1), kept[0].std(1).clamp(min=1e-6)
            else:
                mu = (torch.softmax(q, 1)[..., None] * acts).sum(1)
                sigma = ((acts - mu[:, None]) ** 2).mean(1).sqrt()
        acts, q = torch.cat([acts, own[:, None]], 1), torch.cat([q, value[:, None]], 1)
        return acts[rows, q.argmax(1)]
