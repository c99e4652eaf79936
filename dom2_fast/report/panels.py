"""Which of the numbers that runs logged are drawn as curves, and what they are called."""

from __future__ import annotations

from dom2_fast import algos
from dom2_fast.report import figures
from dom2_fast.report.load import Run
from dom2_fast.runs.folder import SCORE

# Logged beside the score, or drawn elsewhere.
_GROUPS, _KEYS = ("eval/", "seconds/"), ("rate", "step")


def panels(runs: list[Run]) -> list[tuple[str, str]]:
    """(key, title) of every number that some run logged more than once.

    An algorithm's `metric_names` give titles and order; a number without one is called by its key.
    """
    titles = {SCORE: "evaluation return"}
    for run in runs:
        titles |= _titles(run.algo)
    keys = dict.fromkeys([*titles, *(key for run in runs for row in run.metrics for key in row)])
    return [
        (key, titles.get(key, key))
        for key in keys
        if (key == SCORE or not (key.startswith(_GROUPS) or key in _KEYS))
        and any(len(figures.series(run, key)[0]) > 1 for run in runs)
    ]


def _titles(algo: str) -> dict[str, str]:
    if algo not in algos.ALGORITHMS:  # a run of a later version, or of the user's own
        return {}
    return dict(algos.algorithm(algo).metric_names)
