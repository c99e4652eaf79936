"""A run's options: command line, YAML, keywords and a resumed run agree; old runs go on."""

import dataclasses
import gzip
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_data import dataset

from dom2_fast import checkpoint
from dom2_fast import config as configs
from dom2_fast.algos.bc import BCConfig
from dom2_fast.cli import main as cli
from dom2_fast.errors import Dom2Error
from dom2_fast.runs import run_config
from dom2_fast.runs.run_config import RunConfig
from dom2_fast.runs.train import train

OLD = Path(__file__).parent / "old"
SMALL = BCConfig(weights="uniform", batch_size=4, hidden=4, depth=1, steps=2, seed=5)
QUIET = {"progress": False, "tensorboard": False}
# Another value than the default for each option.
OTHERS = {
    "algo": "bc",
    "data": "some/data",
    "env": "simple_spread",
    "steps": 7,
    "episode_length": 5,
    "fraction": 0.5,
    "fraction_seed": 8,
    "log_every": 3,
    "save_every": 2,
    "eval_every": 4,
    "eval_episodes": 6,
    "logger": "wandb",
}


@pytest.fixture
def data(tmp_path):
    meta = {"task": "simple_spread", "quality": "medium"}
    return dataset(trajectories=8, obs_dims=(18,) * 3, meta=meta).write(tmp_path / "data")


def of_command_line(options: dict, out: str) -> dict:
    argv = ["train", "--out", out]
    for name, value in options.items():
        argv += [configs.option_name(name), str(value)]
    return cli.parse(cli.build_parser(argv), argv, "")["train"]


def test_every_option_is_documented():
    for field in configs.fields(RunConfig):
        assert field.help and field.default is not dataclasses.MISSING
        assert OTHERS[field.name] != field.default


def test_command_line_yaml_and_keywords_agree(tmp_path):
    asked = RunConfig(**OTHERS)
    assert run_config.make(OTHERS) == asked
    given = of_command_line(OTHERS, "r")
    assert {name: given[name] for name in OTHERS} == OTHERS
    notes = run_config.Notes(1, None, 8, 40, "f", 3, "0", "2")
    run_config.write(tmp_path, asked, notes, SMALL)
    options, settings = run_config.read(tmp_path / "config.yaml")
    assert options == OTHERS and settings == configs.to_dict(SMALL)
    assert run_config.of_folder(tmp_path / "absent") == ({}, {})


def test_only_what_was_given_comes_from_the_command_line():
    assert not of_command_line({}, "r").keys() & OTHERS.keys()


def test_a_resumed_run_keeps_its_options(data, tmp_path):
    often = {"log_every": 3, "save_every": 2, "eval_every": 3, "eval_episodes": 2}
    train(SMALL, data, tmp_path / "whole", 6, **often, **QUIET)
    asked = RunConfig(data=data, steps=4, **often)
    train(SMALL, asked, tmp_path / "parts", **QUIET)
    before = run_config.of_folder(tmp_path / "parts")
    train(None, None, tmp_path / "parts", 6, resume=True, **QUIET)  # says nothing of often
    after = run_config.of_folder(tmp_path / "parts")
    assert after == (before[0] | {"steps": 6}, before[1])
    assert after[0] == {
        "algo": "bc",
        "data": str(data),
        "env": "simple_spread",
        "steps": 6,
        "fraction": 1.0,
        "fraction_seed": 0,
        **often,
    }
    files = [tmp_path / name / "config.yaml" for name in ("whole", "parts")]
    assert files[0].read_text() == files[1].read_text()


def test_a_run_without_its_config_file_is_resumed_by_its_checkpoint(data, tmp_path):
    train(SMALL, data, tmp_path / "run", 2, **QUIET)
    (tmp_path / "run" / "config.yaml").unlink()
    assert train(None, None, tmp_path / "run", 3, resume=True, **QUIET).step == 3
    assert run_config.of_folder(tmp_path / "run")[0]["algo"] == "bc"


