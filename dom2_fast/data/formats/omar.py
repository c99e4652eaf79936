"""OMAR's layout (Pan et al. 2022, arXiv 2111.11188): a folder of .npy files, five per agent.

`obs_i.npy [N, obs_i]`, `acs_i.npy [N, act]`, `rews_i.npy [N]`, `next_obs_i.npy [N, obs_i]` and
`dones_i.npy [N]`, the rows whole episodes one after another; the published files' `dones` are all
zero. Ours may also have `meta.json`, `lengths.npy` where episodes differ in length, and
`truncs_i.npy` where the source told a time limit from a terminal state. Files are memory-mapped.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

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
    length = data.lengths
    same = bool((length == length[0]).all())
    meta = {**data.meta, **({"episode_length": int(length[0])} if same else {})}
    if not same:
        meta.pop("episode_length", None)
    with atomic_dir(target) as made:
        for field in FILES:
            for i, tensor in enumerate(getattr(data, field)):
                save_array(file_of(made, field, i), tensor.numpy())
        for i, tensor in enumerate(data.truncation or []):
            save_array(file_of(made, TRUNCATION, i), tensor.numpy())
        if not same:
            save_array(made / LENGTHS, length.numpy())
        if meta:
            (made / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return Path(target)


def save_array(path, array: np.ndarray) -> None:
    """np.save for which a full disk is an OSError with its errno; NumPy's own loses it."""
    array = np.ascontiguousarray(array)
    with Path(path).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


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
