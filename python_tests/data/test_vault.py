"""Vaults as OG-MARL publishes them: flashbax writes the files, we read them without JAX."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from test_formats import assert_same

from dom2_fast import data as rooms
from dom2_fast.cli.main import main
from dom2_fast.data.formats import vault
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error

pytest.importorskip("tensorstore", reason="the vault extra isn't installed")


def experience(batch=1, steps=12, agents=3, ends=(3, 7, 11), last="terminals", seed=0) -> dict:
    """Every field that OG-MARL's Vaults have; `ends` are the last steps of the episodes."""
    rng = np.random.default_rng(seed)
    shape = (batch, steps, agents)
    flags = {leaf: np.zeros(shape, bool) for leaf in ("terminals", "truncations")}
    flags[last][:, list(ends)] = True
    return {
        "observations": rng.normal(size=(*shape, 5)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (*shape, 2)).astype(np.float32),
        "rewards": rng.normal(size=shape).astype(np.float32),
        **flags,
        "infos": {
            "state": rng.normal(size=(batch, steps, 7)).astype(np.float32),
            "legals": np.ones((*shape, 2), np.float32),
        },
    }


def publish(root, given, uid="Expert", name="simple_tag.vlt", portions=2):
    """The given experience as flashbax writes it, in several portions as a run would."""
    pytest.importorskip("flashbax", reason="flashbax (the test extra) writes the files to be read")
    from flashbax.buffers.trajectory_buffer import TrajectoryBufferState
    from flashbax.vault import Vault

    steps = given["infos"]["state"].shape[1]
    state = TrajectoryBufferState(experience=given, current_index=steps, is_full=False)
    store = Vault(name, given, rel_dir=str(root), vault_uid=uid)
    for part in np.array_split(np.arange(steps), portions):
        store.write(state, source_interval=(int(part[0]), int(part[-1]) + 1))
    return root / name / uid


def test_we_read_what_flashbax_writes(tmp_path):
    given = experience()
    path = publish(tmp_path, given)
    data = TrajectoryDataset.load(path)
    assert (data.task, data.quality) == ("simple_tag", "expert")
    assert (data.lengths.tolist(), data.obs_dims, data.act_dim) == ([4, 4, 4], [5, 5, 5], 2)
    for i in range(3):
        obs = given["observations"][0, :, i]
        assert np.array_equal(data.obs[i], obs)
        inside = [t for t in range(12) if t not in (3, 7, 11)]
        assert np.array_equal(data.next_obs[i][inside], obs[[t + 1 for t in inside]])
        assert np.array_equal(data.next_obs[i][[3, 7, 11]], obs[[3, 7, 11]])  # nobody kept them
        assert np.array_equal(data.act[i], given["actions"][0, :, i])
        assert np.array_equal(data.reward[i], given["rewards"][0, :, i])
        assert data.done[i].nonzero().flatten().tolist() == [3, 7, 11]
        assert not bool(data.truncation[i].any())
    found = rooms.inspect(path)
    assert (found["format"], found["meta"]["vault"]) == ("vault", "simple_tag.vlt/Expert")
    assert "exactly 4 steps: likely a time limit" in found["notes"][0]
    assert TrajectoryDataset.load(path, agents=2).num_agents == 2
    card = rooms.card(path)
    assert card["returns"]["score"] == card["returns"]["agents"][0]  # a predator's, all share it
    assert card["published"]["mean"] == 207.9 and "metadata.json" in card["sha256"]["files"]


def test_the_folder_of_one_or_of_several(tmp_path):
    path = publish(tmp_path, experience())
    assert_same(TrajectoryDataset.load(path), TrajectoryDataset.load(path.parent))
    publish(tmp_path, experience(seed=1), uid="Medium-Replay")
    other = TrajectoryDataset.load(tmp_path / "simple_tag.vlt" / "Medium-Replay")
    assert other.quality == "medium-replay"
    with pytest.raises(Dom2Error, match=r"2 data sets, Expert, Medium-Replay: choose one"):
        TrajectoryDataset.load(path.parent)


