"""Updates of the diffusion baselines in PyTorch alone, one agent after the other.

As `peer_torch_baselines.py`: diffusion BC, SfBC and Diffusion-QL as their authors write them, the
chain a Python loop over the steps with the network called in each.
"""

import torch
from peer_torch_baselines import Loop, One, frozen
from torch import nn


class LoopDiffusionBC(Loop):
    """Diffusion BC."""

    def __init__(self, agent):
        super().__init__(agent)
        schedule = agent.policy.schedule
        self.agents = [OneDiffusionBC(self.c, net, schedule) for net in self.own("net", agent.net)]
        self.schedule = schedule

    def noise(self, act):
        """t and eps of the denoising loss."""
        return [self.schedule.training_times(act.shape[:2]), torch.randn_like(act)]


class Denoiser(One):
    def __init__(self, c, net, schedule):
        super().__init__(c)
        self.net, self.net_bar, self.schedule = net, frozen(net), schedule
        self.adam = torch.optim.Adam(net.parameters(), c.lr)

    def denoising_loss(self, obs, act, t, eps):
        alpha, sigma = (v.unsqueeze(1) for v in self.schedule.alpha_sigma(t))
        return nn.functional.mse_loss(self.net(alpha * act + sigma * eps, t, obs), eps)


class OneDiffusionBC(Denoiser):
    def update(self, obs, act, reward, next_obs, t, eps):
        loss = self.denoising_loss(obs, act, t, eps)
        self.step(loss, self.adam, self.net)
        self.follow((self.net_bar, self.net))
        return {"loss/bc": loss.detach()}


class LoopSfBC(LoopDiffusionBC):
    """SfBC's update between planning passes; `step` takes the rows' targets after the fields."""

    def __init__(self, agent):
        Loop.__init__(self, agent, extra={"target": agent.returns.targets})
        self.schedule = agent.policy.schedule
        nets, critics = self.own("net", agent.net), self.own("critic", agent.critic)
        self.agents = [
            OneSfBC(self.c, net, self.schedule, q) for net, q in zip(nets, critics, strict=True)
        ]


class OneSfBC(Denoiser):
    def __init__(self, c, net, schedule, q):
        super().__init__(c, net, schedule)
        self.q, self.q_adam = q, torch.optim.Adam(q.parameters(), c.critic_lr)

    def update(self, obs, act, reward, next_obs, target, t, eps):
        critic = nn.functional.mse_loss(self.q(act, obs).squeeze(1), target)
        self.step(critic, self.q_adam, self.q)
        loss = self.denoising_loss(obs, act, t, eps)
        self.step(loss, self.adam, self.net)
        self.follow((self.net_bar, self.net))
        return {"loss/bc": loss.detach(), "loss/critic": critic.detach()}


class LoopDiffusionQL(LoopDiffusionBC):
    """Diffusion-QL, with its own schedule and sampler."""

    def __init__(self, agent):
        Loop.__init__(self, agent)
        self.schedule = agent.policy.schedule
        nets, critics = self.own("net", agent.net), self.own("critic", agent.critics.net)
        reward = agent.critics.reward
        self.agents = [
            OneDiffusionQL(
                self.c,
                nets[j],
                self.schedule,
                critics[j],
                critics[self.G + j],
                (reward.shift[j], reward.sd[j]),
            )
            for j in range(self.G)
        ]

    def noise(self, act):
        """x_T and the steps' noise of a' and of a~ [G, 1 + steps, B, A]; t, eps; coins [G]."""
        (G, B, A), K = act.shape, self.c.steps
        chains = [torch.randn(G, 1 + K, B, A) for _ in range(2)]
        return [chains[0], *super().noise(act), chains[1], torch.rand(G)]


class OneDiffusionQL(Denoiser):
    def __init__(self, c, net, schedule, q1, q2, scale):
        super().__init__(c, net, schedule)
        self.q1, self.q2, self.q1_bar, self.q2_bar = q1, q2, frozen(q1), frozen(q2)
        self.q_adam = torch.optim.Adam([*q1.parameters(), *q2.parameters()], c.critic_lr)
        self.count, self.scale = 0, scale
        # The coefficients of Ho et al. 2020, eq. 6 and 7, as Diffusion-QL's buffers hold them.
        beta, bar = schedule.betas.float(), schedule.alphas_cumprod.float()
        before = torch.cat([torch.ones(1), bar[:-1]])
        self.inv, self.over = bar.rsqrt(), (1 / bar - 1).sqrt()
        self.first = beta * before.sqrt() / (1 - bar)
        self.second = (1 - before) * (1 - beta).sqrt() / (1 - bar)
        self.sd = (beta * (1 - before) / (1 - bar)).clamp(min=1e-20).sqrt()

    def sample(self, net, obs, noise):
        """noise [1 + steps, B, A]: x_T, then that of each step; the last step has none."""
        x = noise[0]
        for k, i in enumerate(reversed(range(len(self.inv)))):
            eps = net(x, x.new_full((len(x),), float(i)), obs)
            x0 = (self.inv[i] * x - self.over[i] * eps).clamp(-1, 1)
            x = self.first[i] * x0 + self.second[i] * x
            if i:
                x = x + self.sd[i] * noise[1 + k]
        return x.clamp(-1, 1)

    def update(self, obs, act, reward, next_obs, target_noise, t, eps, noise, coin):
        c = self.c
        with torch.no_grad():
            next_act = self.sample(self.net_bar, next_obs, target_noise)
            q = torch.min(self.q1_bar(next_act, next_obs), self.q2_bar(next_act, next_obs))
            y = (reward - self.scale[0]) / self.scale[1] + c.gamma * q.squeeze(1)
        td1, td2 = (nn.functional.mse_loss(q(act, obs).squeeze(1), y) for q in (self.q1, self.q2))
        self.step(td1 + td2, self.q_adam, self.q1, self.q2)
        bc = self.denoising_loss(obs, act, t, eps)
        own = self.sample(self.net, obs, noise)
        q1, q2 = self.q1(own, obs), self.q2(own, obs)
        if coin > 0.5:
            q_loss = -q1.mean() / q2.abs().mean().detach()
        else:
            q_loss = -q2.mean() / q1.abs().mean().detach()
        loss = bc + c.eta * q_loss
        self.step(loss, self.adam, self.net)
        if self.count >= c.ema_start and self.count % c.ema_every == 0:
            for p, new in zip(self.net_bar.parameters(), self.net.parameters(), strict=True):
                p.data.copy_(c.ema_rate * new.data + (1 - c.ema_rate) * p.data)
        self.follow((self.q1_bar, self.q1), (self.q2_bar, self.q2))
        self.count += 1
        return {
            "loss/td": (td1 + td2).detach() / 2,
            "loss/bc": bc.detach(),
            "loss/actor": loss.detach(),
        }
