"""Diffusion-QL for one agent, written out straightforwardly in PyTorch. The tests' yardstick.

Independent of `dom2_fast.algos` on purpose: own schedule, own sampler, own steps. Networks are
plain modules, net(x, t, obs) and q(act, obs); everything random is an argument.
"""

import copy
import math

import torch


class VP:
    """The discrete schedule and the posterior q(x_{k-1} | x_k, x_0), as lists of numbers."""

    def __init__(self, steps):
        self.steps = steps
        self.beta = [
            1 - math.exp(-0.1 / steps - 0.5 * (10.0 - 0.1) * (2 * i - 1) / steps**2)
            for i in range(1, steps + 1)
        ]
        self.bar = [math.prod(1 - b for b in self.beta[: k + 1]) for k in range(steps)]

    def sample(self, net, obs, x_T, z):
        """x_T [B, A]; z [steps, B, A], of the steps in the order in which they are taken."""
        x = x_T
        for number, k in enumerate(reversed(range(self.steps))):
            beta, bar = self.beta[k], self.bar[k]
            before = self.bar[k - 1] if k > 0 else 1.0
            eps = net(x, torch.full((len(x),), float(k), dtype=x.dtype), obs)
            x0 = (math.sqrt(1 / bar) * x - math.sqrt(1 / bar - 1) * eps).clamp(-1, 1)
            mean = beta * math.sqrt(before) / (1 - bar) * x0
            mean = mean + (1 - before) * math.sqrt(1 - beta) / (1 - bar) * x
            x = mean + math.sqrt(beta * (1 - before) / (1 - bar)) * z[number] if k > 0 else mean
        return x.clamp(-1, 1)

    def noised(self, act, k, eps):
        bar = torch.tensor([self.bar[int(i)] for i in k], dtype=act.dtype)[:, None]
        return bar.sqrt() * act + (1 - bar).sqrt() * eps


class PlainDiffusionQL:
    """One agent. net, q1, q2: modules; c: the settings by name."""

    def __init__(self, net, q1, q2, c):
        self.net, self.q1, self.q2, self.c, self.vp = net, q1, q2, c, VP(c.steps)
        self.net_bar, self.q1_bar, self.q2_bar = map(copy.deepcopy, (net, q1, q2))
        self.adam = torch.optim.Adam(net.parameters(), lr=c.lr)
        self.q_adam = torch.optim.Adam([*q1.parameters(), *q2.parameters()], lr=c.critic_lr)
        self.count = 0

    def update(self, obs, act, reward, next_obs, d):
        """d: the draws by name; x_next, x_now [B, A] and z_next, z_now, k [B], eps, coin."""
        c = self.c
        with torch.no_grad():
            next_act = self.vp.sample(self.net_bar, next_obs, d["x_next"], d["z_next"])
            q = torch.min(self.q1_bar(next_act, next_obs), self.q2_bar(next_act, next_obs))
            y = reward + c.gamma * q.squeeze(1)
        td = [((q(act, obs).squeeze(1) - y) ** 2).mean() for q in (self.q1, self.q2)]
        self.q_adam.zero_grad()
        (td[0] + td[1]).backward()
        for q in (self.q1, self.q2):
            torch.nn.utils.clip_grad_norm_(q.parameters(), c.grad_clip)
        self.q_adam.step()

        out = self.net(self.vp.noised(act, d["k"], d["eps"]), d["k"], obs)
        bc = ((out - d["eps"]) ** 2).mean()
        own = self.vp.sample(self.net, obs, d["x_now"], d["z_now"])
        q1, q2 = self.q1(own, obs), self.q2(own, obs)
        if d["coin"] > 0.5:
            q_loss = -q1.mean() / q2.abs().mean().detach()
        else:
            q_loss = -q2.mean() / q1.abs().mean().detach()
        loss = bc + c.eta * q_loss
        self.adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), c.grad_clip)
        self.adam.step()

        if self.count >= c.ema_start and self.count % c.ema_every == 0:
            follow(self.net_bar, self.net, c.ema_rate)
        follow(self.q1_bar, self.q1, c.tau)
        follow(self.q2_bar, self.q2, c.tau)
        self.count += 1
        return {
            "loss/td": (td[0] + td[1]).item() / 2,
            "q/target": y.mean().item(),
            "loss/bc": bc.item(),
            "loss/actor": loss.item(),
            "q/policy": (q1.mean() + q2.mean()).item() / 2,
        }


def follow(bar, net, rate):
    for p, q in zip(bar.parameters(), net.parameters(), strict=True):
        p.data.mul_(1 - rate).add_(rate * q.data)
