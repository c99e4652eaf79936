"""The table of a study: a row per cell, setting and checkpoint, read from the runs' folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dom2_fast import envs
from dom2_fast.checkpoint import FILES
from dom2_fast.files import atomic_write
from dom2_fast.report.load import read_metrics
from dom2_fast.runs.folder import METRICS, SCORE, setting_name
from dom2_fast.studies.cell import Cell
from dom2_fast.studies.folder import StudyFolder
from dom2_fast.studies.spec import Study
from dom2_fast.studies.state import DONE, State
from dom2_fast.studies.work import read_about, read_record

COLUMNS = (
    "cell",
    "task",
    "kind",
    "label",
    "algo",
    "reweight",
    "fraction",
    "seed",
    "settings",
    "setting",
    "checkpoint",
    "step",
    "episodes",
    "mean",
    "low",
    "high",
    "normalised",
    "normalised_by_data",
    "data_mean",
    "version",
    "commit",
    "train_seconds",
    "cell_seconds",
)
TIMES = ("commit", "train_seconds", "cell_seconds")  # what a second run of a study may change


class Results:
    """Rows by cell; the file is written again, whole, whenever a cell ends."""

    def __init__(self, home: StudyFolder, study: Study, states: dict[str, State]) -> None:
        self.home, self.study = home, study
        self._by_cell = {
            cell.name: rows_of(home, study, cell, states[cell.name]) for cell in study.cells
        }

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows, in the order of the study's cells."""
        return [row for cell in self.study.cells for row in self._by_cell[cell.name]]

    def update(self, cell: Cell, state: State) -> None:
        self._by_cell[cell.name] = rows_of(self.home, self.study, cell, state)
        self.write()

    def write(self) -> None:
        write_rows(self.home.results, self.rows)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The rows as CSV, with the header `COLUMNS`."""
    with atomic_write(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def rows_of(home: StudyFolder, study: Study, cell: Cell, state: State) -> list[dict[str, Any]]:
    """The rows of a cell, none before it is done. Keys are `COLUMNS`; None where not known.

    `normalised` is by the environment's constants; `normalised_by_data` has 100 at the mean return
    of the study's own expert data of that task and seed, and 0 where the constants have it.
    """
    if state.word != DONE:
        return []
    run = home.run(cell)
    record = read_record(run)
    about = read_about(home.data(cell)) or {}
    if cell.fraction == 1 and state.options.get("fingerprint") != about.get("fingerprint"):
        about = {}  # an adopted run, of other data than is there now
    expert = read_about(home.path / "data" / cell.task / "expert" / f"seed_{cell.seed}") or {}
    constants = envs.spec(cell.task).normalisation
    results = state.scores["results"]
    rows = []
    for play in study.plays:
        for checkpoint in FILES:
            key = setting_name(play.shift, checkpoint)
            if key not in results:
                continue
            result = results[key]
            by_data = None
            if constants is not None and "mean" in expert:
                low = constants[0]
                by_data = 100 * (result["mean"] - low) / (expert["mean"] - low)
            rows.append(
                {
                    "cell": cell.name,
                    "task": cell.task,
                    "kind": cell.kind,
                    "label": cell.label,
                    "algo": cell.algo,
                    "reweight": cell.reweight or "default",
                    "fraction": cell.fraction,
                    "seed": cell.seed,
                    "settings": json.dumps(cell.settings, sort_keys=True),
                    "setting": play.key,
                    "checkpoint": checkpoint,
                    "step": result.get("step", state.scores["step"]),
                    "episodes": result["episodes"],
                    "mean": result["mean"],
                    "low": result["ci95"][0],
                    "high": result["ci95"][1],
                    "normalised": result.get("normalised"),
                    "normalised_by_data": by_data,
                    "data_mean": about.get("mean"),
                    "version": state.options.get("version"),
                    "commit": record.get("commit"),
                    "train_seconds": round(trained_seconds(run), 2),
                    "cell_seconds": record.get("seconds"),
                }
            )
    return rows


def trained_seconds(run: Path) -> float:
    """Seconds of a run's updates, by the rates that it logged."""
    seconds, last = 0.0, 0
    for row in read_metrics(run / METRICS):
        if row.get("rate"):
            seconds += (row["step"] - last) / row["rate"]
            last = row["step"]
    return seconds


def curves_of(home: StudyFolder, cells: Sequence[Cell]) -> dict[tuple, list[tuple[int, float]]]:
    """(task, kind, method) -> (step, score) of the evaluations on the way, of all seeds' runs.

    Scores are normalised where the environment has constants; a run without evaluations adds
    nothing.
    """
    found: dict[tuple, list[tuple[int, float]]] = {}
    for cell in cells:
        place = cell.task, cell.kind, cell.method
        for row in read_metrics(home.run(cell) / METRICS):
            if SCORE in row:
                score = row.get("eval/normalised", row[SCORE])
                found.setdefault(place, []).append((row["step"], score))
    return found
