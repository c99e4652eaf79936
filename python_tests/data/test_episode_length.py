"""Where episodes end is what the data says, and never a guess: data shaped as HalfCheetah's.

1,000 rows per episode are also forty times 25, the length of the particle tasks: cut so, every
check of the values passes, every return is a fortieth, and no published threshold is exceeded.
"""

import json

import numpy as np
import pytest
import torch
from small_data import arrays, half_cheetah

from dom2_fast import envs, known_tasks
from dom2_fast.cli.main import main
from dom2_fast.compat.omar import ReplayBuffer
from dom2_fast.data.sampler import TrajectorySampler
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error

RETURNS = [1700.0, 1870.0, 1990.0]
WEIGHTS = [1.0, 3.0, 5.0]  # the medium preset's levels are 1800, 1850, 1900, 1950, 2000


@pytest.fixture
def unnamed(tmp_path):
    """A folder whose files say nothing of their episodes: OMAR's layout without a meta.json."""
    data = TrajectoryDataset.from_arrays(**half_cheetah(), episode_length=1000)
    return strip(data, tmp_path / "d")


def strip(data, path):
    data.write(path)
    (path / "meta.json").unlink()
    return path


def test_nothing_says_the_length():
    with pytest.raises(Dom2Error, match=r"3000 rows and nothing .*episode_length=.*lengths=") as e:
        TrajectoryDataset.from_arrays(**half_cheetah())
    assert "doesn't name its task" in str(e.value)
    with pytest.raises(Dom2Error, match="'ant' is not a known one"):
        TrajectoryDataset.from_arrays(**half_cheetah(), meta={"task": "ant"})


def test_a_folder_that_says_nothing_is_refused(unnamed):
    with pytest.raises(Dom2Error, match=r"has 3000 rows .*episode_length=.*--episode-length"):
        TrajectoryDataset.load(unnamed)
    data = TrajectoryDataset.load(unnamed, episode_length=1000)
    assert data.returns.round(decimals=6).tolist() == [RETURNS, RETURNS]


def test_lengths_are_given_or_in_the_files(unnamed):
    assert TrajectoryDataset.load(unnamed, lengths=[1000] * 3).num_trajectories == 3
    np.save(unnamed / "lengths.npy", np.array([1000, 1000, 1000]))
    assert TrajectoryDataset.load(unnamed).num_trajectories == 3
    (unnamed / "lengths.npy").unlink()
    (unnamed / "meta.json").write_text(json.dumps({"episode_length": 1000}))
    assert TrajectoryDataset.load(unnamed).num_trajectories == 3


@pytest.mark.parametrize("length", [True, 0, "25", 999])
def test_a_length_that_can_t_be(unnamed, length):
    (unnamed / "meta.json").write_text(json.dumps({"episode_length": length}))
    with pytest.raises(Dom2Error, match="episode_length"):
        TrajectoryDataset.load(unnamed)


def test_the_task_is_known_by_meta_or_by_the_path(unnamed, tmp_path):
    folder = tmp_path / "HalfCheetah-v2" / "medium" / "seed_0_data"
    folder.parent.mkdir(parents=True)
    unnamed.rename(folder)
    data = TrajectoryDataset.load(folder)
    assert (data.task, data.quality) == ("HalfCheetah-v2", "medium")
    assert data.returns.round(decimals=6).tolist() == [RETURNS, RETURNS]
    meta = {"task": "HalfCheetah-v2"}
    assert TrajectoryDataset.from_arrays(**half_cheetah(), meta=meta).num_trajectories == 3


def test_meta_json_wins_over_the_folder_s_name(unnamed, tmp_path):
    folder = tmp_path / "simple_spread" / "medium" / "seed_0_data"
    folder.parent.mkdir(parents=True)
    unnamed.rename(folder)
    (folder / "meta.json").write_text(json.dumps({"task": "HalfCheetah-v2"}))
    data = TrajectoryDataset.load(folder)
    assert (data.task, data.num_trajectories) == ("HalfCheetah-v2", 3)
    assert data.quality is None  # "medium" is said of simple_spread
    (folder / "meta.json").write_text(json.dumps({"task": None}))  # unknown is an answer, too
    with pytest.raises(Dom2Error, match="doesn't name its task"):
        TrajectoryDataset.load(folder)


def test_a_known_task_s_length_that_the_data_contradicts(unnamed, tmp_path):
    folder = tmp_path / "simple_tag" / "medium" / "seed_0_data"
    folder.parent.mkdir(parents=True)
    unnamed.rename(folder)
    message = "have 25 steps, but at 117 of 119 such cuts the data goes on"
    with pytest.raises(Dom2Error, match=message):
        TrajectoryDataset.load(folder)
    assert TrajectoryDataset.load(folder, 1000).num_trajectories == 3
    still = {**arrays(trajectories=4, length=25), "obs": [np.ones((100, 3))], "next_obs": None}
    still |= {"act": still["act"][:1], "reward": still["reward"][:1]}
    for after in (None, still["obs"]):  # nothing moves, so nothing can be told
        given = {**still, "next_obs": after}
        assert TrajectoryDataset.from_arrays(**given, meta={"task": "simple_tag"}).num_trajectories