def test_recordings_side_by_side_truncations_and_what_is_left_over(tmp_path):
    given = experience(batch=2, ends=(4, 8), last="truncations")
    given["truncations"][1, 8] = False  # the second recording has one whole episode
    given["terminals"][1, 8, :2] = True  # two agents of three don't end one
    path = publish(tmp_path, given)
    data = TrajectoryDataset.load(path)
    assert data.lengths.tolist() == [5, 4, 5]
    rows = np.concatenate([given["rewards"][0, :9, 2], given["rewards"][1, :5, 2]])
    assert np.array_equal(data.reward[2], rows)
    assert data.truncation[0].nonzero().flatten().tolist() == [4, 8, 13]
    assert not bool(data.done[0].any())
    assert data.meta["left_out"].startswith("10 rows")
    assert "the 3 episode(s) that don't end in a terminal" in rooms.inspect(path)["notes"][0]


def test_padding_is_removed(tmp_path):
    given = experience()
    given["observations"][:, :, 2, 3:] = -np.inf
    data = TrajectoryDataset.load(publish(tmp_path, given))
    assert data.obs_dims == [5, 5, 3]
    assert np.array_equal(data.obs[2], given["observations"][0, :, 2, :3])
    assert np.array_equal(data.next_obs[2][0], given["observations"][0, 1, 2, :3])


def test_padding_that_changes_is_refused(tmp_path):
    given = experience()
    given["observations"][:, :9, 2, 3:] = -np.inf
    with pytest.raises(Dom2Error, match=r"agent 2 .* have 3 numbers .* more in row 9"):
        TrajectoryDataset.load(publish(tmp_path, given))
    given = experience()
    given["observations"][:, 9, 2, 3:] = -np.inf
    with pytest.raises(Dom2Error, match="obs of agent 2 has -inf in row 9"):
        TrajectoryDataset.load(publish(tmp_path, given, uid="B"))


def test_without_any_flag_the_length_is_asked_for(tmp_path):
    given = experience(batch=2, ends=())
    path = publish(tmp_path, given, name="walker.vlt", uid="Good")
    with pytest.raises(Dom2Error, match=r"24 rows and nothing that says where episodes end"):
        TrajectoryDataset.load(path)
    assert TrajectoryDataset.load(path, 6).num_trajectories == 4
    with pytest.raises(Dom2Error, match="goes on beyond row 12, where another recording begins"):
        TrajectoryDataset.load(path, 8)


def test_reading_in_blocks_gives_the_same(tmp_path, monkeypatch):
    given = experience(batch=2, ends=(5, 6, 10))
    path = publish(tmp_path, given, portions=3)
    whole = TrajectoryDataset.load(path)
    leaf = vault._open_leaf
    monkeypatch.setattr(vault, "_BLOCK", 1)
    monkeypatch.setattr(vault, "_open_leaf", lambda p, n: SmallChunks(leaf(p, n)))
    assert_same(whole, TrajectoryDataset.load(path))


class SmallChunks:
    """A leaf that claims chunks of 5 steps; flashbax's own are larger than a test."""

    def __init__(self, leaf):
        self.leaf, self.shape, self.dtype = leaf, leaf.shape, leaf.dtype
        self.chunk_layout = SimpleNamespace(read_chunk=SimpleNamespace(shape=(1, 5)))

    def __getitem__(self, index):
        return self.leaf[index]


