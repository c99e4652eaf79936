"""A run's numbers: metrics.jsonl, TensorBoard, trackers, progress bar. The algorithm says what they
are.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path

import torch

from dom2_fast.files import atomic_write
from dom2_fast.runs.folder import METRICS, SCORE, TENSORBOARD
from dom2_fast.runs.loggers import Loggers
from dom2_fast.runs.run_config import RunConfig

SHOWN = 4  # numbers beside the progress bar: what fits on a line


class Meter:
    """Running means of scalars; its state is in the checkpoint, so a resume keeps them exact."""

    def __init__(self, state: dict | None = None):
        self.reset()
        if state is not None:
            self._sums = {name: (total, count) for name, (total, count) in state.items()}

    def reset(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + float(value), count + 1)

    @property
    def count(self) -> int:
        return max((count for _, count in self._sums.values()), default=0)

    def mean(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self._sums.items()}

    def state(self) -> dict:
        return {name: [total, count] for name, (total, count) in self._sums.items()}


class Clock:
    """Seconds per update by stage, and updates per second, since the last lap."""

    def __init__(self, agents):
        self.agents = agents
        self.agents.stage.reset()
        self.step, self.begin = agents.step, time.perf_counter()

    def lap(self) -> dict[str, float]:
        updates = max(1, self.agents.step - self.step)
        elapsed = max(time.perf_counter() - self.begin, 1e-9)
        out = {f"seconds/{s}": t / updates for s, t in self.agents.stage.seconds.items()}
        self.agents.stage.reset()
        self.step, self.begin = self.agents.step, time.perf_counter()
        return {**out, "rate": updates / elapsed}

    @contextlib.contextmanager
    def paused(self):
        begin = time.perf_counter()
        yield
        self.begin += time.perf_counter() - begin


class RunLog:
    """Writes one JSON object per log step, mirrors it to TensorBoard, moves the progress bar.

    Args:
        out: the run folder.
        agents: what is trained. Lines of later steps than theirs (written after the checkpoint
            that the run goes on from) are dropped, and so are lines off the `log_every` schedule
            (the last line of a run that ended in between), so that the file is that of an
            uninterrupted run.
        run: its options.
        progress, tensorboard: see `train`.
        trackers: these get the same numbers.
    """

    def __init__(
        self,
        out,
        agents,
        run: RunConfig,
        progress: bool,
        tensorboard: bool,
        trackers: Loggers,
    ):
        step = agents.step
        self._trackers = trackers
        self.path = Path(out) / METRICS
        self._trim(step, run.log_every)
        self._file = self.path.open("a", encoding="utf-8")
        self._board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # Events of purged steps are hidden by TensorBoard.
            self._board = SummaryWriter(str(Path(out) / TENSORBOARD), purge_step=step + 1)
        from tqdm import tqdm

        self._bar = tqdm(
            total=run.steps,
            initial=step,
            desc=agents.name,
            unit="step",
            disable=not progress,
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._shown = [SCORE, *agents.metric_names]
        self._postfix: dict[str, str] = {}

    def _trim(self, step: int, every: int) -> None:
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        kept = []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:  # the run was killed while writing this line
                continue
            on_schedule = row["step"] % every == 0 or any(k.startswith("eval/") for k in row)
            if row["step"] <= step and on_schedule:
                kept.append(line + "\n")
        if len(kept) != len(lines):
            with atomic_write(self.path, "w") as file:
                file.writelines(kept)

    def advance(self) -> None:
        self._bar.update()

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line, flushed, so that a killed run keeps it. NaN and inf are written as null."""
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._file.write(json.dumps({"step": step, **clean}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        self._trackers.log(step, {k: v for k, v in clean.items() if v is not None})
        shown = [name for name in self._shown if name in values or name in self._postfix]
        self._postfix |= {name: f"{values[name]:.3g}" for name in shown if name in values}
        self._bar.set_postfix({name: self._postfix[name] for name in shown[:SHOWN]})

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_error) -> None:
        self._bar.close()
        self._file.close()
        if self._board is not None:
            self._board.close()
