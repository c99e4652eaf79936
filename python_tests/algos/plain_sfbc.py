"""SfBC for one agent, written out straightforwardly in PyTorch. The tests' yardstick.

Independent of `dom2_fast.algos` on purpose: own returns, own planning, own steps. Networks are
plain modules, net(x, t, obs) and q(act, obs); everything random is an argument.
"""

import copy

import torch
from plain_diffusion_ql import follow
from plain_dom2 import dpm_solver_1, log_alpha


class PlainSfBC:
    """One agent. net, q: modules; rows: its obs and reward; lengths: of its trajectories."""

    def __init__(self, net, q, c, obs, reward, lengths):
        self.net, self.q, self.c = net, q, c
        self.obs, self.reward, self.lengths = obs, reward, lengths
        self.net_bar, self.q_start = copy.deepcopy(net), copy.deepcopy(q)
        self.adam = torch.optim.Adam(net.parameters(), lr=c.lr)
        self.q_adam = torch.optim.Adam(q.parameters(), lr=c.critic_lr)
        self.standardise(self.backward(None))

    def standardise(self, returns):
        self.mean, self.sd = returns.mean(), max(returns.std(unbiased=False).item(), 0.1)
        self.target = (returns - self.mean) / self.sd

    def backward(self, values):
        """R of every row; values: V of every row in the rewards' units, None without planning."""
        returns, end = torch.empty_like(self.reward), len(self.reward)
        for length in reversed(self.lengths):
            last = 0.0
            for t in reversed(range(end - length, end)):
                returns[t] = self.reward[t] + self.c.gamma * last
                last = returns[t]
                if values is not None:
                    last = max(last, values[t])
                    if self.c.plan_floor == "own":
                        returns[t] = last
            end -= length
        return returns

    def plan(self, x_T):
        """x_T: where the sampled actions start from, [N M, A], M of a row side by side."""
        c, values = self.c, []
        with torch.no_grad():
            obs = self.obs.repeat_interleave(c.plan_actions, 0)
            act = dpm_solver_1(self.net_bar, obs, x_T, c.steps)
            for q in self.q(act, obs).reshape(-1, c.plan_actions):
                weight = torch.exp(c.plan_alpha * (q - q.max()))
                values.append((weight * q).sum() / weight.sum() * self.sd + self.mean)
        self.standardise(self.backward(torch.stack(values)))
        if c.reset_critic:
            self.q.load_state_dict(self.q_start.state_dict())
            self.q_adam = torch.optim.Adam(self.q.parameters(), lr=c.critic_lr)

    def update(self, obs, act, index, t, eps):
        """index: the rows' numbers [B]; t [B], eps [B, A]: of the denoising loss."""
        target = self.target[index]
        critic = ((self.q(act, obs).squeeze(1) - target) ** 2).mean()
        self.q_adam.zero_grad()
        critic.backward()
        torch.nn.utils.clip_grad_norm_(self.q.parameters(), self.c.grad_clip)
        self.q_adam.step()
        alpha = torch.exp(log_alpha(t.double())).unsqueeze(1)
        x = alpha.to(act.dtype) * act + torch.sqrt(1 - alpha**2).to(act.dtype) * eps
        bc = ((self.net(x, t, obs) - eps) ** 2).mean()
        self.adam.zero_grad()
        bc.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.c.grad_clip)
        self.adam.step()
        follow(self.net_bar, self.net, self.c.tau)
        return {
            "loss/bc": bc.item(),
            "loss/critic": critic.item(),
            "q/target": target.mean().item(),
        }
