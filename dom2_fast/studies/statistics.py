"""Statistics over seeds and tasks, as Agarwal et al. 2021 (arXiv 2108.13264) ask for.

Scores are a list with one array per task (a data set, say), the scores of its runs [n_task]; tasks
may differ in their numbers of runs. Knows nothing of studies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dom2_fast.errors import Dom2Error

RESAMPLES = 2000


def _tasks(scores: Sequence) -> list[np.ndarray]:
    tasks = [np.asarray(task, float).ravel() for task in scores]
    if not tasks or any(len(task) == 0 or not np.isfinite(task).all() for task in tasks):
        raise Dom2Error("scores must be finite numbers, at least one for each of one or more tasks")
    return tasks


def mean_and_sd(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of one task's scores [n]; sd is nan where n is 1."""
    (values,) = _tasks([scores])
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def iqm(scores: Sequence) -> float:
    """Interquartile mean of all runs of all tasks: a quarter is cut off at both ends.

    As scipy.stats.trim_mean: floor(n / 4) runs are cut off at either end.
    Raises:
        Dom2Error: no task, a task without a run, a score that isn't finite.
    """
    return _trimmed(np.concatenate(_tasks(scores)))


def _trimmed(values: np.ndarray) -> float:
    cut = len(values) // 4
    return float(np.sort(values)[cut : len(values) - cut].mean())


def interval(
    scores: Sequence,
    statistic: Callable[[Sequence[np.ndarray]], float] = iqm,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % stratified bootstrap interval of a statistic: runs are drawn again within each task.

    Args:
        statistic: of scores as here.
        resamples, seed: of the bootstrap (percentiles 2.5 and 97.5).
    Raises:
        Dom2Error: as of `iqm`.
    """
    tasks = _tasks(scores)
    rng = np.random.default_rng(seed)
    found = [
        statistic([task[rng.integers(len(task), size=len(task))] for task in tasks])
        for _ in range(resamples)
    ]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def probability_of_improvement(first: Sequence, second: Sequence) -> float:
    """How likely a run of the first is better than one of the second: mean over tasks of
    Mann-Whitney's U / (n m), ties counted half.

    Raises:
        Dom2Error: as of `iqm`; different numbers of tasks.
    """
    ours, theirs = _tasks(first), _tasks(second)
    if len(ours) != len(theirs):
        raise Dom2Error(f"both must have the same tasks, not {len(ours)} and {len(theirs)}")
    found = []
    for a, b in zip(ours, theirs, strict=True):
        difference = a[:, None] - b[None, :]
        found.append(float(((difference > 0) + 0.5 * (difference == 0)).mean()))
    return float(np.mean(found))


def performance_profile(scores: Sequence, thresholds: Sequence[float]) -> np.ndarray:
    """Share of runs above each threshold [k], the mean over tasks of the share within one.

    Raises:
        Dom2Error: as of `iqm`.
    """
    limits = np.asarray(thresholds, float)
    return np.mean([(task[:, None] > limits).mean(axis=0) for task in _tasks(scores)], axis=0)
