"""Minari: its own loader reads what we write, and we read what it writes. No network."""

import json
import warnings

import numpy as np
import pytest
import torch
from small_data import arrays, dataset
from test_formats import META, assert_same, flagged

from dom2_fast import data as rooms
from dom2_fast.cli.main import main
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error

minari = pytest.importorskip("minari", reason="the minari extra isn't installed")
spaces = pytest.importorskip("gymnasium").spaces
EpisodeBuffer = pytest.importorskip("minari.data_collector").EpisodeBuffer
pytest.importorskip("h5py")

NAMES = ("agent_2", "agent_10")  # Minari sorts them the other way round


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    path = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari wants an author, a permalink, ...
        yield path


def box(width, bound=np.inf):
    return spaces.Box(-bound, bound, (width,), np.float32)


def create(buffers, obs=None, act=None, name="me/spread-v0", env=None):
    obs = obs or spaces.Dict({n: box(3) for n in NAMES})
    act = act or spaces.Dict({n: box(2, 1.0) for n in NAMES})
    return minari.create_dataset_from_buffers(
        name, buffers, env, observation_space=obs, action_space=act
    )


def buffer(steps, seed=0, names=NAMES, terminal=False, **infos):
    rng = np.random.default_rng(seed)
    ends = np.arange(steps) == steps - 1
    return EpisodeBuffer(
        observations={n: rng.normal(size=(steps + 1, 3)).astype(np.float32) for n in names},
        actions={n: rng.uniform(-1, 1, (steps, 2)).astype(np.float32) for n in names},
        rewards=rng.normal(size=steps),
        terminations=ends if terminal else ends & False,
        truncations=ends & (not terminal),
        infos=infos or None,
    )


def test_we_read_what_minari_writes():
    own = {n: np.random.default_rng(i).normal(size=4) for i, n in enumerate(NAMES)}
    episodes = [
        buffer(4, 1, rewards=own),
        buffer(6, 2, terminal=True, rewards={n: np.arange(7.0) for n in NAMES}),  # reset's first
    ]
    create(episodes)
    data = TrajectoryDataset.load("minari:me/spread-v0")
    assert data.lengths.tolist() == [4, 6]
    assert data.meta["agent_names"] == list(NAMES)  # by number
    for i, n in enumerate(NAMES):
        first, second = episodes
        obs = np.concatenate([first.observations[n][:-1], second.observations[n][:-1]])
        after = np.concatenate([first.observations[n][1:], second.observations[n][1:]])
        assert np.array_equal(data.obs[i], obs)
        assert np.array_equal(data.next_obs[i], after)
        assert np.array_equal(data.act[i], np.concatenate([e.actions[n] for e in episodes]))
        assert np.array_equal(data.reward[i], [*own[n], 1, 2, 3, 4, 5, 6])
        assert data.done[i].tolist() == [0] * 9 + [1]
        assert data.truncation[i].tolist() == [0, 0, 0, 1] + [0] * 6
    found = rooms.inspect("minari:me/spread-v0")
    assert (found["format"], found["truncations"], found["terminals"]) == ("minari", [1, 1], [1, 1])
    assert TrajectoryDataset.load("minari:me/spread-v0", agents=1).meta["agent_names"] == [
        "agent_2"
    ]


def test_a_shared_reward_is_everybody_s():
    made = buffer(4)
    create([made])
    data = TrajectoryDataset.load("minari:me/spread-v0")
    assert torch.equal(data.reward[0], torch.from_numpy(made.rewards))
    assert torch.equal(data.reward[0], data.reward[1])
    assert "one for all agents" in data.meta["reward"]


def test_an_episode_s_folder_is_a_source_too(root):
    create([buffer(4)])
    expected = TrajectoryDataset.load("minari:me/spread-v0")
    for path in (root / "me" / "spread-v0", root / "me" / "spread-v0" / "data"):
        assert_same(TrajectoryDataset.load(path), expected)


def test_the_environment_names_the_task():
    create([buffer(4)], name="cart-v0", env="CartPole-v1")
    assert TrajectoryDataset.load("minari:cart-v0").task == "CartPole-v1"
    create([buffer(4)], name="none-v0")
    assert TrajectoryDataset.load("minari:none-v0").task is None


def test_a_missing_reader_is_named(monkeypatch):
    create([buffer(4)])

    def without_h5py(path):
        raise ImportError("h5py is not installed. pip install 'minari[hdf5]'")

    monkeypatch.setattr(minari, "MinariDataset", without_h5py)
    with pytest.raises(Dom2Error, match=r"h5py is not installed.*dom2-fast\[minari\]"):
        TrajectoryDataset.load("minari:me/spread-v0")


