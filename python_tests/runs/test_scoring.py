"""Runs are scored and exported in any environment; acting builds only what acts."""

import json

import numpy as np
import pytest
import torch
from small_data import dataset
from small_envs import own_registry

from dom2_fast import envs, load_policy
from dom2_fast.algos.bc import BCConfig
from dom2_fast.algos.dom2 import DOM2Config
from dom2_fast.errors import Dom2Error
from dom2_fast.runs import evaluation
from dom2_fast.runs.acting import policies_of
from dom2_fast.runs.exporting import export_run
from dom2_fast.runs.folder import setting_title
from dom2_fast.runs.scoring import evaluate_run, save_rollout, save_scores
from dom2_fast.runs.train import train

COMMON = {"weights": "uniform", "batch_size": 4, "hidden": 8, "depth": 1, "steps": 2}
CONFIGS = {"dom2": DOM2Config(**COMMON, critic_hidden=8), "bc": BCConfig(**COMMON)}
QUIET = {"progress": False, "tensorboard": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    made = dataset(trajectories=8, obs_dims=(18,) * 3, meta={"task": "simple_spread"})
    return made.write(tmp_path_factory.mktemp("data") / "d")


class Steady:
    """Three agents that see zeros; every step pays 1, or `gust`. It has no recording."""

    num_agents, obs_dims, act_dim, episode_length = 3, [4] * 3, 2, 5

    def __init__(self, num_envs, seed, shift=None, gust=1.0):
        self.num_envs, self.gust = num_envs, gust

    def reset(self, seed=None):
        self.t = 0
        return torch.zeros(3, self.num_envs, 4)

    def step(self, act):
        self.t += 1
        over = torch.full((self.num_envs,), self.t == 5)
        return torch.zeros(3, self.num_envs, 4), torch.full((3, self.num_envs), self.gust), over

    def score(self, reward_sums):
        return reward_sums.mean(0)


def test_candidates_are_overridden_under_a_name_of_their_own(data, tmp_path):
    config = DOM2Config(**COMMON, critic_hidden=8, q_action="best", candidates=4)
    run = train(config, data, tmp_path / "run", 2, **QUIET).out
    export_run(run, tmp_path / "p.safetensors")
    evaluate_run(run, episodes=6)
    evaluate_run(run, episodes=6, candidates=4)
    scores = evaluate_run(run, episodes=6, candidates=1)["results"]
    assert set(scores) == {"standard", "standard_candidates_4", "standard_candidates_1"}
    assert scores["standard"]["returns"] == scores["standard_candidates_4"]["returns"]
    assert scores["standard_candidates_1"]["candidates"] == 1
    file = evaluation.evaluate(load_policy(tmp_path / "p.safetensors"), "simple_spread", episodes=6)
    assert scores["standard_candidates_1"]["returns"] == pytest.approx(file["returns"], rel=1e-4)
    assert scores["standard_candidates_1"]["returns"] != scores["standard"]["returns"]
    assert setting_title("best_shift_speed_candidates_1") == (
        "speed shift, best checkpoint, candidates 1"
    )


def test_candidates_that_cannot_be_are_refused(data, tmp_path):
    run = train(CONFIGS["bc"], data, tmp_path / "bc", 1, **QUIET).out
    with pytest.raises(Dom2Error, match="bc doesn't choose among candidates"):
        evaluate_run(run, episodes=2, candidates=4)
    with pytest.raises(Dom2Error, match="candidates must be"):
        policies_of(run, candidates=0)
    assert not (run / "scores.json").exists()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A run on data of a task that no environment here is registered for."""
    root = tmp_path_factory.mktemp("foreign")
    folder = dataset(obs_dims=(4,) * 3, meta={"task": "steady"}).write(root / "d")
    return train(CONFIGS["bc"], folder, root / "run", 1, **QUIET).out


def test_acting_builds_no_optimiser(data, tmp_path, monkeypatch):
    for algo, config in CONFIGS.items():
        agents = train(config, data, tmp_path / algo, 2, **QUIET).agents
        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.Adam, "__init__", None)
            acting = policies_of(tmp_path / algo)
        assert (acting.algo, acting.env, acting.step) == (algo, "simple_spread", 2)
        assert acting.data == str(data)
        obs = torch.zeros(3, 2, 18)
        acts = [p.act(obs, torch.Generator().manual_seed(0)) for p in (acting[0], agents.policies)]
        assert torch.equal(*acts)


def test_an_exported_run_acts_as_the_run(data, tmp_path):
    train(CONFIGS["bc"], data, tmp_path / "run", 2, **QUIET)
    policies, _ = export_run(tmp_path / "run", tmp_path / "p.safetensors")
    obs = torch.zeros(3, 2, 18)
    loaded = load_policy(tmp_path / "p.safetensors")
    acts = [p.act(obs, generator=torch.Generator().manual_seed(0)) for p in (policies, loaded)]
    assert torch.equal(*acts)


def test_a_registered_environment_and_its_shift(foreign, tmp_path, monkeypatch):
    own_registry(monkeypatch)
    shifts = {"windy": {"gust": (0.5, "what a step pays")}}
    envs.register("steady", Steady, shifts=shifts, normalisation=(0.0, 10.0, "counted"))
    scores = evaluate_run(foreign, episodes=4, num_envs=2)
    assert scores["env"] == "steady" and scores["results"]["standard"]["mean"] == 5.0
    assert scores["results"]["standard"]["normalised"] == 50.0
    for options, gust in (({}, 0.5), ({"gust": 3.0}, 3.0)):
        windy = evaluate_run(foreign, episodes=4, shift="windy", **options)["results"]
        assert windy["shift_windy"]["gust"] == gust and windy["shift_windy"]["mean"] == 5 * gust
        assert windy["standard"] == scores["results"]["standard"]
    assert not (foreign / "rollout.npz").exists()
    before = (foreign / "scores.json").read_bytes()
    with pytest.raises(Dom2Error, match="gust belongs to shift='windy'"):
        evaluate_run(foreign, episodes=4, gust=2.0)
    with pytest.raises(Dom2Error, match="no shift 'speed'"):
        evaluate_run(foreign, episodes=4, shift="speed")
    assert (foreign / "scores.json").read_bytes() == before
    (foreign / "scores.json").unlink()


def test_an_environment_given_as_a_function(foreign):
    with pytest.raises(Dom2Error, match="unknown environment 'steady'"):
        evaluate_run(foreign, episodes=2)
    scores = evaluate_run(foreign, env=Steady, episodes=2)
    assert scores["results"]["standard"]["mean"] == 5.0
    assert "normalised" not in scores["results"]["standard"]
    assert scores["env"].endswith(":Steady")
    (foreign / "scores.json").unlink()


def test_evaluate_run_writes_scores_and_rollout(data, tmp_path):
    run = tmp_path / "run"
    train(CONFIGS["dom2"], data, run, 2, **QUIET)
    evaluate_run(run, episodes=4)
    scores = evaluate_run(run, episodes=4, shift="speed", v_min=0.5)
    assert json.loads((run / "scores.json").read_text()) == scores
    assert (scores["algo"], scores["env"], scores["step"]) == ("dom2", "simple_spread", 2)
    assert set(scores["results"]) == {"standard", "shift_speed"}
    assert scores["results"]["shift_speed"]["v_min"] == 0.5
    with np.load(run / "rollout.npz") as rollout:
        assert rollout["states"].shape == (26, 6, 4)
        assert str(rollout["shift"]) == ""
    again = evaluate_run(run, episodes=4)
    assert again["results"]["standard"] == scores["results"]["standard"]
    with pytest.raises(Dom2Error, match="of environment 'simple_spread', 'simple_tag'"):
        evaluate_run(run, episodes=4, env="simple_tag")
    with pytest.raises(Dom2Error, match="no checkpoint at"):
        evaluate_run(tmp_path / "nowhere")


def test_scores_are_merged_for_the_same_policy_only(tmp_path):
    header = {"algo": "bc", "env": "simple_spread", "data": "d", "step": 10}
    one, two = evaluation.statistics(torch.ones(3)), evaluation.statistics(torch.zeros(3))
    save_scores(tmp_path, header, {"standard": one})
    both = save_scores(tmp_path, header, {"shift_speed": two})
    assert json.loads((tmp_path / "scores.json").read_text()) == both
    assert set(both["results"]) == {"standard", "shift_speed"}
    assert (both["format"], both["algo"], both["step"]) == (1, "bc", 10)
    later = save_scores(tmp_path, {**header, "step": 20}, {"standard": two})
    assert set(later["results"]) == {"standard"}
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(Dom2Error, match="can't be read"):
        save_scores(tmp_path, header, {"standard": one})
    assert (tmp_path / "scores.json").read_text() == "{"


def test_rollout_file(tmp_path):
    result = evaluation.evaluate(
        lambda obs, generator: torch.zeros(3, 2, 2), "simple_spread", episodes=2, record=True
    )
    save_rollout(tmp_path, result["rollout"])
    with np.load(tmp_path / "rollout.npz", allow_pickle=False) as file:
        assert file["states"].shape == (26, 6, 4)
        assert file["kinds"].tolist() == ["agent"] * 3 + ["landmark"] * 3
        assert file["sizes"].tolist() == [0.15] * 3 + [0.05] * 3
        assert str(file["task"]) == "simple_spread"
        # nobody pushed, but agents that start in contact drift apart: only landmarks must stay
        assert np.ptp(file["states"][:, 3:, :2], axis=0).max() == 0.0
