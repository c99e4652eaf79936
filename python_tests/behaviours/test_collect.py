"""Collected data: returns, layout, reproducibility, refusals."""

import math

import pytest
import tolerances
import torch
from small_envs import Line

from dom2_fast import envs
from dom2_fast.behaviours import shipped
from dom2_fast.behaviours.collect import QUALITIES, collect
from dom2_fast.data import reweight
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def spread():
    """4,000 episodes of each quality of simple_spread: mean return over agents and episodes."""
    return {q: collect("simple_spread", q, 4000, seed=0).returns.mean(0) for q in QUALITIES}


def test_spread_returns_are_where_the_public_data_are(spread):
    mean = {quality: score.mean().item() for quality, score in spread.items()}
    error = spread["random"].std().item() / math.sqrt(4000)
    # The public random data average 159.57 (og-marl card), medium 273.39, expert 530.95.
    assert abs(mean["random"] - 159.57) < tolerances.SIGMAS * error
    assert 250 <= mean["medium"] <= 300
    assert mean["expert"] >= 500
    # strictly between, further than the noise of the two means
    assert mean["random"] + 6 * error < mean["medium-replay"] < mean["medium"] - 6 * error


def test_mixtures_are_their_parts_one_after_the_other(spread):
    """Each part's mean is that of its own kind, and the second part begins at 90 %."""
    for mixed, first, second in (
        ("random-medium", "random", "medium"),
        ("medium-expert", "medium", "expert"),
    ):
        score = spread[mixed]
        for part, kind in ((score[:3600], first), (score[3600:], second)):
            error = spread[kind].std().item() / math.sqrt(len(part))
            assert abs(part.mean() - spread[kind].mean()) < tolerances.SIGMAS * 1.1 * error
    data = collect("simple_spread", "medium-expert", 20, seed=2)
    assert data.num_trajectories == 20 and data.part_counts == [18, 2]
    names = [part["quality"] for part in data.meta["parts"]]
    assert names == ["medium", "expert"] and data.quality == "medium-expert"
    with pytest.raises(Dom2Error, match=r"none of expert.*ask for 10 or more"):
        collect("simple_spread", "medium-expert", 4)


def test_what_made_the_data_is_in_its_meta():
    meta = collect("simple_spread", "medium", 2).meta
    assert meta["parts"] == [{"quality": "medium", "episodes": 2}]
    assert len(meta["behaviours_sha256"]) == 64 and meta["prey_sha256"] is None
    meta = collect("simple_tag", "random", 2).meta
    assert meta["prey"] == "bundled v2" and len(meta["prey_sha256"]) == 64
    assert meta["behaviours_sha256"] is None


@pytest.mark.parametrize(
    ("env", "options"), [("simple_tag", {}), ("small_envs:Counting", {"widths": (1, 2)})]
)
def test_data_in_parts_on_disk_are_those_in_memory(env, options, tmp_path, monkeypatch):
    from dom2_fast.behaviours import collect as module

    monkeypatch.setattr(module, "_BATCH", 3)
    monkeypatch.setattr(envs, "ADAPTED", 3)
    memory = collect(env, "random", 7, seed=1, **options)
    mapped = collect(env, "random", 7, seed=1, out=tmp_path / "d", **options)
    loaded = TrajectoryDataset.load(tmp_path / "d")
    for data in (mapped, loaded):
        assert data.path == tmp_path / "d" and torch.equal(data.starts, memory.starts)
        for field in module.FIELDS:
            for one, other in zip(getattr(data, field), getattr(memory, field), strict=True):
                assert torch.equal(one, other) and one.dtype == other.dtype
    assert mapped.meta == loaded.meta


