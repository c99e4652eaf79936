"""One DOM2 update in PyTorch alone, as one would write it: all agents at once, Adam fused.

The networks are `peer_torch.PerAgent` (`eager`) or `peer_torch.Batched` (`batched`, `compile`).
Everything drawn at random is an argument of `step`, so that its results can be compared; `update`
draws, from a cached cumulative sum and one gather per field, and then steps.
"""

import copy
import math

import torch
from peer_torch import Rows, Sampler

NOISE = ("x_target", "proposed", "x_actor", "t", "eps")


class TorchDOM2:
    """See dom2_fast.algos.dom2 for the losses; `agent` is the one whose settings and data serve.

    make: builds a network of a StackedModule: peer_torch.per_agent or peer_torch.batched.
    compile: torch.compile on the three functions that hold nearly all of the work. autocast: to
    bf16, in the same three.
    """

    def __init__(self, agent, make, compile: bool = False, autocast: bool = False):
        self.autocast = autocast
        self.c, self.G = agent.config, agent.num_agents
        self.shift, self.sd = agent.critics.reward.shift, agent.critics.reward.sd
        self.net, self.critic = make(agent.net), make(agent.critics.net)
        self.target_net = copy.deepcopy(self.net).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.q1 = self.critic.first(self.G)
        self.actor_optimiser = torch.optim.Adam(self.net.parameters(), self.c.lr, fused=True)
        self.critic_optimiser = torch.optim.Adam(
            self.critic.parameters(), self.c.critic_lr, fused=True
        )
        self.sample = Sampler(self.net, self.c.steps)
        self.target_sample = Sampler(self.target_net, self.c.steps)
        if compile:
            torch._dynamo.reset()
            for name in ("td_target", "critic_loss", "actor_loss"):
                setattr(self, name, torch.compile(getattr(self, name), dynamic=False))
        self.rows = Rows(agent)

    def td_target(self, reward, next_obs, x_T):
        act = self.target_sample(next_obs, x_T)
        q = self.target_critic(torch.cat([act, act]), torch.cat([next_obs, next_obs]))
        q = torch.minimum(*q.squeeze(-1).chunk(2))
        return (reward - self.shift) / self.sd + self.c.gamma * q

    def critic_loss(self, obs, act, proposed, y):
        G, B, M, A = proposed.shape
        acts = torch.cat([act.unsqueeze(2), proposed], 2).reshape(G, -1, A)
        rows = obs.repeat_interleave(1 + M, 1)
        q = self.critic(torch.cat([acts, acts]), torch.cat([rows, rows])).view(2 * G, B, 1 + M)
        td = (q[..., 0] - torch.cat([y, y])).square().mean(1)
        log_density = A * math.log(0.5)
        cql = (torch.logsumexp(q[..., 1:] - log_density, 2) - q[..., 0]).mean(1)
        return td + self.c.zeta * cql, q[:G, :, 0]

    def actor_loss(self, obs, act, q_data, x_T, t, eps):
        q = self.q1(self.sample(obs, x_T), obs).squeeze(-1)
        scale = self.c.eta / q_data.abs().mean(1).clamp(min=1e-6)
        log_alpha = -t * (0.25 * (20.0 - 0.1) * t + 0.5 * 0.1)
        alpha, sigma = torch.exp(log_alpha), torch.sqrt(-torch.expm1(2.0 * log_alpha))
        x = alpha.unsqueeze(-1) * act + sigma.unsqueeze(-1) * eps
        bc = (self.net(x, t, obs) - eps).square().mean((1, 2))
        return bc, bc - scale * q.mean(1)

    def step(self, obs, act, reward, next_obs, x_target, proposed, x_actor, t, eps):
        """One update; gives the losses."""
        products = torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast)
        with torch.no_grad(), products:
            y = self.td_target(reward, next_obs, x_target)
        with products:
            critic, q_data = self.critic_loss(obs, act, proposed, y)
        self.descend(critic, self.critic, self.critic_optimiser)
        with products:
            bc, actor = self.actor_loss(obs, act, q_data.detach(), x_actor, t, eps)
        self.descend(actor, self.net, self.actor_optimiser)
        with torch.no_grad():
            for target, source in ((self.target_critic, self.critic), (self.target_net, self.net)):
                torch._foreach_lerp_(
                    list(target.parameters()), list(source.parameters()), self.c.tau
                )
        return {
            "loss/critic": critic.detach().mean(),
            "loss/bc": bc.detach().mean(),
            "loss/actor": actor.detach().mean(),
        }

    def descend(self, loss, module, optimiser) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        module.clip(self.c.grad_clip)
        optimiser.step()

    def noise(self, act: torch.Tensor) -> list[torch.Tensor]:
        G, B, A = act.shape
        return [
            torch.randn(G, B, A),
            torch.rand(G, B, self.c.cql_actions, A) * 2 - 1,
            torch.randn(G, B, A),
            torch.rand(G, B) * (1 - 1e-5) + 1e-5,
            torch.randn(G, B, A),
        ]

    def update(self):
        batch = self.rows.draw()
        return self.step(*batch, *self.noise(batch[1]))
