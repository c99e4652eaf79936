"""The shipped behaviours of halfcheetah_2x3: what they score, and data they collect."""

import pytest
import torch

from dom2_fast import envs
from dom2_fast.algos.bc import BC, BCConfig
from dom2_fast.behaviours import shipped, training
from dom2_fast.behaviours.collect import collect
from dom2_fast.data import reweight
from dom2_fast.runs.evaluation import evaluate

pytest.importorskip("mujoco", reason="needs the extra mujoco")
TASK = "halfcheetah_2x3"


def score(name, episodes):
    """Mean and standard error of a behaviour's return, with its noise."""
    policies, noise = shipped.load(TASK)
    act, generator = shipped.noisy(policies[name], noise), torch.Generator().manual_seed(0)
    env = envs.make(TASK, episodes, seed=5)
    scores = env.score(envs.reward_sums(env, lambda obs: act(obs, generator)))
    return scores.mean().item(), scores.std().item() / episodes**0.5


def test_behaviours_play_at_the_level_of_the_card():
    card = training.CARD[TASK]
    mean, error = score("medium", 16)
    assert abs(mean - card.medium) < 0.05 * card.medium + 4 * error
    mean, error = score("expert", 16)
    assert mean > card.expert - 4 * error
    replay = [score(f"replay_{i}", 6) for i in range(training.REPLAY)]
    mean = sum(m for m, _ in replay) / len(replay)
    error = sum(e**2 for _, e in replay) ** 0.5 / len(replay)
    assert abs(mean - card.replay) < 0.05 * card.replay + 4 * error


def test_the_file_is_half_precision_and_all_are_there():
    policies, noise = shipped.load(TASK)
    replay = {f"replay_{i}" for i in range(training.REPLAY)}
    assert set(policies) == {"medium", "expert"} | replay and noise == pytest.approx(0.1)
    assert policies["medium"].obs_dims == [6, 6]
    assert all(w.dtype == torch.float32 for p in policies.values() for w, _ in p.layers)
    weight = policies["medium"].layers[0][0]
    assert torch.equal(weight, weight.half().float())
    assert shipped.asset(TASK).stat().st_size <= 10**6


def test_collected_train_a_policy_that_is_evaluated_and_acts(tmp_path):
    data = collect(TASK, "medium", episodes=2, out=tmp_path / "data")
    assert data.lengths.tolist() == [1000, 1000]
    assert all(cut.sum() == 2 for cut in data.truncation) and not any(d.any() for d in data.done)
    assert data.returns.mean().item() == pytest.approx(1569, abs=900)
    assert reweight.preset(TASK, "medium") == reweight.parse("quantiles:0.5,0.75,0.875,0.875")
    agent = BC(BCConfig(hidden=8), data)
    for _ in range(3):
        agent.update()
    shifted = [
        evaluate(agent.policies, TASK, episodes=2, shift=shift, num_envs=2)
        for shift in ("random", "extreme", "offline")
    ]
    plain = evaluate(agent.policies, TASK, episodes=2, record=True)
    means = [result["mean"] for result in (plain, *shifted)]
    assert len(set(means)) == 4
    random, expert, _ = envs.spec(TASK).normalisation
    assert plain["normalised"] == pytest.approx(100 * (means[0] - random) / (expert - random))
    assert plain["mujoco"] and plain["rollout"]["states"].shape == (1001, 9, 4)
    assert plain["rollout"]["links"].shape == (8, 2)
    act = agent.policy.frozen().act(torch.zeros(2, 4, 6))
    assert act.shape == (2, 4, 3) and act.abs().max() <= 1
