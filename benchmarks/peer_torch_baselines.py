"""Updates of the baselines with actors in PyTorch alone, one agent after the other.

As single-agent code is written (TD3+BC's, OMAR's and IQL's authors', CORL): one module per agent
and network, Adam as it comes, Polyak averages in a Python loop; critics that see several actions
per observation repeat the observations. Losses are in dom2_fast/algos. What is random is an
argument of `step`, so that results can be compared; `update` draws and steps.
"""

import copy
import math

import torch
from peer_torch import Rows
from torch import nn


class Loop:
    """All agents, one after the other. Subclasses build `agents`, a list of `one` each."""

    def __init__(self, agent, **rows):
        self.c, self.G = agent.config, agent.num_agents
        self.rows = Rows(agent, **rows)
        self.parts: dict = {}  # name -> (the native stack, our modules), to compare gradients
        template = getattr(agent.net, "template", None)
        if hasattr(template, "sd"):  # once, as the authors' code does
            for name in ("obs", "next_obs"):
                values = self.rows.data[name]
                self.rows.data[name] = (values - template.mean[:, None]) / template.sd[:, None]

    def own(self, name: str, stack) -> list[nn.Module]:
        """A stack's modules, on their own, remembered under that name."""
        modules = stack.unstack()
        self.parts[name] = stack, modules
        return modules

    def step(self, *values) -> dict:
        """One update of all agents from fields and noise [G, ...]; gives the mean losses."""
        found = [one.update(*own) for one, *own in zip(self.agents, *values, strict=True)]
        return {name: torch.stack([f[name] for f in found]).mean() for name in found[0]}

    def noise(self, act: torch.Tensor) -> list[torch.Tensor]:
        return []

    def update(self) -> dict:
        values = self.rows.draw()
        return self.step(*values, *self.noise(values[1]))


class One:
    """One agent: `step` descends a loss, `follow` moves the averages."""

    def __init__(self, c):
        self.c = c

    def step(self, loss, adam, *nets):
        adam.zero_grad()
        loss.backward()
        if self.c.grad_clip > 0:
            for net in nets:
                nn.utils.clip_grad_norm_(net.parameters(), self.c.grad_clip)
        adam.step()

    def follow(self, *pairs):
        for target, net in pairs:
            for p, new in zip(target.parameters(), net.parameters(), strict=True):
                p.data.copy_(self.c.tau * new.data + (1 - self.c.tau) * p.data)


def frozen(net):
    return copy.deepcopy(net).requires_grad_(False)


class LoopBC(Loop):
    """Deterministic BC."""

    def __init__(self, agent):
        super().__init__(agent)
        self.agents = [OneBC(self.c, actor) for actor in self.own("net", agent.learner)]


class OneBC(One):
    def __init__(self, c, actor):
        super().__init__(c)
        self.actor = actor
        self.adam = torch.optim.Adam(actor.parameters(), c.lr)

    def update(self, obs, act, *_):
        loss = self.loss(obs, act)
        self.step(loss, self.adam, self.actor)
        return {"loss/bc": loss.detach()}

    def loss(self, obs, act):
        return nn.functional.mse_loss(self.actor(obs), act)


class LoopGaussianBC(LoopBC):
    """Gaussian BC."""

    def __init__(self, agent):
        Loop.__init__(self, agent)
        self.agents = [OneGaussianBC(self.c, actor) for actor in self.own("net", agent.learner)]


class OneGaussianBC(OneBC):
    def loss(self, obs, act):
        return -log_prob(self.actor, obs, act).mean()


def log_prob(actor, obs, act):
    """[B]; the actor gives means and log deviations."""
    mean, log_std = actor(obs).chunk(2, 1)
    return torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp()).log_prob(act).sum(1)


class LoopITD3(Loop):
    """ITD3, MA-CQL and OMAR."""

    def __init__(self, agent):
        super().__init__(agent)
        self.kind = agent.name
        actors, critics = self.own("net", agent.learner), self.own("critic", agent.critics.net)
        self.agents = [
            OneITD3(self.c, self.kind, actors[j], critics[j], critics[self.G + j])
            for j in range(self.G)
        ]

    def noise(self, act):
        c, (G, B, A) = self.c, act.shape
        if self.kind == "itd3":
            return []
        uniform = torch.rand(G, B, c.cql_actions, A) * 2 - 1
        if self.kind == "cql":
            return [uniform]
        return [uniform, torch.randn(G, c.search_rounds, B, c.search_samples, A)]


