"""Arrays: a mapping of fields to one array per agent, or an .npz file with OMAR's names.

The mapping has "obs", "act", "reward", "done" and, if there is one, "next_obs" and "truncation",
each a sequence of [N, ...]; "lengths" and "meta" may stand beside them. The file has `obs_0`,
`acs_0`, ... as OMAR's folder has files, `lengths`, and `meta` as a JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dom2_fast.data import checks
from dom2_fast.data.formats.base import Contents
from dom2_fast.data.formats.omar import FILES, TRUNCATION
from dom2_fast.errors import BROKEN_ARRAYS, Dom2Error
from dom2_fast.files import atomic_write

name = "arrays"
accepts = (
    "an .npz file with obs_0, acs_0, rews_0, next_obs_0, dones_0, obs_1, ..., lengths; "
    "a mapping with obs, act, reward, done, ..., one array per agent each"
)
_NAMES = {**FILES, "truncation": TRUNCATION}
_NEEDED = ("obs", "act", "reward")


def sniff(source) -> bool:
    if isinstance(source, Mapping):
        return "obs" in source
    return isinstance(source, str | Path) and Path(source).suffix == ".npz"


def open(source, agents: int | None = None) -> Contents:
    if isinstance(source, Mapping):
        return _from_mapping(source, agents)
    path = Path(source)
    if not path.is_file():
        raise Dom2Error(f"no data set at {path}: there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {key: file[key] for key in file.files}
    except BROKEN_ARRAYS as error:
        raise Dom2Error(
            f"{path} is cut short or no archive of plain arrays ({error}): copy it again"
        ) from error
    count = next(i for i in range(len(held) + 1) if f"obs_{i}" not in held)
    if count == 0:
        raise Dom2Error(f"{path} holds {_some(held)} and no obs_0. Accepted is {accepts}")
    lists = {
        field: [held[f"{short}_{i}"] for i in range(count) if f"{short}_{i}" in held]
        for field, short in _NAMES.items()
    }
    mapping = {field: given for field, given in lists.items() if given}
    mapping |= {"lengths": held.get("lengths"), "meta": _meta(held.get("meta"), path)}
    contents = _from_mapping(mapping, agents, str(path))
    contents.path = path
    return contents


def write(data, target) -> Path:
    target = Path(target)
    if target.suffix != ".npz":
        raise Dom2Error(f"arrays are written to one .npz file, not to {target}: end its name so")
    if target.exists():
        raise Dom2Error(f"{target} exists; nothing was overwritten: choose another name")
    fields = {f: getattr(data, f) for f in _NAMES if getattr(data, f) is not None}
    held = {f"{_NAMES[f]}_{i}": t.numpy() for f, ts in fields.items() for i, t in enumerate(ts)}
    with atomic_write(target) as file:
        np.savez(file, **held, lengths=data.lengths.numpy(), meta=np.array(json.dumps(data.meta)))
    return target


def _from_mapping(source: Mapping, agents: int | None, what: str = "the mapping") -> Contents:
    missing = [field for field in _NEEDED if source.get(field) is None]
    if missing:
        raise Dom2Error(
            f"{what} holds {_some(source)} and no {', '.join(missing)}. Accepted is {accepts}"
        )
    given = {f: source[f] for f in _NAMES if source.get(f) is not None}
    arrays = {f: [np.asarray(a) for a in per_agent] for f, per_agent in given.items()}
    if "done" not in arrays:
        arrays["done"] = [np.zeros(len(r), np.float32) for r in arrays["reward"]]
    counts = {f: len(per_agent) for f, per_agent in arrays.items()}
    if len(set(counts.values())) != 1 or counts["obs"] == 0:
        raise Dom2Error(f"every field needs one array per agent, given: {counts}")
    count = checks.positive_int(agents, "agents", counts["obs"]) or counts["obs"]
    arrays = {f: per_agent[:count] for f, per_agent in arrays.items()}
    return Contents(arrays, source.get("lengths"), meta=dict(source.get("meta") or {}))


def _meta(text, path: Path) -> dict:
    if text is None:
        return {}
    try:
        meta = json.loads(str(text))
    except ValueError as error:
        raise Dom2Error(f"meta of {path} is no JSON text ({error})") from error
    if not isinstance(meta, dict):
        raise Dom2Error(f"meta of {path} must be one JSON object, not {meta!r}")
    return meta


def _some(held) -> str:
    keys = sorted(map(str, held))
    return ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "") if keys else "nothing"
