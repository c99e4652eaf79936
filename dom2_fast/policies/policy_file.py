"""One policy as one file: tensors and a header in the safetensors format, written and read by hand.

    8 bytes    length of the header, little-endian
    header     JSON: {"__metadata__": {name: text}, name: {"dtype", "shape", "data_offsets"}, ...}
    data       the tensors one after the other, little-endian, each at a multiple of 8 bytes

The `safetensors` package reads these files, too. `csrc/core/policy_file.cpp` is the reader in C++.
What is in a policy's file is the business of `frozen`; this module knows only the format.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import torch

from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write

FORMAT = "dom2_fast.policy"
# 2 has policies of one pass, which have no solver; 3 a ninth number in its rows, for order 3; 4 is
# 3 with weights and table as F16, which `read` widens.
VERSIONS = ("1", "2", "3", "4")
HALF = 4
_MAX_HEADER = 100_000_000  # as the safetensors package has it
_MAX_SIZE = 1 << 40  # of a dimension or an offset; far below what torch and C++ can count
_DTYPES = {
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def write(
    path: str | os.PathLike, tensors: dict[str, torch.Tensor], notes: dict[str, str], version: int
) -> None:
    """Writes tensors and notes to `path`, whole or not at all.

    A policy file that was there before is replaced; anything else is refused.

    Raises:
        Dom2Error: `path` is a folder or another kind of file; no space is left.
    """
    _little_endian()
    path = Path(path)
    if path.is_file() and path.stat().st_size > 0 and not _is_policy(path):
        raise Dom2Error(
            f"{path} holds something else than an exported policy; nothing was overwritten: choose "
            "another name, or move this file away"
        )
    own = {"format": FORMAT, "version": str(version)}
    header: dict = {"__metadata__": {**own, **notes, **own}}  # those first, whatever notes has
    chunks, at = [], 0
    # Eight-byte elements first: then all are aligned without gaps, which the format forbids.
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        data = tensor.detach().cpu().contiguous().numpy().tobytes()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(data)],
        }
        chunks.append(data)
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for data in chunks:
            file.write(data)


def read(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors, notes) of a policy's file; what version 4 holds as F16 is widened to float32.

    Raises:
        Dom2Error: no such file; cut short; not a policy's file; of another version.
    """
    _little_endian()
    path = Path(path)
    if not path.is_file():
        raise Dom2Error(f"no file at {path}: give one that `policy.export` wrote")
    data = path.read_bytes()
    try:
        header = _header(data)
        notes = header.pop("__metadata__", None)
        _check_notes(notes)
        found = _tensors(header, memoryview(data)[8 + int.from_bytes(data[:8], "little") :])
        if notes["version"] == str(HALF):
            found = {k: t.float() if t.dtype == torch.float16 else t for k, t in found.items()}
        return found, notes
    except _Broken as error:
        raise Dom2Error(
            f"{path} ({len(data)} bytes) can't be read as an exported policy: {error}; copy it "
            "again, or export anew"
        ) from None


class _Broken(Exception):
    """What is wrong with a file."""


def _header(data: bytes) -> dict:
    if len(data) < 8:
        raise _Broken("it is cut short before the header")
    length = int.from_bytes(data[:8], "little")
    if length > _MAX_HEADER:
        raise _Broken("it doesn't begin with the length of a header, so it is no safetensors file")
    if length > len(data) - 8:
        raise _Broken(f"it is cut short: the header has {length} bytes")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _Broken(f"its header is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise _Broken("its header is no JSON object")
    return header


def _unique(pairs: list) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _check_notes(notes) -> None:
    if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
        raise _Broken("its header has no __metadata__ of texts")
    if notes.get("format") != FORMAT:
        raise _Broken(f"its format is {notes.get('format')!r}, not {FORMAT!r}")
    if notes.get("version") not in VERSIONS:
        raise _Broken(
            f"it has version {notes.get('version')!r} of the format, this dom2_fast reads "
            f"versions {', '.join(VERSIONS)}: it was written by dom2_fast "
            f"{notes.get('dom2_fast', '?')}"
        )


def _tensors(header: dict, data: memoryview) -> dict[str, torch.Tensor]:
    found, spans = {}, []
    for name, entry in header.items():
        try:
            dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
            begin, end = entry["data_offsets"]
            whole = len(shape) <= 3 and all(
                type(n) is int and 0 <= n <= _MAX_SIZE for n in [begin, end, *shape]
            )
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise _Broken(f"the entry of tensor {name!r} in its header is not valid")
        size = math.prod(shape) * dtype.itemsize
        if end - begin != size:
            raise _Broken(f"tensor {name!r} has {end - begin} bytes, its shape needs {size}")
        if end > len(data):
            raise _Broken(f"it is cut short: tensor {name!r} ends beyond the file")
        spans.append((begin, end, name))
        # In a buffer of its own: aligned, writable, and kept no longer than this tensor.
        values = torch.frombuffer(bytearray(data[begin:end]), dtype=dtype) if size else None
        found[name] = torch.empty(shape, dtype=dtype) if values is None else values.reshape(shape)
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise _Broken(f"tensor {name!r} begins at byte {begin} of the data, not at {at}")
        at = end
    if at != len(data):
        raise _Broken(f"{len(data) - at} bytes follow the last tensor")
    return found


def _is_policy(path: Path) -> bool:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return f'"{FORMAT}"'.encode() in file.read(min(length, 1 << 20))


def _little_endian() -> None:
    if sys.byteorder != "little":
        raise Dom2Error("exported policies are little-endian; this machine isn't")
