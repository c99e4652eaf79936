"""Full and read-only disks at every write, two processes in one folder, SIGTERM, a jumping clock.

A fault is raised at the n-th file operation that writes, for every n (at full scale), in the
process that works; besides, real full disks, on a small tmpfs. After each: one line of error or
success, nothing finished lost, and the command repeated without the fault ends as an undisturbed
one.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from torture import problem
from torture.base import FileEvents, Result, call, differences, must, start, wait, warm_up
from torture.kill import STAGES

SINGLE = ("collect", "train", "evaluate", "export")
ERRORS = {"full disk (ENOSPC)": errno.ENOSPC, "read-only (EROFS)": errno.EROFS}


def run(scale: float, seed: int, work: Path) -> Iterator[Result]:
    warm_up()
    problem.make(work)
    rng = random.Random(seed)
    for name, number in ERRORS.items():
        for stage in SINGLE:
            yield _at_every_write(name, number, stage, scale, work)
    yield _small_disks(scale, rng, work)
    yield _two_processes(scale, rng, work)
    for stage in (*SINGLE, "study"):
        yield _terminated(stage, max(2, round(20 * scale)), rng, work)
    yield _clock(work)


def _prepared(stage: str, work: Path, name: str):
    make, command, look = STAGES[stage]
    target = work / name
    make(work, target)
    return target, command, look


def _whole(stage: str, work: Path, known: dict = {}) -> dict:  # noqa: B006  a cache
    """What an undisturbed run of the stage leaves."""
    if stage not in known:
        target, command, look = _prepared(stage, work, f"whole_{stage}")
        must(command(work, target), work / "log")
        known[stage] = look(target)
        _clean(target)
    return known[stage]


def _clean(target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True) if target.is_dir() else target.unlink(missing_ok=True)


def _at_every_write(name: str, number: int, stage: str, scale: float, work: Path) -> Result:
    wanted, log = _whole(stage, work), work / "log"
    problems, tries, at, step = [], 0, 1, max(1, round(1 / scale))
    while True:
        target, command, _ = _prepared(stage, work, f"{stage}_fault")
        raised = work / "raised"
        raised.unlink(missing_ok=True)

        def fail(count: int, at: int = at, raised: Path = raised) -> None:
            if count == at:
                raised.touch()
                raise OSError(number, os.strerror(number))

        ended = call(command(work, target), log, lambda f=fail: FileEvents(work, True, f))
        if not raised.exists():
            _clean(target)
            break  # there are no more writes than that
        tries += 1
        if trouble := ended.trouble():
            problems.append(f"write {at}: {trouble}")
        problems += [f"write {at}: {p}" for p in _ends_whole(stage, target, wanted, work)]
        _clean(target)
        at += step
    return Result(f"{name}, {stage}", tries, problems, f"{at} writes" if step == 1 else "")


def _ends_whole(stage: str, target: Path, wanted: dict, work: Path) -> list[str]:
    """Repeats the command without faults."""
    _, command, look = STAGES[stage]
    ended = call(command(work, target), work / "log")
    if ended.code != 0:
        return [f"it can't go on: {ended.text[-300:]}"]
    if wrong := differences(look(target), wanted):
        return [f"its {', '.join(wrong)} differ"]
    return []


def _small_disks(scale: float, rng: random.Random, work: Path) -> Result:
    """Commands on a tmpfs of some pages less than they need, and one made read-only on the way."""
    disk, problems, tries = work / "disk", [], 0
    what = "a small tmpfs, full or read-only on the way"
    disk.mkdir()
    for number in range(max(4, round(60 * scale))):
        stage = SINGLE[number % 4]
        wanted = _whole(stage, work)
        size = rng.choice((4, 16, 40, 100, 200, 300)) << 10
        if not _mount(disk, size if number % 5 else 64 << 20):
            return Result(what, 0, [], "NOT done: mounting a tmpfs takes root")
        try:
            make, command, _ = STAGES[stage]
            target = disk / "target"
            try:
                make(work, target)
            except OSError:  # not even what the command starts from fits
                continue
            pid = start(command(work, target), work / "log")
            if number % 5 == 0:
                time.sleep(rng.uniform(0, 1))
                subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True)
            ended = wait(pid, work / "log", 120)
            tries += 1
            if trouble := ended.trouble():
                problems.append(f"{stage} on {size >> 10} KiB: {trouble}")
            subprocess.run(["mount", "-o", "remount,rw,size=64m", disk], check=True)
            found = _ends_whole(stage, target, wanted, work)
            problems += [f"{stage} on {size >> 10} KiB: {p}" for p in found]
        finally:
            subprocess.run(["umount", disk], check=True)
    return Result(what, tries, problems)


def _mount(disk: Path, size: int) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]
    return subprocess.run(command, capture_output=True).returncode == 0


def _two_processes(scale: float, rng: random.Random, work: Path) -> Result:
    """The same command twice at once: one does it, the other is refused or does the same."""
    problems, tries = [], 0
    for number in range(max(5, round(50 * scale))):
        stage = (*SINGLE, "study")[number % 5]
        wanted = _whole(stage, work)
        target, command, _ = _prepared(stage, work, f"{stage}_twice")
        logs = [work / "log_a", work / "log_b"]
        argv = command(work, target)
        first = start(argv, logs[0])
        time.sleep(rng.uniform(0, 0.5))
        second = start(argv, logs[1])
        ended = [wait(pid, log) for pid, log in zip((first, second), logs, strict=True)]
        tries += 1
        problems += [f"{stage}: {e.trouble()}" for e in ended if e.trouble()]
        if not any(e.code == 0 for e in ended):
            problems.append(f"{stage}: neither did it: {ended[0].text[-200:]}")
        problems += [f"{stage}: {p}" for p in _ends_whole(stage, target, wanted, work)]
        _clean(target)
    return Result("two processes in one folder", tries, problems)


def _terminated(stage: str, tries: int, rng: random.Random, work: Path) -> Result:
    """SIGTERM at a random moment; Ctrl-C every third time."""
    wanted, problems = _whole(stage, work), []
    begin = time.monotonic()
    target, command, _ = _prepared(stage, work, f"{stage}_timed")
    must(command(work, target), work / "log")
    seconds = time.monotonic() - begin
    for number in range(tries):
        target, command, _ = _prepared(stage, work, f"{stage}_term_{number}")
        log = work / "log"
        pid = start(command(work, target), log)
        time.sleep(rng.uniform(0, seconds))
        how = signal.SIGINT if number % 3 == 2 else signal.SIGTERM
        os.kill(pid, how)  # its own child, not yet waited for
        ended = wait(pid, log, 120)
        # Where nothing is to be kept a signal may end the process at once.
        if ended.code != -how and (trouble := ended.trouble()):
            problems.append(f"{how.name}: {trouble}")
        problems += [f"{how.name}: {p}" for p in _ends_whole(stage, target, wanted, work)]
        _clean(target)
    return Result(f"SIGTERM and Ctrl-C, {stage}", tries, problems)


def _clock(work: Path) -> Result:
    """Time jumps by years, back and forth, between any two looks at it."""

    def jump() -> None:
        import random as randoms

        own, rng = time.time, randoms.Random(0)
        time.time = lambda: own() + rng.choice((-1, 1)) * rng.uniform(0, 1e9)
        time.perf_counter = time.monotonic = time.time

    problems = []
    for stage in SINGLE:
        wanted = _whole(stage, work)
        target, command, look = _prepared(stage, work, f"{stage}_clock")
        ended = call(command(work, target), work / "log", jump)
        if ended.code != 0 or ended.trouble():
            problems.append(f"{stage}: {ended.text[-300:]}")
        elif wrong := differences(look(target), wanted):
            problems.append(f"{stage}: its {', '.join(wrong)} differ")
        _clean(target)
    return Result("a clock that jumps by years", len(SINGLE), problems)
