"""The checks that a data set passes before anything is done with it. Each says what to do.

Values are scanned in chunks, so a memory-mapped data set is never in memory as a whole.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dom2_fast.errors import BROKEN_ARRAYS, Dom2Error, whole_number

CHUNK = 1 << 16  # rows scanned at a time: a few MB
ACTION_SLACK = 1e-5  # clipped actions that went through float32 and back
NEXT_OBS_SLACK = 1e-5  # relative to 1 + |obs|; files may have been rounded to float32


def positive_int(value, name: str, most: int | None = None) -> int | None:
    """`value` if it is None or an int in [1, most]."""
    if value is None:
        return None
    value = whole_number(name, value)
    if most is not None and value > most:
        raise Dom2Error(f"{name} is {value}, but the data set has {most}")
    return value


def open_npy(path: Path) -> np.ndarray:
    """Maps a .npy file, copy-on-write: the array can be handed to torch, the file never changes."""
    if not path.exists():
        raise Dom2Error(
            f"{path} is missing: every agent needs obs_i, acs_i, rews_i, next_obs_i and dones_i; "
            "copy the data set again, or read fewer agents (agents=...)"
        )
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except BROKEN_ARRAYS as error:
        size = path.stat().st_size
        raise Dom2Error(
            f"{path} ({size} bytes) is cut short or is no .npy file ({error}): copy it again"
        ) from error
    if not isinstance(array, np.ndarray):
        raise Dom2Error(f"{path} is an archive (.npz), expected a .npy file")
    return array


def shapes(arrays: dict[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """Checks dims, dtypes and lengths; flattens rewards and flags that were kept as [N, 1]."""
    rows = len(arrays["obs"][0]) if arrays["obs"][0].ndim else 0
    out: dict[str, list[np.ndarray]] = {}
    for name, per_agent in arrays.items():
        out[name] = []
        for i, a in enumerate(per_agent):
            what = f"{name} of agent {i}"
            flag = name in ("done", "truncation")
            allowed = a.dtype.kind in ("biuf" if flag else "f")
            if not allowed or a.dtype.itemsize > 8 or a.dtype == np.float16:
                raise Dom2Error(
                    f"{what} has dtype {a.dtype}, accepted are float32 and float64"
                    + (" (and bool or integers)" if flag else "")
                    + ": convert the file with numpy's astype"
                )
            if not a.dtype.isnative:
                a = a.astype(a.dtype.newbyteorder("="))
            if flag or name == "reward":
                if a.ndim == 2 and a.shape[1] == 1:
                    a = a.reshape(-1)
                if a.ndim != 1:
                    raise Dom2Error(f"{what} has shape {list(a.shape)}, expected [N] or [N, 1]")
            elif a.ndim != 2 or a.shape[1] == 0:
                raise Dom2Error(f"{what} has shape {list(a.shape)}, expected [N, width]")
            if len(a) != rows:
                raise Dom2Error(
                    f"{what} has {len(a)} rows, obs of agent 0 has {rows}: all files of a data set "
                    "hold the same transitions; copy the data set again"
                )
            out[name].append(np.ascontiguousarray(a))
    for i, (obs, after) in enumerate(zip(out["obs"], out.get("next_obs", out["obs"]), strict=True)):
        if obs.shape != after.shape:
            raise Dom2Error(
                f"obs and next_obs of agent {i} have shapes {list(obs.shape)} and "
                f"{list(after.shape)}, expected the same"
            )
    widths = {a.shape[1] for a in out["act"]}
    if len(widths) != 1:
        raise Dom2Error(f"the agents' actions have different widths {sorted(widths)}")
    return out


def starts(rows: int, episode_length: int, lengths=None) -> np.ndarray:
    """int64 [n_traj + 1], the first row of every trajectory and the end."""
    if rows == 0:
        raise Dom2Error("the data set is empty: its arrays have no rows")
    if lengths is not None:
        lengths = np.asarray(lengths)
        if lengths.ndim != 1 or lengths.size == 0 or lengths.dtype.kind not in "iu":
            raise Dom2Error("lengths must be a list of integers, one per trajectory")
        if lengths.min() < 1 or int(lengths.sum()) != rows:
            raise Dom2Error(
                f"lengths must be >= 1 and add up to the {rows} rows; "
                f"given: shortest {lengths.min()}, sum {int(lengths.sum())}"
            )
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    length = positive_int(episode_length, "episode_length")
    if rows % length:
        raise Dom2Error(
            f"{rows} rows are not whole episodes of {length} steps ({rows % length} left over): "
            "give the right episode_length, or the lengths of all episodes; "
            "if a copy was cut short, copy it again"
        )
    return np.arange(0, rows + 1, length, dtype=np.int64)


def breaks(first: np.ndarray, rows) -> None:
    """Every row where another recording begins is the first of an episode."""
    for row in rows:
        if row not in first:
            inside = int(np.searchsorted(first, row)) - 1
            raise Dom2Error(
                f"episode {inside}, rows {first[inside]} to {first[inside + 1] - 1}, goes on "
                f"beyond row {row}, where another recording begins: give the right "
                "episode_length, or the lengths of all episodes"
            )


def too_short(arrays: dict[str, list[np.ndarray]], first: np.ndarray, task: str) -> None:
    """Episodes cut by their task's name must not go on where they were cut.

    After a real end another episode starts, elsewhere: of the rows' next_obs at the cuts hardly any
    is the following row's obs. Where obs stand still the data can't tell.
    """
    cut = first[1:-1]
    after, follow = arrays["next_obs"][0][cut - 1], arrays["obs"][0][cut]
    moves = (after != arrays["obs"][0][cut - 1]).any(1)
    goes_on = moves & (after == follow).all(1)
    if goes_on.sum() * 4 > len(cut):
        raise Dom2Error(
            f"episodes of {task} have {first[1]} steps, but at {goes_on.sum()} of {len(cut)} such "
            "cuts the data goes on (next_obs is the following obs): its episodes are longer. Give "
            "their episode_length (--episode-length), or lengths"
        )


def pieces(arrays: dict[str, list[np.ndarray]], first: np.ndarray, task: str, known: int) -> None:
    """Episodes of a task of known length must not be pieces of them that follow each other.

    The converse of `too_short`, for lengths that the file says.
    """
    lengths = np.diff(first)
    cut = first[1:-1][(lengths < known)[:-1]]
    if lengths.max() >= known or not len(cut):
        return
    after, follow = arrays["next_obs"][0][cut - 1], arrays["obs"][0][cut]
    goes_on = (after != arrays["obs"][0][cut - 1]).any(1) & (after == follow).all(1)
    if goes_on.sum() * 2 > len(cut):
        raise Dom2Error(
            f"episodes of {task} have {known} steps, these are pieces of at most {lengths.max()}: "
            f"at {goes_on.sum()} of {len(cut)} ends the data goes on (next_obs is the following "
            f"obs). Give episode_length={known} (--episode-length {known}), or remove the file's "
            "own lengths"
        )


def values(arrays: dict[str, list[np.ndarray]], first: np.ndarray, check_next_obs: bool) -> None:
    """Finite everywhere, actions in [-1, 1], next_obs equal to the following obs in an episode."""
    rows, boundary = int(first[-1]), _boundary(first)
    for i in range(len(arrays["obs"])):
        for begin in range(0, rows, CHUNK):
            end = min(begin + CHUNK, rows)
            for name, per_agent in arrays.items():
                _finite(per_agent[i][begin:end], name, i, begin)
            act = arrays["act"][i][begin:end]
            if np.abs(act).max() > 1.0 + ACTION_SLACK:
                row = int(np.abs(act).max(1).argmax())
                raise Dom2Error(
                    f"act of agent {i} has {act[row].tolist()} in row {begin + row}, "
                    "expected within [-1, 1]: scale the actions before writing them"
                )
            if check_next_obs:
                _next_obs(arrays["obs"][i], arrays["next_obs"][i], boundary, i, begin, end)


def next_obs(obs: list[np.ndarray], after: list[np.ndarray], first: np.ndarray) -> None:
    """next_obs equal to the following obs in an episode, the part of `values` for it alone."""
    rows, boundary = int(first[-1]), _boundary(first)
    for i in range(len(obs)):
        for begin in range(0, rows, CHUNK):
            _next_obs(obs[i], after[i], boundary, i, begin, min(begin + CHUNK, rows))


def _boundary(first: np.ndarray) -> np.ndarray:
    """bool [N + 1]: where an episode begins, and the end."""
    out = np.zeros(int(first[-1]) + 1, bool)
    out[first] = True
    return out


def _finite(chunk: np.ndarray, name: str, agent: int, begin: int) -> None:
    # One pass over clean data: a sum is finite only if every term is (float64 can't overflow here
    # from finite float32; for float64 an overflow is looked at below).
    if chunk.dtype.kind != "f" or np.isfinite(chunk.sum(dtype=np.float64)):
        return
    good = np.isfinite(chunk)
    if good.all():
        return
    row = int(np.argwhere(~good)[0][0])
    value = np.atleast_1d(chunk[row])[~np.atleast_1d(good[row])][0]
    advice = "remove or repair those episodes"
    if np.isneginf(value) and name in ("obs", "next_obs"):
        advice = (
            "-inf is how padded archives fill up shorter observations: cut every agent's "
            "observations to its own width before writing them"
        )
    raise Dom2Error(f"{name} of agent {agent} has {value} in row {begin + row}: {advice}")


def _next_obs(obs, after, boundary, agent: int, begin: int, end: int) -> None:
    stop = min(end, len(obs) - 1)
    if stop <= begin:
        return
    follow, given = obs[begin + 1 : stop + 1], after[begin:stop]
    wrong = np.abs(follow - given) > NEXT_OBS_SLACK * (1.0 + np.abs(follow))
    bad = wrong.any(1) & ~boundary[begin + 1 : stop + 1]
    if bad.any():
        row = begin + int(bad.argmax())
        raise Dom2Error(
            f"next_obs of agent {agent} in row {row} is not the obs of row {row + 1}, though both "
            "are in one episode: give the right episode_length (or lengths), or switch this check "
            "off with check_next_obs=False if the recording is meant to be so"
        )
