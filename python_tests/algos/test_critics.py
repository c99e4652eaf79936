"""Twin critics on their own: also those that no step program can express."""

import math

import pytest
import torch
from small_data import dataset
from tolerances import SAME_FORMULA_64
from torch import nn

from dom2_fast import networks
from dom2_fast.algos.critics import TwinCritics
from dom2_fast.algos.dom2 import DOM2, DOM2Config
from dom2_fast.algos.updates import frozen_view


class SineCritic(nn.Module):
    """sin of a value that depends on the observation: not among a program's operations."""

    obs_dim, act_dim = 3, 2

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 1)

    def forward(self, act, obs):
        return self.last(torch.sin(self.first(torch.cat([act, obs], -1))))


def config(**changes) -> DOM2Config:
    small = {"weights": "uniform", "batch_size": 8, "hidden": 8, "depth": 1, "critic_hidden": 8}
    return DOM2Config(**{**small, "cql_actions": 4, "q_warmup": 0, **changes})


def plain_conservative(critic, obs, act, y, proposed, weight):
    q = critic(act, obs)[:, 0]
    others = torch.stack([critic(proposed[:, m], obs)[:, 0] for m in range(proposed.size(1))], 1)
    penalty = torch.logsumexp(others - proposed.size(2) * math.log(0.5), 1) - q
    return (q - y).square().mean() + weight * penalty.mean()


@pytest.mark.filterwarnings("ignore:SineCritic runs step by step in PyTorch")
def test_a_critic_that_no_program_expresses_runs_as_the_module_it_is():
    agents = DOM2(config(), dataset(trajectories=6))
    critics = TwinCritics(networks.stack(SineCritic() for _ in range(4)), agents.config)
    batch = agents.sampler.sample()
    proposed, y = torch.rand(2, 8, 4, 2) * 2 - 1, torch.rand(2, 8)
    one = critics.conservative_loss(batch, y, proposed, 0.7)
    td = critics.td_loss(batch, y)
    (one.loss + td).sum().backward()
    for k, critic in enumerate(critics.net.unstack()):
        j = k % 2
        rows = batch.obs[j], batch.act[j], y[j], proposed[j]
        loss, simple = (plain_conservative(critic, *rows, weight) for weight in (0.7, 0.0))
        torch.testing.assert_close(one.loss[k], loss)
        torch.testing.assert_close(td[k], simple)
        torch.testing.assert_close(one.q_data[k], critic(batch.act[j], batch.obs[j])[:, 0])
        (loss + simple).backward()
        for name, p in critic.named_parameters():
            torch.testing.assert_close(critics.net.template.get_parameter(name).grad[k], p.grad)
    assert not one.td.requires_grad
    assert not one.q_proposed.requires_grad


@pytest.mark.filterwarnings("ignore:SineCritic runs step by step in PyTorch")
def test_dom2_learns_with_such_a_critic():
    agents = DOM2(config(), dataset(trajectories=6))
    net = networks.stack(SineCritic() for _ in range(4))
    agents.critics = TwinCritics(net, agents.config, agents.sampler)
    before = net.template.first.weight.detach().clone()
    metrics = agents.fit(3)
    assert all(math.isfinite(v) for v in metrics.values())
    assert not torch.equal(net.template.first.weight, before)
    assert not torch.equal(critics_target(agents), before)


def critics_target(agents):
    return agents.critics.target_net.template.first.weight


def test_td_loss_is_the_conservative_one_without_its_penalty():
    agents = DOM2(config(), dataset(trajectories=6))
    batch = agents.sampler.sample()
    y = agents.td_target(batch)
    both = [
        agents.critics.td_loss(batch, y),
        agents.critics.conservative_loss(batch, y, torch.rand(2, 8, 4, 2), 0.0).loss,
    ]
    grads = []
    for loss in both:
        agents.critics.optimiser.zero_grad()
        loss.sum().backward()
        grads.append([p.grad.clone() for p in agents.critics.net.parameters()])
    torch.testing.assert_close(*both)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_target_by_hand():
    """Constant critics: y = 2 (r - shift) / sd + gamma min(3, -1), and no bootstrap where done."""
    data = dataset(trajectories=6)
    for done in data.done:
        done[::3] = 1.0
    settings = config(gamma=0.5, reward_scale=2.0, mask_done=True)
    agents = DOM2(settings, data)
    for p in agents.critics.target_net.parameters():
        p.zero_()
    bias = agents.critics.target_net.template.final_layer.bias
    bias[:] = torch.tensor([[3.0], [3.0], [-1.0], [-1.0]])
    batch = agents.sampler.sample()
    y = agents.critics.td_target(batch, torch.zeros(2, 8, 2))
    for j in range(2):
        reward = data.reward[j].double()
        scaled = 2.0 * (batch.reward[j] - reward.mean()) / reward.std(unbiased=False)
        expected = scaled - 0.5 * (1 - batch.done[j].double())
        torch.testing.assert_close(y[j].double(), expected, rtol=1e-5, atol=1e-5)


def test_follow_is_a_polyak_step():
    agents = DOM2(config(), dataset(trajectories=6))
    critics = agents.critics
    agents.fit(1)
    pairs = list(zip(critics.target_net.parameters(), critics.net.parameters(), strict=True))
    expected = [0.25 * q.detach().double() + 0.75 * p.double() for p, q in pairs]
    critics.follow(0.25)
    for (p, _), e in zip(pairs, expected, strict=True):
        torch.testing.assert_close(p.double(), e, rtol=1e-6, atol=1e-7)


def test_the_view_of_the_first_groups_has_their_buffers_only():
    def make(scale):
        inner = networks.MLPActor(3, 2, hidden=4).double()
        return networks.Standardised(inner, torch.ones(3) * scale, torch.ones(3))

    net = networks.stack(make(float(k)) for k in range(4))
    view = frozen_view(net, 2)
    obs = torch.rand(2, 5, 3).double()
    expected = [m(obs[g]) for g, m in enumerate(net.unstack()[:2])]
    torch.testing.assert_close(view(obs), torch.stack(expected), **SAME_FORMULA_64)
    assert view.template.mean.shape == (2, 3)
