"""MATD3: its losses against plain per-agent code, that it learns, and its driver."""

import itertools
import json
import sys

import pytest
import small_envs
import tolerances
import torch

from dom2_fast import checkpoint, envs
from dom2_fast.behaviours import matd3, training
from dom2_fast.behaviours import shipped as behaviours
from dom2_fast.behaviours.matd3 import MATD3, GroupMLP, MATD3Config
from dom2_fast.errors import Dom2Error

SMALL = dict(
    num_envs=4,
    steps=30,
    stop_after=0,
    warmup=5,
    capacity=300,
    batch_size=16,
    hidden=8,
    critic_hidden=8,
)


def small(**changes):
    config = MATD3Config(**(SMALL | changes))
    return MATD3(envs.make("simple_spread", config.num_envs, seed=0), config)


def test_group_mlp_equals_separate_networks():
    net = GroupMLP(3, (5, 7, 7, 2), torch.Generator().manual_seed(0))
    x = torch.randn(4, 5)
    for g, out in enumerate(net(x)):
        y = x
        for i, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
            y = (y.relu() if i else y) @ weight[g] + bias[g]
        torch.testing.assert_close(out, y, rtol=0, atol=tolerances.NETWORK32)


def test_replay_buffer_is_a_ring():
    buffer = matd3.ReplayBuffer(5, [1, 2], torch.Generator().manual_seed(0))
    for k in range(4):
        rows = torch.full((2, 1), float(k))
        buffer.add(rows, rows.expand(2, 2))
    assert buffer.size == 5
    assert sorted(buffer.rows[:, 0].tolist()) == [1, 2, 2, 3, 3]
    first, second = buffer.sample(50)
    assert first.shape == (50, 1) and second.shape == (50, 2)
    assert torch.equal(first.expand(50, 2), second)


@pytest.mark.parametrize("joint", [False, True])
def test_actor_gradient_reaches_each_agents_own_actor_only_through_its_critic(joint):
    agent = small(joint_policy_gradient=joint, action_l2=0.0)
    B, G = 6, 3
    obs, act = torch.randn(B, G * 18), torch.rand(B, G * 2) * 2 - 1
    captured = {}
    agent._descend = lambda loss, net, optim: captured.update(loss=loss)
    value = agent._update_actor(obs, act, view=obs)
    expected = 0.0
    per_agent = obs.view(B, G, 18)
    mine = agent.actor(per_agent.transpose(0, 1)).tanh().transpose(0, 1)
    for g in range(G):
        actions = (mine.detach() if joint else act.view(B, G, 2)).clone()
        actions[:, g] = mine[:, g]
        q = agent.critic(torch.cat([obs, actions.reshape(B, -1)], dim=-1))[g]
        expected = expected - q.mean()
    torch.testing.assert_close(captured["loss"], expected, rtol=1e-5, atol=tolerances.NETWORK32)
    assert value == pytest.approx(expected.item() / G, rel=1e-4)
    params = list(agent.actor.parameters())
    got = torch.autograd.grad(captured["loss"], params)
    for a, b in zip(got, torch.autograd.grad(expected, params), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=tolerances.NETWORK32)


def test_same_seed_same_run():
    first, again, other = small(), small(), small(seed=1)
    for agent in (first, again, other):
        agent.fit()
    assert first.updates == 25
    stopped = small(stop_after=12)
    stopped.fit()
    assert stopped.updates == 7
    for a, b in zip(first.actor.parameters(), again.actor.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.actor.weights[0], other.actor.weights[0])


class Target:
    """One-step task of two agents: reward -|act - 0.5|^2, whatever the observation."""

    num_agents, act_dim, episode_length = 2, 2, 1
    obs_dims = (3, 3)

    def __init__(self, num_envs):
        self.num_envs = num_envs

    def reset(self, seed=None):
        return torch.zeros(2, self.num_envs, 3)

    def step(self, act):
        reward = -(act - 0.5).square().sum(-1)
        return self.reset(), reward, torch.ones(self.num_envs, dtype=torch.bool)


