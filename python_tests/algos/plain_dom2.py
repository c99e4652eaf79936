"""DOM2's losses for one agent, written out straightforwardly in PyTorch. The tests' yardstick.

Independent of `dom2_fast.algos` on purpose: own sampler, own formulas, plain modules, a loop per
step. Everything random is an argument.
"""

import math

import torch


def log_alpha(t):
    return -(20.0 - 0.1) / 4.0 * t**2 - 0.1 / 2.0 * t


def dpm_solver_1(net, obs, x_T, steps):
    """First-order DPM-Solver (Lu et al. 2022, eq. 3.7) on a uniform grid from 1 to 1e-3."""
    times = torch.linspace(1.0, 1e-3, steps + 1, dtype=torch.float64)
    alpha = torch.exp(log_alpha(times))
    sigma = torch.sqrt(1.0 - alpha**2)
    x = x_T
    for k in range(steps):
        t = times[k].to(x.dtype).expand(len(x))
        h = torch.log(alpha[k + 1] / sigma[k + 1]) - torch.log(alpha[k] / sigma[k])
        x = alpha[k + 1] / alpha[k] * x - sigma[k + 1] * torch.expm1(h) * net(x, t, obs)
    return x.clamp(-1.0, 1.0)


def td_target(reward, next_obs, next_act, targets, gamma):
    q = torch.min(*[critic(next_act, next_obs).squeeze(1) for critic in targets])
    return reward + gamma * q


def critic_loss(critic, obs, act, y, proposed, zeta):
    """proposed: [B, M, A] uniform actions."""
    q = critic(act, obs).squeeze(1)
    columns = []
    for m in range(proposed.size(1)):
        columns.append(critic(proposed[:, m], obs).squeeze(1))
    sampled = torch.stack(columns, 1) - math.log(0.5 ** proposed.size(2))
    conservative = torch.log(torch.exp(sampled).sum(1)) - q
    return ((q - y) ** 2).mean() + zeta * conservative.mean()


def q_term(net, critic, obs, act, x_T, steps, eta):
    chosen = dpm_solver_1(net, obs, x_T, steps)
    scale = eta / critic(act, obs).abs().mean().detach()
    return -scale * critic(chosen, obs).mean()


def best_of(critic, obs, pool):
    """The action that the critic rates best, row by row; pool: [B, K, A]."""
    rows = []
    for i in range(pool.size(0)):
        values = [critic(pool[i, k : k + 1], obs[i : i + 1]).item() for k in range(pool.size(1))]
        rows.append(pool[i, values.index(max(values))])
    return torch.stack(rows)


def clip(parameters, most):
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in parameters))
    factor = min(1.0, most / (norm + 1e-6))
    for p in parameters:
        p.grad *= factor
    return norm
