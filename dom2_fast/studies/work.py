"""A cell's work, in the process of a worker: data where it is missing, training, evaluation."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dom2_fast
from dom2_fast import checkpoint
from dom2_fast.behaviours.collect import collect
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write, remove_leftovers
from dom2_fast.runs import evaluation
from dom2_fast.runs.scoring import evaluate_run
from dom2_fast.runs.train import train
from dom2_fast.studies.cell import Cell
from dom2_fast.studies.folder import StudyFolder
from dom2_fast.studies.spec import Study
from dom2_fast.studies.state import DONE, look, matching_options, missing_plays, read_scores

RECORD = "cell.json"  # in the run's folder: what its workers took, and which commit they ran


def do(home: StudyFolder, study: Study, cell: Cell) -> bool:
    """Brings a cell to its end, from wherever it is; False: a signal stopped its training.

    Another worker that has the cell is waited for. A cell that fails has its reason noted.

    Raises:
        Dom2Error: what went wrong; what was finished stays.
    """
    with home.locked(cell.name):
        if look(home, study, cell).word == DONE:
            return True
        try:
            ended = _do(home, study, cell)
        except (Dom2Error, OSError, MemoryError) as error:
            home.note_failure(cell, str(error) or type(error).__name__)
            raise
        home.note_failure(cell, None)
        return ended


def _do(home: StudyFolder, study: Study, cell: Cell) -> bool:
    begin = time.perf_counter()
    run = home.run(cell)
    options = matching_options(run, cell)  # refuses another run before anything is made
    data = provide_data(home, study, cell)
    if run.is_dir():
        remove_leftovers(run)
    trained = options.get("steps") if (run / checkpoint.NAME).is_file() else None
    if trained is None or checkpoint.load(run)["step"] != trained:
        result = train(cell.config(), None, run, **_how(run), **_options(study, cell, data))
        if result.interrupted:
            _record(run, time.perf_counter() - begin)
            return False
    else:
        _check_data(run, cell, options, data)
    options = matching_options(run, cell)
    for play, which in missing_plays(run, study, cell, options, read_scores(run)):
        evaluate_run(
            run,
            episodes=study.evaluate.episodes,
            seed=study.evaluate.seed,
            shift=play.shift,
            checkpoint=which,
            **play.options,
        )
    _record(run, time.perf_counter() - begin)
    return True


def _how(run: Path) -> dict[str, Any]:
    # No TensorBoard: its import and files cost more than a short cell.
    return {
        "resume": (run / checkpoint.NAME).is_file(),
        "progress": False,
        "tensorboard": False,
    }


def _options(study: Study, cell: Cell, data: Path) -> dict[str, Any]:
    own: dict[str, Any] = {"data": str(data)}
    if cell.fraction != 1:
        own["fraction"] = cell.fraction
    if cell.steps is not None:
        own["steps"] = cell.steps
    return own | study.run


def provide_data(home: StudyFolder, study: Study, cell: Cell) -> Path:
    """The cell's data set, made where it is missing; its page beside it says what it holds.

    Raises:
        Dom2Error: what is there has another task, kind, seed or number of episodes.
    """
    path = home.data(cell)
    with home.locked(_lock_of(cell)):
        remove_leftovers(path)
        if not path.exists():
            collect(cell.task, cell.kind, study.data.episodes, cell.seed, path)
        elif (about := read_about(path)) is not None and about["episodes"] == study.data.episodes:
            return path
        _note(path, study, cell)
    return path


def note_data(home: StudyFolder, study: Study) -> None:
    """Notes what data sets hold that others put into the folder, of cells that are done already.

    One that isn't the study's is left alone: cells that need it fail, and say so.
    """
    for cell in study.cells:
        for kind in (cell.kind, "expert"):  # see results.rows_of
            one = replace(cell, kind=kind)
            path = home.data(one)
            if path.is_dir() and read_about(path) is None:
                with contextlib.suppress(Dom2Error), home.locked(_lock_of(one)):
                    _note(path, study, one)


def _note(path: Path, study: Study, cell: Cell) -> None:
    data = TrajectoryDataset.load(path)
    _check_made(path, data, study, cell)
    about = {
        "episodes": study.data.episodes,
        "fingerprint": data.fingerprint(),
        "mean": evaluation.dataset_scores(data, cell.task)["mean"],
    }
    with atomic_write(_about(path), "w") as file:
        json.dump(about, file)
        file.write("\n")


def _lock_of(cell: Cell) -> str:
    return f"data-{cell.task}-{cell.kind}-{cell.seed}"


def _about(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def read_about(path: Path) -> dict[str, Any] | None:
    """What is noted beside a data set: `episodes`, `fingerprint`, its `mean` return; or None."""
    try:
        about = json.loads(_about(path).read_text(encoding="utf-8"))
        return about if {"episodes", "fingerprint", "mean"} <= about.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _check_made(path: Path, data: TrajectoryDataset, study: Study, cell: Cell) -> None:
    wanted = {
        "task": cell.task,
        "quality": cell.kind,
        "seed": cell.seed,
        "episodes": study.data.episodes,
    }
    differ = [
        f"{key} {data.meta.get(key)!r}, not {value!r}"
        for key, value in wanted.items()
        if data.meta.get(key) != value
    ]
    if differ:
        raise Dom2Error(
            f"{path} holds another data set: {'; '.join(differ)}. Nothing in it was changed: move "
            "it away, or change the study"
        )


def _check_data(run: Path, cell: Cell, options: dict[str, Any], data: Path) -> None:
    """A run that was trained before is of the study's data set."""
    if cell.fraction != 1:
        return  # its fingerprint is of the trajectories that it saw
    about = read_about(data) or {}
    if options.get("fingerprint") not in (None, about.get("fingerprint")):
        raise Dom2Error(
            f"{run} was trained on other data (fingerprint {options['fingerprint']}) than {data} "
            f"({about.get('fingerprint')}). Nothing in it was changed: move it away"
        )


def _record(run: Path, seconds: float) -> None:
    """Adds the seconds of this worker to those of the run's earlier ones."""
    before = read_record(run).get("seconds", 0.0)
    with atomic_write(run / RECORD, "w") as file:
        json.dump({"seconds": round(before + seconds, 2), "commit": _commit()}, file)
        file.write("\n")


def read_record(run: Path) -> dict[str, Any]:
    """What `cell.json` says, `seconds`, `commit`; empty where no worker did anything."""
    try:
        record = json.loads((run / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}
    except (OSError, ValueError):
        return {}


def _commit() -> str | None:
    """The commit that the package's own checkout is at; None where it is no checkout."""
    root = Path(dom2_fast.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "--short=10", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