def test_a_stopped_collection_leaves_nothing(tmp_path, monkeypatch):
    from dom2_fast.behaviours import collect as module

    monkeypatch.setattr(module, "_BATCH", 3)
    play, calls = module._play, []

    def stop(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return play(*args)

    monkeypatch.setattr(module, "_play", stop)
    with pytest.raises(KeyboardInterrupt):
        collect("simple_spread", "random", 7, out=tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_a_task_without_behaviours_has_random_data_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "asset", lambda task: tmp_path / "absent.npz")
    for quality in set(QUALITIES) - {"random"}:
        with pytest.raises(Dom2Error, match="for simple_tag; only quality 'random'"):
            collect("simple_tag", quality, 20, out=tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("task", [t for t in envs.TASKS if shipped.asset(t).is_file()])
def test_every_kind_of_every_task_with_behaviours(task, quality):
    data = collect(task, quality, 10)
    assert (data.task, data.quality, data.num_trajectories) == (task, quality, 10)
    assert sum(data.part_counts) == 10
    assert bool((reweight.preset(task, quality)(data.returns) >= 1).all())


def test_behaviours_without_a_kind_and_a_prey_of_another_task(tmp_path, monkeypatch):
    from dom2_fast.envs.particle.prey import ASSETS

    policies, noise = shipped.load("simple_spread")
    path = tmp_path / "behaviour_simple_spread.npz"
    shipped.write(path, {"medium": policies["medium"]}, noise)
    monkeypatch.setattr(shipped, "asset", lambda task: path)
    for quality in ("expert", "medium-expert", "medium-replay"):
        with pytest.raises(Dom2Error, match=r"for simple_spread have no .* policy, only medium"):
            collect("simple_spread", quality, 20, out=tmp_path / "d")
    with pytest.raises(Dom2Error, match="prey of simple_world"):
        other = ASSETS / "prey_simple_tag.npz"
        collect("simple_world", "random", 20, out=tmp_path / "d", prey=other)
    assert not (tmp_path / "d").exists()


def test_written_data_are_consistent_episodes(tmp_path):
    out = tmp_path / "medium"
    made = collect("simple_spread", "medium", 30, seed=5, out=out)
    data = TrajectoryDataset.load(out)
    assert data.obs_dims == [18] * 3 and data.num_trajectories == 30 and len(data) == 750
    assert data.meta["quality"] == "medium" and data.meta["seed"] == 5
    for i in range(3):
        assert torch.equal(made.obs[i], data.obs[i]) and torch.equal(made.act[i], data.act[i])
        assert data.obs[i].dtype == data.reward[i].dtype == torch.float32
        obs, nxt = data.obs[i].view(30, 25, -1), data.next_obs[i].view(30, 25, -1)
        assert torch.equal(obs[:, 1:], nxt[:, :-1])
        assert not data.done[i].any() and data.truncation[i].view(30, 25).sum(0)[-1] == 30
        assert data.act[i].abs().max() <= 1


def test_recorded_actions_replayed_give_the_recorded_data():
    data = collect("simple_tag", "random", 20, seed=1)
    assert data.meta["prey"] == "bundled v2" and data.meta["prey_strength"]["greedy"] > 100
    assert data.obs_dims == [16, 16, 16, 14]
    env = envs.make("simple_tag", 20, prey="external")
    state = torch.zeros(20, 6, 4)
    first = [o.view(20, 25, -1)[:, 0] for o in data.obs]
    state[:, :4, :2] = torch.stack([o[:, 2:4] for o in first], dim=1)
    state[:, 4:, :2] = first[0][:, 4:8].view(20, 2, 2) + first[0][:, None, 2:4]
    env.reset(state=state)
    for t in range(5):
        act = torch.stack([a.view(20, 25, 2)[:, t] for a in data.act])
        obs, reward, _ = env.step(act)
        for i in range(4):
            # Landmarks were recovered to one rounding; contacts amplify it by up to 1e3 a step.
            recorded = data.next_obs[i].view(20, 25, -1)[:, t]
            calm = (obs[i] - recorded).abs().amax(-1) < tolerances.REPLAY32
            assert calm.float().mean() > 0.8
    assert reward.shape == (4, 20)


@pytest.mark.parametrize("task", envs.TASKS)
def test_same_seed_same_data_other_seed_other_data(task):
    first, again, other = (collect(task, "random", 8, seed=s) for s in (3, 3, 4))
    for i in range(first.num_agents):
        assert torch.equal(first.obs[i], again.obs[i]) and torch.equal(first.act[i], again.act[i])
        assert not torch.equal(first.obs[i], other.obs[i])


def test_replay_shares_episodes_among_all_snapshots():
    data = collect("simple_spread", "medium-replay", 7, seed=0)
    assert data.num_trajectories == 7
    assert collect("simple_spread", "medium-replay", 1, seed=0).num_trajectories == 1


def test_any_environment_gives_random_data_with_its_own_episode_lengths(tmp_path):
    data = collect("small_envs:Counting", "random", 4, seed=1, out=tmp_path / "d", widths=(1, 2))
    assert data.task == "small_envs:Counting" and data.obs_dims == [1, 2]
    assert data.lengths.tolist() == [1, 2, 3, 1]
    assert data.obs[1][:, 0].tolist() == [0, 0, 1, 0, 1, 2, 0]
    assert data.reward[1].flatten().tolist() == [2.0] * 7  # no NaN of a copy that had ended
    assert data.done[0].flatten().tolist() == [1, 0, 1, 0, 0, 1, 1]  # all before episode_length
    assert (tmp_path / "d" / "lengths.npy").exists()
    assert not data.truncation[0].any()
    cut = collect(Line, "random", 3, length=4)  # truncated, so not terminal
    assert cut.lengths.tolist() == [4, 4, 4] and not cut.done[0].any()
    assert cut.truncation[1].tolist() == [0, 0, 0, 1] * 3
    assert collect(Line, "random", 2, length=2, terminate=True).done[0].sum() == 2
    with pytest.raises(Dom2Error, match="only quality 'random'"):
        collect(Line, "medium", 3)
    with pytest.raises(Dom2Error, match="has no prey"):
        collect(Line, "random", 3, prey="mine.npz")


def test_more_episodes_than_are_held_at_once(monkeypatch):
    monkeypatch.setattr(envs, "ADAPTED", 2)
    data = collect(Line, "random", 5, seed=3)
    assert data.num_trajectories == 5
    starts = data.obs[0].view(5, 4, 2)[:, 0, 0]
    assert len(set(starts.tolist())) == 5


def test_nothing_of_a_users_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(Dom2Error, match="already holds"):
        collect("simple_spread", "random", 2, out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(Dom2Error, match="is a file"):
        collect("simple_spread", "random", 2, out=tmp_path / "mine.txt")
    empty = tmp_path / "empty"
    empty.mkdir()
    collect("simple_spread", "random", 2, out=empty)
    assert TrajectoryDataset.load(empty).num_trajectories == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("simple_spred", "random", 2), "simple_spread, simple_tag"),
        (("simple_spread", "good", 2), "medium-replay"),
        (("simple_spread", "random", 0), "episodes must be"),
        (("simple_spread", "random", 2.5), "episodes must be"),
        (("simple_spread", "random", 2, -1), "seed must be"),
        ((Line, "expert", 2), "only quality 'random'"),
        (("simple_tag", "random", 2, 0, None, "external"), "drives the prey itself"),
        (("simple_tag", "random", 2, 0, None, "absent.npz"), "no prey file"),
    ],
)
def test_wrong_requests_are_explained(args, message):
    with pytest.raises(Dom2Error, match=message):
        collect(*args)
