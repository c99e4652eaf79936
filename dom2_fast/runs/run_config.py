"""A run's options, and the only list of them.

The options of `dom2-fast train`, the keys of a run's config.yaml, what a resumed run goes on with
and the keywords of `runs.train.train` are the fields of `RunConfig`; what is said about them here
is what `--help` says. An algorithm's own settings are in its config dataclass.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dom2_fast import algos
from dom2_fast import config as configs
from dom2_fast.config import setting
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error, whole_number
from dom2_fast.runs import loggers
from dom2_fast.runs.folder import CONFIG

OWN = "config"  # the key of config.yaml under which the algorithm's settings are
_ALGORITHMS = ", ".join(algos.ALGORITHMS)


@dataclass
class RunConfig:
    """What is trained, on what, for how long; when it is logged, saved and evaluated.

    Raises:
        Dom2Error: a number is out of range.
    """

    algo: str = setting("dom2", f"algorithm, which brings more options: {_ALGORITHMS}")
    data: str | None = setting(None, "data set: a folder, a file or minari:ID, see docs/data.md")
    env: str | None = setting(
        None,
        "environment of the policies, where the data doesn't say it: a name, or module:function",
    )
    steps: int = setting(2000, "updates in all, those before a resume included")
    episode_length: int | None = setting(None, "steps per episode, where the data doesn't say it")
    fraction: float = setting(1.0, "share of the data's trajectories, in (0, 1], whole ones")
    fraction_seed: int = setting(0, "which ones; a smaller share is part of a larger one")
    log_every: int = setting(50, "updates between log lines")
    save_every: int = setting(500, "updates between checkpoints")
    eval_every: int = setting(0, "updates between evaluations; 0: none")
    eval_episodes: int = setting(100, "episodes of such an evaluation")
    logger: str | None = setting(
        None, "also log to wandb or mlflow, beside TensorBoard; both: wandb,mlflow"
    )

    def __post_init__(self) -> None:
        if self.data is not None:
            self.data = os.fspath(self.data)
        for name in ("steps", "log_every", "save_every", "eval_episodes"):
            whole_number(name, getattr(self, name))
        whole_number("eval_every", self.eval_every, least=0)
        whole_number("fraction_seed", self.fraction_seed, least=0)
        if not 0.0 < self.fraction <= 1.0:
            raise Dom2Error(
                f"fraction must be above 0 and at most 1, got {self.fraction!r}: 0.05 is 5 % of "
                "the trajectories"
            )
        loggers.names_in(self.logger)
        if self.episode_length is not None:
            whole_number("episode_length", self.episode_length)


@dataclass
class Notes:
    """What config.yaml records beside the options, for people to read; none of it is a setting."""

    format: int
    quality: str | None
    trajectories: int
    transitions: int
    fingerprint: str
    agents: int
    dom2_fast: str
    torch: str


def names() -> list[str]:
    """Names of all options."""
    return [field.name for field in configs.fields(RunConfig)]


def make(options: Mapping) -> RunConfig:
    """A RunConfig of keywords; what is left out or None keeps its default.

    Raises:
        Dom2Error: there is no such option (the message names the nearest), or as of RunConfig.
    """
    for name in options:
        if name not in names():
            raise Dom2Error(configs.unknown_key(name, names(), "a run's options"))
    return RunConfig(**{name: value for name, value in options.items() if value is not None})


def subset_of(run: RunConfig) -> dict:
    """The options that say which trajectories are learnt from; {} for all of them."""
    if run.fraction == 1.0:
        return {}
    return {"fraction": float(run.fraction), "fraction_seed": run.fraction_seed}


def load_data(path, episode_length: int | None, subset: Mapping) -> TrajectoryDataset:
    """The trajectories that a run learns from: all of a data set, or its `subset_of`.

    Raises:
        Dom2Error: see `TrajectoryDataset.load`.
    """
    data = TrajectoryDataset.load(path, episode_length)
    return data.subset(subset["fraction"], seed=subset["fraction_seed"]) if subset else data


def write(folder: Path, run: RunConfig, notes: Notes, config) -> None:
    """Writes a run's config.yaml: its options, the notes, and the algorithm's `config`."""
    content = {**configs.to_dict(run), **configs.to_dict(notes), OWN: configs.to_dict(config)}
    configs.save(content, folder / CONFIG, "Settings of this run, written by dom2-fast train.")


def read(file: str | os.PathLike) -> tuple[dict, dict]:
    """(a run's options, its algorithm's settings) from a config.yaml; only what it says.

    Raises:
        Dom2Error: see `config.load`; a key that is no option; a value of a wrong type. The
            algorithm's settings are as they are there: its class checks them.
    """
    content = configs.load(file)
    settings = content.pop(OWN, None) or {}
    if not isinstance(settings, dict):
        raise Dom2Error(f"{file}: {OWN} must be a mapping of keys to values, not {settings!r}")
    notes = [field.name for field in configs.fields(Notes)]
    for key in content:
        if key not in [*names(), *notes]:
            raise Dom2Error(_unknown(key, content, str(file)))
    values = {key: content[key] for key in names() if content.get(key) is not None}
    return configs.checked(RunConfig, values, str(file)), settings


def of_folder(folder: str | os.PathLike) -> tuple[dict, dict]:
    """The same of a run's folder; both empty where it has no config.yaml."""
    file = Path(folder) / CONFIG
    return read(file) if file.is_file() else ({}, {})


def _unknown(key: str, content: Mapping, file: str) -> str:
    own = algos.algorithm(str(content.get("algo", RunConfig.algo))).config_class
    if key in {field.name for field in configs.fields(own)}:
        return f"{file}: '{key}' is a setting of the algorithm: put it under `{OWN}:`"
    return configs.unknown_key(key, [*names(), OWN], file)
