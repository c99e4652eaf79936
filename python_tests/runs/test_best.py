"""The best checkpoint: what is kept when, exact resume, its scores beside the last one's."""

import json

import pytest
import torch
from small_data import dataset
from test_train import CONFIGS, QUIET, assert_same_state

from dom2_fast import checkpoint, load_policy
from dom2_fast.errors import Dom2Error
from dom2_fast.report import write_report
from dom2_fast.runs import train as training
from dom2_fast.runs.acting import policies_of
from dom2_fast.runs.exporting import export_run
from dom2_fast.runs.scoring import evaluate_run
from dom2_fast.runs.train import train

OFTEN = {**QUIET, "log_every": 3, "save_every": 4, "eval_every": 2, "eval_episodes": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    made = dataset(trajectories=8, obs_dims=(18,) * 3, meta={"task": "simple_spread"})
    return made.write(tmp_path_factory.mktemp("data") / "d")


@pytest.fixture
def returns(monkeypatch):
    """Evaluations on the way bring the returns of this dict: step -> return."""
    given = {2: 1.0, 4: 5.0, 6: 3.0, 8: 5.0, 10: 7.0, 12: 2.0}
    monkeypatch.setattr(
        training, "_evaluate", lambda agents, run: {"eval/return": given[agents.step]}
    )
    return given


def best_of(out) -> dict:
    return checkpoint.load(out / "best.pt")


@pytest.mark.parametrize("steps", [2, 6, 8, 12])
def test_the_highest_return_is_kept_the_earlier_of_equals(data, tmp_path, returns, steps):
    train(CONFIGS["bc"], data, tmp_path / "run", steps, **OFTEN)
    known = {step: value for step, value in returns.items() if step <= steps}
    best = max(known, key=known.get)
    assert best_of(tmp_path / "run")["step"] == best
    assert best_of(tmp_path / "run")["run"]["eval/return"] == returns[best]
    assert checkpoint.load(tmp_path / "run")["step"] == steps
    train(CONFIGS["bc"], data, tmp_path / "short", best, **OFTEN)
    last, kept = checkpoint.load(tmp_path / "short"), best_of(tmp_path / "run")
    kept["run"].pop("eval/return")
    assert_same_state(last, kept)  # what the run itself was at that step


@pytest.mark.parametrize("algo", ["bc", "dom2", "iql"])
def test_resumed_equals_uninterrupted(data, tmp_path, algo):
    """With real evaluations; stopped before and after the best one."""
    train(CONFIGS[algo], data, tmp_path / "whole", 12, **OFTEN)
    for stops in ((3, 7), (6,), (11,)):
        out = tmp_path / str(stops)
        train(CONFIGS[algo], data, out, stops[0], **OFTEN)
        for steps in (*stops[1:], 12):
            train(None, None, out, resume=True, steps=steps, **OFTEN)
        assert_same_state(best_of(tmp_path / "whole"), best_of(out))


@pytest.mark.parametrize("dies", [5, 7, 11])
def test_killed_and_resumed(data, tmp_path, returns, monkeypatch, dies):
    """Dies at a step after best.pt was replaced, before checkpoint.pt was."""
    train(CONFIGS["bc"], data, tmp_path / "whole", 12, **OFTEN)
    cls = training.algos.of_config(CONFIGS["bc"])
    update = cls.update

    def dying(self):
        if self.step == dies:
            raise RuntimeError("power cut")
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(cls, "update", dying)
        with pytest.raises(RuntimeError, match="power cut"):
            train(CONFIGS["bc"], data, tmp_path / "killed", 12, **OFTEN)
    train(None, None, tmp_path / "killed", resume=True, **OFTEN)
    assert_same_state(best_of(tmp_path / "whole"), best_of(tmp_path / "killed"))
    assert_same_state(*(checkpoint.load(tmp_path / name) for name in ("whole", "killed")))


def test_scores_of_both_side_by_side(data, tmp_path, returns):
    run = tmp_path / "run"
    train(CONFIGS["bc"], data, run, 6, **OFTEN)
    last = evaluate_run(run, episodes=3)
    evaluate_run(run, episodes=3, checkpoint="best")
    scores = evaluate_run(run, episodes=3, checkpoint="best", shift="speed")
    assert json.loads((run / "scores.json").read_text()) == scores
    assert scores["results"].keys() == {"standard", "best_standard", "best_shift_speed"}
    assert scores["results"]["standard"] == last["results"]["standard"] and scores["step"] == 6
    told = [(r["checkpoint"], r["step"]) for r in scores["results"].values()]
    assert told == [("last", 6), ("best", 4), ("best", 4)]
    short = tmp_path / "short"
    train(CONFIGS["bc"], data, short, 4, **QUIET)
    own = evaluate_run(short, episodes=3)["results"]["standard"]
    assert scores["results"]["best_standard"] == own | {"checkpoint": "best"}
    page = write_report([run], tmp_path / "r.html").read_text()
    assert "Standard, best checkpoint" in page and "Speed shift, best checkpoint" in page
    policies, exported = policies_of(run, "best").policies, tmp_path / "p.safetensors"
    export_run(run, exported, "best")
    acts = [
        p.act(torch.zeros(3, 2, 18), generator=torch.Generator().manual_seed(0))
        for p in (policies, load_policy(exported))
    ]
    assert torch.equal(*acts)
    # the run goes on: neither checkpoint's old results stay
    train(None, None, run, resume=True, steps=10, **OFTEN)
    later = evaluate_run(run, episodes=3, checkpoint="best")
    assert later["results"].keys() == {"best_standard"}
    assert (later["step"], later["results"]["best_standard"]["step"]) == (10, 10)


def test_results_of_another_best_checkpoint_are_dropped(data, tmp_path, returns):
    """While a run goes on its best.pt may be replaced between two of its checkpoints."""
    run = tmp_path / "run"
    train(CONFIGS["bc"], data, run, 4, **OFTEN)
    evaluate_run(run, episodes=2)
    evaluate_run(run, episodes=2, checkpoint="best", shift="speed")
    later = best_of(run)
    checkpoint.save(run / "best.pt", {**later, "step": 5})
    scores = evaluate_run(run, episodes=2, checkpoint="best")
    assert scores["results"].keys() == {"standard", "best_standard"}


def test_bad_input(data, tmp_path):
    run = tmp_path / "run"
    train(CONFIGS["bc"], data, run, 2, **QUIET)
    with pytest.raises(Dom2Error, match=r"holds no best\.pt: .*--eval-every"):
        evaluate_run(run, episodes=2, checkpoint="best")
    with pytest.raises(Dom2Error, match=r"holds no best\.pt"):
        policies_of(run / "checkpoint.pt", "best")
    with pytest.raises(Dom2Error, match="one of last, best, got 'first'"):
        evaluate_run(run, episodes=2, checkpoint="first")
    with pytest.raises(Dom2Error, match="no checkpoint at"):
        evaluate_run(tmp_path / "nowhere", episodes=2, checkpoint="best")
    assert not (run / "scores.json").exists()
    saved = (run / "checkpoint.pt").read_bytes()
    for content, message in ((saved[:1000], "cut short"), (saved, "what it scored")):
        (run / "best.pt").write_bytes(content)
        with pytest.raises(Dom2Error, match=message):
            train(None, None, run, resume=True, steps=4, **OFTEN)
        assert (run / "checkpoint.pt").read_bytes() == saved
    assert train(None, None, run, resume=True, steps=4, **QUIET).step == 4  # it isn't looked at
