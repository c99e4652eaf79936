"""Files that `make torture` found to end in a traceback: now a reason and exit code 2."""

import struct

import numpy as np
import pytest
import torch
from small_data import dataset

from dom2_fast import checkpoint
from dom2_fast.algos.bc import BCConfig
from dom2_fast.algos.updates import adam, load_optimiser
from dom2_fast.cli import main as cli
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.report.load import _read_rollout
from dom2_fast.runs import train

# Nine levels of nine aliases each.
BILLION = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    meta = {"task": "simple_spread", "quality": "medium"}
    data = dataset(trajectories=8, length=5, obs_dims=(18,) * 3, meta=meta).write(folder / "data")
    config = BCConfig(weights="thresholds:0", batch_size=4, hidden=8, depth=1, steps=2)
    train.train(config, data, folder / "run", 2, progress=False, tensorboard=False)
    return folder / "run"


def damage(name):
    """A function that damages a checkpoint's values."""

    def deep(state, *keys, value=None):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    moments = torch.zeros(3)
    return {
        "weights missing": lambda s: s["parts"].update(net={}, target_net={}),
        "a part missing": lambda s: s.update(parts={}),
        "no sizes": lambda s: s.pop("sizes"),
        "run is nothing": lambda s: s.update(run=None),
        "config is a number": lambda s: s.update(config=3.5),
        "step is text": lambda s: s.update(step="x"),
        "step below zero": lambda s: s.update(step=-3),
        "algo is a list": lambda s: s.update(algo=[]),
        "generator is text": lambda s: s.update(generator="x"),
        "moments of another shape": lambda s: deep(
            s, "parts", "actor_optimiser", "state", 0, "exp_avg", value=moments
        ),
        "no learning rate": lambda s: deep(
            s, "parts", "actor_optimiser", "param_groups", 0, "lr", value=None
        ),
    }[name]


ACTING_NEEDS = ("weights missing", "a part missing", "no sizes", "run is nothing", "step is text")


@pytest.mark.parametrize(
    "name",
    [
        *ACTING_NEEDS,
        *("config is a number", "step below zero", "algo is a list", "generator is text"),
        *("moments of another shape", "no learning rate"),
    ],
)
def test_checkpoints_of_values_that_dont_fit(run, tmp_path, capsys, name):
    state = torch.load(run / checkpoint.NAME, weights_only=True)
    damage(name)(state)
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    torch.save(state, out / checkpoint.NAME)
    commands = [["train", "--resume", "--out", str(out), "--quiet", "--steps", "3"]]
    if name in ACTING_NEEDS:
        commands.append(["evaluate", str(out), "--episodes", "2"])
        commands.append(["export", str(out), "--out", str(tmp_path / "p")])
    for argv in commands:
        assert cli.main(argv) == 2, argv
        said = capsys.readouterr().err
        assert said.startswith("dom2-fast: error: ") and said.count("\n") == 1
    assert sorted(item.name for item in out.iterdir()) == ["checkpoint.pt", "config.yaml"]


def test_an_optimiser_of_other_networks_is_refused():
    net, other = torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)
    theirs = adam(other, 1e-3)
    other(torch.ones(1, 3)).sum().backward()
    theirs.step()
    with pytest.raises(Dom2Error, match="actor_optimiser is not of these networks"):
        load_optimiser(adam(net, 1e-3), theirs.state_dict(), "actor_optimiser")
    load_optimiser(adam(other, 1e-3), theirs.state_dict(), "actor_optimiser")


def test_what_fitting_lets_through():
    with pytest.raises(Dom2Error, match=r"^mine$"), checkpoint.fitting():
        raise Dom2Error("mine")
    told = r"the file holds values.*KeyError: 'x'"
    with pytest.raises(Dom2Error, match=told), checkpoint.fitting("the file"):
        {}["x"]
    with pytest.raises(KeyboardInterrupt), checkpoint.fitting():
        raise KeyboardInterrupt


def test_a_header_that_is_no_literal(tmp_path):
    folder = dataset(meta={"task": "t"}).write(tmp_path / "data")
    file = folder / "obs_0.npy"
    file.write_bytes(file.read_bytes().replace(b"}", b"(", 1))
    with pytest.raises(Dom2Error, match=r"obs_0\.npy .*is cut short or is no \.npy file"):
        TrajectoryDataset.load(folder)


def test_damaged_compression(tmp_path):
    file = tmp_path / "rollout.npz"
    np.savez_compressed(file, states=np.arange(1000.0))
    whole = bytearray(file.read_bytes())
    whole[60:75] = b"\xff" * 15  # after the header, its name and its sizes
    file.write_bytes(whole)
    with pytest.raises(Dom2Error, match="is not a recorded episode"):
        _read_rollout(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: " + "[" * 2000, "nested too deeply"),
        ("steps: 2026-13-45", "not valid YAML"),
        ("config: {gamma: null}", "'gamma' has no value"),
        ("3: 4", "unknown key '3'"),
        ("? null\n: 4", "unknown key 'None'"),
        ("steps: &a [*a]", "nested too deeply"),
        (BILLION, "more than 100,000 values"),
    ],
)
def test_settings_that_are_none(tmp_path, capsys, text, said):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    argv = ["train", "--config", str(file), "--data", "d", "--out", str(tmp_path / "run")]
    assert cli.main(argv) == 2
    assert said in capsys.readouterr().err


def test_too_little_memory_is_one_line(capsys):
    def ask():
        raise MemoryError

    for action in (ask, lambda: torch.empty(1 << 60, dtype=torch.uint8) and 0):
        assert cli.guard(action) == 2
        said = capsys.readouterr().err
        assert said.startswith("dom2-fast: error: not enough memory for this")
        assert said.count("\n") == 1

    def other():
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="of ours"):
        cli.guard(other)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.jsonl", '{"step": 1, "loss": {}}\n{"step": 2, "loss": 1.0}\n'),
        ("metrics.jsonl", '{"step": 1, "lo\udcffss": 1.0}\nnothing\n{"step": 2}\n'),
        (
            "scores.json",
            '{"results": {"standard": {"mean": 1.0, "ci95": [0, 2], "iqm": {"a": 1}}}}',
        ),
        ("scores.json", '{"results": {"standard": {"mean": "1", "ci95": [0, 2]}}}'),
        ("scores.json", '{"results": {"standard": {"mean": 1, "ci95": [0, 2], "iqm": ""}}}'),
        ("metrics.jsonl", '{"step": Infinity}\n{"step": 2}\n'),
    ],
)
def test_a_report_of_logs_that_hold_no_numbers(run, tmp_path, capsys, name, text):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert cli.main(["report", str(folder), "--out", str(tmp_path / "r.html")]) == 2
    assert name in capsys.readouterr().err


def test_whatever_torch_raises_for_a_damaged_checkpoint(run, monkeypatch):
    for error in (TypeError("set_() received"), struct.error("unpack requires 4 bytes")):

        def fail(*_args, error=error, **_kwargs):
            raise error

        monkeypatch.setattr(torch, "load", fail)
        with pytest.raises(Dom2Error, match="cut short or is no checkpoint"):
            checkpoint.load(run)
