"""What the parts share: results, a small problem, commands in forked processes.

A command runs in a fork of this process, which has imported everything already: two seconds less
than a fresh interpreter, so that two hundred of them are killed in minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

TRACEBACK = "Traceback (most recent call last)"


@dataclass
class Result:
    """What one check found: how often it was tried, what went wrong (nothing: it held)."""

    what: str
    tries: int
    problems: list[str] = field(default_factory=list)
    note: str = ""
    part: str = ""

    def line(self) -> str:
        verdict = f"{len(self.problems)} PROBLEMS" if self.problems else "ok"
        more = "".join(f"\n    {problem}" for problem in self.problems[:20])
        return f"{self.what}: {self.tries} tries, {verdict}. {self.note}{more}"


def markdown(results: list[Result]) -> str:
    """The results as the table of docs/reliability.md."""
    rows = ["| part | what | tries | found | |", "| --- | --- | ---: | ---: | --- |"]
    for r in results:
        rows.append(f"| {r.part} | {r.what} | {r.tries:,} | {len(r.problems)} | {r.note} |")
    return "\n".join(rows)


@dataclass
class Ended:
    """How a command ended: its exit code (negative: by that signal) and what it printed."""

    code: int
    text: str

    def trouble(self) -> str | None:
        """What may not be: a crash, a traceback, an error without its line."""
        if TRACEBACK in self.text:
            return f"traceback: {last_line(self.text)}"
        if self.code < 0:
            return f"died by signal {-self.code}: {last_line(self.text)}"
        if self.code not in (0, 1, 2, 130):
            return f"exit code {self.code}: {last_line(self.text)}"
        if self.code == 2 and "dom2-fast: error: " not in self.text:
            return f"exit code 2 without a reason: {last_line(self.text)}"
        return None


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else "(nothing printed)"


def warm_up() -> None:
    """Imports what commands import, and starts no thread, so that forks are quick and whole."""
    import matplotlib.figure  # noqa: F401
    import torch
    import torch.utils.tensorboard
    import tqdm

    import dom2_fast.cli.main
    import dom2_fast.report
    import dom2_fast.runs.scoring
    import dom2_fast.runs.train
    import dom2_fast.studies.run  # noqa: F401

    tqdm.tqdm.monitor_interval = 0
    torch.set_num_threads(1)


def start(argv: list[str], log: Path, prepare: Callable[[], None] | None = None) -> int:
    """Forks a process that runs `dom2-fast ARGV`; its pid. What it prints goes to `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if prepare is not None:
            prepare()
        from dom2_fast.cli import main

        code = main.main([str(word) for word in argv])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(pid: int, log: Path, seconds: float | None = None) -> Ended:
    """Waits for a process of `start`; kills it after so many seconds."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, 0 if end is None else os.WNOHANG)
        if done:
            return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))
        if end is not None and time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            end = None
        time.sleep(0.002)


def call(argv: list[str], log: Path, prepare: Callable[[], None] | None = None) -> Ended:
    return wait(start(argv, log, prepare), log)


def must(argv: list[str], log: Path) -> None:
    """Runs a command that has no reason to fail."""
    ended = call(argv, log)
    if ended.code != 0:
        raise SystemExit(f"dom2-fast {' '.join(map(str, argv))} failed:\n{ended.text}")


class FileEvents:
    """Sees every file operation of this process within a folder, by Python's audit events.

    Installed in a forked process only: an audit hook can't be taken away again.
    """

    NAMES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod")

    def __init__(self, folder: Path, writes_only: bool, act: Callable[[int], None]):
        self.folder, self.writes_only, self.act, self.count = str(folder), writes_only, act, 0
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple) -> None:
        if event not in self.NAMES:
            return
        path = arguments[0]
        if not isinstance(path, str | os.PathLike) or not str(path).startswith(self.folder):
            return
        if event == "open" and self.writes_only:
            _, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR) if isinstance(flags, int) else True
            if not writes and not (mode and set(mode) & set("wax+")):
                return
        self.count += 1
        self.act(self.count)


def contents(folder: Path, names: tuple[str, ...] | None = None) -> dict[str, object]:
    """What the files of a run or data set say, without times: for comparison."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        name = str(path.relative_to(folder)) if path != folder else "the file"
        if not path.is_file() or "tb/" in name or (names is not None and name not in names):
            continue
        found[name] = _content(path)
    return found


def _content(path: Path) -> object:
    import torch

    if path.suffix == ".pt":
        return _hashable(torch.load(path, weights_only=True))
    if path.name == "metrics.jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [
            {k: v for k, v in row.items() if k != "rate" and not k.startswith("seconds/")}
            for row in rows
        ]
    if path.name == "scores.json":
        return _without_times(json.loads(path.read_text()))
    return path.read_bytes()


def _without_times(value):
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if "seconds" not in k}
    return value


def _hashable(value):
    import torch

    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {k: _hashable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_hashable(v) for v in value]
    return value


def differences(got: dict, wanted: dict) -> list[str]:
    """Names of files that differ, are missing or are too many."""
    return [name for name in {**got, **wanted} if got.get(name) != wanted.get(name)]
