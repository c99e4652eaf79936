"""What a study found, as tables: scores by data set, methods over all of them, shifts, time.

Made from the rows of `results.Results`; `report` writes them. A cell that isn't done is a dash, and
what is counted over data sets uses those that every method has been scored on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from dom2_fast.runs.folder import STANDARD, setting_title, settings_in_order
from dom2_fast.studies import statistics as stats

_NONE = "-"


@dataclass(frozen=True)
class Table:
    """A table of text: `slug` is its file's name, `note` says how to read it."""

    slug: str
    title: str
    note: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table under its title, in Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"**{self.title}.** {self.note}\n\n{body}\n"


class Scores:
    """Scores of a study's runs, by setting and checkpoint, data set and method.

    Normalised ones, but raw ones of a task without constants; `unit` says which.
    """

    def __init__(self, cells: Sequence, rows: Sequence[dict]) -> None:
        self.sets = list(dict.fromkeys((cell.task, cell.kind) for cell in cells))
        self.methods = list(dict.fromkeys(cell.method for cell in cells))
        self.asked = {(cell.task, cell.kind, cell.method) for cell in cells}
        # The reweighting of a method that leaves it to its algorithm, too.
        self.weights = {
            method: next(c for c in cells if c.method == method).config().weights
            for method in self.methods
        }
        self.found: dict[tuple, list[float]] = {}
        raw = [row["normalised"] is None for row in rows]
        self.unit = "Normalised" if not any(raw) else "Raw" if all(raw) else "Normalised or raw"
        for row in rows:
            # An environment without constants has raw scores: one task's then, not for sums.
            score = row["mean"] if row["normalised"] is None else row["normalised"]
            self.found.setdefault(_place(row), []).append(score)
        self.settings = settings_in_order({key[0] for key in self.found})

    def of(self, setting: str, task: str, kind: str, method, checkpoint: str = "last"):
        """Scores of a data set's runs over seeds [n], empty where there are none."""
        return self.found.get((setting, checkpoint, task, kind, method), [])

    def complete(self, setting: str, checkpoint: str = "last") -> list[tuple[str, str]]:
        """Data sets that every method of the study has a score on."""
        return [
            (task, kind)
            for task, kind in self.sets
            if all(self.of(setting, task, kind, m, checkpoint) for m in self.methods)
        ]


def _place(row: dict) -> tuple:
    reweight = None if row["reweight"] == "default" else row["reweight"]
    method = row["label"], reweight, row["fraction"]
    return row["setting"], row["checkpoint"], row["task"], row["kind"], method


def method_name(method: tuple) -> str:
    """A method for people: its label; reweighting and fraction where not the default."""
    label, reweight, fraction = method
    parts = [label]
    if reweight is not None:
        parts.append(reweight)
    if fraction != 1:
        parts.append(f"{100 * fraction:g} %")
    return ", ".join(parts)


def tables(cells: Sequence, rows: Sequence[dict]) -> list[Table]:
    """All tables that the rows have something for.

    Args:
        cells: of the study. rows: as `results.Results.rows`.
    """
    scores = Scores(cells, rows)
    made = []
    for setting in scores.settings:
        made += [by_set(scores, setting), over_sets(scores, setting)]
    if len(scores.settings) > 1:
        made.append(drops(scores))
    if any(row["checkpoint"] == "best" for row in rows):
        made.append(last_and_best(scores))
    return [*made, seconds(rows)] if rows else []


def by_set(scores: Scores, setting: str) -> Table:
    """Mean and deviation over seeds of every method on every data set; the best mean is bold."""
    rows = []
    for task, kind in scores.sets:
        found = {m: scores.of(setting, task, kind, m) for m in scores.methods}
        best = max((np.mean(v) for v in found.values() if v), default=None)
        rows.append([f"{task} {kind}", *(_cell(v, best) for v in found.values())])
    return Table(
        f"{setting}_by_set",
        f"Scores, {setting_title(setting)}",
        f"{scores.unit}; mean ± standard deviation over seeds (number of seeds), last checkpoint.",
        ["data", *map(method_name, scores.methods)],
        rows,
    )