def test_one_agent_without_names():
    single = EpisodeBuffer(
        observations=np.zeros((4, 3), np.float32),
        actions=np.ones((3, 2), np.float32),
        rewards=[1.0, 2.0, 3.0],
        terminations=[False, False, True],
        truncations=[False] * 3,
    )
    create([single], box(3), box(2, 1.0), name="hopper-v1")
    data = TrajectoryDataset.load("minari:hopper-v1")
    assert (data.num_agents, data.obs_dims, data.returns.tolist()) == (1, [3], [[6.0]])


class Pair:
    """The steps of a two-agent task; a gymnasium environment only inside the test that needs it."""

    def __init__(self):
        self.step_of, self.rng = 0, np.random.default_rng(5)

    def observe(self):
        return {n: self.rng.normal(size=3).astype(np.float32) for n in NAMES}


def test_what_the_data_collector_records():
    pytest.importorskip("jax", reason="Minari's DataCollector needs jax")
    import gymnasium

    class Env(Pair, gymnasium.Env):
        observation_space = spaces.Dict({n: box(3) for n in NAMES})
        action_space = spaces.Dict({n: box(2, 1.0) for n in NAMES})

        def reset(self, seed=None, options=None):
            self.step_of = 0
            return self.observe(), {"rewards": {n: 0.0 for n in NAMES}}

        def step(self, action):
            self.step_of += 1
            own = {n: float(self.step_of * (i + 1)) for i, n in enumerate(NAMES)}
            return self.observe(), sum(own.values()), False, self.step_of == 3, {"rewards": own}

    collector = minari.DataCollector(Env(), record_infos=True)
    for _ in range(2):
        collector.reset()
        for _ in range(3):
            collector.step({n: np.full(2, 0.5, np.float32) for n in NAMES})
    collector.create_dataset("pair-v0")
    data = TrajectoryDataset.load("minari:pair-v0")
    assert data.returns.tolist() == [[6.0, 6.0], [12.0, 12.0]]
    assert data.truncation[0].tolist() == [0, 0, 1, 0, 0, 1]


def test_minari_reads_what_we_write(root):
    made = flagged()
    path = rooms.convert(made.write(root.parent / "d"), "minari", "minari:me/spread-v0")
    assert path == root / "me" / "spread-v0"
    theirs = minari.load_dataset("me/spread-v0")
    assert (theirs.total_episodes, theirs.total_steps) == (3, 15)
    assert list(minari.list_local_datasets()) == ["me/spread-v0"]
    assert minari.namespace.list_local_namespaces() == ["me"]
    for j, episode in enumerate(theirs):
        rows = slice(5 * j, 5 * j + 5)
        for i in range(2):
            n = f"agent_{i}"
            assert theirs.observation_space[n].contains(episode.observations[n][0])
            assert theirs.action_space[n].contains(episode.actions[n][0])
            assert np.array_equal(episode.observations[n][:-1], made.obs[i][rows])
            assert np.array_equal(episode.observations[n][-1], made.next_obs[i][5 * j + 4])
            assert np.array_equal(episode.actions[n], made.act[i][rows])
            assert np.array_equal(episode.infos["rewards"][n][1:], made.reward[i][rows])
        mean = torch.stack(made.reward)[:, rows].double().mean(0)
        assert np.allclose(episode.rewards, mean, rtol=0, atol=0)
        assert episode.terminations.tolist() == [False] * 4 + [j == 1]
        assert episode.truncations.tolist() == [False] * 4 + [j != 1]


@pytest.mark.parametrize(
    "made",
    [
        dataset(meta=META),
        dataset(trajectories=7, length=1, obs_dims=(4, 4, 3)),
        dataset(dtype=np.float64),
        flagged(),
    ],
)
def test_round_trip(made, monkeypatch):
    monkeypatch.setattr(rooms.formats.minari, "_TOGETHER", 3)  # more than one portion
    rooms.formats.get("minari").write(made, "trip-v0")
    read = TrajectoryDataset.load("minari:trip-v0")
    assert_same(made, read)
    assert [t.dtype for t in read.obs + read.reward] == [t.dtype for t in made.obs + made.reward]
    names = [f"agent_{i}" for i in range(made.num_agents)]
    assert read.meta == {**(made.meta or {"minari": "trip-v0"}), "agent_names": names}