def test_jax_is_not_needed(tmp_path):
    path = publish(tmp_path, experience())
    code = (
        "import sys; sys.modules['jax'] = sys.modules['flashbax'] = None\n"
        "from dom2_fast import data\n"
        f"print(data.open({str(path)!r}).num_trajectories)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "3\n"


@pytest.mark.parametrize("leaf", ["observations", "actions", "rewards", "terminals"])
def test_a_missing_field_is_named(tmp_path, leaf):
    given = experience()
    given["renamed"] = given.pop(leaf)
    with pytest.raises(Dom2Error, match=rf"has no {leaf}; it holds .*infos\.state.*Needed are"):
        TrajectoryDataset.load(publish(tmp_path, given))


def test_truncations_may_be_missing(tmp_path):
    given = experience()
    del given["truncations"]
    data = TrajectoryDataset.load(publish(tmp_path, given))
    assert (data.num_trajectories, data.truncation) == (3, None)


def test_shapes_and_actions_that_can_t_be_used(tmp_path):
    for uid, leaf, value, message in [
        ("a", "actions", np.zeros((1, 12, 3), np.int32), r"int32 of shape \[1, T, 3\]: discrete"),
        ("b", "rewards", np.zeros((1, 12), np.float32), r"rewards .* are \[1, T\], observations"),
        ("c", "observations", np.zeros((1, 12, 3, 4, 4), np.float32), r"\[1, T, 3, 4, 4\]"),
    ]:
        path = publish(tmp_path, {**experience(), leaf: value}, uid=uid)
        with pytest.raises(Dom2Error, match=message):
            TrajectoryDataset.load(path)


def test_broken_vaults(tmp_path):
    path = publish(tmp_path, experience())
    empty = tmp_path / "empty"
    shutil.copytree(path, empty)
    meta = json.loads((path / "metadata.json").read_text())
    (empty / "metadata.json").write_text(json.dumps({**meta, "version": 2.0}))
    with pytest.raises(Dom2Error, match=r"Vault version 2\.0; known is version 1"):
        TrajectoryDataset.load(empty)
    lost = tmp_path / "lost"
    shutil.copytree(path, lost)
    shutil.rmtree(lost / "d")
    with pytest.raises(Dom2Error, match="can't be read: copy it again"):
        TrajectoryDataset.load(lost)
    (lost / "manifest.ocdbt").unlink()
    with pytest.raises(Dom2Error, match=r"observations of the Vault .* can't be read"):
        TrajectoryDataset.load(lost)
    with pytest.raises(Dom2Error, match="is no Vault"):
        TrajectoryDataset.load(lost / "nowhere", format="vault")


def test_a_part_that_can_t_be_read(tmp_path, monkeypatch):
    path = publish(tmp_path, experience())
    leaf = vault._open_leaf

    class Lost(SmallChunks):
        def __getitem__(self, index):
            raise ValueError("lost [source]")

    def all_but_the_index(folder, name):
        return leaf(folder, name) if name == "vault_index" else Lost(leaf(folder, name))

    monkeypatch.setattr(vault, "_open_leaf", all_but_the_index)
    with pytest.raises(Dom2Error, match=r"a part of the Vault .* copy it again \(lost\)"):
        TrajectoryDataset.load(path)


def test_a_vault_that_nothing_was_written_to(tmp_path):
    path = publish(tmp_path, experience(), portions=2)
    import tensorstore

    base = {"driver": "file", "path": f"{path}/"}
    spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": "vault_index"}}
    tensorstore.open(spec).result().write(0).result()
    with pytest.raises(Dom2Error, match="is empty: its vault_index is 0"):
        TrajectoryDataset.load(path)


def test_it_is_converted_and_not_written(tmp_path):
    given = experience(last="truncations")
    given["observations"][:, :, 2, 3:] = -np.inf
    path = publish(tmp_path, given)
    folder = rooms.convert(path, "omar", tmp_path / "d")
    assert_same(TrajectoryDataset.load(path), TrajectoryDataset.load(folder))
    assert TrajectoryDataset.load(folder).task == "simple_tag"
    with pytest.raises(Dom2Error, match="can be read and not written"):
        rooms.convert(folder, "vault", tmp_path / "v.vlt")
    assert not (tmp_path / "v.vlt").exists()


def test_a_run_trains_on_it(tmp_path):
    path = publish(tmp_path, experience(), name="walker.vlt")
    train = ["train", "--algo", "dom2", "--data", str(path), "--out", str(tmp_path / "run")]
    small = ["--reweight", "quantiles:0.5", "--hidden", "8", "--batch-size", "4", "--quiet"]
    assert main([*train, "--steps", "1", *small]) == 0
