"""Training runs: exact resume, signals, logs, refusals, full disks."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_data import dataset

from dom2_fast import algos, checkpoint
from dom2_fast import config as configs
from dom2_fast.algos.bc import BCConfig
from dom2_fast.algos.diffusion_ql import DiffusionQLConfig
from dom2_fast.algos.dom2 import DOM2Config
from dom2_fast.algos.iql import IQLConfig
from dom2_fast.algos.sfbc import SfBCConfig
from dom2_fast.algos.td3_bc import TD3BCConfig
from dom2_fast.errors import Dom2Error
from dom2_fast.runs import runlog, train

COMMON = {"weights": "thresholds:0", "batch_size": 4, "hidden": 8, "depth": 1, "steps": 2}
ACTOR = {name: value for name, value in COMMON.items() if name != "steps"}
CONFIGS = {
    "dom2": DOM2Config(**COMMON, critic_hidden=8, q_warmup=2, cql_actions=2, actor_every=2),
    "bc": BCConfig(**COMMON),
    "td3_bc": TD3BCConfig(**ACTOR, critic_hidden=8),
    "diffusion_ql": DiffusionQLConfig(**COMMON, critic_hidden=8, ema_start=3),
    "sfbc": SfBCConfig(**COMMON, critic_hidden=8, plan_every=4),
    "iql": IQLConfig(**ACTOR, critic_hidden=8, decay_steps=5),
}
QUIET = {"progress": False, "tensorboard": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "d"
    made = dataset(
        trajectories=8,
        length=5,
        obs_dims=(18,) * 3,
        meta={"task": "simple_spread", "quality": "medium"},
    )
    return made.write(folder)


def flat(value, name=""):
    """(name, leaf) of nested dicts and lists, in order."""
    if isinstance(value, dict):
        for key in value:
            yield from flat(value[key], f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from flat(item, f"{name}/{i}")
    else:
        yield name, value


def assert_same_state(a: dict, b: dict) -> None:
    left, right = dict(flat(a)), dict(flat(b))
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, right[name]), name
        else:
            assert value == right[name], name


def metrics(out, times=False) -> list[dict]:
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    if times:
        return rows
    return [
        {k: v for k, v in row.items() if k != "rate" and not k.startswith("seconds/")}
        for row in rows
    ]


@pytest.mark.parametrize("algo", CONFIGS)
def test_resumed_equals_uninterrupted_bit_for_bit(data, tmp_path, algo):
    config = CONFIGS[algo]
    often = {**QUIET, "log_every": 3, "save_every": 4, "eval_every": 5, "eval_episodes": 2}
    train.train(config, data, tmp_path / "whole", 14, **often)
    train.train(config, data, tmp_path / "parts", 5, **often)  # ends off the log schedule
    train.train(None, None, tmp_path / "parts", 8, resume=True, **often)
    train.train(config, data, tmp_path / "parts", 14, resume=True, **often)
    whole, parts = (checkpoint.load(tmp_path / name) for name in ("whole", "parts"))
    assert whole["step"] == 14
    assert_same_state(whole, parts)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    assert [row["step"] for row in metrics(tmp_path / "whole")] == [3, 5, 6, 9, 10, 12, 14]


@pytest.mark.parametrize("algo", CONFIGS)
def test_killed_between_checkpoints_and_resumed(data, tmp_path, algo, monkeypatch):
    """The process dies at step 7; log lines after the checkpoint of step 4 are written again."""
    config, often = CONFIGS[algo], {**QUIET, "log_every": 2, "save_every": 4}
    train.train(config, data, tmp_path / "whole", 10, **often)
    cls = algos.of_config(config)
    update = cls.update

    def dying(self):
        if self.step == 7:
            raise RuntimeError("power cut")
        return update(self)

    monkeypatch.setattr(cls, "update", dying)
    with pytest.raises(RuntimeError, match="power cut"):
        train.train(config, data, tmp_path / "killed", 10, **often)
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / "killed")["step"] == 4
    assert metrics(tmp_path / "killed")[-1]["step"] == 6
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "loss/b')  # and a half-written line
    train.train(None, None, tmp_path / "killed", 10, resume=True, **often)
    assert_same_state(*(checkpoint.load(tmp_path / name) for name in ("whole", "killed")))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "killed")


def test_a_killed_run_without_any_step_can_be_resumed(data, tmp_path, monkeypatch):
    def dying(self):
        raise RuntimeError("power cut")

    monkeypatch.setattr("dom2_fast.algos.bc.BC.update", dying)
    with pytest.raises(RuntimeError):
        train.train(CONFIGS["bc"], data, tmp_path / "run", 4, **QUIET)
    monkeypatch.undo()
    assert train.train(None, None, tmp_path / "run", 4, resume=True, **QUIET).step == 4


def test_what_a_run_folder_holds(data, tmp_path):
    result = train.train(
        CONFIGS["dom2"],
        data,
        tmp_path / "run",
        6,
        progress=False,
        log_every=2,
        eval_every=3,
        eval_episodes=3,
    )
    assert (result.step, result.interrupted) == (6, False)
    held = {p.name for p in (tmp_path / "run").iterdir()}
    assert held == {"config.yaml", "metrics.jsonl", "tb", "checkpoint.pt", "best.pt"}
    settings = configs.load(tmp_path / "run" / "config.yaml")
    assert (settings["algo"], settings["env"], settings["steps"]) == ("dom2", "simple_spread", 6)
    assert settings["data"] == str(data)
    settled = algos.algorithm("dom2").settled(CONFIGS["dom2"], None, None)
    assert configs.from_dict(DOM2Config, settings["config"]) == settled
    rows = metrics(tmp_path / "run", times=True)
    first = rows[0]
    assert {"loss/bc", "loss/td", "loss/cql", "q/data", "rate"} <= first.keys()
    assert "q/best" not in first  # q_warmup
    assert {"loss/actor", "q/best"} <= next(row for row in rows if row["step"] == 4).keys()
    assert all(first[f"seconds/{s}"] > 0 for s in ("sample", "critic", "actor", "target"))
    assert [row["step"] for row in rows if "eval/return" in row] == [3, 6]
    assert {"eval/low", "eval/high", "eval/normalised"} <= rows[1].keys()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tb"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss/td")] == [2, 4, 6]
    assert events.Scalars("loss/td")[0].value == pytest.approx(first["loss/td"], rel=1e-6)


def test_logged_losses_are_means_over_the_interval(data, tmp_path):
    train.train(CONFIGS["bc"], data, tmp_path / "each", 4, **QUIET, log_every=1)
    train.train(CONFIGS["bc"], data, tmp_path / "pairs", 4, **QUIET, log_every=2)
    each = [row["loss/bc"] for row in metrics(tmp_path / "each")]
    pairs = [row["loss/bc"] for row in metrics(tmp_path / "pairs")]
    assert pairs == pytest.approx([(each[0] + each[1]) / 2, (each[2] + each[3]) / 2], rel=1e-6)


LONG_RUN = """
import sys
from dom2_fast.runs import train
from dom2_fast.algos.bc import BCConfig
config = BCConfig(weights="uniform", batch_size=4, hidden=8, depth=1, steps=2)
result = train.train(config, sys.argv[1], sys.argv[2], 10**7, log_every=1, save_every=10**6,
                     progress=False, tensorboard=False)