def test_it_learns_a_task_with_a_known_answer():
    config = MATD3Config(
        num_envs=16,
        steps=600,
        stop_after=0,
        warmup=20,
        capacity=10_000,
        batch_size=128,
        hidden=16,
        critic_hidden=32,
        actor_lr=5e-3,
        critic_lr=5e-3,
        gamma=0.0,
        reward_scale=1.0,
        action_l2=0.0,
    )
    env = Target(16)
    agent = MATD3(env, config)
    before = agent.policy()(env.reset())
    agent.fit()
    after = agent.policy()(env.reset())
    assert (before - 0.5).abs().max() > 0.3
    assert (after - 0.5).abs().max() < 0.1


def test_wrong_settings_are_explained():
    with pytest.raises(Dom2Error, match="batch_size"):
        MATD3Config(batch_size=0)
    with pytest.raises(Dom2Error, match="stop_after"):
        MATD3Config(steps=10, stop_after=11)
    with pytest.raises(Dom2Error, match="gamma"):
        MATD3Config(gamma=1.0)
    with pytest.raises(Dom2Error, match="tau"):
        MATD3Config(tau=0.0)
    with pytest.raises(Dom2Error, match="4 copies"):
        MATD3(envs.make("simple_spread", 4), MATD3Config(num_envs=5))
    with pytest.raises(Dom2Error, match="drive the prey"):
        MATD3(envs.make("simple_tag", 4, prey="external"), MATD3Config(**SMALL))


def test_a_run_gives_scored_snapshots_and_ends_where_told():
    history = training.train("simple_spread", MATD3Config(**SMALL), every=10, episodes=5)
    assert [snapshot.step for snapshot in history] == [10, 20, 30]
    env, generator = envs.make("simple_spread", 5, 1), torch.Generator().manual_seed(2)
    score = training.noisy_return(history[0].policy, env, 0.1, generator)
    assert score == pytest.approx(history[0].score)
    ended = training.train(
        "simple_spread", MATD3Config(**SMALL), 10, 5, until=lambda history: len(history) == 2
    )
    assert [s.score for s in ended] == [s.score for s in history[:2]]


def climbing(count=20, slope=10.0):
    """A run whose score rises evenly, from 0."""
    return [training.Snapshot(10 * i, slope * i, None) for i in range(count)]


def test_behaviours_are_cut_out_at_the_wanted_means():
    cut = training.cut(climbing(), training.Wanted(replay=45.0, medium=101.0, expert=155.0))
    assert cut["medium"].score == 100 and cut["expert"].score == 160
    scores = [cut[f"replay_{i}"].score for i in range(training.REPLAY)]
    assert scores == sorted(scores) and abs(sum(scores) / len(scores) - 45) < 5
    steps = [cut[f"replay_{i}"].step for i in range(training.REPLAY)]
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    assert max(gaps) - min(gaps) <= 10  # evenly spaced in time
    # A second score that is lower by 10: the next snapshots are taken.
    lower = training.cut(climbing(), training.Wanted(45.0, 101.0, 155.0), lambda s: s.score - 10)
    assert "medium" not in lower and lower["expert"].score == 170
    short = training.cut(climbing(9), training.Wanted(replay=45.0, medium=101.0, expert=155.0))
    assert "medium" not in short and "replay_0" in short
    assert short["expert"].score == 80  # the best there is


def test_a_second_score_is_of_more_episodes_and_taken_once():
    policy = small().policy()
    again = training.SecondScore("simple_spread", 0.1, seed=3, episodes=50)
    snapshot = training.Snapshot(10, 0.0, policy)
    assert again(snapshot) == again(snapshot) != 0.0
    assert list(again.known) == [10]


def test_what_is_wanted_is_the_card_or_a_share_of_the_way_to_the_best():
    assert training.wanted("simple_tag", climbing(), -4.0) == training.CARD["simple_tag"]
    means = training.wanted("spread_6_landmarks", climbing(11), 0.0)
    assert means.expert == 100 and means.medium == pytest.approx(30.6)
    assert means.replay == pytest.approx(11.9)
    assert training.random_score("simple_spread", 500) == pytest.approx(159.6, abs=10)


