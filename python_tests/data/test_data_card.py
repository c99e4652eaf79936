"""The data card: statistics against scipy, coverage against sets of tuples, hashes."""

import hashlib
import json

import numpy as np
import pytest
import torch
from small_data import arrays, dataset

from dom2_fast import data as d2_data
from dom2_fast import envs, known_tasks
from dom2_fast.data import card_page, published
from dom2_fast.data.coverage import coverage
from dom2_fast.data.data_card import statistics
from dom2_fast.envs.particle import tasks
from dom2_fast.errors import Dom2Error


@pytest.mark.parametrize("size", [2, 3, 101, 5000])
def test_statistics_are_scipy_s(size):
    stats = pytest.importorskip("scipy.stats", reason="scipy isn't there to compare with")
    x = np.random.default_rng(size).gamma(2.0, 50.0, size) - 20
    ours = statistics(x)
    theirs = stats.describe(x)
    assert (ours["min"], ours["max"]) == theirs.minmax
    expected = {
        "mean": theirs.mean,
        "sd": theirs.variance**0.5,
        "skewness": theirs.skewness,
        "kurtosis": theirs.kurtosis,
        "iqr": stats.iqr(x),
        "median": np.median(x),
        "range": np.ptp(x),
    }
    assert {key: ours[key] for key in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    counts, edges = np.histogram(x, 30)
    assert ours["histogram"] == {"edges": edges.tolist(), "counts": counts.tolist()}
    assert ours["mode"] == pytest.approx(edges[counts.argmax()] + np.ptp(x) / 60)


def test_statistics_by_hand():
    ours = statistics(np.array([0.0, 0.0, 0.0, 6.0]))  # moments 6.75, 20.25 and 91.125 * 1.125
    assert (ours["mean"], ours["sd"], ours["median"], ours["iqr"]) == (1.5, 3.0, 0.0, 1.5)
    assert ours["skewness"] == pytest.approx(20.25 / 6.75**1.5)
    assert ours["kurtosis"] == pytest.approx((3 * 1.5**4 + 4.5**4) / 4 / 6.75**2 - 3)
    assert ours["mode"] == pytest.approx(0.1) and sum(ours["histogram"]["counts"]) == 4
    flat = statistics(np.array([2.0]))
    assert flat["sd"] == flat["range"] == 0 and flat["skewness"] is flat["kurtosis"] is None
    assert flat["mode"] == pytest.approx(2.0, abs=0.02)
    json.dumps([ours, flat])


def cells(columns, size):
    return np.floor(np.asarray(columns) / size).astype(int).tolist()


@pytest.mark.parametrize("task", ["walk", "simple_spread"])
def test_coverage_counts_different_cells(task):
    made = dataset(trajectories=60, length=25, obs_dims=(5, 6), meta={"task": task})
    found = coverage(made, grid=(0.8, 0.5))
    chosen = slice(2, 4) if task == "simple_spread" else slice(None)
    rows = [
        [tuple(o + a) for o, a in zip(cells(obs[:, chosen], 0.8), cells(act, 0.5), strict=True)]
        for obs, act in zip(made.obs, made.act, strict=True)
    ]
    assert [own["cells"] for own in found["agents"]] == [len(set(own)) for own in rows]
    assert found["joint"]["cells"] == len(set(zip(*rows, strict=True)))
    assert found["joint"]["share"] == found["joint"]["cells"] / 1500 and found["rows"] == 1500
    states = [[tuple(row) for row in cells(obs[:, chosen], 0.8)] for obs in made.obs]
    assert [own["cells"] for own in found["agent_states"]] == [len(set(own)) for own in states]
    assert found["joint_states"]["cells"] == len(set(zip(*states, strict=True)))
    name = "positions" if task == "simple_spread" else "observations"
    assert found["grid"] == {name: 0.8, "actions": 0.5}
    with pytest.raises(Dom2Error, match="size > 0"):
        coverage(made, grid=(0.0, 0.5))


def test_repeated_rows_are_covered_once():
    given = arrays(trajectories=1, length=5)
    twice = {key: [np.tile(a, (3, *[1] * (a.ndim - 1))) for a in own] for key, own in given.items()}
    made = d2_data.open({**twice, "lengths": np.array([5, 5, 5])})
    assert coverage(made)["joint"] == {"cells": 5, "share": 5 / 15}


def test_card_of_a_folder(tmp_path):
    meta = {"task": "simple_spread", "quality": "medium", "seed": 3}
    made = dataset(trajectories=12, length=25, obs_dims=(4, 4, 4), meta=meta)
    folder = made.write(tmp_path / "d")
    card = d2_data.card(folder)
    returns = made.returns.numpy()
    assert card["returns"]["score"] == statistics(returns.mean(0))
    assert card["returns"]["agents"] == [statistics(own) for own in returns]
    assert card["meta"]["seed"] == 3 and card["transitions"] == 300 and card["format"] == "omar"
    assert card["fingerprint"] == made.fingerprint()
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    assert card["sha256"]["files"] == hashes
    lines = "".join(f"{hashes[n]}  {n}\n" for n in sorted(hashes) if n != "meta.json")
    assert card["sha256"]["set"] == hashlib.sha256(lines.encode()).hexdigest()
    (folder / "card.md").write_text("beside the data")
    assert d2_data.card(folder)["sha256"] == card["sha256"]
    assert card["published"]["mean"] == 273.39
    away = 100 * (returns.mean() - 273.39) / 273.39
    assert card["published"]["difference_percent"] == pytest.approx(away)
    json.dumps(card)
    other = d2_data.card(folder, score=("agent 1's", lambda r: r[1]), grid=(1.0, 1.0))
    assert other["returns"]["score"] == card["returns"]["agents"][1]
    assert other["returns"]["rule"] == "agent 1's" and other["coverage"]["grid"]["actions"] == 1.0


def test_card_of_other_formats(tmp_path):
    made = dataset(trajectories=4, meta={"task": "walk"})
    path = d2_data.convert(made.write(tmp_path / "d"), "arrays", tmp_path / "d.npz")
    card = d2_data.card(path)
    assert list(card["sha256"]["files"]) == ["d.npz"] and card["published"] is None
    memory = d2_data.card(arrays(), 5)
    assert memory["sha256"] == {"files": {}, "set": None} and memory["path"] is None
    page = card_page.markdown(memory)
    assert "in no file" in page and "doesn't say" in page


def test_card_of_a_minari_set(tmp_path, monkeypatch):
    pytest.importorskip("minari", reason="minari isn't installed")
    pytest.importorskip("h5py", reason="minari's files need h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    made = dataset(trajectories=4, meta={"task": "walk"})
    d2_data.convert(made.write(tmp_path / "d"), "minari", "minari:me/walk-v0")
    card = d2_data.card("minari:me/walk-v0")
    assert card["format"] == "minari" and card["fingerprint"] == made.fingerprint()
    assert any(name.endswith("metadata.json") for name in card["sha256"]["files"])
    assert len(card["sha256"]["set"]) == 64


def test_page_holds_the_card(tmp_path):
    meta = {"task": "simple_spread", "quality": "medium", "odd": "a|b", "parts": [{"episodes": 12}]}
    made = dataset(trajectories=12, length=25, obs_dims=(4, 4), meta=meta)
    card = d2_data.card(made.write(tmp_path / "d"))
    page = card_page.markdown(card)
    assert page.startswith("# simple_spread/medium\n\n") and page.endswith("\n")
    for wanted in (
        "| trajectories | 12 |",
        "| mean | ",
        "OMAR's score |",
        "% away from it",
        "| joint SACo | ",
        "grid of 0.1 of positions and 0.25 of actions",
        "| joint positions | ",
        "| OACo of agent 1 | ",
        "| positions of agent 1 | ",
        "a\\|b",
        card["sha256"]["set"],
        card["sha256"]["files"]["obs_0.npy"],
        card["fingerprint"],
        "Note: no terminal states",
    ):
        assert wanted in page
    bins = [line.split() for line in page.split("```")[1].strip().splitlines()]
    assert len(bins) == 30
    counts = sum(int(row[3]) for row in bins)
    assert counts == 12


@pytest.mark.parametrize("task", list(tasks.TASKS))
def test_what_a_name_says_is_what_the_environment_does(task):
    """Score and place of the position, written down once for data and once for environments."""
    env = envs.make(task, 7, seed=1)
    returns = torch.randn(env.num_agents, 7, dtype=torch.float64)
    assert torch.equal(known_tasks.score(task, returns), envs.episode_score(returns, task))
    first, end = known_tasks.position_columns(task)
    obs = env.reset(seed=3)
    states = env.recording()["states"]  # [entities, 4] of the first copy
    for i in range(env.num_agents):
        assert np.allclose(obs[i][0, first:end].numpy(), np.asarray(states)[i, :2])


def test_published_cards_are_of_the_known_tasks():
    for task in ("simple_spread", "simple_tag", "simple_world", "HalfCheetah-v2"):
        for quality in ("random", "medium-replay", "medium", "expert"):
            card = published.card(task, quality)
            assert card["min"] < card["mean"] < card["max"] and card["sd"] > 0
            steps = known_tasks.episode_length(task)
            assert card["transitions"] == steps * card["trajectories"]
    assert published.card("simple_spread", "medium-expert") is None
    assert published.card(None, None) is None
