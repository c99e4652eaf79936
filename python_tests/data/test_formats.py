"""The registry, the formats that need nothing extra, and what every bad source is told."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import arrays, dataset, half_cheetah

from dom2_fast import data as rooms
from dom2_fast.data import formats
from dom2_fast.data.formats.base import need
from dom2_fast.data.sampler import TrajectorySampler
from dom2_fast.data.trajectories import FIELDS, TrajectoryDataset
from dom2_fast.errors import Dom2Error

META = {"task": "simple_spread", "quality": "medium", "seed": 3}


def flagged(dtype=np.float32, meta=META) -> TrajectoryDataset:
    """Three episodes of 5 steps; the second ends in a terminal state, the others are cut off."""
    ends = np.zeros((2, 3, 5), dtype)
    ends[:, [0, 2], 4] = 1
    terminal = np.zeros((2, 3, 5), dtype)
    terminal[:, 1, 4] = 1
    return TrajectoryDataset.from_arrays(
        **arrays(trajectories=3),
        done=terminal.reshape(2, 15),
        truncation=ends.reshape(2, 15),
        episode_length=5,
        meta=meta,
    )


def assert_same(one: TrajectoryDataset, two: TrajectoryDataset) -> None:
    for name in FIELDS:
        for a, b in zip(getattr(one, name), getattr(two, name), strict=True):
            assert torch.equal(a.double(), b.double()), name
    assert torch.equal(one.starts, two.starts)
    assert (one.truncation is None) == (two.truncation is None)
    for a, b in zip(one.truncation or [], two.truncation or [], strict=True):
        assert torch.equal(a.double(), b.double())
    assert one.fingerprint() == two.fingerprint()


def test_truncation_is_kept_apart_from_terminal(tmp_path):
    made = flagged()
    read = TrajectoryDataset.load(made.write(tmp_path / "d"))
    assert_same(made, read)
    assert read.done[0].tolist() == [0] * 9 + [1] + [0] * 5
    assert read.truncation[1].nonzero().flatten().tolist() == [4, 14]
    assert (tmp_path / "d" / "truncs_1.npy").exists()
    part = read.subset(indices=[2])
    assert part.truncation[0].tolist() == [0, 0, 0, 0, 1]
    assert dataset().truncation is None
    assert not list(dataset().write(tmp_path / "e").glob("truncs_*"))


def test_bad_truncation_is_refused(tmp_path):
    folder = flagged().write(tmp_path / "d")
    np.save(folder / "truncs_1.npy", np.zeros(4))
    with pytest.raises(Dom2Error, match="truncation of agent 1 has 4 rows"):
        TrajectoryDataset.load(folder)
    (folder / "truncs_1.npy").unlink()
    with pytest.raises(Dom2Error, match=r"truncs_1\.npy is missing"):
        TrajectoryDataset.load(folder)


@pytest.mark.parametrize("made", [dataset(meta=META), flagged(), flagged(bool)])
def test_npz_round_trip(made, tmp_path):
    path = formats.get("arrays").write(made, tmp_path / "d.npz")
    read = TrajectoryDataset.load(path)
    assert_same(made, read)
    assert (read.meta, read.path) == ({} if not made.meta else META, path)
    assert TrajectoryDataset.load(str(path), agents=1).num_agents == 1


def test_a_mapping_of_arrays():
    given = arrays()
    data = TrajectoryDataset.load({**given, "lengths": [5, 5, 4, 6]}, check_next_obs=False)
    assert data.lengths.tolist() == [5, 5, 4, 6]
    assert (
        TrajectoryDataset.load({**given, "meta": {"episode_length": 5}}, agents=1).num_agents == 1
    )
    assert TrajectoryDataset.load(given, 5).num_trajectories == 4
    with pytest.raises(Dom2Error, match=r"20 rows and nothing .*episode_length="):
        TrajectoryDataset.load(given)


def test_next_obs_that_nobody_kept_is_the_following_obs():
    given = {**arrays(trajectories=2, length=3), "next_obs": None}
    data = TrajectoryDataset.from_arrays(**given, episode_length=3)
    for obs, after in zip(data.obs, data.next_obs, strict=True):
        assert torch.equal(after, obs[[1, 2, 2, 4, 5, 5]])
    assert "next_obs_at_ends" in data.meta
    assert "repeats its obs" in rooms.inspect({**given}, 3)["notes"][0]


def test_mapped_files_are_never_copied_as_a_whole(tmp_path):
    data = TrajectoryDataset.load(flagged().write(tmp_path / "d"))
    maps = Path("/proc/self/maps").read_text()
    for name in ("obs_0", "acs_1", "rews_0", "next_obs_1", "dones_0", "truncs_1"):
        assert str(tmp_path / "d" / f"{name}.npy") in maps
    assert data.num_agents == 2


def test_sniffing_takes_anything(tmp_path):
    (tmp_path / "file").write_text("x")
    for source in (3, None, [], {}, "", "no\0path", tmp_path, tmp_path / "file", "minari", b"x"):
        assert not any(f.sniff(source) for f in formats.FORMATS.values()), source
    for known in formats.FORMATS.values():
        assert formats.get(known.name) is known and known.accepts
    assert formats.names() == tuple(known.name for known in formats.FORMATS.values())


def test_what_no_format_recognises(tmp_path):
    (tmp_path / "a.csv").write_text("1")
    dataset().write(tmp_path / "seed_0_data")
    with pytest.raises(
        Dom2Error, match=r"holds a\.csv, seed_0_data/ \(perhaps .*seed_0_data is meant\)\. Accepted"
    ) as e:
        TrajectoryDataset.load(tmp_path)
    for known in formats.FORMATS.values():
        assert known.accepts in str(e.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Dom2Error, match=r"which holds nothing\. Accepted are"):
        TrajectoryDataset.load(tmp_path / "empty")
    with pytest.raises(Dom2Error, match=r"no data set at .*a\.csv: a file of no known format"):
        TrajectoryDataset.load(tmp_path / "a.csv")
    with pytest.raises(Dom2Error, match="nothing is there"):
        TrajectoryDataset.load(str(tmp_path / "nowhere"))
    with pytest.raises(Dom2Error, match=r"mapping with the keys \['o', 'r'\]"):
        TrajectoryDataset.load({"o": 1, "r": 2})
    with pytest.raises(Dom2Error, match="can be read from a int"):
        TrajectoryDataset.load(3)
    with pytest.raises(Dom2Error, match=r"unknown data format 'hdf5'; accepted: omar, "):
        TrajectoryDataset.load(tmp_path, format="hdf5")


def test_bad_arrays(tmp_path):
    given = arrays()
    for broken, message in [
        ({"obs": given["obs"], "act": given["act"]}, "holds act, obs and no reward"),
        ({**given, "act": given["act"][:1]}, "one array per agent"),
        ({**given, "obs": []}, "one array per agent"),
    ]:
        with pytest.raises(Dom2Error, match=message):
            TrajectoryDataset.load(broken, 5)
    path = tmp_path / "d.npz"
    with pytest.raises(Dom2Error, match="no such file"):
        TrajectoryDataset.load(path)
    path.write_text("hello")
    with pytest.raises(Dom2Error, match="no archive"):
        TrajectoryDataset.load(path)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(Dom2Error, match="holds a and no obs_0"):
        TrajectoryDataset.load(path)
    for meta, message in (("{", "no JSON text"), ("[1]", "one JSON object")):
        np.savez(path, obs_0=np.zeros((3, 2)), meta=np.array(meta))
        with pytest.raises(Dom2Error, match=message):
            TrajectoryDataset.load(path)
    with pytest.raises(Dom2Error, match="exists; nothing was overwritten"):
        formats.get("arrays").write(dataset(), path)
    with pytest.raises(Dom2Error, match=r"one \.npz file"):
        formats.get("arrays").write(dataset(), tmp_path / "folder")


def test_a_missing_extra_is_named():
    with pytest.raises(Dom2Error, match=r"needs no_such_package.*pip install 'dom2-fast\[vault\]'"):
        need("no_such_package.sub", "vault")


def test_inspect(tmp_path):
    folder = flagged().write(tmp_path / "d")
    found = rooms.inspect(folder)
    assert (found["format"], found["path"], found["task"]) == ("omar", str(folder), "simple_spread")
    assert (found["agents"], found["trajectories"], found["transitions"]) == (2, 3, 15)
    assert (found["obs_dims"], found["act_dim"]) == ([3, 3], 2)
    assert (found["length_min"], found["length_max"]) == (5, 5)
    assert (found["terminals"], found["truncations"]) == ([1, 1], [2, 2])
    assert found["fingerprint"] == flagged().fingerprint()
    assert found["notes"] == []
    json.dumps(found)
    plain = rooms.inspect(dataset().write(tmp_path / "e"))
    assert plain["truncations"] is None
    assert plain["notes"] == ["no terminal states: every end is a time limit"]
    done = np.tile([0, 0, 0, 0, 1.0], (2, 4))
    assert "likely a time limit" in rooms.inspect({**arrays(), "done": done}, 5)["notes"][0]


def test_inspect_tells_of_agents_that_end_early():
    done = np.zeros((2, 20))
    done[0, 2:5] = done[1, 4] = 1
    assert (
        "agents [0] end before others" in rooms.inspect({**arrays(), "done": done}, 5)["notes"][0]
    )


def test_several_recordings_are_cut_apart(tmp_path):
    contents = formats.get("arrays").open(arrays(trajectories=2, length=6))
    contents.breaks = [6]
    with pytest.raises(Dom2Error, match=r"episode 1, rows 4 to 7, goes on beyond row 6"):
        TrajectoryDataset._build(contents, 4, None, check_next_obs=False)
    assert TrajectoryDataset._build(contents, 3, None, check_next_obs=False).num_trajectories == 4


def test_inspect_and_convert_ask_for_the_length(tmp_path):
    with pytest.raises(Dom2Error, match="--episode-length"):
        rooms.inspect(half_cheetah())
    with pytest.raises(Dom2Error, match="--episode-length"):
        rooms.convert(half_cheetah(), "omar", tmp_path / "d")
    assert not (tmp_path / "d").exists()
    path = rooms.convert(half_cheetah(), "omar", tmp_path / "d", episode_length=1000)
    assert rooms.inspect(path)["length_max"] == 1000  # the copy says it


def test_convert_there_and_back(tmp_path):
    folder = flagged().write(tmp_path / "d")
    archive = rooms.convert(folder, "arrays", tmp_path / "d.npz")
    again = rooms.convert(archive, "omar", tmp_path / "e", source_format="arrays")
    assert again == tmp_path / "e"
    assert_same(rooms.open(folder), rooms.open(again))
    assert json.loads((again / "meta.json").read_text())["task"] == "simple_spread"


def test_convert_refuses_before_writing(tmp_path):
    folder = dataset().write(tmp_path / "d")
    with pytest.raises(Dom2Error, match="is the data set itself"):
        rooms.convert(folder, "omar", folder)
    dataset(seed=1).write(tmp_path / "e")
    with pytest.raises(Dom2Error, match="already holds"):
        rooms.convert(folder, "omar", tmp_path / "e")
    with pytest.raises(Dom2Error, match="unknown data format 'csv'"):
        rooms.convert(folder, "csv", tmp_path / "f")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "e"]


@pytest.mark.parametrize("dtype", [np.float32, bool])
def test_flags_of_any_type_are_drawn(dtype):
    data = flagged(dtype)
    batch = TrajectorySampler(data, batch_size=50).sample()
    assert batch.done.dtype == torch.float32
    assert torch.equal(batch.done[0], data.done[0][batch.index[0]].float())
