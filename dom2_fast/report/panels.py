"""Which of the numbers that runs logged are drawn as curves, and what they are called."""

from __future__ import annotations

from dom2_fast import algos
from dom2_fast.errors import Dom2Error
from dom2_fast.report import figures
from dom2_fast.report.load import Run

SCORE = "eval/return"  # the first panel, where runs were evaluated on the way
# Logged beside the score, or drawn elsewhere.
TMP = {"loss/bc": "denoising loss", "q/data": "Q of the data's actions"}
_LEFT_OUT = ("eval/", "seconds/", "rate", "step")


def panels(runs: list[Run]) -> list[tuple[str, str]]:
    """(key, title) of every number that some run logged more than once, in the order of the logs.

    An algorithm's `metric_names` give the titles; a number without one is called by its key.
    """
    keys = dict.fromkeys([SCORE, *(key for run in runs for row in run.metrics for key in row)])
    titles = {SCORE: "evaluation return"}
    for run in runs:
        titles = _titles(run.algo) | titles
    return [
        (key, titles.get(key, key))
        for key in keys
        if (key == SCORE or not key.startswith(_LEFT_OUT))
        and any(len(figures.series(run, key)[0]) > 1 for run in runs)
    ]


def _titles(algo: str) -> dict[str, str]:
    try:
        return dict(getattr(algos.algorithm(algo), "metric_names", TMP))
    except Dom2Error:  # a run of an algorithm that isn't here
        return {}
