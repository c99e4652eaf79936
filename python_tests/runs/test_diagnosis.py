import math

import pytest
import torch
from small_data import dataset

from dom2_fast import envs
from dom2_fast.algos.bc import BC, BCConfig
from dom2_fast.algos.dom2 import DOM2, DOM2Config
from dom2_fast.algos.td3_bc import TD3BC, TD3BCConfig
from dom2_fast.behaviours.collect import collect
from dom2_fast.cli.main import main
from dom2_fast.errors import Dom2Error
from dom2_fast.runs.diagnosis import diagnose, diagnose_run
from dom2_fast.runs.train import train

SMALL = {"hidden": 16, "batch_size": 32, "critic_hidden": 16, "weights": "uniform"}


@pytest.fixture(scope="module")
def spread():
    return collect("simple_spread", "random", episodes=40, seed=3)


def test_returns_are_those_of_the_played_episodes(spread):
    """Critics that always say v: the bootstrap adds gamma^25 v, and every TD error is known."""
    agents = DOM2(DOM2Config(**SMALL, zeta=0.0, normalise_reward=False, candidates=1), spread)
    v, gamma = 3.0, agents.config.gamma

    def constant(act, obs, generator=None):
        return torch.full((*act.shape[:2], 1), v)

    agents.critics.q, agents.critics.q1 = constant, constant
    found = diagnose(agents, episodes=6, seed=5)
    world = envs.make("simple_spread", 6, seed=5)
    generator = torch.Generator().manual_seed(5)
    act = agents.policies.act
    steps = list(envs.play(world, lambda obs: act(obs, generator=generator), 5))
    sums = sum(gamma**step.t * step.reward for step in steps)
    expected = (sums + gamma ** len(steps) * v).mean(1)
    assert found["return"] == pytest.approx(expected.tolist(), rel=1e-5)
    assert found["q"] == [v] * 3
    error = torch.stack([v - step.reward - gamma * v for step in steps])
    td = error.square().mean((0, 2)).sqrt()
    assert found["td_played"] == pytest.approx(td.tolist(), rel=1e-5)
    raw = sum(step.reward.double() for step in steps).mean()
    assert found["together"] == pytest.approx(raw.item(), rel=1e-6)
    assert all(0 <= share <= 1 for share in found["edge"])


def test_alone_is_among_uniform_agents(spread):
    """Of a policy that stands still: what one such agent gets while the others move at random."""
    agents = TD3BC(TD3BCConfig(**SMALL), spread)
    with torch.no_grad():
        for p in agents.net.parameters():
            p.zero_()
    found = diagnose(agents, episodes=50, seed=1)
    world = envs.make("simple_spread", 50, seed=1)
    for agent in range(3):
        generator = torch.Generator().manual_seed(1)

        def act(obs, generator=generator, agent=agent):
            chosen = torch.rand(3, 50, 2, generator=generator) * 2 - 1
            chosen[agent] = 0.0
            return chosen

        expected = envs.reward_sums(world, act, 1)[agent].mean().item()
        assert found["alone"][agent] == pytest.approx(expected, rel=1e-6)
    assert found["edge"] == [0.0] * 3


def test_greedy_takes_the_critics_best_action_of_the_grid(spread):
    """Critics that want (1/3, -2/3), a point of the grid: everybody does just that."""
    agents = TD3BC(TD3BCConfig(**SMALL), spread)
    wish = torch.tensor([1 / 3, -2 / 3])
    agents.critics.rate = lambda act, obs: -(act - wish).square().sum(-1)
    found = diagnose(agents, episodes=5, seed=2)
    world = envs.make("simple_spread", 5, seed=2)
    sums = envs.reward_sums(world, lambda obs: wish.expand(3, 5, 2), 2)
    assert found["greedy"] == pytest.approx(world.score(sums).mean().item(), rel=1e-5)


def test_hits_are_pairs_in_contact_after_each_step(spread):
    agents = TD3BC(TD3BCConfig(**SMALL), spread)
    found = diagnose(agents, episodes=40, seed=4)
    world = envs.make("simple_spread", 40, seed=4)
    act, counts = agents.policies.act, []
    for _ in envs.play(world, lambda obs: act(obs), 4):
        at = world.state()[:, :3, :2]
        reach = 2 * world.spec.sizes[0]
        pairs = [(at[:, i] - at[:, j]).norm(dim=1) < reach for i, j in ((0, 1), (0, 2), (1, 2))]
        counts.append(torch.stack(pairs).sum(0).double().mean())
    assert found["hits"] == pytest.approx(torch.stack(counts).mean().item())
    assert found["hits"] > 0


def test_a_run_is_diagnosed_from_its_folder(spread, tmp_path, capsys):
    spread.write(tmp_path / "data")
    train(DOM2Config(**SMALL), tmp_path / "data", tmp_path / "run", 3, progress=False)
    found = diagnose_run(tmp_path / "run", episodes=8)
    assert all(math.isfinite(v) for v in found["q"] + found["return"] + found["td_data"])
    assert main(["diagnose", str(tmp_path / "run"), "--episodes", "8"]) == 0
    assert "raw score of all together" in capsys.readouterr().out


def test_what_cannot_be_diagnosed_is_said(spread, tmp_path):
    bc = BC(BCConfig(hidden=8, weights="uniform"), spread)
    with pytest.raises(Dom2Error, match="no critic"):
        diagnose(bc)
    agents = DOM2(DOM2Config(**SMALL), dataset(trajectories=6))
    agents.env = None
    with pytest.raises(Dom2Error, match="no environment"):
        diagnose(agents)
    with pytest.raises(Dom2Error, match=r"no checkpoint|no run"):
        diagnose_run(tmp_path)
