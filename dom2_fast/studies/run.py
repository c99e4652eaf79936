"""Runs a study: finds what is left to do, hands it to workers, keeps the table up to date."""

from __future__ import annotations

import contextlib
import shutil
import statistics
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dom2_fast.errors import Dom2Error
from dom2_fast.ops.machine import usable_cores
from dom2_fast.studies import cluster, pool
from dom2_fast.studies.cell import Cell
from dom2_fast.studies.folder import StudyFolder
from dom2_fast.studies.results import Results, trained_seconds
from dom2_fast.studies.spec import Study
from dom2_fast.studies.state import DONE, FAILED, RUNNING, WAITING, State, look
from dom2_fast.studies.work import note_data, read_record


class Status(NamedTuple):
    """Where a study stands: cells by word, why cells failed, seconds of work that are left.

    `left` is None where no cell has been done yet, so that nothing is known.
    """

    counts: dict[str, int]
    failed: dict[str, str]
    left: float | None


def run_study(
    file,
    out,
    *,
    jobs: int | None = None,
    ray: str | None = None,
    progress: bool = True,
) -> tuple[Status, bool]:
    """Does every cell of a study that isn't done, and writes OUT/results.csv.

    Cells that failed before are tried again. A cell that fails doesn't stop the others.

    Args:
        file: the study's YAML file. out: its folder, new, or one to go on with.
        jobs: workers; None: one per core. ray: do the cells on a Ray cluster instead of in
            processes here: an address, or "local", see `cluster.connected`.
    Returns: how it ended, and whether it wasn't stopped by Ctrl-C.
    Raises:
        Dom2Error: see `StudyFolder.check`, `cluster.connected` (nothing is written then); another
            process runs the study; results.csv can't be written.
    """
    home = StudyFolder(out)
    home.check(file)
    with contextlib.ExitStack() as stack:
        if ray is None:
            workers = pool.check_jobs(usable_cores() if jobs is None else jobs)
            run_cells = partial(pool.run_cells, jobs=workers)
        else:
            workers = stack.enter_context(cluster.connected(ray, jobs))
            run_cells = cluster.run_cells
        study = home.adopt(file)
        refusal = f"another process runs the study in {home.path}: wait for it, or stop it"
        stack.enter_context(home.locked("study", refusal))
        return _run(home, study, workers, run_cells, progress)


def _run(
    home: StudyFolder, study: Study, workers: int, run_cells: Callable, progress: bool
) -> tuple[Status, bool]:
    from tqdm import tqdm

    note_data(home, study)
    states = {cell.name: look(home, study, cell) for cell in study.cells}
    todo = [c for c in study.cells if states[c.name].word != DONE]
    for cell in todo:
        if home.failure(cell) is not None:  # of an earlier try
            home.note_failure(cell, None)
            states[cell.name] = look(home, study, cell)
    results = Results(home, study, states)
    results.write()
    with tqdm(
        total=len(study.cells),
        initial=len(study.cells) - len(todo),
        desc=study.name,
        unit="cell",
        disable=not progress,
        bar_format="{desc}: {bar} {n_fmt}/{total_fmt} cells [{elapsed}{postfix}]",
    ) as bar:

        def ended(cell: Cell, reason: str | None) -> None:
            states[cell.name] = state = look(home, study, cell)
            if reason is not None:
                bar.write(f"failed: {cell.name}: {reason}")
                if state.word != DONE:  # also where the disk is too full to note it
                    state.word, state.reason = FAILED, reason
            try:
                results.update(cell, state)
            except Dom2Error as error:  # the other cells are worth more than their table so far
                bar.write(f"warning: {error}")
            bar.update()
            left = seconds_left(home, study, states, workers)
            bar.set_postfix_str(f"{_short(left)} left, {_failed(states)} failed")
            if not study.data.keep:
                _drop_data(home, study, states, cell)

        finished = run_cells(home, todo, ended=ended)
    results.write()
    return _status(home, study, states, workers), finished


def status(out) -> tuple[Study, Status]:
    """Where the study in the folder `out` stands, with one worker per core from here on."""
    home = StudyFolder(out)
    study = home.study()
    states = {cell.name: look(home, study, cell) for cell in study.cells}
    return study, _status(home, study, states, usable_cores())


def _status(home: StudyFolder, study: Study, states: dict[str, State], jobs: int) -> Status:
    counts = Counter(state.word for state in states.values())
    return Status(
        {word: counts.get(word, 0) for word in (DONE, RUNNING, WAITING, FAILED)},
        {name: state.reason for name, state in states.items() if state.word == FAILED},
        seconds_left(home, study, states, jobs),
    )


def seconds_left(
    home: StudyFolder, study: Study, states: dict[str, State], jobs: int
) -> float | None:
    """Estimate of the time that `jobs` workers still need; None where no cell is done.

    A cell takes what done cells of its method on its task took, else of its method, else of all.
    """
    took: dict[tuple, list[float]] = {}
    for cell in study.cells:
        if states[cell.name].word == DONE:
            run = home.run(cell)
            seconds = read_record(run).get("seconds") or trained_seconds(run)
            for key in _alike(cell):
                took.setdefault(key, []).append(seconds)
    left = [c for c in study.cells if states[c.name].word in (RUNNING, WAITING)]
    if not left:
        return 0.0
    if not took:
        return None
    typical = {key: statistics.median(values) for key, values in took.items()}
    total = sum(next(typical[key] for key in _alike(c) if key in typical) for c in left)
    return total / min(jobs, len(left))


def _alike(cell: Cell) -> list[tuple]:
    return [(cell.label, cell.task), (cell.label,), ()]


def _short(seconds: float | None) -> str:
    if seconds is None:
        return "? "
    return f"{seconds // 3600:.0f}:{seconds % 3600 // 60:02.0f}:{seconds % 60:02.0f}"


def _failed(states: dict[str, State]) -> int:
    return sum(state.word == FAILED for state in states.values())


def _drop_data(home: StudyFolder, study: Study, states: dict[str, State], cell: Cell) -> None:
    """Deletes a data set that no cell needs any more; it can be made again from its seed."""
    path: Path = home.data(cell)
    if all(states[c.name].word == DONE for c in study.cells if home.data(c) == path):
        shutil.rmtree(path, ignore_errors=True)
