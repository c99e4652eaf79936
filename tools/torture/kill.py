"""`kill -9` at random moments: nothing finished is lost, runs end equal to undisturbed ones.

Half of the kills come at a random time, half at a random file operation of the process itself,
where the windows are. 200 in all: collect 40, train 80, evaluate 30, export 30, study 20.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torture import problem
from torture.base import FileEvents, Result, call, contents, differences, start, wait, warm_up

COUNTS = {"collect": 40, "train": 80, "evaluate": 30, "export": 30, "study": 20}
_MOST = 30  # kills of one run before it is left to end


def run(scale: float, seed: int, work: Path) -> Iterator[Result]:
    warm_up()
    problem.make(work)
    rng = random.Random(seed)
    for stage, count in COUNTS.items():
        yield _stage(stage, max(2, round(count * scale)), rng, work)


def _stage(stage: str, tries: int, rng: random.Random, work: Path) -> Result:
    make, command, look = STAGES[stage]
    log, whole = work / "log", work / f"{stage}_whole"
    make(work, whole)
    begin = time.monotonic()
    ended = call(command(work, whole), log)
    seconds = time.monotonic() - begin
    if ended.code != 0:
        return Result(stage, 0, [f"undisturbed it fails: {ended.text}"])
    wanted, events = look(whole), _events(stage, work, log)
    problems, kills, number, runs = [], 0, 0, 0
    target = work / f"{stage}_0"
    make(work, target)
    while kills < tries:
        before = look(target) if stage == "train" else {}
        at_event = rng.randint(1, events) if kills % 2 and stage != "study" else None
        killed, ended = _one(command(work, target), log, work, at_event, rng.uniform(0, seconds))
        kills += killed
        number += 1
        problems += [f"kill {kills}: {p}" for p in _halves(stage, target, before, wanted)]
        if not killed and (ended.code != 0 or ended.trouble()):
            problems.append(f"after kill {kills} it can't go on: {ended.text[-300:]}")
        if not killed or number == _MOST:
            # It ended, or is left to: now it must be as if nothing had happened.
            ended = call(command(work, target), log) if killed else ended
            if ended.code != 0:
                problems.append(f"after kill {kills} it can't go on: {ended.text[-300:]}")
            elif wrong := differences(look(target), wanted):
                problems.append(f"after kill {kills} its {', '.join(wrong)} differ")
            problems += [f"left behind: {name}" for name in _leftovers(target)]
            _remove(target)
            runs, number = runs + 1, 0
            target = work / f"{stage}_{runs}"
            make(work, target)
    ended = call(command(work, target), log)
    if ended.code != 0:
        problems.append(f"after kill {kills} it can't go on: {ended.text[-300:]}")
    elif wrong := differences(look(target), wanted):
        problems.append(f"after kill {kills} its {', '.join(wrong)} differ")
    problems += [f"left behind: {name}" for name in _leftovers(target)]
    return Result(f"kill -9 of {stage}", kills, problems, f"{runs + 1} runs brought to their end")


def _one(argv, log: Path, work: Path, event: int | None, moment: float):
    """Runs a command and kills it: (was it killed, how it ended)."""
    if event is not None:

        def die(count: int) -> None:
            if count == event:
                os.kill(os.getpid(), signal.SIGKILL)

        ended = call(argv, log, lambda: FileEvents(work, False, die))
        return ended.code == -signal.SIGKILL, ended
    pid = start(argv, log)
    time.sleep(moment)
    os.kill(pid, signal.SIGKILL)  # not yet waited for, so it is this process's own
    ended = wait(pid, log)
    return ended.code == -signal.SIGKILL, ended


def _events(stage: str, work: Path, log: Path) -> int:
    """How many file operations an undisturbed run has."""
    make, command, _ = STAGES[stage]
    target, told = work / f"{stage}_count", work / "count"
    make(work, target)

    def note(count: int) -> None:
        descriptor = os.open("/proc/self/fd/1", os.O_WRONLY | os.O_APPEND)  # outside the folder
        os.write(descriptor, b"\nEVENT\n")
        os.close(descriptor)

    ended = call(command(work, target), told, lambda: FileEvents(work, False, note))
    _remove(target)
    return max(1, ended.text.count("EVENT"))


def _halves(stage: str, target: Path, before: dict, wanted: dict) -> list[str]:
    """What may never be seen, whenever the process died: half a file, a finished one lost."""
    found = []
    look = STAGES[stage][2]
    try:
        now = look(target)
    except Exception as error:
        return [f"a file is broken: {type(error).__name__}: {error}"]
    if stage in ("collect", "export") and now and differences(now, wanted):  # all or nothing
        found.append(f"{target.name} is there, but isn't whole")
    for name in ("checkpoint.pt", "best.pt", "config.yaml"):
        if name in before and name not in now:
            found.append(f"{name} is gone")
    if stage == "evaluate" and now.get("scores.json") not in (None, wanted.get("scores.json")):
        found.append("scores.json is neither the old nor the new one")
    return found


def _leftovers(target: Path) -> list[str]:
    """Temporary files in what a finished run left; those of killed ones beside it are no harm."""
    return [p.name for p in target.rglob(".*.tmp")] if target.is_dir() else []


def _remove(target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True) if target.is_dir() else target.unlink(missing_ok=True)


def _copy_run(work: Path, target: Path) -> None:
    shutil.copytree(work / "run", target, ignore=shutil.ignore_patterns("scores*", "rollout*"))


def _look_at_run(target: Path) -> dict:
    names = ("checkpoint.pt", "best.pt", "config.yaml", "metrics.jsonl", "scores.json")
    return _readable(target, names)


def _readable(target: Path, names) -> dict:
    # metrics.jsonl may end in half a line while its run is dead: the next one drops it.
    found = contents(target, tuple(n for n in names if n != "metrics.jsonl"))
    try:
        return found | contents(target, ("metrics.jsonl",))
    except ValueError:
        return found | {"metrics.jsonl": "half a line"}


def _look_at_study(target: Path) -> dict:
    """The table without its columns of times, and every cell's checkpoint and scores."""
    import csv

    found: dict = {}
    for cell in sorted((target / "cells").glob("*")):
        found |= {f"{cell.name}/{k}": v for k, v in _look_at_run(cell).items()}
        found.pop(f"{cell.name}/config.yaml", None)  # names the data's path
        for name in ("checkpoint.pt", "best.pt"):
            state = found.get(f"{cell.name}/{name}")
            if state:
                state["run"] = {k: v for k, v in state["run"].items() if k != "data_path"}
        scores = found.get(f"{cell.name}/scores.json")
        if scores:
            scores.pop("data", None)
    if (target / "results.csv").is_file():
        with (target / "results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        drop = ("seconds", "commit")
        found["results.csv"] = [
            {k: v for k, v in row.items() if not any(d in k for d in drop)} for row in rows
        ]
    return found


def _nothing(work: Path, target: Path) -> None:
    pass


def _all(target: Path) -> dict:
    return contents(target)


STAGES: dict[str, tuple[Callable, Callable, Callable]] = {
    "collect": (
        _nothing,
        lambda work, out: problem.collect(out) if not out.exists() else ["--version"],
        lambda out: _all(out) if out.exists() else {},
    ),
    "train": (
        _nothing,
        lambda work, out: problem.resume(work / "data", out),
        _look_at_run,
    ),
    "evaluate": (_copy_run, lambda work, out: problem.evaluate(out), _look_at_run),
    "export": (
        _nothing,
        lambda work, out: problem.export(work / "run", out),
        lambda out: _all(out) if out.exists() else {},
    ),
    "study": (
        _nothing,
        lambda work, out: problem.study(work / "study.yaml", out),
        _look_at_study,
    ),
}
