"""ITD3, MA-CQL and OMAR for one agent, written out straightforwardly in PyTorch.

The tests' yardstick, independent of `dom2_fast.algos` on purpose. Everything random is an argument.
"""

import copy
import math

import torch


class PlainOMAR:
    """One agent. actor, q1, q2: `plain_td3_bc.Net`s; c: the settings; kind: itd3, cql or omar."""

    def __init__(self, actor, q1, q2, c, kind):
        self.actor, self.q1, self.q2, self.c, self.kind = actor, q1, q2, c, kind
        self.actor_bar, self.q1_bar, self.q2_bar = map(copy.deepcopy, (actor, q1, q2))
        self.actor_adam = torch.optim.Adam(actor.parameters(), lr=c.lr)
        self.critic_adams = [torch.optim.Adam(q.parameters(), lr=c.critic_lr) for q in (q1, q2)]

    def rated(self, q, obs, acts):
        """[B, K] of acts [B, K, A]."""
        return torch.stack([q(obs, a).squeeze(1) for a in acts.unbind(1)], 1)

    def update(self, obs, act, reward, next_obs, uniform, noise, own_noise=()):
        """uniform: [B, M, A] in [-1, 1]; noise: N(0, 1), one [B, K, A] per round; own_noise: two
        [B, P, A] for the CQL term's actions by the policy at o and at o', or none."""
        c = self.c
        with torch.no_grad():
            next_act = self.actor_bar(next_obs)
            q = torch.min(self.q1_bar(next_obs, next_act), self.q2_bar(next_obs, next_act))
            y = reward + c.gamma * q.squeeze(1)
            drawn = [(uniform, uniform.new_full(uniform.shape[:2], -act.size(1) * math.log(2)))]
            for o, z in zip((obs, next_obs), own_noise, strict=False):
                normal = torch.distributions.Normal(0.0, c.cql_policy_noise)
                e = c.cql_policy_noise * z
                acts = (self.actor(o)[:, None] + e).clamp(-1, 1)
                drawn.append((acts, normal.log_prob(e).sum(2)))
        for q, adam in zip((self.q1, self.q2), self.critic_adams, strict=True):
            data = q(obs, act).squeeze(1)
            loss = ((data - y) ** 2).mean()
            if self.kind != "itd3":
                others = torch.cat([self.rated(q, obs, acts) - p for acts, p in drawn], 1)
                loss = loss + c.zeta * (torch.logsumexp(others, 1) - data).mean()
            self.step(loss, q, adam)
        own = self.actor(obs)
        value = self.q1(obs, own).mean()
        loss = -value
        if self.kind == "omar":
            best = self.search(obs, own.detach(), noise)
            loss = c.coe * ((own - best) ** 2).mean() - (1 - c.coe) * value
        loss = loss + c.action_penalty * (own**2).mean()
        self.step(loss, self.actor, self.actor_adam)
        nets = (self.actor, self.q1, self.q2)
        for bar, net in zip((self.actor_bar, self.q1_bar, self.q2_bar), nets, strict=True):
            for p, p_new in zip(bar.parameters(), net.parameters(), strict=True):
                p.data.mul_(1 - c.tau).add_(c.tau * p_new.data)
        return loss.item()

    def step(self, loss, net, adam):
        adam.zero_grad()
        loss.backward()
        if self.c.grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(net.parameters(), self.c.grad_clip)
        adam.step()

    @torch.no_grad()
    def search(self, obs, own, noise):
        mu, sigma = torch.zeros_like(own), torch.full_like(own, self.c.search_sigma)
        rows, kept, kept_q = torch.arange(len(own)), [], []
        for z in noise:
            acts = (mu[:, None] + sigma[:, None] * z).clamp(-1, 1)
            q = self.rated(self.q1, obs, acts)
            if self.c.elites:
                acts, q = torch.cat([acts, *kept], 1), torch.cat([q, *kept_q], 1)
                order = q.argsort(1, descending=True)[:, : self.c.elites]
                kept = [torch.stack([acts[rows, k] for k in order.T], 1)]
                kept_q = [torch.stack([q[rows, k] for k in order.T], 1)]
                mu, sigma = kept[0].mean(1), kept[0].std(1).clamp(min=1e-6)
            else:
                mu = (torch.softmax(q, 1)[..., None] * acts).sum(1)
                sigma = ((acts - mu[:, None]) ** 2).mean(1).sqrt()
        acts, q = torch.cat([acts, own[:, None]], 1), torch.cat([q, self.q1(obs, own)], 1)
        return acts[rows, q.argmax(1)]
