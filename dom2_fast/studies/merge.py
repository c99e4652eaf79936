"""Rows of a study's cells that another folder holds: another machine's, or an earlier part's."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from typing import Any

from dom2_fast.errors import Dom2Error
from dom2_fast.studies.cell import Cell
from dom2_fast.studies.results import COLUMNS
from dom2_fast.studies.spec import Study

_WHOLE = ("seed", "step", "episodes")
_NUMBERS = (
    "fraction",
    "mean",
    "low",
    "high",
    "normalised",
    "normalised_by_data",
    "data_mean",
    "train_seconds",
    "cell_seconds",
)


def read_rows(file: str | os.PathLike, study: Study) -> list[dict[str, Any]]:
    """The rows of a `results.csv`, as `Results.rows` has them.

    Rows of settings that the study doesn't ask for are left out.

    Raises:
        Dom2Error: the file can't be read or isn't such a table; a row is of no cell of the study,
            or its cell had other settings, updates or episodes there.
    """
    asked, cells = {play.key for play in study.plays}, {cell.name: cell for cell in study.cells}
    rows = []
    try:
        with open(file, newline="", encoding="utf-8") as source:
            table = csv.DictReader(source)
            if tuple(table.fieldnames or ()) != COLUMNS:
                raise Dom2Error(
                    f"{file} isn't a study's results.csv: its first line must be "
                    + ",".join(COLUMNS)
                )
            for number, line in enumerate(table, 2):
                row = _typed(line, f"{file}, line {number}")
                _check(row, study, cells.get(row["cell"]), f"{file}, line {number}")
                rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Dom2Error(f"{file} can't be read ({error}): give a study's results.csv") from error
    return [row for row in rows if row["setting"] in asked]


def merged(
    rows: Sequence[dict[str, Any]], study: Study, files: Sequence[str | os.PathLike]
) -> list[dict[str, Any]]:
    """`rows` and, of cells that have none among them, those of the files, in the cells' order.

    Where several files have a cell, the first of them counts.
    """
    by_cell: dict[str, list[dict[str, Any]]] = {}
    for part in (list(rows), *(read_rows(file, study) for file in files)):
        new: dict[str, list[dict[str, Any]]] = {}
        for row in part:
            new.setdefault(row["cell"], []).append(row)
        by_cell = new | by_cell
    return [row for cell in study.cells for row in by_cell.get(cell.name, [])]


def _typed(row: dict[str, str], place: str) -> dict[str, Any]:
    typed: dict[str, Any] = dict(row)
    try:
        for name in _WHOLE:
            typed[name] = int(row[name])
        for name in _NUMBERS:
            typed[name] = float(row[name]) if row[name] else None
    except (TypeError, ValueError) as error:
        raise Dom2Error(f"{place}: {name} must be a number, not {row[name]!r}") from error
    return typed | {"commit": row["commit"] or None}


def _check(row: dict[str, Any], study: Study, cell: Cell | None, place: str) -> None:
    if cell is None:
        raise Dom2Error(f"{place}: {row['cell']!r} is no cell of the study {study.name}")
    wanted = {
        "settings": json.dumps(cell.settings, sort_keys=True),
        "episodes": study.evaluate.episodes,
    }
    if cell.steps is not None and row["checkpoint"] == "last":
        wanted["step"] = cell.steps
    for name, value in wanted.items():
        if row[name] != value:
            raise Dom2Error(
                f"{place}: {name} of {row['cell']} is {row[name]} there and {value} in the study: "
                "only cells that were done alike can stand in one table"
            )
