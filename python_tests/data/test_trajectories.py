"""TrajectoryDataset: round trip, episode cuts, memory mapping, every way a folder can be bad."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import arrays, dataset

from dom2_fast.data.trajectories import FIELDS, TrajectoryDataset
from dom2_fast.errors import Dom2Error


@pytest.fixture
def folder(tmp_path):
    return dataset(meta={"task": "simple_spread", "quality": "medium"}).write(tmp_path / "data")


def test_round_trip_keeps_every_value(folder):
    made, read = dataset(), TrajectoryDataset.load(folder)
    for name in FIELDS:
        for a, b in zip(getattr(made, name), getattr(read, name), strict=True):
            assert torch.equal(a, b)
    assert read.starts.tolist() == [0, 5, 10, 15, 20]
    assert (read.num_agents, read.obs_dims, read.act_dim, len(read)) == (2, [3, 3], 2, 20)
    assert (read.task, read.quality) == ("simple_spread", "medium")
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [f"{f}_{i}.npy" for f in ("obs", "acs", "rews", "next_obs", "dones") for i in (0, 1)]
        + ["meta.json"]
    )


def test_loading_maps_the_files_and_never_changes_them(folder):
    before = (folder / "obs_0.npy").read_bytes()
    data = TrajectoryDataset.load(folder)
    assert str(folder / "obs_0.npy") in Path("/proc/self/maps").read_text()
    data.obs[0].zero_()
    assert (folder / "obs_0.npy").read_bytes() == before


def test_task_and_quality_come_from_the_path_without_meta(tmp_path):
    made = dataset(trajectories=2, length=25)
    path = made.write(tmp_path / "simple_tag" / "medium-replay" / "seed_3_data")
    (path / "meta.json").unlink()
    read = TrajectoryDataset.load(path)
    assert read.starts.tolist() == [0, 25, 50]
    assert (read.task, read.quality) == ("simple_tag", "medium-replay")


def test_returns_are_undiscounted_sums_of_own_rewards():
    given = arrays(trajectories=2, length=3)
    given["reward"] = [np.array([1, 2, 3, 10, 20, 30.0]), np.array([0.5, 0, 0, -1, -1, -1.0])]
    data = TrajectoryDataset.from_arrays(**given, episode_length=3)
    assert data.returns.dtype == torch.float64
    assert data.returns.tolist() == [[6.0, 60.0], [0.5, -3.0]]
    summary = data.summary()
    assert summary["return_mean"] == [33.0, -1.25]
    assert (summary["return_min"], summary["return_max"]) == ([6.0, -3.0], [60.0, 0.5])
    json.dumps(summary)


def test_explicit_lengths_and_their_round_trip(tmp_path):
    given = arrays(trajectories=1, length=7)
    data = TrajectoryDataset.from_arrays(**given, lengths=[2, 4, 1])
    assert data.starts.tolist() == [0, 2, 6, 7]
    again = TrajectoryDataset.load(data.write(tmp_path / "d"))
    assert again.starts.tolist() == [0, 2, 6, 7]


def test_first_agents_only_and_different_widths(tmp_path):
    path = dataset(obs_dims=(4, 4, 3)).write(tmp_path / "d")
    assert TrajectoryDataset.load(path).obs_dims == [4, 4, 3]
    assert TrajectoryDataset.load(path, agents=2).obs_dims == [4, 4]
    with pytest.raises(Dom2Error, match="has 3"):
        TrajectoryDataset.load(path, agents=4)


def test_the_other_byte_order_is_read(folder):
    before = np.load(folder / "obs_0.npy")
    np.save(folder / "obs_0.npy", before.astype(">f4"))
    assert np.array_equal(TrajectoryDataset.load(folder).obs[0], before)


def test_rewards_kept_as_columns_are_read(folder):
    np.save(folder / "rews_0.npy", np.load(folder / "rews_0.npy")[:, None])
    assert TrajectoryDataset.load(folder).reward[0].shape == (20,)


def test_subset_keeps_whole_trajectories():
    data = dataset(trajectories=10)
    some = data.subset(indices=[7, 2])
    assert some.starts.tolist() == [0, 5, 10]
    assert torch.equal(some.obs[1], torch.cat([data.obs[1][10:15], data.obs[1][35:40]]))
    assert torch.equal(some.returns, data.returns[:, [2, 7]])
    assert data.subset(0.3, seed=1).num_trajectories == 3
    assert torch.equal(data.subset(0.3, seed=1).returns, data.subset(0.3, seed=1).returns)
    assert data.subset(1e-9).num_trajectories == 1
    for wrong in ({"fraction": 0.0}, {"fraction": 1.5}, {"indices": [10]}, {}):
        with pytest.raises(Dom2Error):
            data.subset(**wrong)


def test_fingerprint_tells_data_apart(folder):
    read = TrajectoryDataset.load(folder)
    assert read.fingerprint() == dataset().fingerprint() != dataset(seed=1).fingerprint()


def truncate(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def put(path, row, value, column=...):
    array = np.load(path)
    array[row, column] = value
    np.save(path, array)


BAD_FOLDERS = {
    "missing file": (lambda f: (f / "acs_1.npy").unlink(), r"acs_1.npy is missing"),
    "truncated data": (lambda f: truncate(f / "obs_1.npy", 200), r"obs_1.npy .*cut short"),
    "truncated header": (lambda f: truncate(f / "obs_1.npy", 5), r"obs_1.npy .*cut short"),
    "empty file": (lambda f: truncate(f / "rews_0.npy", 0), r"rews_0.npy .*cut short"),
    "not npy": (lambda f: (f / "rews_0.npy").write_text("hello there"), r"rews_0.npy"),
    "pickled": (
        lambda f: np.save(f / "rews_0.npy", np.array([{}] * 20), allow_pickle=True),
        r"rews_0.npy",
    ),
    "rows differ between fields": (
        lambda f: np.save(f / "rews_0.npy", np.zeros(15)),
        r"reward of agent 0 has 15 rows.*has 20",
    ),
    "rows differ between agents": (
        lambda f: np.save(f / "obs_1.npy", np.zeros((25, 3))),
        r"obs of agent 1 has 25 rows",
    ),
    "obs widths differ": (
        lambda f: np.save(f / "next_obs_0.npy", np.zeros((20, 4))),
        r"next_obs of agent 0 have shapes \[20, 3\] and \[20, 4\]",
    ),
    "act widths differ": (
        lambda f: np.save(f / "acs_1.npy", np.zeros((20, 3))),
        r"different widths \[2, 3\]",
    ),
    "obs of one dim": (
        lambda f: np.save(f / "obs_0.npy", np.zeros(20)),
        r"obs of agent 0 .*\[20\]",
    ),
    "reward matrix": (lambda f: np.save(f / "rews_0.npy", np.zeros((20, 2))), r"\[N\] or \[N, 1\]"),
    "integer obs": (
        lambda f: np.save(f / "obs_0.npy", np.zeros((20, 3), int)),
        r"obs of agent 0 has dtype int64",
    ),
    "complex": (
        lambda f: np.save(f / "acs_0.npy", np.zeros((20, 2), complex)),
        r"dtype complex128",
    ),
    "nan": (lambda f: put(f / "obs_1.npy", 7, np.nan, 1), r"obs of agent 1 has nan in row 7"),
    "inf reward": (
        lambda f: put(f / "rews_0.npy", 3, np.inf),
        r"reward of agent 0 has inf in row 3",
    ),
    "padding": (lambda f: put(f / "obs_1.npy", 0, -np.inf, 2), r"-inf in row 0.*padded archives"),
    "action range": (
        lambda f: put(f / "acs_0.npy", 9, 1.1, 0),
        r"act of agent 0 .*row 9.*\[-1, 1\]",
    ),
    "next_obs": (
        lambda f: put(f / "next_obs_0.npy", 6, 0.0),
        r"next_obs of agent 0 in row 6 is not the obs of row 7",
    ),
    "meta": (lambda f: (f / "meta.json").write_text("{"), r"meta.json can't be read"),
    "meta list": (lambda f: (f / "meta.json").write_text("[]"), r"must hold one JSON object"),
    "lengths": (lambda f: np.save(f / "lengths.npy", np.ones(20)), r"list of integers"),
    "empty": (
        lambda f: [np.save(p, np.load(p)[:0]) for p in f.glob("*.npy")],
        r"the data set is empty",
    ),
    "archive": (lambda f: np.savez((f / "rews_0.npy").open("wb"), a=1), r"is an archive"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folder(folder, case):
    spoil, message = BAD_FOLDERS[case]
    spoil(folder)
    with pytest.raises(Dom2Error, match=message):
        TrajectoryDataset.load(folder)


def test_values_are_checked_beyond_the_first_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("dom2_fast.data.checks.CHUNK", 3)
    path = dataset(trajectories=4).write(tmp_path / "d")
    TrajectoryDataset.load(path)
    put(path / "next_obs_1.npy", 12, 5.0)
    with pytest.raises(Dom2Error, match="agent 1 in row 12"):
        TrajectoryDataset.load(path)
    TrajectoryDataset.load(path, check_next_obs=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episode_length": 7}, r"20 rows are not whole episodes of 7 steps \(6 left over\)"),
        ({"episode_length": 0}, r"episode_length must be a whole number of at least 1"),
        ({"episode_length": 10}, r"next_obs of agent 0 in row 4 .*episode_length"),
        ({"lengths": [10, 9]}, r"add up to the 20 rows"),
        ({"lengths": [20, 0]}, r"must be >= 1"),
    ],
)
def test_bad_cuts(folder, options, message):
    with pytest.raises(Dom2Error, match=message):
        TrajectoryDataset.load(folder, **options)


def test_wrong_paths(tmp_path):
    with pytest.raises(Dom2Error, match="no data set at"):
        TrajectoryDataset.load(tmp_path / "nowhere")
    with pytest.raises(Dom2Error, match=r"holds no obs_0.npy"):
        TrajectoryDataset.load(tmp_path, format="omar")


def test_write_refuses_a_used_folder(folder):
    kept = (folder / "obs_0.npy").read_bytes()
    with pytest.raises(Dom2Error, match="already holds"):
        dataset(seed=1).write(folder)
    assert (folder / "obs_0.npy").read_bytes() == kept


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_write_without_space_leaves_nothing(tmp_path, monkeypatch):
    opened = []
    open_file = Path.open

    def onto_a_full_disk(path, mode="r", **options):
        if mode == "wb":
            opened.append(path)
        return open_file(Path("/dev/full") if len(opened) == 4 else path, mode, **options)

    monkeypatch.setattr(Path, "open", onto_a_full_disk)
    with pytest.raises(Dom2Error, match="no space left"):
        dataset().write(tmp_path / "d")
    monkeypatch.undo()
    assert len(opened) >= 4
    assert list(tmp_path.iterdir()) == []