def test_the_command_writes_policies_and_a_record(tmp_path, monkeypatch, capsys):
    out = tmp_path / "behaviour.npz"
    options = {**SMALL, "stop_after": 30} | {"every": 3}
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    arguments = ["training", "--task", "spread_6_landmarks", "--out", str(out), *flags]
    monkeypatch.setattr(sys, "argv", arguments)
    training.main()
    policies, noise = behaviours.read(out)
    assert "expert" in policies and noise == pytest.approx(0.1)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["task"] == "spread_6_landmarks" and record["config"]["batch_size"] == 16
    assert record["cut"]["expert"][1] == max(score for _, score in record["curve"])


def test_every_setting_says_where_it_comes_from():
    described = MATD3Config.__dataclass_fields__
    assert all(f.metadata["source"] for f in described.values())
    assert json.dumps(sorted(described))
    assert behaviours.asset("simple_spread").name == "behaviour_simple_spread.npz"


def test_critics_may_see_the_global_state():
    config = MATD3Config(**SMALL | {"critic_state": True})
    env = envs.make("simple_spread", config.num_envs, seed=0)
    env.reset()
    agent = MATD3(env, config)
    entities = env.state().shape[1]
    view = 4 * entities
    assert agent.critic.weights[0].shape[1] == view + 3 * 2
    agent.fit(lambda step: step == 20)
    E = agent.config.num_envs
    rows = agent.buffer.rows[: agent.buffer.size]
    obs, _, _, next_obs, state, next_state = rows.split(agent.buffer.widths, dim=-1)
    # Row t + E is the same copy's next step: what it saw before is what row t saw after.
    torch.testing.assert_close(next_state[:-E], state[E:])
    torch.testing.assert_close(next_obs[:-E], obs[E:])
    # Agent 0's velocity and position stand first in its observation and in the state.
    torch.testing.assert_close(state.view(-1, entities, 4)[:, 0, [2, 3, 0, 1]], obs[:, :4])
    before = agent.critic.weights[0].detach().clone()
    agent.update()
    changed = (agent.critic.weights[0] != before).any(dim=(0, 2))
    assert changed[:view].any() and changed[view:].all()
    with pytest.raises(Dom2Error, match=r"needs an environment with a state\(\)"):
        MATD3(
            small_envs.Counting(SMALL["num_envs"], 0), MATD3Config(**SMALL | {"critic_state": True})
        )


def test_a_loss_that_is_not_finite_ends_the_training():
    agent = small(reward_scale=1e38)
    with pytest.raises(Dom2Error, match=r"diverged: a loss is \w+ in step 6: lower critic_lr"):
        agent.fit()


def test_several_updates_a_step():
    agent = small(updates=3)
    agent.fit(lambda step: step == 8)
    assert agent.updates == 3 * (8 - SMALL["warmup"])
    with pytest.raises(Dom2Error, match="updates must be at least 1"):
        MATD3Config(updates=0)


def test_a_training_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "KEEP", -1)
    path, config = tmp_path / "train.pt", MATD3Config(**SMALL)
    arguments = {"every": 10, "episodes": 5, "checkpoint": path}
    first = training.train("simple_spread", config, until=lambda h: len(h) == 2, **arguments)
    saved = checkpoint.load(path, algo="matd3", env="simple_spread")["agent"]
    assert saved["step"] == 20 and saved["updates"] == 15
    history = training.train("simple_spread", config, **arguments)
    assert [s.step for s in history] == [10, 20, 30]
    assert [s.score for s in history[:2]] == [s.score for s in first]
    again = small()
    again.load_state_dict(saved)
    last, kept = first[-1].policy.layers, again.policy().layers
    assert all(torch.equal(a, b) for a, b in zip(last[0] + last[1], kept[0] + kept[1], strict=True))
    assert again.buffer.size == len(saved["rows"]) and torch.equal(
        again.generator.get_state(), saved["generator"]
    )
    with pytest.raises(Dom2Error, match="has batch_size = 16: give the same options"):
        small(batch_size=8).load_state_dict(saved)
    with pytest.raises(Dom2Error, match="environment 'simple_spread', 'simple_tag' was asked"):
        training.train("simple_tag", config, **arguments)
