"""Scores: statistics against scipy and by hand, same starts for all, files, bad input."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from small_data import arrays
from tolerances import BOOTSTRAP

import dom2_fast
from dom2_fast import envs
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.runs import evaluation as evaluate


def still(obs, generator=None):
    return torch.zeros(len(obs), len(obs[0]), 2)


def test_score_is_the_env_s_own_return_from_the_same_starts():
    result = evaluate.evaluate(still, "simple_spread", episodes=7, seed=5)
    env = envs.make("simple_spread", num_envs=7, seed=5)
    env.reset()
    total = sum(env.step(torch.zeros(3, 7, 2))[1].double() for _ in range(25)).mean(0)
    assert result["returns"] == pytest.approx(total.tolist(), abs=1e-3)  # rounded to 4 digits
    assert result["mean"] == pytest.approx(float(total.mean()))
    assert result["normalised"] == pytest.approx(100 * (result["mean"] - 159.8) / (516.8 - 159.8))
    assert (result["episodes"], result["shift"], result["seed"]) == (7, None, 5)
    again = evaluate.evaluate(still, "simple_spread", episodes=7, seed=5)
    assert again == result


@pytest.mark.parametrize("task", ["simple_spread", "spread_6_landmarks"])
def test_shifts_and_tasks(task):
    result = evaluate.evaluate(still, task, episodes=3, shift="speed", v_min=0.4)
    assert (result["shift"], result["v_min"]) == ("speed", 0.4)
    assert ("normalised" in result) == (task != "spread_6_landmarks")


def test_a_noisy_policy_scores_the_same_twice():
    random = evaluate.random_policies(3)
    a, b = (evaluate.evaluate(random, "simple_spread", episodes=5) for _ in range(2))
    assert a["returns"] == b["returns"]


def test_statistics_by_hand():
    result = evaluate.statistics(torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0, -50.0, 2.5, 3.5]))
    assert result["mean"] == pytest.approx(66.0 / 8)
    assert result["iqm"] == pytest.approx((2.0 + 2.5 + 3.0 + 3.5) / 4)  # the middle half
    assert result["std"] == pytest.approx(np.std([1, 2, 3, 4, 100, -50, 2.5, 3.5], ddof=1))
    assert result["ci95"][0] < result["mean"] < result["ci95"][1]
    assert "normalised" not in result


def test_bootstrap_agrees_with_the_normal_interval_of_a_large_sample():
    values = np.random.default_rng(0).normal(10.0, 3.0, 2000)
    low, high = evaluate.bootstrap_interval(values)
    expected = stats.norm.interval(0.95, values.mean(), values.std() / np.sqrt(2000))
    width = expected[1] - expected[0]
    assert abs(low - expected[0]) < BOOTSTRAP * width
    assert abs(high - expected[1]) < BOOTSTRAP * width
    assert evaluate.bootstrap_interval(values) == (low, high)


def test_degenerate_samples():
    assert evaluate.statistics(torch.tensor([4.0]))["ci95"] == [4.0, 4.0]
    assert evaluate.statistics(torch.tensor([4.0, 4.0, 4.0]))["ci95"] == [4.0, 4.0]
    with pytest.raises(Dom2Error, match="finite numbers"):
        evaluate.statistics(torch.tensor([1.0, float("nan")]))
    with pytest.raises(Dom2Error, match="finite numbers"):
        evaluate.statistics(torch.tensor([]))


def test_data_set_scores():
    given = arrays(trajectories=2, length=25, obs_dims=(18,) * 3)
    given["reward"] = [np.repeat([float(i), 10.0], 25) for i in range(3)]
    meta = {"task": "simple_spread"}
    data = TrajectoryDataset.from_arrays(**given, meta=meta)
    result = evaluate.dataset_scores(data)
    assert result["returns"] == [25.0, 250.0]  # mean over the agents
    with pytest.raises(Dom2Error, match="task"):
        evaluate.dataset_scores(TrajectoryDataset.from_arrays(**given))


def test_bad_input():
    with pytest.raises(Dom2Error, match="episodes"):
        evaluate.evaluate(still, "simple_spread", episodes=0)
    with pytest.raises(Dom2Error, match="simple_spred"):
        evaluate.evaluate(still, "simple_spred", episodes=2)

    class Other:
        obs_dims = (16, 16, 16)

    with pytest.raises(
        Dom2Error, match=r"widths \[16, 16, 16\], simple_spread gives \[18, 18, 18\]"
    ):
        evaluate.evaluate(Other(), "simple_spread", episodes=2)


def test_scores_are_merged_for_the_same_policy_only(tmp_path):
    header = {"algo": "bc", "env": "simple_spread", "data": "d", "step": 10}
    one, two = evaluate.statistics(torch.ones(3)), evaluate.statistics(torch.zeros(3))
    evaluate.save_scores(tmp_path, header, {"standard": one})
    both = evaluate.save_scores(tmp_path, header, {"shift_speed": two})
    assert json.loads((tmp_path / "scores.json").read_text()) == both
    assert set(both["results"]) == {"standard", "shift_speed"}
    assert (both["format"], both["algo"], both["step"]) == (1, "bc", 10)
    later = evaluate.save_scores(tmp_path, {**header, "step": 20}, {"standard": two})
    assert set(later["results"]) == {"standard"}
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(Dom2Error, match="can't be read"):
        evaluate.save_scores(tmp_path, header, {"standard": one})
    assert (tmp_path / "scores.json").read_text() == "{"


def test_rollout_file(tmp_path):
    result = evaluate.evaluate(still, "simple_spread", episodes=2, record=True)
    evaluate.save_rollout(tmp_path, result["rollout"])
    with np.load(tmp_path / "rollout.npz", allow_pickle=False) as file:
        assert file["states"].shape == (26, 6, 4)
        assert file["kinds"].tolist() == ["agent"] * 3 + ["landmark"] * 3
        assert file["sizes"].tolist() == [0.15] * 3 + [0.05] * 3
        assert str(file["task"]) == "simple_spread"
        # nobody pushed, but agents that start in contact drift apart: only landmarks must stay
        assert np.ptp(file["states"][:, 3:, :2], axis=0).max() == 0.0


def test_the_public_name_is_the_function():
    assert dom2_fast.evaluate is evaluate.evaluate
