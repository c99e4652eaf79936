"""Offline multi-agent data in OMAR's layout: reading it memory-mapped, checking it, writing it.

A folder holds, per agent i, `obs_i.npy [N, obs_i]`, `acs_i.npy [N, act]`, `rews_i.npy [N]`,
`next_obs_i.npy [N, obs_i]` and `dones_i.npy [N]` (the layout of OMAR, Pan et al. 2022, arXiv
2111.11188). The rows are whole episodes, one after another. The published files' `dones` are all
zero, so episodes are cut by their length and never by `dones`. This module knows nothing of
environments or of how trajectories are weighted.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from dom2_fast import known_tasks
from dom2_fast.data import checks
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_dir

FILES = {"obs": "obs", "act": "acs", "reward": "rews", "next_obs": "next_obs", "done": "dones"}
FIELDS = tuple(FILES)
META, LENGTHS = "meta.json", "lengths.npy"


@dataclass
class TrajectoryDataset:
    """Transitions of several agents, cut into trajectories.

    Attributes (lists have one entry per agent; tensors share memory with the files when loaded):
        obs, next_obs: [N, obs_i]. act: [N, act_dim], within [-1, 1]. reward, done: [N].
        starts: int64 [n_traj + 1]; trajectory j is rows starts[j] .. starts[j + 1] - 1.
        meta: what `meta.json` says (task, quality, seed, how made), {} without one.
        path: the folder it came from, None if made in memory.
    """

    obs: list[torch.Tensor]
    act: list[torch.Tensor]
    reward: list[torch.Tensor]
    next_obs: list[torch.Tensor]
    done: list[torch.Tensor]
    starts: torch.Tensor
    meta: dict = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def load(
        cls,
        path,
        episode_length: int | None = None,
        agents: int | None = None,
        *,
        lengths: Sequence[int] | None = None,
        check_next_obs: bool = True,
    ) -> TrajectoryDataset:
        """Maps the folder's files into memory and checks all of them, without copying any.

        Args:
            path: a folder in OMAR's layout.
            episode_length: steps per episode. None: `lengths.npy` if the folder has one, else what
                its `meta.json` says, else the length that its task is known to have (the task is
                `meta.json`'s, else the path's).
            agents: read only the first so many agents. None: all there are.
            lengths: steps of every episode, where they differ; overrides `episode_length`.
            check_next_obs: also check that next_obs is the following row's obs inside an episode.
        Raises:
            Dom2Error: a file is missing, cut short, of another length or shape than its fellows;
                a value is NaN or infinite; an action is outside [-1, 1]; nothing says how long
                episodes are; the rows are not whole episodes; next_obs contradicts obs.
        """
        path = Path(path)
        if not path.is_dir():
            raise Dom2Error(
                f"no data set at {path}: expected a folder with obs_0.npy, acs_0.npy, rews_0.npy, "
                "next_obs_0.npy, dones_0.npy, obs_1.npy, ... (OMAR's layout)"
            )
        found = next(i for i in itertools.count() if not (path / f"obs_{i}.npy").exists())
        if found == 0:
            raise Dom2Error(
                f"{path} holds no obs_0.npy: point to the folder with the .npy files themselves, "
                "for example datasets/simple_spread/medium/seed_0_data"
            )
        count = checks.positive_int(agents, "agents", found) or found
        arrays = {f: [checks.open_npy(path / f"{FILES[f]}_{i}.npy") for i in range(count)]
                  for f in FIELDS}  # fmt: skip
        meta = _read_meta(path)
        if lengths is None and episode_length is None and (path / LENGTHS).exists():
            lengths = checks.open_npy(path / LENGTHS)
        return cls._build(arrays, episode_length, lengths, meta, path, check_next_obs)

    @classmethod
    def from_arrays(
        cls,
        obs,
        act,
        reward,
        next_obs,
        done=None,
        *,
        episode_length: int | None = None,
        lengths: Sequence[int] | None = None,
        meta: dict | None = None,
        check_next_obs: bool = True,
    ) -> TrajectoryDataset:
        """The same from arrays or tensors, one per agent, with the same checks (see `load`).

        Args:
            obs, act, reward, next_obs: sequences of `[N, ...]`, one per agent.
            done: the same, or None for zeros, as in OMAR's files.
            episode_length, lengths: as in `load`; where both are None, `meta` must say the
                "episode_length" or a "task" that has a known one.
        """
        given = {"obs": obs, "act": act, "reward": reward, "next_obs": next_obs}
        given["done"] = done if done is not None else [np.zeros(len(r), np.float32) for r in reward]
        arrays = {f: [np.asarray(a) for a in given[f]] for f in FIELDS}
        counts = {f: len(a) for f, a in arrays.items()}
        if len(set(counts.values())) != 1 or counts["obs"] == 0:
            raise Dom2Error(f"every field needs one array per agent, given: {counts}")
        return cls._build(arrays, episode_length, lengths, dict(meta or {}), None, check_next_obs)

    @classmethod
    def _build(cls, arrays, episode_length, lengths, meta, path, check_next_obs):
        arrays = checks.shapes(arrays)
        rows = len(arrays["obs"][0])
        if lengths is None and episode_length is None:
            task = _task(meta, path)
            episode_length = meta.get("episode_length", known_tasks.episode_length(task))
            if episode_length is None:
                raise Dom2Error(_no_length(rows, task, path))
        starts = checks.starts(rows, episode_length, lengths)
        checks.values(arrays, starts, check_next_obs)
        tensors = {f: [torch.from_numpy(a) for a in arrays[f]] for f in FIELDS}
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

    def subset(self, fraction: float | None = None, *, indices=None, seed: int = 0):
        """A data set of some whole trajectories, copied into memory, in their original order.

        Args:
            fraction: in (0, 1]; that share of the trajectories (at least one), drawn by `seed`.
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
        fields = {f: [a[rows] for a in getattr(self, f)] for f in FIELDS}
        meta = {**self.meta, "trajectories_of": n}
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
        """Writes the folder whole or not at all.

        Raises:
            Dom2Error: `path` already holds something; no space is left (nothing stays behind).
        """
        length = self.lengths
        same = bool((length == length[0]).all())
        meta = {**self.meta, **({"episode_length": int(length[0])} if same else {})}
        with atomic_dir(path) as folder:
            for name in FIELDS:
                for i, tensor in enumerate(getattr(self, name)):
                    save_array(folder / f"{FILES[name]}_{i}.npy", tensor.numpy())
            if not same:
                save_array(folder / LENGTHS, length.numpy())
            if meta:
                (folder / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        return Path(path)


def save_array(path, array: np.ndarray) -> None:
    """np.save for which a full disk is an OSError with its errno; NumPy's own loses it."""
    array = np.ascontiguousarray(array)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


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
        f"{where} {rows} rows and nothing that says where episodes end: no {LENGTHS}, no "
        f"episode_length in {META}, and {named}. Give the steps per episode: episode_length=... "
        "(--episode-length on the command line), or lengths=[...] where they differ"
    )


def _read_meta(path: Path) -> dict:
    file = path / META
    if not file.exists():
        return {}
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Dom2Error(f"{file} can't be read ({error}): repair it or move it away") from error
    if not isinstance(meta, dict):
        raise Dom2Error(f"{file} must hold one JSON object; repair it or move it away")
    return meta
