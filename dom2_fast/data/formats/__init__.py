"""The data formats: one line each. A new one is a module here, its line, and its words in the docs.

A source is what `TrajectoryDataset.load` gets; the first format that recognises it reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from dom2_fast.data.formats import arrays, minari, omar, vault
from dom2_fast.data.formats.base import Contents, DataFormat, folder
from dom2_fast.errors import Dom2Error

__all__ = ["FORMATS", "Contents", "DataFormat", "find", "get", "names"]

FORMATS: dict[str, DataFormat] = {
    "omar": omar,
    "arrays": arrays,
    "minari": minari,
    "vault": vault,
}


def names() -> tuple[str, ...]:
    """The names that `format=` and `--to` accept."""
    return tuple(FORMATS)


def get(name: str) -> DataFormat:
    """The format of that name; Dom2Error for an unknown one."""
    if name not in FORMATS:
        raise Dom2Error(f"unknown data format {name!r}; accepted: {', '.join(FORMATS)}")
    return FORMATS[name]


def find(source: Any) -> DataFormat:
    """The format of a source.

    Raises:
        Dom2Error: no format recognises it; the message says what was found and what is accepted.
    """
    for known in FORMATS.values():
        if known.sniff(source):
            return known
    accepted = "; ".join(known.accepts for known in FORMATS.values())
    raise Dom2Error(f"{_found(source)}. Accepted are: {accepted}")


def _found(source) -> str:
    if isinstance(source, Mapping):
        return f"no data set in a mapping with the keys {sorted(map(str, source))}"
    if not isinstance(source, str | Path):
        return f"no data set can be read from a {type(source).__name__}"
    path = folder(source)
    if path is None:
        what = "a file of no known format" if Path(source).exists() else "nothing is there"
        return f"no data set at {source}: {what}"
    held = sorted(item.name + "/" * item.is_dir() for item in islice(path.iterdir(), 1000))
    shown = ", ".join(held[:5]) + (f" and {len(held) - 5} more" if len(held) > 5 else "")
    inside = [path / name for name in held[:50] if name.endswith("/")]
    inside = [item for item in inside if any(f.sniff(item) for f in FORMATS.values())]
    hint = f" (perhaps {inside[0]} is meant)" if inside else ""
    return f"no data set in {path}, which holds {shown or 'nothing'}{hint}"
