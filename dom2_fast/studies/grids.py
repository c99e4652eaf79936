"""Grids of a study's file, and the cells they ask for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from dom2_fast import algos, envs
from dom2_fast import config as configs
from dom2_fast.behaviours.collect import QUALITIES
from dom2_fast.errors import Dom2Error, whole_number
from dom2_fast.runs import run_config
from dom2_fast.studies.cell import Cell

OWN = "default"  # among the reweightings: the algorithm's own
_LABEL = re.compile(r"[\w.+]+")


@dataclass
class Grid:
    """All combinations of these; a single value stands for a list of one."""

    tasks: list  # environments
    kinds: list  # of data: see behaviours.collect
    algos: list  # a name, or {name: LABEL, algo: NAME, setting: value, ...}
    seeds: list  # of the data and of the run
    reweight: list = field(default_factory=lambda: [OWN])  # or as an algorithm's `weights`
    fractions: list = field(default_factory=lambda: [1.0])  # of the trajectories, in (0, 1]
    settings: list = field(default_factory=lambda: [{}])  # more: {name: LABEL, setting: value}
    steps: int | None = None

    @classmethod
    def read(cls, values: Any, source: str) -> Grid:
        """A grid from plain values.

        Raises:
            Dom2Error: an unknown or missing key, an empty list, a task, kind, seed or fraction
                that can't be.
        """
        if isinstance(values, Mapping):
            lists = [f.name for f in fields(cls) if f.name != "steps"]
            values = {
                key: [value] if key in lists and not isinstance(value, list) else value
                for key, value in values.items()
            }
        grid = configs.from_dict(cls, values, source)
        for name in lists:
            if not getattr(grid, name):
                raise Dom2Error(f"{source}: {name} is an empty list: give a value, or leave it out")
        try:
            grid._check()
        except Dom2Error as error:
            raise Dom2Error(f"{source}: {error}") from None
        return grid

    def _check(self) -> None:
        for task in self.tasks:
            envs.spec(task)
        for kind in self.kinds:
            if kind not in QUALITIES:
                raise Dom2Error(f"unknown kind of data {kind!r}; accepted: {', '.join(QUALITIES)}")
        for seed in self.seeds:
            whole_number("a seed", seed, 0)
        for fraction in self.fractions:
            number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
            if not (number and math.isfinite(fraction) and 0 < fraction <= 1):
                raise Dom2Error(f"a fraction must be in (0, 1], not {fraction!r}")
        if self.steps is not None:
            whole_number("steps", self.steps)

    def methods(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(label, algorithm, settings) of each algorithm with each of the further settings."""
        for told in self.algos:
            label, algo, own = _method(told)
            for more in self.settings:
                addition, further = _settings(more)
                if both := own.keys() & further.keys():
                    raise Dom2Error(f"{label}: {min(both)} is in `algos` and in `settings`: once")
                yield "_".join(filter(None, (label, addition))), algo, own | further


def cells_of(grids: list[Grid], steps: int | None, source: str) -> list[Cell]:
    """The cells of all grids, each once, in the order of work: seed by seed, a data set's together.

    Args:
        steps: updates of cells whose grid doesn't say.
    Raises:
        Dom2Error: an unknown algorithm or setting; two cells with one name that differ.
    """
    cells: dict[str, Cell] = {}
    algo_of: dict[str, str] = {}
    for number, grid in enumerate(grids, 1):
        where = f"{source}, grid {number}"
        try:
            made = list(_cells(grid, steps))
        except Dom2Error as error:
            raise Dom2Error(f"{where}: {error}") from None
        for cell in made:
            algo = algo_of.setdefault(cell.label, cell.algo)
            same = cells.setdefault(cell.name, cell)
            if same != cell or algo != cell.algo:
                raise Dom2Error(
                    f"{where}: two different cells would be called {cell.name}: give one of them "
                    f"another label, as in {{name: LABEL, algo: {cell.algo}, ...}}. They are of "
                    f"{_differences(same, cell)}"
                )
    sets = list(dict.fromkeys((cell.task, cell.kind) for cell in cells.values()))
    return sorted(cells.values(), key=lambda c: (c.seed, sets.index((c.task, c.kind))))


def _cells(grid: Grid, steps: int | None) -> Iterator[Cell]:
    for label, algo, settings in grid.methods():
        own = algos.algorithm(algo).config_class().weights
        for reweight in grid.reweight:
            for fraction in grid.fractions:
                run_config.make({} if fraction == 1 else {"fraction": fraction})
                for task in grid.tasks:
                    for kind in grid.kinds:
                        for seed in grid.seeds:
                            cell = Cell(
                                task,
                                kind,
                                label,
                                algo,
                                settings,
                                None if str(reweight) in (OWN, own) else str(reweight),
                                float(fraction),
                                seed,
                                grid.steps or steps,
                            )
                            if seed == grid.seeds[0]:
                                cell.settled()  # its settings can be, and on this data
                            yield cell


def _method(told: Any) -> tuple[str, str, dict[str, Any]]:
    """(label, algorithm, settings) of an entry of `algos`."""
    if isinstance(told, str):
        return told, told, {}
    if not isinstance(told, Mapping) or not isinstance(told.get("algo"), str):
        raise Dom2Error(
            f"{told!r} is no algorithm: give a name, or a mapping with `algo`, such as "
            "{name: dom2_chain, algo: dom2, q_action: chain}"
        )
    settings = {str(k): v for k, v in told.items() if k not in ("name", "algo")}
    label = _label(told.get("name", told["algo"]))
    if label != told["algo"] and label in algos.ALGORITHMS:
        raise Dom2Error(f"the label {label} is an algorithm's name, but is of {told['algo']}")
    return label, told["algo"], _free(settings, label)


def _settings(told: Any) -> tuple[str, dict[str, Any]]:
    """(what is added to the label, settings) of an entry of `settings`."""
    if told == {}:
        return "", {}
    if not isinstance(told, Mapping) or "name" not in told:
        raise Dom2Error(
            f"settings: {told!r} must be a mapping with a label, such as {{name: k3, steps: 3}}"
        )
    label = _label(told["name"])
    return label, _free({str(k): v for k, v in told.items() if k != "name"}, label)


def _free(settings: dict[str, Any], label: str) -> dict[str, Any]:
    for key, instead in (("seed", "seeds"), ("weights", "reweight")):
        if key in settings:
            raise Dom2Error(f"{label}: {key} is the grid's: give it under `{instead}`")
    return settings


def _label(label: Any) -> str:
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise Dom2Error(f"a label has letters, digits and _ . + only, not {label!r}")
    return label


def _differences(one: Cell, other: Cell) -> str:
    """What differs, in words."""
    found = [
        f"{f.name} {getattr(one, f.name)!r} and {getattr(other, f.name)!r}"
        for f in fields(Cell)
        if getattr(one, f.name) != getattr(other, f.name)
    ]
    return "; ".join(found) or "different algorithms under one label"