def test_without_settings_an_algorithm_has_its_defaults(data, tmp_path):
    from dom2_fast.algos.dom2 import DOM2Config

    with pytest.raises(Dom2Error, match="unknown algorithm 'ppo'"):
        train(None, data, tmp_path / "run", 1, algo="ppo", **QUIET)
    assert not (tmp_path / "run").exists()
    agents = train(None, dataset_of_preset(tmp_path), tmp_path / "run", 1, **QUIET).agents
    assert agents.config == agents.settled(DOM2Config(), "simple_spread", "medium")


def dataset_of_preset(tmp_path):
    """Some returns exceed the preset's levels for this data: else the preset is refused."""
    from small_data import arrays

    from dom2_fast.data.trajectories import TrajectoryDataset

    given = arrays(trajectories=8, obs_dims=(18,) * 3)
    given["reward"] = [r + np.repeat(20.0 * np.arange(8), 5) for r in given["reward"]]
    meta = {"task": "simple_spread", "quality": "medium"}
    made = TrajectoryDataset.from_arrays(**given, episode_length=5, meta=meta)
    return made.write(tmp_path / "preset")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_evry": 3}, "unknown key 'log_evry'; did you mean 'log_every'"),
        ({"steps": 2.5}, r"steps must be a whole number of at least 1, not 2\.5"),
        ({"steps": True}, "steps must be a whole number of at least 1, not True"),
        ({"log_every": 0}, "log_every must be a whole number of at least 1, not 0"),
        ({"eval_every": -1}, "eval_every must be a whole number of at least 0, not -1"),
        ({"episode_length": 0}, "episode_length must be a whole number of at least 1"),
    ],
)
def test_wrong_options_are_one_line(data, tmp_path, options, message):
    with pytest.raises(Dom2Error, match=message):
        train(SMALL, data, tmp_path / "run", **options, **QUIET)
    assert not (tmp_path / "run").exists()


def test_an_option_is_given_once(data, tmp_path):
    with pytest.raises(Dom2Error, match="a RunConfig was given, and steps beside it"):
        train(SMALL, RunConfig(data=str(data)), tmp_path / "run", 3, **QUIET)
    with pytest.raises(Dom2Error, match="a new run needs a data set"):
        train(SMALL, RunConfig(), tmp_path / "run", **QUIET)


@pytest.fixture
def old_run(data, tmp_path):
    """A run of before the options were gathered; its data lies elsewhere now."""
    out = tmp_path / "old"
    out.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copy(OLD / name, out)
    (out / checkpoint.NAME).write_bytes(gzip.decompress((OLD / "checkpoint.pt.gz").read_bytes()))
    return out


def test_a_run_of_before_goes_on_with_its_options(old_run, data):
    before, settings = run_config.of_folder(old_run)
    assert BCConfig(**settings) == SMALL
    result = train(SMALL, data, old_run, 7, resume=True, **QUIET)
    assert result.step == 7
    after = configs.load(old_run / "config.yaml")
    assert after == after | before | {"data": str(data), "steps": 7}
    since = {"fraction", "fraction_seed", "logger"}
    assert after.keys() - since == configs.load(OLD / "config.yaml").keys()
    log = (old_run / "metrics.jsonl").read_text()
    assert log.startswith((OLD / "metrics.jsonl").read_text()) and '"step": 6' in log


def test_a_checkpoint_without_a_setting_that_has_come_since(data, tmp_path):
    train(SMALL, data, tmp_path / "run", 2, **QUIET)
    content = checkpoint.load(tmp_path / "run")
    del content["config"]["grad_clip"]
    checkpoint.save(tmp_path / "run" / checkpoint.NAME, content)
    assert train(SMALL, None, tmp_path / "run", 3, resume=True, **QUIET).step == 3


def test_the_documentation_lists_every_option():
    """The table of docs/runs.md has RunConfig's fields with their defaults, and no other."""
    text = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
    table = re.findall(r"^\| `(--[\w-]+)` \| ([\w.]+) \| ([^|]+) \|$", text, re.M)
    shown = {name: (default, " ".join(words.split())) for name, default, words in table}
    for field in configs.fields(RunConfig):
        default, words = shown.pop(configs.option_name(field.name))
        assert default == ("none" if field.default is None else str(field.default))
        assert field.help.startswith(words.partition(" ([")[0])
    assert not shown
