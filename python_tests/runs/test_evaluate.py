"""Scores: statistics against scipy and by hand, same starts for all, files, bad input."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from scipy import stats
from small_data import arrays
from small_envs import Counting, Line, own_registry
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


def test_results_name_the_prey_and_its_strength():
    result = evaluate.evaluate(still, "simple_tag", episodes=2)
    assert result["prey"] == "bundled v2"
    assert list(result["prey_strength"]) == ["uniform", "greedy", "lead"]
    assert "prey" not in evaluate.evaluate(still, "simple_spread", episodes=2)


class Chasers:
    """Three predators at full force towards the prey that they see; an object with `act`."""

    obs_dims: ClassVar = [16] * 3
    act_dim = 2

    def act(self, obs, generator=None):
        gap = obs[..., 12:14]
        return gap / gap.abs().amax(dim=-1, keepdim=True).clamp(min=1e-6)


def by_hand(env, act, steps=25):
    """Scores of one episode of every copy, without the loop under test."""
    obs, total = env.reset(), 0.0
    for _ in range(steps):
        obs, reward, _ = env.step(act(obs))
        total = total + reward.double()
    return env.score(total)


@pytest.mark.parametrize("shift", [None, "speed"])
@pytest.mark.parametrize(
    ("task", "policies"), [("simple_tag", Chasers().act), ("simple_world", still)]
)
def test_tag_and_world_against_the_bundled_prey(task, policies, shift):
    result = evaluate.evaluate(policies, task, episodes=40, shift=shift, seed=3)
    env = envs.make(task, 40, seed=3, shift=shift)
    assert result["returns"] == pytest.approx(by_hand(env, policies).tolist(), abs=1e-3)
    assert ("v_min" in result) == (shift is not None)
    if shift is not None:
        assert result["v_min"] == envs.tasks.get(task).v_min
    assert np.isfinite(result["normalised"])
    driven = evaluate.evaluate(policies, task, episodes=40, shift=shift, seed=3, prey="bundled")
    assert driven["returns"] == result["returns"]


def test_chasing_pays_at_any_speed():
    standard = evaluate.evaluate(Chasers(), "simple_tag", episodes=200)
    slow = evaluate.evaluate(Chasers(), "simple_tag", episodes=200, shift="speed", v_min=0.2)
    lazy = evaluate.evaluate(still, "simple_tag", episodes=200)
    assert standard["ci95"][0] > lazy["ci95"][1] and slow["ci95"][0] > lazy["ci95"][1]
    assert standard["returns"] != slow["returns"] and slow["v_min"] == 0.2


def test_removed_landmarks_pay_nothing():
    def nearest(obs, generator=None):  # each runs at the landmark that it sees closest
        seen = obs[..., 4:16].unflatten(-1, (6, 2))
        index = seen.norm(dim=-1).argmin(dim=-1)[..., None, None].expand(*seen.shape[:2], 1, 2)
        return seen.gather(2, index)[:, :, 0].clamp(-1, 1)

    task = "spread_6_landmarks"
    results = {
        removed: evaluate.evaluate(
            nearest, task, episodes=50, shift="landmarks", removed_landmarks=removed
        )
        for removed in (None, (0, 2, 4), (1,))
    }
    standard = evaluate.evaluate(nearest, task, episodes=50)
    assert results[None]["returns"] == results[0, 2, 4]["returns"]
    assert results[None]["removed_landmarks"] == (0, 2, 4)
    assert standard["mean"] > results[(1,)]["mean"] > results[None]["mean"]
    assert "normalised" not in standard
    env = envs.make(task, 50, seed=evaluate.SEED, shift="landmarks")
    assert results[None]["returns"] == pytest.approx(by_hand(env, nearest).tolist(), abs=1e-3)


def test_chunks_play_the_starts_of_the_following_seeds():
    random = evaluate.random_policies(3)
    whole = evaluate.evaluate(random, "simple_spread", episodes=10, seed=5, num_envs=10)
    assert whole == evaluate.evaluate(random, "simple_spread", episodes=10, seed=5)
    parts = [
        evaluate.evaluate(random, "simple_spread", episodes=4, seed=5 + k)["returns"]
        for k in range(3)
    ]
    # 10 episodes, at most 4 at once: three chunks of 4, the last two episodes dropped
    result = evaluate.evaluate(random, "simple_spread", episodes=10, seed=5, num_envs=4)
    assert result["returns"] == [score for part in parts for score in part][:10]
    assert (result["episodes"], result["num_envs"]) == (10, 4)


def test_no_more_copies_at_once_than_the_environment_says(monkeypatch):
    own_registry(monkeypatch)
    envs.register("few", Counting, most=3)
    act = lambda obs, generator=None: torch.zeros(2, len(obs[0]), 1)  # noqa: E731
    assert evaluate.evaluate(act, "few", episodes=5)["num_envs"] == 3
    assert evaluate.evaluate(act, "few", episodes=5, num_envs=5)["num_envs"] == 5
    with pytest.raises(Dom2Error, match="copies of more at most"):
        envs.register("more", Counting, most=0)


def test_an_episode_that_ended_adds_no_more_reward(monkeypatch):
    own_registry(monkeypatch)
    made = []

    def counting(num_envs, seed, **options):
        made.append(Counting(num_envs, seed, **options))
        return made[-1]

    act = lambda obs, generator=None: torch.zeros(2, len(obs[0]), 1)  # noqa: E731
    result = evaluate.evaluate(act, counting, episodes=5, num_envs=3, seed=7)
    assert result["returns"] == [3, 6, 9, 3, 6]  # NaN afterwards
    assert made[0].seeds == [7, 7, 8] and made[0].closed and "normalised" not in result
    gust = {"windy": {"gust": (0.5, "added to every reward")}}
    envs.register("count", counting, normalisation=(0.0, 12.0, "by hand"), shifts=gust)
    shifted = evaluate.evaluate(act, "count", episodes=3, shift="windy")
    assert shifted["returns"] == [4, 8, 12] and shifted["gust"] == 0.5
    assert shifted["normalised"] == pytest.approx(100 * 8 / 12)
    assert "options" not in shifted
    unequal = evaluate.evaluate(act, "count", episodes=3, widths=(1, 2))
    assert unequal["returns"] == [3, 6, 9] and unequal["options"] == {"widths": (1, 2)}
    assert "rollout" not in evaluate.evaluate(act, "count", episodes=3, record=True)


def test_a_parallel_env_is_evaluated():
    act = lambda obs, generator=None: torch.full((2, len(obs[0]), 1), -0.5)  # noqa: E731
    result = evaluate.evaluate(act, lambda: Line(), episodes=5, num_envs=2, seed=1)
    # -0.5 is 0 in [-1, 3]: nobody moves, so four steps pay four times the start's mean
    env = envs.from_parallel_env(Line, 2)
    starts = torch.cat([env.reset(seed=1 + k)[:, :, 0].mean(0) for k in range(3)])[:5]
    assert result["returns"] == pytest.approx((4 * starts).tolist(), abs=1e-3)
    with pytest.raises(Dom2Error, match="a1 ended at step 2"):
        evaluate.evaluate(act, lambda: Line(ends={"a1": 2}), episodes=2)
    with pytest.raises(Dom2Error, match="differ in action width"):
        evaluate.evaluate(act, lambda: Line(act={"a1": Box(-1, 1, (3,))}), episodes=2)


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
        evaluate.dataset_scores(TrajectoryDataset.from_arrays(**given, episode_length=25))
    unknown = evaluate.dataset_scores(data, env="HalfCheetah-v2")
    assert unknown["returns"] == [25.0, 250.0] and "normalised" not in unknown


class Other:
    obs_dims = (18, 18, 18)
    act_dim = 2

    def __init__(self, **change):
        vars(self).update(change)

    def act(self, obs, generator=None):
        raise AssertionError("played")


class OneWidth(Other):
    obs_dims, groups, obs_dim = None, 3, 16


@pytest.mark.parametrize(
    ("policies", "change", "message"),
    [
        (still, dict(episodes=0), "episodes must be"),
        (still, dict(episodes=True), "episodes must be"),
        (still, dict(num_envs=0), "num_envs must be"),
        (still, dict(num_envs=2.0), "num_envs must be"),
        (still, dict(seed=-1), "seed must be"),
        (still, dict(env="simple_spred"), "simple_spred"),
        (still, dict(shift="wind"), "accepted: None, 'speed'"),
        (still, dict(v_min=0.3), "v_min belongs to shift='speed'"),
        (still, dict(wind=1), r"no option 'wind'; accepted: num_envs, .*prey"),
        (Other(obs_dims=[16] * 3), {}, r"\[16, 16, 16\], simple_spread gives \[18, 18, 18\]"),
        (OneWidth(), {}, r"widths \[16, 16, 16\], simple_spread gives"),
        (Other(act_dim=6), {}, "actions of width 6, simple_spread takes 2"),
        (3, {}, "got int"),
        (lambda obs, generator=None: torch.zeros(2, 3, 2), {}, r"shape \[2, 3, 2\]; \[G, E, A\]"),
    ],
)
def test_bad_input(policies, change, message):
    with pytest.raises(Dom2Error, match=message):
        evaluate.evaluate(policies, **({"env": "simple_spread", "episodes": 2} | change))


def test_only_what_the_report_can_play_is_recorded():
    class Told(Counting):
        def recording(self):
            return {"places": []}

    def act(obs, generator=None):
        return torch.zeros(2, len(obs[0]), 1)

    assert "rollout" not in evaluate.evaluate(act, Counting, episodes=3, record=True)
    with pytest.raises(Dom2Error, match=r"gave places; .* lacks states, sizes, kinds"):
        evaluate.evaluate(act, Told, episodes=3, record=True)


def test_the_public_name_is_the_function():
    assert dom2_fast.evaluate is evaluate.evaluate