print("interrupted", result.interrupted, result.step)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_leave_a_usable_checkpoint(data, tmp_path, name):
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_RUN, str(data), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        log = out / "metrics.jsonl"
        while time.monotonic() < deadline and not (log.exists() and log.stat().st_size > 200):
            time.sleep(0.05)
        process.send_signal(getattr(signal, name))
        text, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    step = int(text.split()[-1])
    assert text.startswith("interrupted True")
    assert checkpoint.load(out)["step"] == step > 0
    assert metrics(out)[-1]["step"] == step
    result = train.train(None, None, out, step + 2, resume=True, **QUIET)
    assert result.step == step + 2


def test_handlers_are_put_back(data, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train.train(CONFIGS["bc"], data, tmp_path / "run", 1, **QUIET)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def snapshot(folder) -> dict:
    return {p: p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_refusals_change_nothing(data, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    train.train(CONFIGS["bc"], data, run, 2, **QUIET)
    dataset(
        trajectories=8,
        obs_dims=(18,) * 3,
        seed=1,
        meta={"task": "simple_spread", "quality": "medium"},
    ).write(other)
    tag = dataset(obs_dims=(16, 16, 16, 14), meta={"task": "simple_tag"}).write(tmp_path / "tag")
    four = dataset(obs_dims=(18,) * 4, meta={"task": "simple_spread"}).write(tmp_path / "four")
    before = snapshot(tmp_path)
    bc, dom2 = CONFIGS["bc"], CONFIGS["dom2"]
    two = BCConfig(**COMMON, agents=2)
    changed = BCConfig(**{**COMMON, "lr": 0.5})
    cases = [
        (r"already holds .*--resume", lambda: train.train(bc, data, run, 4, **QUIET)),
        (r"of algorithm 'bc', 'dom2'", lambda: train.train(dom2, data, run, 4, True, **QUIET)),
        (
            r"lr = 0.002 \(asked for: 0.5\)",
            lambda: train.train(changed, data, run, 4, True, **QUIET),
        ),
        (
            r"of environment 'simple_spread', 'simple_tag'",
            lambda: train.train(bc, data, run, 4, True, env="simple_tag", **QUIET),
        ),
        (r"is not what the run", lambda: train.train(None, other, run, 4, True, **QUIET)),
        (r"done 2 steps already", lambda: train.train(None, None, run, 1, True, **QUIET)),
        (r"no run to resume", lambda: train.train(bc, data, tmp_path / "new", 4, True, **QUIET)),
        (r"steps must be", lambda: train.train(bc, data, tmp_path / "new", 0, **QUIET)),
        (r"log_every", lambda: train.train(bc, data, tmp_path / "new", 1, log_every=0, **QUIET)),
        (r"no data set at", lambda: train.train(bc, "nowhere", tmp_path / "new", 1, **QUIET)),
        (
            r"widths \[16, 16, 16, 14\], simple_spread has \[18, 18, 18\]",
            lambda: train.train(bc, tag, tmp_path / "new", 1, env="simple_spread", **QUIET),
        ),
        (
            r"2 agents would be trained, simple_spread has 3: say how many",
            lambda: train.train(two, data, tmp_path / "new", 1, eval_every=1, **QUIET),
        ),
        (
            r"4 agents would be trained, simple_spread has 3",
            lambda: train.train(bc, four, tmp_path / "new", 1, **QUIET),
        ),
        (
            r"unknown environment 'mine'",
            lambda: train.train(bc, data, tmp_path / "new", 1, env="mine", eval_every=1, **QUIET),
        ),
        (
            r"no thresholds are known for simple_tag/None|task and quality",
            lambda: train.train(BCConfig(), tag, tmp_path / "new", 1, **QUIET),
        ),
    ]
    for message, attempt in cases:
        with pytest.raises(Dom2Error, match=message):
            attempt()
        assert snapshot(tmp_path) == before
        assert not (tmp_path / "new").exists()


def test_resume_refuses_a_damaged_checkpoint(data, tmp_path):
    train.train(CONFIGS["bc"], data, tmp_path / "run", 2, **QUIET)
    file = tmp_path / "run" / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:1000])
    before = snapshot(tmp_path)
    with pytest.raises(Dom2Error, match="cut short"):
        train.train(None, None, tmp_path / "run", 4, resume=True, **QUIET)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("where", ["checkpoint", "log"])
def test_no_space_is_a_clear_error_and_loses_nothing(data, tmp_path, monkeypatch, where):
    often = {**QUIET, "log_every": 1, "save_every": 2}
    train.train(CONFIGS["bc"], data, tmp_path / "whole", 6, **often)

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_later(self, step, values):
        if step == 5:
            full()
        write(self, step, values)

    write, save = runlog.RunLog.write, checkpoint.save

    def save_later(path, content):
        if content["step"] == 4:
            monkeypatch.setattr(os, "fsync", full)
        save(path, content)

    if where == "log":
        monkeypatch.setattr(runlog.RunLog, "write", full_later)
    else:
        monkeypatch.setattr(checkpoint, "save", save_later)
    with pytest.raises(Dom2Error, match="no space left"):
        train.train(CONFIGS["bc"], data, tmp_path / "run", 6, **often)
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / "run")["step"] == (4 if where == "log" else 2)
    train.train(None, None, tmp_path / "run", 6, resume=True, **often)
    assert_same_state(*(checkpoint.load(tmp_path / name) for name in ("whole", "run")))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "run")


