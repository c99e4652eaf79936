"""A study of two small cells, and what tests of studies do with it."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

from dom2_fast.studies import work
from dom2_fast.studies.results import TIMES, Results
from dom2_fast.studies.state import look

TEXT = """
name: tiny
data: {episodes: 20}
steps: 6
run: {log_every: 2, save_every: 2}
evaluate: {episodes: 4, settings: [standard, {shift: speed}]}
grids:
  - {tasks: simple_spread, kinds: random, seeds: [1], algos: [bc_det, {name: wide, algo: bc_det,
     hidden: 8}]}
"""
CELL = "simple_spread-random-bc_det-s1"


def table(out: Path) -> list[dict]:
    """The rows of a study's results.csv, without what a second run of it may change."""
    with (out / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def do_all(home, study) -> None:
    """Does all cells in this process, one after the other, and writes the table."""
    for cell in study.cells:
        assert work.do(home, study, cell)
    states = {cell.name: look(home, study, cell) for cell in study.cells}
    Results(home, study, states).write()


def undisturbed(out: Path, file: Path) -> list[dict]:
    """The table of the study where nothing goes wrong."""
    from dom2_fast.studies.folder import StudyFolder

    home = StudyFolder(out)
    do_all(home, home.adopt(file))
    return table(out)


def start(*argv) -> subprocess.Popen:
    """`dom2-fast study ARGV` as a process; its standard input is a pipe."""
    command = [sys.executable, "-m", "dom2_fast.cli.main", "study", *map(str, argv)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    """Waits until the condition holds; fails where the process ends before, or it takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def progress(out: Path, cell: str = CELL) -> int:
    """Bytes of the cell's metrics.jsonl: grows while it trains."""
    path = out / "cells" / cell / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def holders(out: Path, cell: str = CELL) -> list[int]:
    """Processes that have the cell's lock file open: its worker's."""
    lock = str((out / "locks" / cell).resolve())
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) == lock for fd in (process / "fd").iterdir()):
                found.append(int(process.name))
        except OSError:  # another user's, or gone
            continue
    return found
