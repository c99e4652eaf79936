"""A study's folder: what is where, who holds what, which cells failed.

    study.yaml                    a copy of the study's file
    data/TASK/KIND/seed_N         data sets; seed_N.json beside them says what they hold
    cells/NAME                    runs, one for each cell
    logs/NAME.log, NAME.failed    what a cell's worker printed, and why the cell failed
    results.csv, report/          made from the runs, at any time

A lock is held by an open file (flock), so it goes with its process, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from dom2_fast import config as configs
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write
from dom2_fast.studies import spec
from dom2_fast.studies.cell import Cell

_STUDY = "study.yaml"
_OURS = {_STUDY, "data", "cells", "logs", "locks", "results.csv", "report"}


class StudyFolder:
    """The files of a study in the folder `out`."""

    def __init__(self, out: str | os.PathLike) -> None:
        self.path = Path(out)
        self.results = self.path / "results.csv"
        self.report = self.path / "report"

    def check(self, file: str | os.PathLike) -> spec.Study:
        """Reads a study's file, which the folder may be used for; writes nothing.

        Raises:
            Dom2Error: see `spec.read`; the folder is of another study, or holds something else.
        """
        study = spec.read(file)
        kept = self.path / _STUDY
        if kept.is_file():
            name = configs.load(kept).get("name")
            if name != study.name:
                raise Dom2Error(
                    f"{self.path} is of the study {name!r}, {file} is {study.name!r}: choose "
                    "another --out folder"
                )
        elif self.path.exists():
            if not self.path.is_dir():
                raise Dom2Error(f"{self.path} is a file: give a folder")
            others = sorted(item.name for item in self.path.iterdir() if item.name not in _OURS)
            if others:
                raise Dom2Error(
                    f"{self.path} is no study's folder, it holds {', '.join(others[:3])}: choose "
                    "another --out folder, new or empty"
                )
        return study

    def adopt(self, file: str | os.PathLike) -> spec.Study:
        """Reads a study's file and keeps a copy; what the folder holds of it already stays.

        Raises:
            Dom2Error: as of `check`. Nothing is written then.
        """
        study, kept = self.check(file), self.path / _STUDY
        text = Path(file).read_text(encoding="utf-8")
        if not kept.is_file() or kept.read_text(encoding="utf-8") != text:
            with atomic_write(kept, "w") as copy:
                copy.write(text)
        return study

    def study(self) -> spec.Study:
        """The study whose folder this is; `Dom2Error` where it is none's."""
        if not (self.path / _STUDY).is_file():
            raise Dom2Error(
                f"{self.path} is no study's folder (it has no {_STUDY}): give the --out folder of "
                "`dom2-fast study run`"
            )
        return spec.read(self.path / _STUDY)

    def data(self, cell: Cell) -> Path:
        return self.path / "data" / cell.task / cell.kind / f"seed_{cell.seed}"

    def run(self, cell: Cell) -> Path:
        return self.path / "cells" / cell.name

    def log(self, cell: Cell) -> Path:
        return self.path / "logs" / f"{cell.name}.log"

    def failure(self, cell: Cell) -> str | None:
        """Why the cell failed when it was last tried; None: it didn't."""
        file = self.path / "logs" / f"{cell.name}.failed"
        return file.read_text(encoding="utf-8").strip() if file.is_file() else None

    def note_failure(self, cell: Cell, reason: str | None) -> None:
        """Keeps the reason, or forgets it with None. Where the disk is full it can't be kept."""
        file = self.path / "logs" / f"{cell.name}.failed"
        if reason is None:
            file.unlink(missing_ok=True)
            return
        # Whoever has the reason tells it, too: it must not be lost to a second full disk.
        with contextlib.suppress(Dom2Error), atomic_write(file, "w") as out:
            out.write(" ".join(reason.split()) + "\n")

    def explain_failure(self, cell: Cell, ended: str) -> str:
        """Why the cell failed: what its worker noted, else how the worker `ended`, noted now."""
        said = self.failure(cell)
        if said is None:
            said = f"its worker {ended}: see {self.log(cell)}"
            self.note_failure(cell, said)
        return said

    @contextlib.contextmanager
    def locked(self, name: str, refusal: str | None = None) -> Iterator[None]:
        """Holds the lock of that name; waits for it, or with `refusal` raises it as a Dom2Error."""
        with self._lock(name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
            except BlockingIOError:
                raise Dom2Error(refusal or "") from None
            yield

    def is_locked(self, name: str) -> bool:
        """Does another process hold that lock?"""
        path = self._lock(name, make=False)
        if not path.is_file():
            return False
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _lock(self, name: str, make: bool = True) -> Path:
        path = self.path / "locks" / name.replace("/", "_")
        if make:
            path.parent.mkdir(parents=True, exist_ok=True)
        return path