def test_pieces_of_a_known_task_s_episodes(unnamed):
    pieces = {"task": "HalfCheetah-v2", "episode_length": 25}
    (unnamed / "meta.json").write_text(json.dumps(pieces))
    message = r"have 1000 steps, these are pieces of at most 25: at 117 of 119 .*-length 1000"
    with pytest.raises(Dom2Error, match=message):
        TrajectoryDataset.load(unnamed)
    with pytest.raises(Dom2Error, match=message):
        lengths = np.full(120, 25)
        TrajectoryDataset.load({**half_cheetah(), "lengths": lengths, "meta": pieces})
    assert TrajectoryDataset.load(unnamed, 1000).num_trajectories == 3
    shorter = {"task": "HalfCheetah-v2", "episode_length": 500}  # two halves are pieces as well
    (unnamed / "meta.json").write_text(json.dumps(shorter))
    with pytest.raises(Dom2Error, match="pieces of at most 500"):
        TrajectoryDataset.load(unnamed)


def test_every_environment_s_length_is_known():
    for task in envs.TASKS:
        assert known_tasks.episode_length(task) == envs.make(task, prey="external").episode_length
    assert known_tasks.episode_length(None) is None
    assert known_tasks.episode_length("ant") is None


def test_a_registered_task_cuts_its_data():
    known_tasks.register("my_cheetah", 500)
    known_tasks.register("my_cheetah", 1000)
    data = TrajectoryDataset.from_arrays(**half_cheetah(), meta={"task": "my_cheetah"})
    assert data.num_trajectories == 3
    known_tasks.register("simple_tag", 25)
    with pytest.raises(Dom2Error, match="have 25 steps in the public data, not 50"):
        known_tasks.register("simple_tag", 50)
    for steps in (0, True, 2.5):
        with pytest.raises(Dom2Error, match="must be a whole number"):
            known_tasks.register("mine", steps)


def test_the_preset_applies_to_whole_episodes():
    meta = {"task": "HalfCheetah-v2", "quality": "medium"}
    data = TrajectoryDataset.from_arrays(**half_cheetah(), meta=meta)
    with pytest.warns(UserWarning, match=r"exceeds the level\(s\) 2000 of"):
        sampler = TrajectorySampler(data, "preset", batch_size=8)
    assert sampler.weights.tolist() == [WEIGHTS, WEIGHTS]
    cut = TrajectoryDataset.from_arrays(**half_cheetah(), meta=meta, episode_length=25)
    with pytest.raises(Dom2Error, match=r"no trajectory .*42.5 to 49.75 over 120 .*episode_length"):
        TrajectorySampler(cut, "preset", batch_size=8)


def test_omar_s_buffer_reads_the_files_as_they_are(unnamed):
    for i in range(2):
        for name in ("states", "next_states"):
            np.save(unnamed / f"{name}_{i}.npy", np.zeros((3000, 17)))
    buffer = ReplayBuffer(3000, 2, [6, 6], [3, 3], is_mamujoco=True, state_dims=[17, 17])
    buffer.load_batch_data(unnamed)
    assert len(buffer) == 3000
    states, obs, acs, rews, *_ = buffer.sample(16)
    assert (states[0].shape, obs[1].shape, acs[0].shape) == ((16, 17), (16, 6), (16, 3))
    assert torch.equal(*rews)  # shared


def test_the_command_line_asks_for_the_length(unnamed, tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", "--algo", "bc", "--data", str(unnamed), "--out", str(out), "--steps", "1"]
    assert main([*train, "--quiet"]) != 0
    assert "--episode-length" in capsys.readouterr().err
    assert not out.exists()  # refused before anything is written
    train += ["--quiet", "--reweight", "preset:HalfCheetah-v2/medium", "--hidden", "8"]
    assert main([*train, "--episode-length", "25"]) != 0
    assert "no trajectory of any agent exceeds" in capsys.readouterr().err
    assert not out.exists()
    assert main([*train, "--episode-length", "1000", "--batch-size", "4"]) == 0
    assert "exceeds the level(s) 2000" in capsys.readouterr().err
    assert "trajectories: 3\n" in (out / "config.yaml").read_text()


def test_particle_data_is_still_cut_every_25_steps(tmp_path):
    data = TrajectoryDataset.from_arrays(**arrays(trajectories=2, length=25), episode_length=25)
    path = strip(data, tmp_path / "simple_tag" / "medium-replay" / "seed_3_data")
    assert TrajectoryDataset.load(path).starts.tolist() == [0, 25, 50]