class OneITD3(One):
    def __init__(self, c, kind, actor, q1, q2):
        super().__init__(c)
        self.kind, self.actor, self.q1, self.q2 = kind, actor, q1, q2
        self.actor_bar, self.q1_bar, self.q2_bar = map(frozen, (actor, q1, q2))
        self.actor_adam = torch.optim.Adam(actor.parameters(), c.lr)
        self.q_adam = torch.optim.Adam([*q1.parameters(), *q2.parameters()], c.critic_lr)

    def update(self, obs, act, reward, next_obs, uniform=None, noise=None):
        c = self.c
        with torch.no_grad():
            next_act = self.actor_bar(next_obs)
            q = torch.min(self.q1_bar(next_act, next_obs), self.q2_bar(next_act, next_obs))
            y = reward + c.gamma * q.squeeze(1)
        critic = td = 0.0
        for net in (self.q1, self.q2):
            data = net(act, obs).squeeze(1)
            mse = nn.functional.mse_loss(data, y)
            td, critic = td + mse.detach() / 2, critic + mse
            if self.kind != "itd3":
                others = self.rated(net, obs, uniform) + act.size(1) * math.log(2)
                critic = critic + c.zeta * (torch.logsumexp(others, 1) - data).mean()
        self.step(critic, self.q_adam, self.q1, self.q2)
        own = self.actor(obs)
        q = self.q1(own, obs).mean()
        loss = -q
        if self.kind == "omar":
            best = self.search(obs, own.detach(), noise)
            loss = c.coe * (own - best).square().mean() - (1 - c.coe) * q
        loss = loss + c.action_penalty * own.square().mean()
        self.step(loss, self.actor_adam, self.actor)
        self.follow((self.q1_bar, self.q1), (self.q2_bar, self.q2), (self.actor_bar, self.actor))
        return {"loss/td": td, "loss/actor": loss.detach()}

    def rated(self, q, obs, acts):
        """[B, K] of acts [B, K, A]."""
        B, K, A = acts.shape
        many = obs.unsqueeze(1).expand(B, K, obs.size(1)).reshape(B * K, -1)
        return q(acts.reshape(B * K, A), many).view(B, K)

    @torch.no_grad()
    def search(self, obs, own, noise):
        mu, sigma = torch.zeros_like(own), torch.full_like(own, self.c.search_sigma)
        for z in noise:
            acts = (mu[:, None] + sigma[:, None] * z).clamp(-1, 1)
            q = self.rated(self.q1, obs, acts)
            mu = (torch.softmax(q, 1)[..., None] * acts).sum(1)
            sigma = (acts - mu[:, None]).square().mean(1).sqrt()
        acts = torch.cat([acts, own[:, None]], 1)
        q = torch.cat([q, self.q1(own, obs)], 1)
        return acts[torch.arange(len(acts)), q.argmax(1)]


class LoopIQL(Loop):
    """IQL."""

    def __init__(self, agent):
        super().__init__(agent)
        actors, critics = self.own("net", agent.learner), self.own("critic", agent.critics.net)
        values = self.own("value", agent.value.net)
        scales = 1 / agent.critics.reward.sd.squeeze(1)
        self.agents = [
            OneIQL(self.c, actors[j], critics[j], critics[self.G + j], values[j], scales[j])
            for j in range(self.G)
        ]


class OneIQL(One):
    def __init__(self, c, actor, q1, q2, v, scale):
        super().__init__(c)
        self.actor, self.q1, self.q2, self.v, self.scale = actor, q1, q2, v, scale
        self.q1_bar, self.q2_bar = frozen(q1), frozen(q2)
        self.actor_adam = torch.optim.Adam(actor.parameters(), c.lr)
        self.v_adam = torch.optim.Adam(v.parameters(), c.value_lr)
        self.q_adam = torch.optim.Adam([*q1.parameters(), *q2.parameters()], c.critic_lr)

    def update(self, obs, act, reward, next_obs):
        c = self.c
        with torch.no_grad():
            q = torch.min(self.q1_bar(act, obs), self.q2_bar(act, obs)).squeeze(1)
        u = q - self.v(obs).squeeze(1)
        value = ((c.expectile - (u < 0).float()).abs() * u.square()).mean()
        self.step(value, self.v_adam, self.v)
        with torch.no_grad():
            advantage = q - self.v(obs).squeeze(1)
            weight = torch.exp(c.temperature * advantage).clamp(max=c.weight_clip)
            y = self.scale * reward + c.gamma * self.v(next_obs).squeeze(1)
        actor = -(weight * log_prob(self.actor, obs, act)).mean()
        self.step(actor, self.actor_adam, self.actor)
        td1, td2 = (nn.functional.mse_loss(q(act, obs).squeeze(1), y) for q in (self.q1, self.q2))
        self.step(td1 + td2, self.q_adam, self.q1, self.q2)
        self.follow((self.q1_bar, self.q1), (self.q2_bar, self.q2))
        return {
            "loss/td": (td1 + td2).detach() / 2,
            "loss/value": value.detach(),
            "loss/actor": actor.detach(),
        }


class LoopICQ(Loop):
    """ICQ; `step` takes the log's next actions after the other fields."""

    def __init__(self, agent):
        data = agent.sampler.data
        following = torch.stack([act.roll(-1, 0) for act in data.act[: agent.num_agents]])
        super().__init__(agent, extra={"next_act": following}, but_last=True)
        actors, critics = self.own("net", agent.learner), self.own("critic", agent.critic)
        self.agents = [OneICQ(self.c, actors[j], critics[j]) for j in range(self.G)]


class OneICQ(One):
    def __init__(self, c, actor, q):
        super().__init__(c)
        self.actor, self.q, self.q_bar = actor, q, frozen(q)
        self.actor_adam = torch.optim.Adam(actor.parameters(), c.lr, weight_decay=c.weight_decay)
        self.q_adam = torch.optim.Adam(q.parameters(), c.critic_lr)

    def update(self, obs, act, reward, next_obs, next_act):
        c, n = self.c, len(obs)
        with torch.no_grad():
            q = self.q_bar(next_act, next_obs).squeeze(1)
            weight = (n / c.alpha * torch.softmax(q / c.beta, 0)).clamp(max=1)
            y = reward + c.gamma * weight * q
        td = nn.functional.mse_loss(self.q(act, obs).squeeze(1), y)
        self.step(td, self.q_adam, self.q)
        with torch.no_grad():
            advantage = reward + c.gamma * self.q(next_act, next_obs).squeeze(1)
            advantage = advantage - self.q(act, obs).squeeze(1)
            weight = n * torch.softmax(advantage / c.beta, 0)
        loss = -(weight * log_prob(self.actor, obs, act)).mean()
        self.step(loss, self.actor_adam, self.actor)
        self.follow((self.q_bar, self.q))
        return {"loss/td": td.detach(), "loss/actor": loss.detach()}
