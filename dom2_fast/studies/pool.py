"""Workers on this machine: processes that each do one cell, a few at a time.

A worker is `dom2-fast study cell`, with one thread. Its standard input ends when this process
does, however it ends; then it stops like after Ctrl-C, with a checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable

from dom2_fast.errors import Dom2Error
from dom2_fast.runs.signals import StopSignal
from dom2_fast.studies.cell import Cell
from dom2_fast.studies.folder import StudyFolder

TRIES = 3  # of a cell whose worker dies of a signal: each goes on where the last one was
_POLL = 0.1  # seconds


def run_cells(
    home: StudyFolder, cells: list[Cell], jobs: int, ended: Callable[[Cell, str | None], None]
) -> bool:
    """Does the cells, `jobs` side by side; False where Ctrl-C or SIGTERM stopped it.

    Args:
        ended: called after each cell, with why it failed, or None.
    """
    waiting = deque((cell, 1) for cell in cells)
    running: dict[subprocess.Popen, tuple[Cell, int]] = {}
    told = False
    with StopSignal() as stop:
        try:
            while running or (waiting and not stop.received):
                while waiting and len(running) < jobs and not stop.received:
                    cell, attempt = waiting.popleft()
                    running[_start(home, cell)] = cell, attempt
                if stop.received and not told:
                    told = True
                    for process in running:
                        process.terminate()
                for process in [p for p in running if p.poll() is not None]:
                    cell, attempt = running.pop(process)
                    if process.returncode < 0 and not stop.received and attempt < TRIES:
                        waiting.appendleft((cell, attempt + 1))
                    elif not stop.received or process.returncode == 0:
                        ended(cell, _reason(home, cell, process.returncode))
                time.sleep(_POLL)
        finally:
            for process in running:
                process.kill()
                process.wait()
    return not stop.received


def _start(home: StudyFolder, cell: Cell) -> subprocess.Popen:
    command = [sys.executable, "-m", "dom2_fast.cli.main", "study", "cell", str(home.path)]
    log = home.log(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen(
            [*command, cell.name, "--threads", "1", "--until-input-ends"],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            # More threads than cores make each other wait.
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C comes here alone, and is passed on once
        )


def _reason(home: StudyFolder, cell: Cell, code: int) -> str | None:
    if code == 0:
        return None
    how = f"by signal {-code}, {TRIES} times" if code < 0 else f"with exit code {code}"
    return home.explain_failure(cell, f"died {how}")


def check_jobs(jobs: int) -> int:
    """The number of workers; `Dom2Error` where it can't be one."""
    if jobs < 1:
        raise Dom2Error(f"--jobs must be at least 1, not {jobs}: leave it out for one per core")
    return jobs
