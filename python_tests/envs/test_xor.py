"""The XOR game: rewards by hand, data of both joint modes, what is refused."""

import pytest
import tolerances
import torch

import dom2_fast as d2
from dom2_fast import algos, envs
from dom2_fast.behaviours import collect, scripted
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.runs.exporting import export_run
from dom2_fast.runs.scoring import evaluate_run
from dom2_fast.runs.train import train


def test_the_reward_is_for_different_signs():
    env = envs.make("xor", 5, seed=3)
    assert (env.num_agents, env.obs_dims, env.act_dim, env.episode_length) == (2, [1, 1], 1, 1)
    obs = env.reset(seed=1)
    assert torch.equal(obs, torch.ones(2, 5, 1))
    first, second = [0.5, -0.1, 1.0, -1.0, 0.0], [-0.9, 0.2, 0.1, -1.0, 1.0]
    obs, reward, done = env.step(torch.tensor([first, second])[..., None])
    assert torch.equal(obs, torch.ones(2, 5, 1)) and done.all() and env.terminal.all()
    assert reward.tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0]] * 2
    assert env.score(reward).tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    label, solved = env.solution()
    assert solved.tolist() == [True, True, False, False, False]
    assert len(set(label.tolist())) == 5  # (+, -), (-, +), (+, +), (-, -), (0, +)


def test_uniform_actions_have_0_and_the_pair_100():
    pair = d2.evaluate(scripted.xor_pair, "xor", episodes=400)
    assert pair["normalised"] == 100.0
    random = d2.evaluate(envs.random_policies(2, 1), "xor", episodes=4000)
    assert abs(random["mean"] - 0.5) < tolerances.SIGMAS * 0.5 / 4000**0.5


def test_expert_data_has_both_modes_half_and_half(tmp_path):
    data = collect.collect("xor", "expert", 4000, seed=1, out=tmp_path / "d")
    assert (data.task, data.quality, data.num_trajectories, len(data)) == (
        "xor",
        "expert",
        4000,
        4000,
    )
    first, second = (act[:, 0] for act in data.act)
    assert bool((first * second < 0).all())
    assert abs((first > 0).float().mean() - 0.5) < tolerances.SIGMAS * 0.5 / 4000**0.5
    size = torch.stack([first, second]).abs()
    error = scripted.XOR_SPREAD / 8000**0.5
    assert abs(size.mean() - scripted.XOR_MODE) < tolerances.SIGMAS * error
    assert size.std().item() == pytest.approx(scripted.XOR_SPREAD, rel=0.05)
    assert all(bool((reward == 1).all()) for reward in data.reward)
    assert all(bool((done == 1).all()) for done in data.done)  # terminal: nothing follows
    assert data.meta["behaviours_sha256"] is None
    loaded = TrajectoryDataset.load(tmp_path / "d")
    assert loaded.lengths.tolist() == [1] * 4000
    again = collect.collect("xor", "expert", 4000, seed=1)
    assert torch.equal(again.act[0], data.act[0])
    assert collect.collect("xor", "random", 50).returns.mean() < 1


@pytest.mark.parametrize("quality", ["medium", "medium-replay", "random-medium", "medium-expert"])
def test_a_kind_that_there_is_not(quality, tmp_path):
    with pytest.raises(Dom2Error, match=r"none is 'medium.*choose one of random, expert"):
        collect.collect("xor", quality, 20, out=tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_episodes_of_one_step_are_learnt_from_or_refused(tmp_path):
    data = tmp_path / "d"
    collect.collect("xor", "expert", 32, out=data)
    small = {"batch_size": 8, "hidden": 8}
    quiet = {"progress": False, "tensorboard": False}
    for name in ("dom2", "bc", "bc_det", "bc_gauss", "td3_bc", "omar", "sfbc"):
        config = algos.algorithm(name).config_class(**small)
        run = train(config, data, tmp_path / name, 2, **quiet).out
        score = evaluate_run(run, episodes=4)["results"]["standard"]["mean"]
        assert 0 <= score <= 1
        # What the file acts by is tested where export is: dom2 and sfbc leave their critic behind.
        export_run(run, tmp_path / f"{name}.safetensors")
        act = d2.load_policy(tmp_path / f"{name}.safetensors").act(torch.ones(2, 3, 1))
        assert act.shape == (2, 3, 1) and bool((act.abs() <= 1).all())
    for name, message in (("icq", "needs the next action.*one row each"), ("iql", "return_span")):
        with pytest.raises(Dom2Error, match=message):
            train(algos.algorithm(name).config_class(**small), data, tmp_path / name, 2, **quiet)
        assert not (tmp_path / name / "checkpoint.pt").exists()


def test_wrong_calls_are_explained():
    env = envs.make("xor", 2)
    for call in (lambda: env.step(torch.zeros(2, 2, 1)), env.solution):
        with pytest.raises(Dom2Error, match=r"xor: call reset\(\)"):
            call()
    env.reset()
    for act, message in (
        (torch.zeros(2, 3, 1), r"shape \[2, 2, 1\].*got \[2, 3, 1\]"),
        (torch.full((2, 2, 1), 1.5), r"in \[-1, 1\]"),
        (torch.full((2, 2, 1), torch.nan), "no NaN"),
    ):
        with pytest.raises(Dom2Error, match=message):
            env.step(act)
    with pytest.raises(Dom2Error, match=r"shape \[2, episodes\]"):
        env.score(torch.zeros(3, 4))
    with pytest.raises(Dom2Error, match="xor has no shift 'speed'"):
        envs.make("xor", shift="speed")
    with pytest.raises(Dom2Error, match="xor has no prey"):
        collect.collect("xor", "random", 2, prey="somewhere.npz")
