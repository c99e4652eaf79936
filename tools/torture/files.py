"""Damaged files of every kind: a reason or a result, never a traceback, a crash or foreign code.

20,000 in all: checkpoints, exported policies, data sets of each format, settings and studies. Each
is used in forks of this process, by `main` where a command reads it, with memory and time bounded.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from torture import hostile, problem, targets
from torture.base import Result, warm_up

COUNT = 20_000
MEMORY = 3 << 30  # bytes of address space beyond what is in use
SECONDS = 20  # for one file
CHUNK = 100  # files for one forked process


def run(scale: float, seed: int, work: Path) -> Iterator[Result]:
    warm_up()
    problem.make(work)
    kinds = targets.all_kinds(work)
    total = sum(kind.share for kind in kinds)
    yield hostile.run(work)
    for number, kind in enumerate(kinds):
        tries = max(20, round(COUNT * scale * kind.share / total))
        yield _fuzz(kind, tries, seed * 1000 + number, work)


def _fuzz(kind: targets.Kind, tries: int, seed: int, work: Path) -> Result:
    found: dict[str, list[str]] = {}
    counts = {"refused": 0, "used": 0}
    slowest, at = 0.0, 0
    while at < tries:
        end = min(at + CHUNK, tries)
        note = work / "note.jsonl"
        note.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            _worker(kind, range(at, end), seed, work, note)
        _, status = os.waitpid(pid, 0)
        rows = [json.loads(line) for line in note.read_text().splitlines()]
        for row in (r for r in rows if "how" in r):
            if row["how"] in counts:
                counts[row["how"]] += 1
            else:
                found.setdefault(row["how"], []).append(str(row["i"]))
            slowest = max(slowest, row["seconds"])
        begun = max((r["i"] for r in rows), default=at - 1)
        if status:
            how = f"the process ended with {os.waitstatus_to_exitcode(status)}"
            found.setdefault(how, []).append(str(begun))
        at = max(begun + 1, at + 1)
    problems = [f"{how} ({len(i)} times, first at input {i[0]})" for how, i in found.items()]
    return Result(
        kind.name,
        tries,
        problems,
        f"{counts['refused']:,} refused, {counts['used']:,} used; slowest {slowest:.1f} s",
    )


def _worker(kind: targets.Kind, numbers: range, seed: int, work: Path, note: Path) -> None:
    """Uses some damaged files and notes how each ended; never returns."""
    code = 1
    try:
        _bound()
        place = work / "place"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        os.chdir(place)
        log = os.open(work / "worker.log", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        targets.tame()
        with note.open("a") as notes:
            for i in numbers:
                notes.write(json.dumps({"i": i}) + "\n")
                notes.flush()
                rng = random.Random(f"{seed}/{i}")
                shutil.rmtree(place / "it", ignore_errors=True)
                begin = time.perf_counter()
                how = _one(lambda: kind.use(place / "it", rng))  # noqa: B023
                if (place / "PWNED").exists():
                    how = "FOREIGN CODE RAN"
                row = {"i": i, "how": how, "seconds": time.perf_counter() - begin}
                notes.write(json.dumps(row) + "\n")
                notes.flush()
        code = 0
    finally:
        os._exit(code)


def _bound() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))

    def late(_number, _frame):
        raise TooLong

    signal.signal(signal.SIGALRM, late)
    sys.setrecursionlimit(1000)


class TooLong(BaseException):
    """A file was read for too long."""


def _one(use: Callable[[], str]) -> str:
    """How one use ended: "refused", "used", or what went wrong and where."""
    signal.alarm(SECONDS)
    try:
        return use()
    except TooLong:
        return f"longer than {SECONDS} s"
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "dom2_fast" in f.filename] or list(frames)
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return f"{type(error).__name__} at {where}: {str(error)[:120]!r}"
    finally:
        signal.alarm(0)
