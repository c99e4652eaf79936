"""Offline multi-agent data: transitions cut into trajectories, checked, whatever they came from.

Reading and writing files is `formats`; this module knows nothing of environments or of how
trajectories are weighted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dom2_fast import known_tasks
from dom2_fast.data import checks, formats
from dom2_fast.errors import Dom2Error

FIELDS = ("obs", "act", "reward", "next_obs", "done")  # what algorithms draw, in this order


@dataclass
class TrajectoryDataset:
    """Transitions of several agents, cut into trajectories.

    Lists have one entry per agent; tensors share memory with the files when mapped.

    Attributes:
        obs, next_obs: [N, obs_i].
        act: [N, act_dim], within [-1, 1].
        reward: [N].
        done: [N], 1 where the task ended in a terminal state: no value follows.
        starts: int64 [n_traj + 1]; trajectory j is rows starts[j] .. starts[j + 1] - 1.
        meta: what the source says of itself (task, quality, seed, how made), {} if nothing.
        path: the file or folder it came from, None if made in memory.
        truncation: [N], 1 where an episode was cut off, by a time limit for instance: values
            follow. None where the source doesn't tell the two apart, as OMAR's files don't.
    """

    obs: list[torch.Tensor]
    act: list[torch.Tensor]
    reward: list[torch.Tensor]
    next_obs: list[torch.Tensor]
    done: list[torch.Tensor]
    starts: torch.Tensor
    meta: dict = field(default_factory=dict)
    path: Path | None = None
    truncation: list[torch.Tensor] | None = None

    @classmethod
    def load(
        cls,
        source: Any,
        episode_length: int | None = None,
        agents: int | None = None,
        *,
        format: str | None = None,
        lengths: Sequence[int] | None = None,
        check_next_obs: bool = True,
    ) -> TrajectoryDataset:
        """Opens a data set of any known format and checks all of it.

        Args:
            source: a folder, a file, "minari:ID", a mapping of arrays: see `formats`. OMAR's files
                are mapped into memory, without copying any.
            episode_length: steps per episode. None: the lengths that the source has, else what its
                meta says, else the length that its task is known to have (the task is the meta's,
                else the path's).
            agents: read only the first so many agents. None: all there are.
            format: one of `formats.names()`. None: the one that recognises the source.
            lengths: steps of every episode, where they differ; overrides `episode_length`.
            check_next_obs: also check that next_obs is the following row's obs inside an episode.
        Raises:
            Dom2Error: no format recognises the source; something is missing, cut short, of another
                length or shape than its fellows; a value is NaN or infinite; an action is outside
                [-1, 1]; nothing says how long episodes are; the rows are not whole episodes;
                next_obs contradicts obs.
        """
        chosen = formats.find(source) if format is None else formats.get(format)
        contents = chosen.open(source, agents)
        return cls._build(contents, episode_length, lengths, check_next_obs)

    @classmethod
    def from_arrays(
        cls,
        obs,
        act,
        reward,
        next_obs,
        done=None,
        *,
        truncation=None,
        episode_length: int | None = None,
        lengths: Sequence[int] | None = None,
        meta: dict | None = None,
        check_next_obs: bool = True,
    ) -> TrajectoryDataset:
        """The same from arrays or tensors, one per agent, with the same checks (see `load`).

        Args:
            obs, act, reward, next_obs: sequences of `[N, ...]`, one per agent. next_obs None: the
                following row's obs, and at an episode's end, where nobody kept it, the row's own.
            done, truncation: the same; None: zeros as in OMAR's files, and not told.
            episode_length, lengths: as in `load`; where both are None, `meta` must say the
                "episode_length" or a "task" that has a known one.
        """
        source = {"obs": obs, "act": act, "reward": reward, "next_obs": next_obs, "done": done}
        source |= {"truncation": truncation, "meta": meta}
        contents = formats.get("arrays").open(source)
        return cls._build(contents, episode_length, lengths, check_next_obs)

    @classmethod
    def _build(cls, contents, episode_length, lengths, check_next_obs):
        meta, path = contents.meta, contents.path
        arrays = checks.shapes(contents.fields)
        rows = len(arrays["obs"][0])
        given = lengths is not None or episode_length is not None
        if not given:
            lengths = contents.lengths
        by_name = False
        if lengths is None and episode_length is None:
            task = _task(meta, path)
            by_name = "episode_length" not in meta
            episode_length = known_tasks.episode_length(task) if by_name else meta["episode_length"]
            if episode_length is None:
                raise Dom2Error(_no_length(rows, task, path))
        starts = checks.starts(rows, episode_length, lengths)
        checks.breaks(starts, contents.breaks)
        if by_name and "next_obs" in arrays:
            checks.too_short(arrays, starts, task)
        known = known_tasks.episode_length(_task(meta, path))
        if known is not None and not given and not by_name and "next_obs" in arrays:
            checks.pieces(arrays, starts, _task(meta, path), known)
        if "next_obs" not in arrays:
            arrays["next_obs"] = [_following(obs, starts) for obs in arrays["obs"]]
            meta = {**meta, "next_obs_at_ends": "repeats the last obs"}
        checks.values(arrays, starts, check_next_obs)
        tensors = {f: [torch.from_numpy(a) for a in per] for f, per in arrays.items()}
        return cls(**tensors, starts=torch.from_numpy(starts), meta=meta, path=path)

    @property
    def num_agents(self) -> int:
        return len(self.obs)

    @property
    def obs_dims(self) -> list[int]:
        return [o.size(1) for o in self.obs]

    @property
    def act_dim(self) -> int:
        return self.act[0].size(1)

    @property
    def num_trajectories(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> torch.Tensor:
        """int64 [n_traj]: steps of each trajectory."""
        return self.starts[1:] - self.starts[:-1]

    def __len__(self) -> int:
        """Transitions per agent."""
        return int(self.starts[-1])

    @cached_property
    def returns(self) -> torch.Tensor:
        """float64 [agents, n_traj]: the undiscounted sum of each agent's own rewards."""
        first = self.starts[:-1].numpy()
        sums = [np.add.reduceat(r.numpy(), first, dtype=np.float64) for r in self.reward]
        return torch.from_numpy(np.stack(sums))

    @property
    def task(self) -> str | None:
        """The environment's name: from `meta.json`, else OMAR's <task>/<quality>/seed_*_data."""
        return _task(self.meta, self.path)

    @property
    def quality(self) -> str | None:
        """random, medium-replay, medium, expert, ...: from `meta.json`, else from the path."""
        if "quality" in self.meta:
            return self.meta["quality"]
        task, quality = _from_path(self.path)
        return quality if task == self.task else None  # the path is not about another task

    @property
    def part_counts(self) -> list[int] | None:
        """Trajectories of each part of mixed data, first part first; None where meta says none."""
        try:
            counts = [int(part["episodes"]) for part in self.meta["parts"]]
        except (KeyError, TypeError, ValueError):
            return None
        whole = sum(counts) == self.num_trajectories and min(counts, default=-1) >= 0
        return counts if whole else None

    def subset(self, fraction: float | None = None, *, indices=None, seed: int = 0):
        """A data set of some whole trajectories, copied into memory, in their original order.

        Args:
            fraction: in (0, 1]; that share of the trajectories, at least one: the first of a
                permutation that `seed` decides, so that smaller shares are parts of larger ones.
            indices: or the trajectories themselves, each in [0, n_traj).
        """
        if (fraction is None) == (indices is None):
            raise Dom2Error("subset needs either a fraction or indices, and not both")
        n = self.num_trajectories
        if fraction is not None:
            if not 0.0 < fraction <= 1.0:
                raise Dom2Error(f"fraction must be in (0, 1], not {fraction}")
            generator = torch.Generator().manual_seed(seed)
            indices = torch.randperm(n, generator=generator)[: max(1, round(fraction * n))]
        chosen = torch.as_tensor(indices, dtype=torch.int64).unique()
        if chosen.numel() == 0 or int(chosen[0]) < 0 or int(chosen[-1]) >= n:
            raise Dom2Error(f"indices must be trajectories between 0 and {n - 1}, at least one")
        length = self.lengths[chosen]
        starts = torch.cat([length.new_zeros(1), length.cumsum(0)])
        inside = torch.arange(int(starts[-1])) - starts[:-1].repeat_interleave(length)
        rows = self.starts[chosen].repeat_interleave(length) + inside
        told = FIELDS if self.truncation is None else (*FIELDS, "truncation")
        fields = {f: [a[rows] for a in getattr(self, f)] for f in told}
        meta = {**self.meta, "trajectories_of": n}
        if (counts := self.part_counts) is not None:
            bounds = torch.tensor([0, *counts]).cumsum(0)
            kept = torch.searchsorted(chosen, bounds).diff().tolist()
            old = self.meta["parts"]
            meta["parts"] = [{**p, "episodes": k} for p, k in zip(old, kept, strict=True)]
        if self.task:
            meta |= {"task": self.task, "quality": self.quality}
        return TrajectoryDataset(**fields, starts=starts, meta=meta)

    def summary(self) -> dict:
        """Counts, dims, and mean, sd, min and max of every agent's return, as plain numbers."""
        r = self.returns
        sd = r.std(1) if r.size(1) > 1 else torch.zeros(len(r))
        return {
            "task": self.task,
            "quality": self.quality,
            "agents": self.num_agents,
            "trajectories": self.num_trajectories,
            "transitions": len(self),
            "obs_dims": self.obs_dims,
            "act_dim": self.act_dim,
            "return_mean": r.mean(1).tolist(),
            "return_std": sd.tolist(),
            "return_min": r.amin(1).tolist(),
            "return_max": r.amax(1).tolist(),
        }

    def fingerprint(self) -> str:
        """A short hash of shapes and returns: tells whether a resumed run sees the same data."""
        digest = hashlib.sha256(repr((self.obs_dims, self.act_dim)).encode())
        digest.update(self.starts.numpy().tobytes())
        digest.update(self.returns.numpy().tobytes())
        return digest.hexdigest()[:16]

    def write(self, path) -> Path:
        """Writes a folder in OMAR's layout, whole or not at all (other formats: `data.convert`).

        Raises:
            Dom2Error: `path` already holds something; no space is left (nothing stays behind).
        """
        return formats.get("omar").write(self, path)


def _following(obs: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The next row's obs; at an episode's end, whose next obs nobody kept, the row's own."""
    out = np.empty_like(obs)
    out[:-1] = obs[1:]
    ends = starts[1:] - 1
    out[ends] = obs[ends]
    return out


def _task(meta: dict, path: Path | None) -> str | None:
    return meta["task"] if "task" in meta else _from_path(path)[0]


def _from_path(path: Path | None) -> tuple[str | None, str | None]:
    """(task, quality) of a folder <task>/<quality>/seed_*, (None, None) of any other."""
    if path is None or not path.name.startswith("seed_"):
        return None, None
    parents = [parent.name or None for parent in path.resolve().parents]
    return (parents[1], parents[0]) if len(parents) > 1 else (None, None)


def _no_length(rows: int, task: str | None, path: Path | None) -> str:
    named = f"its task {task!r} is not a known one" if task else "it doesn't name its task"
    where = "the arrays have" if path is None else f"{path} has"
    return (
        f"{where} {rows} rows and nothing that says where episodes end: no lengths, no "
        f"episode_length in its meta, and {named}. Give the steps per episode: episode_length=... "
        "(--episode-length on the command line), or lengths=[...] where they differ"
    )