def test_diverging_losses_stop_the_run(data, tmp_path):
    config = DOM2Config(**COMMON, critic_hidden=8, reward_scale=1e30)
    with pytest.raises(Dom2Error, match=r"diverged: .* not finite at step .*checkpoint"):
        train.train(config, data, tmp_path / "run", 50, **QUIET, log_every=1, save_every=100)
    assert checkpoint.load(tmp_path / "run")["step"] == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):  # what isn't finite is in the message, not in the log
        assert all(isinstance(v, (int, float)) and math.isfinite(v) for v in line.values())


def test_faithful_settings_bring_their_number_of_updates(data, tmp_path, monkeypatch):
    from dom2_fast.algos import faithful
    from dom2_fast.algos.itd3 import ITD3Config

    few = faithful.TASKS["simple_spread"]._replace(of={"medium": (5.0, 1.0, 3)})
    monkeypatch.setitem(faithful.TASKS, "simple_spread", few)
    config = ITD3Config(faithful=True)
    result = train.train(config, data, tmp_path / "r", log_every=1, **QUIET)
    assert (result.step, result.steps) == (3, 3)
    saved = configs.load(tmp_path / "r" / "config.yaml")
    assert (saved["steps"], saved["config"]["batch_size"]) == (3, 1024)
    for asked in (config, None):  # the settings asked for are the run's own, once settled
        again = train.train(asked, None, tmp_path / "r", resume=True, steps=4, **QUIET)
        assert again.step == 4
    with pytest.raises(Dom2Error, match=r"other settings: .*faithful = True"):
        train.train(ITD3Config(), None, tmp_path / "r", resume=True, **QUIET)
    with pytest.raises(Dom2Error, match="contradict: hidden = 8"):
        train.train(ITD3Config(faithful=True, hidden=8), data, tmp_path / "s", **QUIET)
    assert not (tmp_path / "s").exists()
