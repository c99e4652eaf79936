"""Trackers get what metrics.jsonl gets, go on after a resume, and never cost the run."""

import json
import sys
import types
import warnings

import pytest
from small_data import dataset

from dom2_fast.algos.bc import BCConfig
from dom2_fast.cli import main as cli
from dom2_fast.errors import Dom2Error
from dom2_fast.runs import loggers
from dom2_fast.runs.train import train

CONFIG = BCConfig(weights="uniform", batch_size=4, hidden=8, depth=1, steps=2)
QUIET = {"progress": False, "tensorboard": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    made = dataset(trajectories=8, obs_dims=(18,) * 3, meta={"task": "simple_spread"})
    return made.write(tmp_path_factory.mktemp("data") / "d")


class FakeWandb(types.ModuleType):
    """What wandb does with `init`, `Run.log` and `Run.finish`, kept; fails where it is told to."""

    def __init__(self):
        super().__init__("wandb")
        self.inits, self.lines, self.ends, self.fails = [], [], [], set()

    def init(self, **given):
        self._maybe("init")
        self.inits.append(given)
        run = types.SimpleNamespace(id=given.get("id", "abc123"))
        run.log = lambda values, step: (self._maybe("log"), self.lines.append((step, values)))
        run.finish = lambda exit_code: (self._maybe("finish"), self.ends.append(exit_code))
        return run

    def _maybe(self, what):
        if what in self.fails:
            raise ConnectionError(f"no network for {what}\nmore of it")


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


def logged(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def go(data, out, steps=4, **options):
    return train(CONFIG, data, out, steps, log_every=2, **{**QUIET, **options})


def test_wandb_gets_the_settings_and_every_line(data, tmp_path, wandb, monkeypatch):
    out = tmp_path / "run"
    go(data, out, logger="wandb")
    (init,) = wandb.inits
    assert (init["project"], init["name"]) == ("dom2-fast", "run") and "id" not in init
    assert init["config"]["steps"] == 4 and init["config"]["config.hidden"] == 8
    assert [{"step": step, **values} for step, values in wandb.lines] == logged(out)
    assert len(wandb.lines) == 2 and wandb.ends == [0]
    assert json.loads((out / "loggers.json").read_text()) == {"wandb": "abc123"}
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    go(data, tmp_path / "other", logger="wandb,tensorboard")
    assert wandb.inits[1]["project"] == "mine"


def test_a_resumed_run_goes_on_in_the_same_tracker_run(data, tmp_path, wandb):
    out = tmp_path / "run"
    go(data, out, logger="wandb")
    (out / "loggers.json").write_text('{"wandb": "known"}')
    train(None, None, out, 8, resume=True, **QUIET)  # the logger is the run's own
    assert wandb.inits[1]["id"] == "known" and wandb.inits[1]["resume"] == "allow"
    assert [step for step, _ in wandb.lines] == [2, 4, 6, 8] and wandb.ends == [0, 0]
    assert json.loads((out / "loggers.json").read_text()) == {"wandb": "known"}
    (out / "loggers.json").write_text("[1]")
    with pytest.raises(Dom2Error, match=r"loggers\.json can't be read"):
        train(None, None, out, 10, resume=True, **QUIET)


def test_a_tracker_that_fails_is_warned_of_once_and_the_run_goes_on(data, tmp_path, wandb):
    go(data, tmp_path / "plain", steps=6)
    wandb.fails = {"log", "finish"}
    with pytest.warns(UserWarning, match="no network for log; the run goes on") as caught:
        result = go(data, tmp_path / "run", steps=6, logger="wandb")
    assert sum("logger wandb" in str(w.message) for w in caught) == 1
    assert result.step == 6 and not wandb.ends
    same = [{k: v for k, v in row.items() if k.startswith("loss")} for row in logged(result.out)]
    want = logged(tmp_path / "plain")
    assert same == [{k: v for k, v in row.items() if k.startswith("loss")} for row in want]


def test_a_run_that_fails_is_failed_there(data, tmp_path, wandb, monkeypatch):
    monkeypatch.setattr("dom2_fast.runs.train._loop", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        go(data, tmp_path / "run", logger="wandb")
    assert wandb.ends == [1]


def test_an_interrupted_run_says_so(data, tmp_path, wandb, monkeypatch):
    def stopped(agents, run, meter, log, stop, save, best):
        stop.received = True

    monkeypatch.setattr("dom2_fast.runs.train._loop", stopped)
    assert go(data, tmp_path / "run", logger="wandb").interrupted
    assert wandb.ends == [130]


def test_what_cannot_be_opened_is_refused_before_anything_is_written(
    data, tmp_path, wandb, monkeypatch, capsys
):
    wandb.fails = {"init"}
    with pytest.raises(Dom2Error, match="--logger wandb can't be opened: no network for init; "):
        go(data, tmp_path / "run", logger="wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(Dom2Error, match=r"pip install 'dom2-fast\[wandb\]'"):
        go(data, tmp_path / "run", logger="wandb")
    with pytest.raises(Dom2Error, match="logger is 'comet'; accepted: wandb, mlflow, tensorboard"):
        go(data, tmp_path / "run", logger="comet")
    command = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--logger", "wandb"]
    assert cli.main(command) == 2 and capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_second_logger_that_fails_closes_the_first(data, tmp_path, wandb, monkeypatch):
    class Broken:
        name = "mlflow"

        def __init__(self, *_):
            raise RuntimeError("no server")

    monkeypatch.setitem(loggers.KINDS, "mlflow", Broken)
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    with pytest.raises(Dom2Error, match="mlflow can't be opened: no server"):
        go(data, tmp_path / "run", logger="wandb,mlflow")
    assert wandb.ends == [1] and not (tmp_path / "run").exists()


def test_without_a_logger_nothing_is_written(data, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go(data, tmp_path / "run", logger="tensorboard")
    assert not (tmp_path / "run" / "loggers.json").exists()


def test_mlflow_keeps_params_metrics_and_the_run(data, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install 'dom2-fast[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "spread")
    out = tmp_path / "run"
    go(data, out, logger="mlflow")
    train(None, None, out, 8, resume=True, **QUIET)
    client = mlflow.MlflowClient()
    known = json.loads((out / "loggers.json").read_text())["mlflow"]
    (run,) = client.search_runs([client.get_experiment_by_name("spread").experiment_id])
    assert run.info.run_id == known and run.info.status == "FINISHED"
    assert run.data.params["config.hidden"] == "8" and run.data.params["algo"] == "bc"
    name = next(key for key in logged(out)[0] if key.startswith("loss/"))
    points = [(m.step, m.value) for m in client.get_metric_history(known, name)]
    assert points == [(row["step"], row[name]) for row in logged(out)] and len(points) == 4
