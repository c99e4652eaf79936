"""A data set's card: statistics of its returns, how much it covers, what made it, its hashes.

The statistics are those of OG-MARL's tool (Formanek et al. 2024, arXiv 2409.12001), so that cards
can be laid side by side. Printing one is `card_page.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dom2_fast import known_tasks
from dom2_fast.data import formats, published, tools
from dom2_fast.data.coverage import GRID, coverage
from dom2_fast.data.formats import omar
from dom2_fast.data.trajectories import TrajectoryDataset

BINS = 30
_BLOCK = 1 << 20


def card(
    source: Any,
    episode_length: int | None = None,
    format: str | None = None,
    *,
    grid: tuple[float, float] = GRID,
    score: tuple[str, Callable] | None = None,
) -> dict:
    """Everything a reader should know of a data set, as plain numbers, strings and lists.

    Args:
        source, episode_length, format: as of `TrajectoryDataset.load`.
        grid: sizes of the cells that coverage is counted in, see `coverage.coverage`.
        score: (its name, function of returns [agents, n] -> scores [n]) of an environment's own
            rule; None: predator 0's return in simple_tag and simple_world, else the agents' mean.
    Returns:
        what `data.inspect` says, without the returns' summary, and

        * returns: "rule", what the score is; "score" and "agents" (a list), what `statistics` gives
        * coverage: see there
        * sha256: "files" (name -> hash) and "set": of the lines "hash  name" of all files but
          meta.json, as `sha256sum *.npy | sha256sum` prints for a folder in OMAR's layout; both
          are empty for data that are in no file
        * published: `published.card` and "difference_percent" of the means, or None
    Raises:
        Dom2Error: as `TrajectoryDataset.load`; a grid with a size that is not > 0.
    """
    chosen = formats.find(source) if format is None else formats.get(format)
    data = TrajectoryDataset.load(source, episode_length, format=chosen.name)
    facts = tools.facts(data, chosen.name)
    facts = {key: value for key, value in facts.items() if not key.startswith("return_")}
    rule, function = score or (known_tasks.score_rule(data.task), None)
    scored = (
        known_tasks.score(data.task, data.returns) if function is None else function(data.returns)
    )
    returns = {
        "rule": rule,
        "score": statistics(scored.numpy()),
        "agents": [statistics(own.numpy()) for own in data.returns],
    }
    theirs = published.card(data.task, data.quality)
    if theirs is not None:
        away = returns["score"]["mean"] - theirs["mean"]
        theirs["difference_percent"] = 100 * away / abs(theirs["mean"])
    return {
        **facts,
        "returns": returns,
        "coverage": coverage(data, grid),
        "sha256": _sha256(data.path, chosen.name),
        "published": theirs,
    }


def statistics(returns: np.ndarray) -> dict:
    """Mean, sd, min, max, mode, median, kurtosis, skewness, range, iqr, histogram of returns [n].

    sd divides by n - 1. Kurtosis is the excess, m4 / m2^2 - 3, and skewness m3 / m2^1.5, of the
    plain moments; both are None where all returns are equal. iqr is between the quartiles, which
    are interpolated linearly. The histogram has 30 bins of one width ("edges", "counts"), and the
    mode is the middle of its fullest bin, the first of equals.
    """
    x = np.asarray(returns, np.float64)
    mean, low, high = float(x.mean()), float(x.min()), float(x.max())
    away = x - mean
    m2 = float(np.mean(away**2))
    varies = high > low
    counts, edges = np.histogram(x, BINS, (low, high) if varies else (low - 0.5, low + 0.5))
    fullest = int(counts.argmax())
    lower, median, upper = np.percentile(x, [25, 50, 75])
    return {
        "mean": mean,
        "sd": float(x.std(ddof=1)) if len(x) > 1 else 0.0,
        "min": low,
        "max": high,
        "mode": float((edges[fullest] + edges[fullest + 1]) / 2),
        "median": float(median),
        "kurtosis": float(np.mean(away**4) / m2**2 - 3) if varies else None,
        "skewness": float(np.mean(away**3) / m2**1.5) if varies else None,
        "range": high - low,
        "iqr": float(upper - lower),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _sha256(path: Path | None, format: str) -> dict:
    if path is None:
        return {"files": {}, "set": None}
    inside = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    if format == "omar":  # what else lies there, such as a card, isn't data
        inside = [item for item in path.glob("*.npy") if item.is_file()]
        inside += [path / omar.META] if (path / omar.META).is_file() else []
    root = path if path.is_dir() else path.parent
    files = {item.relative_to(root).as_posix(): _of_file(item) for item in sorted(inside)}
    lines = [f"{digest}  {name}\n" for name, digest in sorted(files.items()) if name != omar.META]
    return {"files": files, "set": hashlib.sha256("".join(lines).encode()).hexdigest()}


def _of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
