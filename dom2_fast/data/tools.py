"""Opening, looking at and converting data sets of any known format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dom2_fast.data import formats
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error

open = TrajectoryDataset.load


def inspect(source: Any, episode_length: int | None = None, format: str | None = None) -> dict:
    """What a data set holds, as plain numbers, strings and lists (JSON can keep it).

    Args: as of `TrajectoryDataset.load`.
    Returns: format, path, the keys of `TrajectoryDataset.summary` (task, quality, agents, widths,
        counts, each agent's returns), length_min and length_max (steps per trajectory), per agent
        terminals and truncations (rows that have the flag; truncations None where the source
        doesn't tell), fingerprint, meta, and notes: sentences on what is worth knowing.
    Raises:
        Dom2Error: as `TrajectoryDataset.load`.
    """
    chosen = formats.find(source) if format is None else formats.get(format)
    return facts(TrajectoryDataset.load(source, episode_length, format=chosen.name), chosen.name)


def facts(data: TrajectoryDataset, format: str) -> dict:
    """What `inspect` gives, of a data set that is open."""
    terminals = [int((done != 0).sum()) for done in data.done]
    truncations = None
    if data.truncation is not None:
        truncations = [int((flag != 0).sum()) for flag in data.truncation]
    return {
        "format": format,
        "path": None if data.path is None else str(data.path),
        **data.summary(),
        "length_min": int(data.lengths.min()),
        "length_max": int(data.lengths.max()),
        "terminals": terminals,
        "truncations": truncations,
        "fingerprint": data.fingerprint(),
        "meta": data.meta,
        "notes": _notes(data),
    }


def convert(
    source: Any,
    format: str,
    out: Any,
    episode_length: int | None = None,
    source_format: str | None = None,
) -> Path:
    """Writes a data set in another format, whole or not at all.

    Args:
        source, episode_length: as of `TrajectoryDataset.load`.
        format: the new one, of `formats.names()`.
        out: the new folder or file, or Minari's id; nothing must be there yet.
        source_format: the format of `source`; None: the one that recognises it.
    Returns: the path written.
    Raises:
        Dom2Error: as `TrajectoryDataset.load`; `format` is unknown or can't be written; `out` is
            used. All before anything is written; a full disk leaves nothing behind.
    """
    target = formats.get(format)
    data = TrajectoryDataset.load(source, episode_length, format=source_format)
    if data.path is not None and _same(data.path, out):
        raise Dom2Error(f"{out} is the data set itself: choose another place for the new one")
    return target.write(data, out)


def _same(path: Path, out) -> bool:
    return isinstance(out, str | Path) and Path(out).resolve() == path.resolve()


def _notes(data: TrajectoryDataset) -> list[str]:
    notes = []
    last = data.starts[1:] - 1
    ended = [done[last] != 0 for done in data.done]
    same = bool((data.lengths == data.lengths[0]).all())
    if same and data.num_trajectories > 1 and all(bool(e.all()) for e in ended):
        notes.append(
            f"every episode ends in a terminal state after exactly {int(data.lengths[0])} steps: "
            "likely a time limit that was recorded as one"
        )
    if "next_obs_at_ends" in data.meta:
        open_ends = int((~ended[0]).sum())
        notes.append(
            f"the source keeps no next_obs: that of an episode's last step repeats its obs, which "
            f"matters in the {open_ends} episode(s) that don't end in a terminal state"
        )
    early = [i for i, flags in enumerate(_ends(data)) if int(flags.sum()) > int(flags[last].sum())]
    if early:
        notes.append(
            f"agents {early} end before others in some episodes; their rows after that are kept as "
            "the source has them"
        )
    if data.truncation is None and not any(bool((done != 0).any()) for done in data.done):
        notes.append("no terminal states: every end is a time limit")
    return notes


def _ends(data: TrajectoryDataset) -> list[torch.Tensor]:
    """Per agent bool [N]: an end by any of its flags."""
    if data.truncation is None:
        return [done != 0 for done in data.done]
    return [(d != 0) | (t != 0) for d, t in zip(data.done, data.truncation, strict=True)]
