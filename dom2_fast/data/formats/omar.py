"""OMAR's layout (Pan et al. 2022, arXiv 2111.11188): a folder of .npy files, five per agent.

`obs_i.npy [N, obs_i]`, `acs_i.npy [N, act]`, `rews_i.npy [N]`, `next_obs_i.npy [N, obs_i]` and
`dones_i.npy [N]`, the rows whole episodes one after another; the published files' `dones` are all
zero. Ours may also have `meta.json`, `lengths.npy` where episodes differ in length, and
`truncs_i.npy` where the source told a time limit from a terminal state. Files are memory-mapped.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from dom2_fast.data import checks
from dom2_fast.data.formats.base import Contents, folder
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_dir

name = "omar"
accepts = "a folder with obs_0.npy, acs_0.npy, rews_0.npy, next_obs_0.npy, dones_0.npy, obs_1.npy, \
... (OMAR's layout)"

FILES = {"obs": "obs", "act": "acs", "reward": "rews", "next_obs": "next_obs", "done": "dones"}
TRUNCATION = "truncs"
META, LENGTHS = "meta.json", "lengths.npy"


def file_of(path, field: str, agent: int) -> Path:
    """The file of an agent's field, for a field as in `FILES` or as in the files' names."""
    return Path(path) / f"{FILES.get(field, field)}_{agent}.npy"


def sniff(source) -> bool:
    path = folder(source)
    return path is not None and file_of(path, "obs", 0).exists()


def open(source, agents: int | None = None) -> Contents:
    path = Path(source)
    found = next(i for i in itertools.count() if not file_of(path, "obs", i).exists())
    if found == 0:
        raise Dom2Error(
            f"{path} holds no obs_0.npy: point to the folder with the .npy files themselves, "
            "for example datasets/simple_spread/medium/seed_0_data"
        )
    count = checks.positive_int(agents, "agents", found) or found
    fields = {f: [checks.open_npy(file_of(path, f, i)) for i in range(count)] for f in FILES}
    if file_of(path, TRUNCATION, 0).exists():
        fields["truncation"] = [checks.open_npy(file_of(path, TRUNCATION, i)) for i in range(count)]
    lengths = checks.open_npy(path / LENGTHS) if (path / LENGTHS).exists() else None
    return Contents(fields, lengths, meta=_read_meta(path), path=path)


def write(data, target) -> Path:
    with writing(target, data.meta) as add:
        add(data)
    return Path(target)


@contextlib.contextmanager
def writing(target, meta: dict) -> Iterator[Callable[[Any], None]]:
    """Writes a folder part by part, whole or not at all: memory holds one part at a time.

    Gives a function that appends the episodes of a `TrajectoryDataset`; all of them have the same
    agents, widths and dtypes, and tell truncations or don't. `meta` is what meta.json gets beside
    the episode length.

    Raises:
        Dom2Error: `target` holds something (before the block runs); no space is left.
    """
    lengths: list[np.ndarray] = []
    with atomic_dir(target) as made:
        with contextlib.ExitStack() as stack:
            files: dict[str, _GrowingArray] = {}

            def add(data) -> None:
                for field in (*FILES, "truncation"):
                    for i, tensor in enumerate(getattr(data, field) or []):
                        short = TRUNCATION if field == "truncation" else FILES[field]
                        path, array = file_of(made, short, i), tensor.numpy()
                        if path.name not in files:
                            files[path.name] = _GrowingArray(stack.enter_context(path.open("wb")))
                        files[path.name].append(array)
                lengths.append(data.lengths.numpy())

            yield add
            for file in files.values():
                file.finish()
        length = np.concatenate(lengths)
        same = bool((length == length[0]).all())
        known = {key: value for key, value in meta.items() if key != "episode_length"}
        known |= {"episode_length": int(length[0])} if same else {}
        if not same:
            with (made / LENGTHS).open("wb") as file:
                column = _GrowingArray(file)
                column.append(length)
                column.finish()
        if known:
            (made / META).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


class _GrowingArray:
    """A .npy file whose rows come in parts; a full disk is an OSError with its errno.

    NumPy leaves room in a header for the number of rows to grow, so it is written again in place.
    """

    def __init__(self, file: IO[bytes]):
        self.file, self.rows = file, 0
        self.header: dict = {}
        self.begin = 0

    def append(self, array: np.ndarray) -> None:
        array = np.ascontiguousarray(array)
        if not self.header:
            self.header = np.lib.format.header_data_from_array_1_0(array)
            self._write_header()
            self.begin = self.file.tell()
        self.rows += len(array)
        self.file.write(array.data)

    def finish(self) -> None:
        self.file.seek(0)
        self._write_header()
        assert self.file.tell() == self.begin, "NumPy's header has outgrown its room"

    def _write_header(self) -> None:
        shape = (self.rows, *self.header["shape"][1:])
        np.lib.format.write_array_header_1_0(self.file, {**self.header, "shape": shape})


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
