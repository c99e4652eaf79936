"""Several processes and one run's folder; what a killed one left there."""

import multiprocessing
import time

import pytest
from small_data import dataset

from dom2_fast import checkpoint
from dom2_fast.algos.bc import BCConfig
from dom2_fast.errors import Dom2Error
from dom2_fast.files import held
from dom2_fast.runs import scoring, train

CONFIG = BCConfig(weights="thresholds:0", batch_size=4, hidden=8, depth=1, steps=2)
QUIET = {"progress": False, "tensorboard": False}
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def data(tmp_path):
    meta = {"task": "simple_spread", "quality": "medium"}
    return dataset(trajectories=8, length=5, obs_dims=(18,) * 3, meta=meta).write(tmp_path / "data")


def test_a_run_killed_while_it_wrote_its_first_checkpoint_starts_again(data, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".checkpoint.pt.6h98ggsd.tmp").write_bytes(b"half a checkpoint")
    assert train.train(CONFIG, data, out, 2, **QUIET).step == 2
    assert not list(out.glob(".*.tmp"))


def test_resuming_removes_what_a_killed_run_left_and_nothing_else(data, tmp_path):
    out = tmp_path / "run"
    train.train(CONFIG, data, out, 1, **QUIET)
    for name in (".best.pt.aaaaaaaa.tmp", ".scores.json.bbbbbbbb.tmp"):
        (out / name).write_bytes(b"half")
    train.train(CONFIG, data, out, 2, resume=True, **QUIET)
    # scores.json is written by evaluations, of which one may be at it.
    assert [item.name for item in out.glob(".*.tmp")] == [".scores.json.bbbbbbbb.tmp"]


def test_a_run_killed_before_its_config_was_written_keeps_its_options(data, tmp_path, monkeypatch):
    options = {"log_every": 2, "save_every": 3, "eval_every": 2, "eval_episodes": 3}
    train.train(CONFIG, data, tmp_path / "whole", 4, **options, **QUIET)

    def fail(*_arguments):
        raise OSError(30, "Read-only file system")

    out = tmp_path / "run"
    with monkeypatch.context() as broken:
        broken.setattr(train.run_config, "write", fail)
        with pytest.raises(OSError, match="Read-only"):
            train.train(CONFIG, data, out, 4, **options, **QUIET)
    assert [item.name for item in out.iterdir()] == ["checkpoint.pt"]
    train.train(None, None, out, resume=True, **QUIET)
    assert (out / "config.yaml").read_bytes() == (tmp_path / "whole" / "config.yaml").read_bytes()
    scored = [
        checkpoint.load(f / "best.pt")["run"]["eval/return"] for f in (out, tmp_path / "whole")
    ]
    assert scored[0] == scored[1]
    assert "options" not in checkpoint.load(out)["run"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_of_one_folder_is_refused(data, tmp_path, resume):
    out = tmp_path / "run"
    if resume:
        train.train(CONFIG, data, out, 1, **QUIET)
    else:
        out.mkdir()

    def hold(ready):
        with held(out):
            ready.set()
            time.sleep(60)

    ready = FORK.Event()
    other = FORK.Process(target=hold, args=(ready,))
    other.start()
    try:
        assert ready.wait(30)
        before = {item.name: item.read_bytes() for item in out.iterdir()}
        with pytest.raises(Dom2Error, match="another process trains into"):
            train.train(CONFIG, data, out, 2, resume=resume, **QUIET)
        assert {item.name: item.read_bytes() for item in out.iterdir()} == before
    finally:
        other.kill()
        other.join()
    assert train.train(CONFIG, data, out, 2, resume=resume, **QUIET).step == 2


def test_two_evaluations_at_once_keep_both_results(tmp_path):
    header = {"algo": "bc", "env": "simple_spread", "data": "d", "step": 3}

    def score(name):
        for episodes in range(1, 40):
            result = {"mean": 1.0, "checkpoint": "last", "step": 3, "episodes": episodes}
            scoring.save_scores(tmp_path, header, {name: result})

    both = [FORK.Process(target=score, args=(name,)) for name in ("standard", "shift_speed")]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    scores = scoring.save_scores(tmp_path, header, {})
    assert {k: r["episodes"] for k, r in scores["results"].items()} == {
        "standard": 39,
        "shift_speed": 39,
    }