def _cell(values: list[float], best: float | None) -> str:
    if not values:
        return _NONE
    mean, sd = stats.mean_and_sd(values)
    text = f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {sd:.1f}"
    return (f"**{text}**" if mean == best else text) + f" ({len(values)})"


def over_sets(scores: Scores, setting: str) -> Table:
    """Every method over all data sets that all methods have: IQM, sets ahead, improvement."""
    sets = scores.complete(setting)
    first = scores.methods[0]
    rows = []
    for method in scores.methods if sets else ():
        runs = [scores.of(setting, *s, method) for s in sets]
        low, high = stats.interval(runs)
        means = [np.mean(r) for r in runs]
        ahead = sum(
            mean >= max(np.mean(scores.of(setting, *s, m)) for m in scores.methods)
            for s, mean in zip(sets, means, strict=True)
        )
        better = stats.probability_of_improvement(
            [scores.of(setting, *s, first) for s in sets], runs
        )
        several = min(map(len, runs)) > 1
        rows.append(
            [
                method_name(method),
                f"{stats.iqm(runs):.1f}",
                f"{low:.1f} to {high:.1f}" if several else _NONE,
                f"{np.mean(means):.1f}",
                f"{ahead} of {len(sets)}",
                _NONE if method == first else f"{better:.2f}",
            ]
        )
    return Table(
        f"{setting}_over_sets",
        f"All data sets, {setting_title(setting)}",
        f"Over the {len(sets)} of {len(scores.sets)} data sets that every method has scores on: "
        "interquartile mean with its stratified bootstrap interval (- with one seed), mean, in how "
        f"many sets it has the highest mean, how likely a run of {method_name(first)} is better.",
        ["method", "IQM", "95 %", "mean", "ahead", f"{method_name(first)} better"],
        rows,
    )


def drops(scores: Scores) -> Table:
    """What is left of the standard score in each shifted setting, over the complete data sets."""
    shifted = [s for s in scores.settings if s != STANDARD]
    rows = []
    for method in scores.methods:
        row = [method_name(method)]
        for setting in shifted:
            both = [s for s in scores.complete(setting) if s in scores.complete(STANDARD)]
            lost = [
                np.mean(scores.of(STANDARD, *s, method)) - np.mean(scores.of(setting, *s, method))
                for s in both
            ]
            row.append(f"{np.mean(lost):.1f}" if lost else _NONE)
        rows.append(row)
    return Table(
        "drops",
        "What a shift costs",
        f"{scores.unit} points below the standard score, mean over data sets.",
        ["method", *map(setting_title, shifted)],
        rows,
    )


def last_and_best(scores: Scores) -> Table:
    """The last checkpoint beside the best of the evaluations on the way, standard setting."""
    sets = [s for s in scores.complete(STANDARD) if s in scores.complete(STANDARD, "best")]
    rows = [
        [
            method_name(method),
            *(
                f"{np.mean([np.mean(scores.of(STANDARD, *s, method, c)) for s in sets]):.1f}"
                if sets
                else _NONE
                for c in ("last", "best")
            ),
        ]
        for method in scores.methods
    ]
    return Table(
        "last_and_best",
        "Last and best checkpoint",
        f"Mean over {len(sets)} data sets, standard setting. The best was chosen by evaluations on "
        "the way, which no offline method may do.",
        ["method", "last", "best"],
        rows,
    )


def seconds(rows: Sequence[dict]) -> Table:
    """Seconds of training per cell of every method."""
    by_method: dict[str, list[float]] = {}
    for row in rows:
        if row["setting"] == STANDARD and row["checkpoint"] == "last":
            by_method.setdefault(method_name(_place(row)[-1]), []).append(row["train_seconds"])
    return Table(
        "seconds",
        "Seconds of training",
        "Median over cells of one thread each, on a machine that may have done other things.",
        ["method", "seconds", "cells"],
        [[name, f"{median(v):.0f}", str(len(v))] for name, v in by_method.items()],
    )
