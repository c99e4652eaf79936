"""Reads what a run left in its folder: parts may be missing (no scores yet), but not broken."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dom2_fast import config
from dom2_fast.errors import BROKEN_ARRAYS, Dom2Error
from dom2_fast.runs.folder import CONFIG, METRICS, ROLLOUT, SCORES


@dataclass
class Run:
    """One run folder: settings, logged steps, scores, recorded episode (None where absent)."""

    name: str
    path: Path
    config: dict = field(default_factory=dict)
    metrics: list[dict] = field(default_factory=list)
    scores: dict | None = None
    rollout: dict | None = None

    @property
    def algo(self) -> str:
        return str((self.scores or {}).get("algo") or self.config.get("algo") or "?")

    @property
    def env(self) -> str:
        return str((self.scores or {}).get("env") or self.config.get("env") or "?")

    @property
    def results(self) -> dict[str, dict]:
        return (self.scores or {}).get("results", {})


def load_runs(paths: list) -> list[Run]:
    """Read run folders.

    Raises:
        Dom2Error: a folder is missing or is no run, or one of its files is broken.
    """
    folders = [Path(path) for path in paths]
    names = _names(folders)
    return [_load_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def _load_run(path: Path, name: str) -> Run:
    if not path.is_dir():
        raise Dom2Error(f"no run folder {path}: give the --out folder of a `dom2-fast train`")
    if not (path / CONFIG).is_file():
        raise Dom2Error(
            f"{path} holds no {CONFIG}, so it is no run: give the --out folder of a "
            f"`dom2-fast train`"
        )
    return Run(
        name=name,
        path=path,
        config=config.load(path / CONFIG),
        metrics=read_metrics(path / METRICS),
        scores=_read_scores(path / SCORES),
        rollout=_read_rollout(path / ROLLOUT),
    )


def read_metrics(path: Path) -> list[dict]:
    """The logged steps in order; of a step logged twice (after a resume) the last stands."""
    if not path.is_file():
        return []
    rows: dict[int, dict] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            key = int(row["step"])
            if not all(value is None or _is_number(value) for value in row.values()):
                raise ValueError
        except (ValueError, KeyError, TypeError, OverflowError):
            if number == len(lines):  # a run that is being written, or was cut off, ends so
                break
            raise Dom2Error(f"{path}, line {number}: not a log entry: {line[:60]!r}") from None
        rows[key] = {**rows.get(key, {}), **row}
    return sorted(rows.values(), key=lambda row: row["step"])


def _read_scores(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        for result in scores["results"].values():
            _check_result(result)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise Dom2Error(
            f"{path} is not a scores file ({error!r}): run `dom2-fast evaluate {path.parent}` again"
        ) from None
    return scores


def _check_result(result: dict) -> None:
    """Raises where what the page prints as numbers isn't that."""
    numbers = [result["mean"], *result["ci95"]]
    if result.get("normalised_ci95") is not None:
        numbers += result["normalised_ci95"]
    optional = [result.get(name) for name in ("iqm", "normalised", "episodes")]
    numbers += [value for value in optional if value is not None]
    if len(result["ci95"]) != 2 or not all(map(_is_number, numbers)):
        raise ValueError(f"a result of other values than numbers: {str(result)[:80]}")


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_rollout(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            rollout = {key: file[key] for key in file.files}
    except BROKEN_ARRAYS as error:
        raise Dom2Error(
            f"{path} is not a recorded episode ({error}): "
            f"run `dom2-fast evaluate {path.parent}` again"
        ) from None
    return rollout


def _names(folders: list[Path]) -> list[str]:
    """Each folder's own name, with as many parents in front as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    longest = max((len(part) for part in parts), default=1)
    while depth < longest and len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    names = ["/".join(part[-depth:]) for part in parts]
    if len(set(names)) < len(names):
        raise Dom2Error("the same run folder was given twice: name each run once")
    return names
