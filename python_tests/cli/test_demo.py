"""The demo, small: it leaves what it promises, replaces only its own, and restores on failure."""

import json

import pytest

from dom2_fast.cli import demo
from dom2_fast.errors import Dom2Error

SMALL = {"episodes": 20, "steps": 2, "eval_episodes": 4}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "runs" / "demo"
    demo.demo(out, **SMALL)
    return out


def test_demo_writes_scores_and_report(made):
    scores = json.loads((made / "scores.json").read_text())
    assert set(scores) == {"dataset_mean", "bc", "td3_bc", "omar", "dom2"}
    for name in demo.ALGOS:
        assert set(scores[name]) == {"standard", "shift_speed"}
        for result in scores[name].values():
            assert result["ci95"][0] <= result["mean"] <= result["ci95"][1]
            assert "normalised" in result and "returns" not in result
        config = (made / name / "config.yaml").read_text()
        assert "steps: 2\n" in config and "batch_size: 256" in config  # the same budget for all
    assert "normalised" in scores["dataset_mean"]
    page = (made / "report.html").read_text()
    assert "data set" in page and "rollout-data" in page
    assert names(made) == sorted([*demo.MADE, demo.MARKER])


def test_a_second_demo_replaces_its_own_files_and_keeps_others(made, capsys):
    (made / "notes.txt").write_text("mine")
    before = (made / "report.html").stat().st_mtime_ns
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    assert demo.main([*options, f"--out={made}"]) == 0
    shown = capsys.readouterr().out
    for name in demo.ALGOS:
        assert sum(line.startswith(name) for line in shown.splitlines()) == 2  # standard, shifted
    assert (made / "report.html").stat().st_mtime_ns > before
    assert (made / "notes.txt").read_text() == "mine"
    (made / "notes.txt").unlink()
    assert names(made) == sorted([*demo.MADE, demo.MARKER])


def test_a_stopped_demo_leaves_the_old_results(made, monkeypatch):
    from dom2_fast.runs import train

    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    before = (made / "scores.json").read_bytes()
    monkeypatch.setattr(train, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        demo.demo(made, **SMALL)
    assert (made / "scores.json").read_bytes() == before
    assert names(made) == sorted([*demo.MADE, demo.MARKER])


def test_results_put_aside_by_a_killed_demo_come_back(tmp_path):
    (tmp_path / demo.MARKER).write_text("")
    (tmp_path / demo.OLD).mkdir()
    (tmp_path / demo.OLD / "scores.json").write_text("whole")
    (tmp_path / "data").mkdir()  # unfinished
    with pytest.raises(RuntimeError), demo._replacing(tmp_path):
        assert names(tmp_path) == [demo.OLD, demo.MARKER]
        raise RuntimeError
    assert names(tmp_path) == [demo.MARKER, "scores.json"]
    assert (tmp_path / "scores.json").read_text() == "whole"


def test_a_folder_of_someone_else_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(Dom2Error, match=r"thesis\.tex and was not made by the demo"):
        demo.demo(tmp_path, **SMALL)
    assert demo.main([f"--out={tmp_path}"]) == 2
    assert "error: " in capsys.readouterr().err
    assert names(tmp_path) == ["thesis.tex"]