def test_agents_that_end_apart_and_names_that_are_kept():
    done = np.zeros((2, 5), np.float32)
    done[0, 2:] = done[1, 4] = 1
    given = arrays(trajectories=1)
    made = TrajectoryDataset.from_arrays(
        **given,
        done=done,
        truncation=np.zeros((2, 5)),
        episode_length=5,
        meta={"agent_names": ["wolf", "hare"]},
    )
    rooms.formats.get("minari").write(made, "apart-v0")
    assert minari.load_dataset("apart-v0")[0].terminations.tolist() == [False] * 4 + [True]
    read = TrajectoryDataset.load("minari:apart-v0")
    assert_same(made, read)
    assert read.meta["agent_names"] == ["wolf", "hare"]


def test_an_id_that_is_not_there(root):
    with pytest.raises(Dom2Error, match=r"no Minari data set 'me/spread-v0' in .*which holds none"):
        TrajectoryDataset.load("minari:me/spread-v0")
    assert not root.exists()  # looking makes nothing
    create([buffer(4)])
    message = r"MINARI_DATASETS_PATH.*which holds me/spread-v0\. .*minari download me/spread-v1"
    with pytest.raises(Dom2Error, match=message):
        TrajectoryDataset.load("minari:me/spread-v1")
    with pytest.raises(Dom2Error, match="minari download ID"):
        TrajectoryDataset.load("minari:")
    with pytest.raises(Dom2Error, match="is no Minari data set"):
        TrajectoryDataset.load(root, format="minari")


def test_spaces_that_are_not_continuous_or_flat():
    discrete = spaces.Dict({n: spaces.Discrete(5) for n in NAMES})
    made = buffer(4)
    made.actions.update({n: np.zeros(4, np.int64) for n in NAMES})
    create([made], act=discrete, name="discrete-v0")
    with pytest.raises(Dom2Error, match=r"actions of .*discrete-v0 are Dict.*Discrete.*continuous"):
        TrajectoryDataset.load("minari:discrete-v0")
    other = spaces.Dict({n: box(2, 1.0) for n in ("a", "b")})
    create([buffer(4)], act=other, name="names-v0")
    with pytest.raises(Dom2Error, match=r"observations of .*agent_.* and actions of \['a', 'b'\]"):
        TrajectoryDataset.load("minari:names-v0")


def test_broken_contents(root):
    create([buffer(4, rewards={"agent_2": np.zeros(4)})], name="less-v0")
    with pytest.raises(Dom2Error, match=r"has \['agent_2'\] and not agent_10"):
        TrajectoryDataset.load("minari:less-v0")
    create([buffer(4, rewards={n: np.zeros(2) for n in NAMES})], name="short-v0")
    with pytest.raises(Dom2Error, match="reward of agent_2 has 2 steps, its rewards have 4"):
        TrajectoryDataset.load("minari:short-v0")
    create([], name="empty-v0")
    with pytest.raises(Dom2Error, match="is empty"):
        TrajectoryDataset.load("minari:empty-v0")
    file = root / "empty-v0" / "data" / "metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "minari_version": "9.4.1"}))
    with pytest.raises(Dom2Error, match=r"Minari can't read .*9\.4\.1"):
        TrajectoryDataset.load("minari:empty-v0")


def test_writing_refuses_and_leaves_nothing(root, monkeypatch):
    write = rooms.formats.get("minari").write
    for bad in ("me/spread", "a b-v0", "", "/abs/x-v0"):
        with pytest.raises(Dom2Error, match=r"is no id of Minari: use .*MINARI_DATASETS_PATH"):
            write(dataset(), bad)
    broken = dataset()
    broken.next_obs[1][2] += 1
    with pytest.raises(Dom2Error, match="no next_obs, and next_obs of agent 1 in row 2"):
        write(broken, "gap-v0")
    assert not root.exists()
    write(dataset(), "there-v0")
    with pytest.raises(Dom2Error, match="already holds"):
        write(dataset(), "there-v0")
    storage = "minari.dataset._storages.hdf5_storage.HDF5Storage.update_episodes"
    monkeypatch.setattr(storage, lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(Dom2Error, match="no space left"):
        write(dataset(), "full-v0")
    assert [p.name for p in root.iterdir()] == ["there-v0"]


def test_a_run_trains_on_it_and_resumes(root, tmp_path):
    rooms.formats.get("minari").write(flagged(meta={}), "run-v0")
    train = ["train", "--out", str(tmp_path / "run"), "--quiet", "--steps"]
    first = ["--algo", "bc", "--data", "minari:run-v0", "--reweight", "uniform", "--hidden", "8"]
    assert main([*train, "1", *first]) == 0
    assert main([*train, "2", "--resume"]) == 0
    assert "data: minari:run-v0" in (tmp_path / "run" / "config.yaml").read_text()
