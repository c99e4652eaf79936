"""What a study's YAML file says, read and checked; `grids.py` makes cells of it. Writes nothing.

A file has the keys of `_File`, its `grids` those of `Grid`. docs/studies.md explains them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from dom2_fast import config as configs
from dom2_fast import envs
from dom2_fast.config import setting
from dom2_fast.errors import Dom2Error, whole_number
from dom2_fast.runs import evaluation, run_config
from dom2_fast.runs.folder import setting_name
from dom2_fast.studies.cell import Cell
from dom2_fast.studies.grids import Grid, cells_of

_STANDARD = "standard"
_OF_A_CELL = ("algo", "data", "env", "steps", "fraction")  # not options of the study's `run`


@dataclass
class Data:
    """The data sets that are made for a study."""

    episodes: int = setting(40_000, "episodes of each data set")
    keep: bool = setting(True, "false: a data set is deleted when all of its cells are done")

    def __post_init__(self) -> None:
        whole_number("episodes", self.episodes)


@dataclass
class Evaluation:
    """How every cell is scored."""

    episodes: int = setting(1000, "episodes of each setting")
    seed: int = setting(evaluation.SEED, "of starts and noise, the same for all cells")
    settings: list = field(default_factory=lambda: [_STANDARD])  # or {shift: NAME, option: value}

    def __post_init__(self) -> None:
        whole_number("episodes", self.episodes)
        whole_number("seed", self.seed, 0)


@dataclass
class _File:
    """The keys of a study's file."""

    name: str
    grids: list
    steps: int | None = setting(None, "updates of a cell; none: the number its settings bring")
    data: Data = field(default_factory=Data)
    evaluate: Evaluation = field(default_factory=Evaluation)
    run: dict = field(default_factory=dict)  # options of every run, such as eval_every: 1000

    def __post_init__(self) -> None:
        if self.steps is not None:
            whole_number("steps", self.steps)


@dataclass(frozen=True)
class Play:
    """One setting of the evaluation: a shift or none, with options."""

    shift: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name in scores.json, of the last checkpoint."""
        return setting_name(self.shift)


@dataclass
class Study:
    """A study: what its file says, the plays of its evaluation, its cells in order of work."""

    name: str
    data: Data
    evaluate: Evaluation
    run: dict[str, Any]
    plays: list[Play]
    cells: list[Cell]

    def cell(self, name: str) -> Cell:
        """The cell of that name; `Dom2Error` where there is none."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise Dom2Error(
            configs.unknown_key(name, [c.name for c in self.cells], "the study's cells")
        )


def read(file: str | os.PathLike) -> Study:
    """A study from its YAML file.

    Raises:
        Dom2Error: no such file, not YAML; an unknown key, task, kind of data, algorithm, setting,
            shift or option; an empty list; two cells with one name. Nothing is written.
    """
    source = str(file)
    told = configs.from_dict(_File, configs.load(file), source)
    if not told.grids:
        raise Dom2Error(f"{source}: grids is an empty list: give at least one grid")
    for name in told.run:
        if name in _OF_A_CELL:
            raise Dom2Error(f"{source}: run.{name} isn't for `run`: the grids say it")
    try:
        run_config.make(told.run)
    except Dom2Error as error:
        raise Dom2Error(f"{source}: run: {error}") from None
    grids = [
        Grid.read(values, f"{source}, grid {number}") for number, values in enumerate(told.grids, 1)
    ]
    plays = _plays(told.evaluate, grids, source)
    return Study(
        told.name, told.data, told.evaluate, told.run, plays, cells_of(grids, told.steps, source)
    )


def _plays(evaluate: Evaluation, grids: list[Grid], source: str) -> list[Play]:
    where = f"{source}: evaluate.settings"
    if not evaluate.settings:
        raise Dom2Error(f"{where} is an empty list: give at least {_STANDARD}")
    plays: dict[str, Play] = {}
    for given in evaluate.settings:
        if given == _STANDARD:
            play = Play()
        elif isinstance(given, dict) and "shift" in given:
            options = {str(k): v for k, v in given.items() if k != "shift"}
            play = Play(str(given["shift"]), options)
        else:
            raise Dom2Error(
                f"{where}: {given!r} is no setting: give {_STANDARD}, or a mapping with the key "
                "`shift` such as {shift: speed, v_min: 0.5}"
            )
        if play.key in plays:
            raise Dom2Error(f"{where}: {play.key} is there twice: a run has one result of each")
        plays[play.key] = play
    tasks = dict.fromkeys(task for grid in grids for task in grid.tasks)
    for task in tasks:
        for play in plays.values():
            try:
                world = envs.spec(task).make(1, shift=play.shift, **play.options)
            except Dom2Error as error:
                raise Dom2Error(f"{where}: {error}") from None
            getattr(world, "close", lambda: None)()
    return list(plays.values())
