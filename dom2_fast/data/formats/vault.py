"""Flashbax Vault, read only, as OG-MARL publishes its data (Formanek et al. 2023, 2302.00521).

`NAME.vlt/UID/` holds `metadata.json` and an OCDBT database of zarr (v2) arrays, one per leaf:
`observations [B, T, N, O]`, `actions [B, T, N, A]`, `rewards`, `terminals` and mostly `truncations`
[B, T, N], and others that aren't read (`infos.state`, `infos.legals`). B recordings run side by
side; `vault_index` says how many of the T steps are written. tensorstore reads it, without JAX.

An episode ends where every agent's terminal or truncation is set. A Vault keeps no next_obs, and
`-inf` fills up the observations of agents that see less than others; both are dealt with here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dom2_fast.data import checks
from dom2_fast.data.formats.base import Contents, folder, need
from dom2_fast.errors import Dom2Error

name = "vault"
accepts = "a Vault folder NAME.vlt/UID (flashbax, OG-MARL)"

_AXES = {"observations": 4, "actions": 4, "rewards": 3, "terminals": 3}  # what must be there
_FIELDS = {"observations": "obs", "actions": "act", "rewards": "reward"}
_BLOCK = 1 << 16  # steps read at a time: bounds the memory beside the result


def sniff(source) -> bool:
    path = folder(source)
    if path is None:
        return False
    return _is_vault(path) or (path.suffix == ".vlt" and bool(_uids(path)))


def open(source, agents: int | None = None) -> Contents:
    path = _chosen(Path(source))
    leaves = _leaves(path)
    batch, _, total = leaves["observations"].shape[:3]
    count = checks.positive_int(agents, "agents", total) or total
    steps = int(_open_leaf(path, "vault_index")[0].read().result())
    if steps < 1:
        raise Dom2Error(f"the Vault {path} is empty: its vault_index is {steps}")

    flags = {n: _flags(leaf, steps, path) for n, leaf in leaves.items() if n not in _FIELDS}
    ends = np.logical_or.reduce(list(flags.values())).all(2)  # [B, T]
    kept, lengths = _cut(ends)
    fields = {_FIELDS[n]: _agents(leaves[n], n, kept, count, path) for n in _FIELDS}
    for leaf, field in (("terminals", "done"), ("truncations", "truncation")):
        if leaf in flags:
            rows = [flags[leaf][b, :k] for b, k in enumerate(kept)]
            fields[field] = [
                np.concatenate([r[:, i] for r in rows]).astype(np.float32) for i in range(count)
            ]
    meta: dict = {"vault": f"{path.parent.name}/{path.name}"}
    if path.parent.suffix == ".vlt":
        meta |= {"task": path.parent.stem, "quality": path.name.lower()}
    if left := batch * steps - sum(kept):
        meta["left_out"] = f"{left} rows after the last end: episodes that were not recorded whole"
    return Contents(fields, lengths, np.cumsum(kept)[:-1].tolist(), meta, path)


def write(data, target) -> Path:
    raise Dom2Error(
        "a Vault can be read and not written: it keeps no next_obs, so the last observation of "
        "every episode would be lost; convert to omar, minari or arrays"
    )


def _is_vault(path: Path) -> bool:
    try:
        meta = json.loads((path / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(meta, dict) and "structure_shape" in meta


def _uids(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir() if item.is_dir() and _is_vault(item))


def _chosen(path: Path) -> Path:
    """The folder of one Vault, for its own or for one that holds it alone."""
    path = path.resolve()  # tensorstore wants an absolute path
    if _is_vault(path):
        return path
    uids = _uids(path) if path.is_dir() else []
    if len(uids) == 1:
        return path / uids[0]
    if uids:
        raise Dom2Error(
            f"{path} holds {len(uids)} data sets, {', '.join(uids)}: choose one, such as "
            f"{path / uids[0]}"
        )
    raise Dom2Error(f"{path} is no Vault: no metadata.json with a structure_shape in it")


def _leaves(path: Path) -> dict:
    """The arrays that are read, opened and with matching shapes."""
    meta = json.loads((path / "metadata.json").read_text(encoding="utf-8"))
    if int(meta.get("version", 0)) != 1:
        raise Dom2Error(f"{path} has Vault version {meta.get('version')!r}; known is version 1")
    held = sorted(_flatten(meta["structure_shape"]))
    missing = [leaf for leaf in _AXES if leaf not in held]
    if missing:
        raise Dom2Error(
            f"the Vault {path} has no {', '.join(missing)}; "
            f"it holds {', '.join(held) or 'nothing'}. Needed are {', '.join(_AXES)}"
        )
    used = [*_AXES, *(["truncations"] if "truncations" in held else [])]
    leaves = {leaf: _open_leaf(path, f"{leaf}.") for leaf in used}
    shapes = {leaf: (store.shape[0], *store.shape[2:]) for leaf, store in leaves.items()}
    kind = leaves["actions"].dtype.numpy_dtype.kind
    if len(shapes["actions"]) != 3 or kind != "f":
        raise Dom2Error(
            f"the actions of the Vault {path} are {leaves['actions'].dtype.numpy_dtype} of shape "
            f"{_shown(shapes['actions'])}: discrete; accepted are continuous ones, [B, T, N, A]"
        )
    for leaf, shape in shapes.items():
        if len(shape) != _AXES.get(leaf, 3) - 1 or shape[:2] != shapes["observations"][:2]:
            raise Dom2Error(
                f"{leaf} of the Vault {path} are {_shown(shape)}, observations are "
                f"{_shown(shapes['observations'])}; expected is the same [B, T, N, ...]"
            )
    return leaves


def _shown(shape) -> str:
    return f"[{', '.join(map(str, [shape[0], 'T', *shape[1:]]))}]"


def _flatten(tree, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _open_leaf(path: Path, leaf: str):
    tensorstore = need("tensorstore", "vault")
    base = {"driver": "file", "path": f"{path}/"}
    spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": f"{leaf}/"}}
    try:
        return tensorstore.open(spec, open=True, read=True).result()
    except (ValueError, OSError) as error:
        raise _broken(path, leaf, error) from error


def _broken(path, leaf: str, error: Exception) -> Dom2Error:
    reason = str(error).partition(" [")[0]
    return Dom2Error(
        f"{leaf.rstrip('.')} of the Vault {path} can't be read: copy it again ({reason})"
    )


def _flags(leaf, steps: int, path: Path) -> np.ndarray:
    """bool [B, T, N]."""
    batch, _, total = leaf.shape
    blocks = [block for _, _, block in _blocks(leaf, [steps] * batch, path)]
    return np.concatenate([block != 0 for block in blocks]).reshape(batch, steps, total)


def _cut(ends: np.ndarray) -> tuple[list[int], np.ndarray | None]:
    """(steps kept of each recording, lengths of all episodes): up to each one's last end.

    Where no recording has an end, nothing here says how long episodes are: all steps, None.
    """
    if not ends.any():
        return [ends.shape[1]] * len(ends), None
    where = [np.flatnonzero(row) for row in ends]
    kept = [int(w[-1]) + 1 if len(w) else 0 for w in where]
    return kept, np.concatenate([np.diff(w, prepend=-1) for w in where])


def _blocks(leaf, kept: list[int], path: Path) -> Iterator[tuple[int, int, np.ndarray]]:
    """(recording, first step, [n, N, ...]) of the steps kept, along the chunks of the file."""
    chunk = leaf.chunk_layout.read_chunk.shape[1]
    step = chunk * max(1, _BLOCK // chunk)
    for b, end in enumerate(kept):
        for t in range(0, end, step):
            try:
                block = leaf[b, t : min(t + step, end)].read().result()
            except (ValueError, OSError) as error:
                raise _broken(path, "a part", error) from error
            yield b, t, block


def _agents(leaf, what: str, kept: list[int], count: int, path: Path) -> list[np.ndarray]:
    """Each agent's own [rows, ...], without the columns that are -inf from the first row on."""
    out: list[np.ndarray] = []
    row = 0
    for _, _, block in _blocks(leaf, kept, path):
        if not out:
            widths = [_width(block[0, i]) if what == "observations" else None for i in range(count)]
            shapes = [block.shape[2:] if w is None else (w,) for w in widths]
            out = [np.empty((sum(kept), *shape), block.dtype) for shape in shapes]
        for i, own in enumerate(out):
            values = block[:, i]
            if widths[i] is not None:
                if not np.isneginf(values[:, widths[i] :]).all():
                    bad = row + int(np.argmin(np.isneginf(values[:, widths[i] :]).all(1)))
                    raise Dom2Error(
                        f"observations of agent {i} of the Vault {path} have {widths[i]} numbers "
                        f"before the -inf in row 0 and more in row {bad}: one width is needed"
                    )
                values = values[:, : widths[i]]
            own[row : row + len(block)] = values
        row += len(block)
    return out


def _width(obs: np.ndarray) -> int:
    """Numbers of an observation before the -inf that fill it up."""
    real = np.flatnonzero(~np.isneginf(obs))
    return int(real[-1]) + 1 if len(real) else 0
