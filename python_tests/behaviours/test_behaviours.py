"""Behaviour policies: the batched actor, files, and the limit on what is shipped."""

import itertools

import pytest
import tolerances
import torch

from dom2_fast import envs
from dom2_fast.behaviours import shipped as behaviours
from dom2_fast.behaviours import training
from dom2_fast.errors import Dom2Error
from dom2_fast.runs.evaluation import evaluate


def layers(seed=0, groups=3, sizes=(18, 64, 64, 2)):
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(groups, i, o, generator=g) / i**0.5, torch.randn(groups, 1, o, generator=g))
        for i, o in itertools.pairwise(sizes)
    ]


def test_actor_equals_one_network_per_agent():
    given = layers()
    obs = torch.randn(3, 7, 18)
    act = behaviours.BehaviourPolicy(given)(obs)
    assert act.shape == (3, 7, 2)
    for g in range(3):
        x = obs[g]
        for i, (weight, bias) in enumerate(given):
            x = (x.relu() if i else x) @ weight[g] + bias[g]
        torch.testing.assert_close(act[g], x.tanh(), rtol=0, atol=tolerances.NETWORK32)


def test_round_trip(tmp_path):
    path = tmp_path / "behaviour.npz"
    policies = {name: behaviours.BehaviourPolicy(layers(i)) for i, name in enumerate("ab")}
    behaviours.write(path, policies, 0.25)
    read, noise = behaviours.read(path)
    assert sorted(read) == ["a", "b"] and noise == 0.25
    for name in read:
        for (w, b), (v, c) in zip(read[name].layers, policies[name].layers, strict=True):
            assert torch.equal(w, v) and torch.equal(b, c)
    assert [p.name for p in tmp_path.iterdir()] == ["behaviour.npz"]


TASKS = ("simple_spread", "simple_tag", "simple_world", "spread_6_landmarks")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_all_behaviours(task):
    policies, noise = behaviours.load(task)
    replay = {f"replay_{i}" for i in range(training.REPLAY)}
    assert set(policies) == {"medium", "expert"} | replay
    assert noise == pytest.approx(0.1)


def test_shipped_networks_are_small():
    assert sum(p.stat().st_size for p in behaviours.ASSETS.iterdir()) <= 3 * 10**6


# 400 episodes each, four standard errors of the standard deviations of the card.
@pytest.mark.parametrize("task", [task for task in training.CARD if task in envs.TASKS])
def test_shipped_behaviours_play_at_the_level_of_the_card(task):
    policies, noise = behaviours.load(task)
    card, generator = training.CARD[task], torch.Generator().manual_seed(0)

    def score(name):
        env = envs.make(task, 400, seed=5)
        act = behaviours.noisy(policies[name], noise)
        scores = env.score(envs.reward_sums(env, lambda obs: act(obs, generator)))
        return scores.mean().item(), scores.std().item() / 20

    mean, error = score("medium")
    assert abs(mean - card.medium) < 0.05 * card.medium + 4 * error
    mean, error = score("expert")
    assert mean > card.expert - 4 * error
    replay = [score(f"replay_{i}") for i in range(training.REPLAY)]
    mean = sum(m for m, _ in replay) / len(replay)
    error = sum(e**2 for _, e in replay) ** 0.5 / len(replay)
    assert abs(mean - card.replay) < 0.05 * card.replay + 4 * error


def test_a_shipped_behaviour_is_a_policy_to_evaluate():
    policies, _ = behaviours.load("simple_spread")
    assert evaluate(policies["expert"], "simple_spread", episodes=50)["mean"] > 450
    with pytest.raises(Dom2Error, match="trained for another environment"):
        evaluate(policies["expert"], "simple_tag", episodes=2)


def test_missing_and_damaged_files_are_explained(tmp_path):
    with pytest.raises(Dom2Error, match="only quality 'random'"):
        behaviours.load("mine")
    good = tmp_path / "good.npz"
    behaviours.write(good, {"a": behaviours.BehaviourPolicy(layers())}, 0.1)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(good.read_bytes()[:1000])
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    for path in (cut, text, tmp_path / "absent.npz"):
        with pytest.raises(Dom2Error, match="can't be read"):
            behaviours.read(path)
