"""What a data format is, and what it hands over. A format reads and writes; it checks no values.

Values, shapes and lengths are checked once for all formats, in `trajectories` and `checks`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dom2_fast.errors import Dom2Error


@dataclass
class Contents:
    """What a source holds.

    Attributes:
        fields: per field one array per agent: "obs" [N, obs_i], "act" [N, act], "reward" [N],
            "done" [N] (terminal states only); if the source has them also "next_obs" [N, obs_i]
            and "truncation" [N] (the end of an episode that is no terminal state).
            Where "next_obs" is missing it is the following row's obs; an episode's last step, whose
            next_obs nobody kept, gets its own obs.
        lengths: steps of every episode, where the source says them.
        breaks: rows where an episode must begin, whatever its length: the source is several
            recordings, one after another.
        meta: task, quality, episode_length and whatever else the source says, for `meta.json`.
        path: where it came from, if it is a file or a folder.
    """

    fields: dict[str, list[np.ndarray]]
    lengths: np.ndarray | None = None
    breaks: Sequence[int] = ()
    meta: dict = field(default_factory=dict)
    path: Path | None = None


class DataFormat(Protocol):
    """A module of this folder, or an object with the same four names."""

    name: str  # what --to and format= call it
    accepts: str  # what a source looks like, for the list in an error message

    def sniff(self, source: Any) -> bool:
        """Whether `source` looks like this format. Opens no data and never raises."""

    def open(self, source: Any, agents: int | None = None) -> Contents:
        """Reads all agents, or the first so many. Raises Dom2Error where something is missing."""

    def write(self, data: Any, target: Any) -> Path:
        """Writes a `TrajectoryDataset` whole or not at all; raises Dom2Error for a used target."""


def folder(source) -> Path | None:
    """`source` as a path if it is a folder that exists."""
    try:
        path = Path(source)
        return path if path.is_dir() else None
    except (TypeError, ValueError, OSError):
        return None


def need(module: str, extra: str):
    """Imports an optional dependency, or says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Dom2Error(
            f"this data needs {module.partition('.')[0]}, which can't be imported ({error}): "
            f"pip install 'dom2-fast[{extra}]'"
        ) from error
