"""A study's figures, as SVG text.

Scores by data set and over all, what a shift costs, reweighting, data efficiency, learning curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dom2_fast.report import figures as drawing
from dom2_fast.runs.folder import STANDARD, setting_title
from dom2_fast.studies import statistics as stats
from dom2_fast.studies.tables import Scores, method_name

UNIFORM = "uniform"  # the reweighting that is none
Curves = Mapping[tuple, Sequence[tuple[int, float]]]  # (task, kind, method) -> (step, score)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) of runs [n]: the mean's bootstrap interval; with one run all the same."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, mean, mean
    return mean, *stats.interval([values], statistic=lambda tasks: float(np.mean(tasks[0])))


def by_set(scores: Scores, setting: str) -> str:
    """Every method's mean on every data set with its interval over seeds; a panel for each task."""
    tasks = list(dict.fromkeys(task for task, _ in scores.sets))
    tallest = max(sum(t == task for t, _ in scores.sets) for task in tasks)
    lines = 0.11 * len(scores.methods) + 0.2
    figure, axes = drawing.new_figure(10.4, 1.2 + tallest * lines, 1, len(tasks))
    for ax, task in zip(axes, tasks, strict=True):
        kinds = [kind for t, kind in scores.sets if t == task]
        for place, kind in enumerate(kinds):
            for index, method in enumerate(scores.methods):
                values = scores.of(setting, task, kind, method)
                if values:
                    y = place + 0.8 * ((index + 0.5) / len(scores.methods) - 0.5)
                    _interval(ax, index, y, mean_interval(values))
        ax.set_yticks(range(len(kinds)), kinds)
        ax.set_ylim(len(kinds) - 0.5, -0.5)
        _titled(ax, task, "score")
        ax.grid(axis="y", visible=False)
    _legend(figure, axes[0], [method_name(m) for m in scores.methods])
    return drawing.svg(figure, f"Scores by data set, {setting_title(setting)}")


def over_sets(scores: Scores) -> str:
    """The interquartile mean of every method with its interval; a panel for each setting."""
    figure, axes = drawing.new_figure(
        10.4, 1.0 + 0.32 * len(scores.methods), 1, len(scores.settings), sharey=True
    )
    for ax, setting in zip(axes, scores.settings, strict=True):
        sets = scores.complete(setting)
        for index, method in enumerate(scores.methods if sets else ()):
            runs = [scores.of(setting, *s, method) for s in sets]
            several = min(map(len, runs)) > 1
            middle = stats.iqm(runs)
            ends = stats.interval(runs) if several else (middle, middle)
            _interval(ax, index, index, (middle, *ends))
        ax.set_yticks(range(len(scores.methods)), [method_name(m) for m in scores.methods])
        ax.set_ylim(len(scores.methods) - 0.5, -0.5)
        _titled(ax, setting_title(setting), f"interquartile mean, {len(sets)} data sets")
        ax.grid(axis="y", visible=False)
    return drawing.svg(figure, "Interquartile mean of every method, one panel for each setting")


def shifted(scores: Scores) -> str:
    """Every data set's score in a shifted setting over its standard one, below the diagonal where
    the shift costs; a panel for each shift, "" where the study has none.
    """
    settings = [s for s in scores.settings if s != STANDARD]
    if not settings or STANDARD not in scores.settings:
        return ""
    figure, axes = drawing.new_figure(3.45 * len(settings), 3.6, 1, len(settings))
    for ax, setting in zip(axes, settings, strict=True):
        ends: list[float] = []
        for index, method in enumerate(scores.methods):
            pairs = [
                (np.mean(before), np.mean(after))
                for s in scores.sets
                if (before := scores.of(STANDARD, *s, method))
                and (after := scores.of(setting, *s, method))
            ]
            if pairs:
                color, marker, _ = drawing.style(index)
                ax.plot(*zip(*pairs, strict=True), marker, color=color, markersize=5)
                ends += [value for pair in pairs for value in pair]
        if ends:
            both = [min(ends), max(ends)]
            ax.plot(both, both, color=drawing.INK, linewidth=0.8, zorder=0)
        ax.set_ylabel("score", fontsize=8.5)
        _titled(ax, setting_title(setting), "standard score")
    _legend(figure, axes[0], [method_name(m) for m in scores.methods])
    return drawing.svg(figure, "Scores with a shift over those without, a point for each data set")


def reweighting(scores: Scores) -> str:
    """What a reweighting of trajectories adds to none (`uniform`), by data set: the difference of
    the means, with a bootstrap interval over both methods' seeds; a panel for each task.

    "" where no method is there with a reweighting and without.
    """
    pairs = [
        (on, off)
        for off in scores.methods
        for on in scores.methods
        if (on[0], on[2]) == (off[0], off[2])
        and scores.weights[off] == UNIFORM != scores.weights[on]
    ]
    if not pairs:
        return ""
    tasks = list(dict.fromkeys(task for task, _ in scores.sets))
    tallest = max(sum(t == task for t, _ in scores.sets) for task in tasks)
    height = 1.2 + tallest * (0.11 * len(pairs) + 0.2)
    figure, axes = drawing.new_figure(10.4, height, 1, len(tasks))
    for ax, task in zip(axes, tasks, strict=True):
        kinds = [kind for t, kind in scores.sets if t == task]
        for place, kind in enumerate(kinds):
            for index, pair in enumerate(pairs):
                runs = [scores.of(STANDARD, task, kind, method) for method in pair]
                if all(runs):
                    y = place + 0.8 * ((index + 0.5) / len(pairs) - 0.5)
                    _interval(ax, index, y, _difference(*runs))
        ax.axvline(0, color=drawing.INK, linewidth=0.8, zorder=0)
        ax.set_yticks(range(len(kinds)), kinds)
        ax.set_ylim(len(kinds) - 0.5, -0.5)
        _titled(ax, task, "score with reweighting - without")
        ax.grid(axis="y", visible=False)
    names = [method_name((on[0], scores.weights[on], on[2])) for on, _ in pairs]
    _legend(figure, axes[0], names)
    return drawing.svg(figure, "What reweighting adds to the score, by data set")


def _difference(on: Sequence[float], off: Sequence[float]) -> tuple[float, float, float]:
    """(difference of the means, low, high); no interval where either has one seed alone."""
    found = float(np.mean(on) - np.mean(off))
    if min(len(on), len(off)) == 1:
        return found, found, found
    return found, *stats.interval(
        [on, off], statistic=lambda tasks: float(tasks[0].mean() - tasks[1].mean())
    )


def efficiency(scores: Scores) -> str:
    """Scores by the share of the data's trajectories; "" where the study has but one share."""
    if len({fraction for _, _, fraction in scores.methods}) < 2:
        return ""
    lines = list(dict.fromkeys((label, reweight) for label, reweight, _ in scores.methods))
    columns = min(3, len(scores.sets))
    rows = -(-len(scores.sets) // columns)
    figure, axes = drawing.new_figure(3.45 * columns, 0.6 + 2.35 * rows, rows, columns)
    for ax, (task, kind) in zip(axes, scores.sets, strict=False):
        for index, (label, reweight) in enumerate(lines):
            shares = sorted(f for *line, f in scores.methods if line == [label, reweight])
            found = [
                (100 * f, *mean_interval(values))
                for f in shares
                if (values := scores.of(STANDARD, task, kind, (label, reweight, f)))
            ]
            if found:
                _line(ax, index, np.array(found).T, marker=True)
        ax.set_xscale("log")
        _titled(ax, f"{task} {kind}", "% of the trajectories")
    for ax in axes[len(scores.sets) :]:
        ax.remove()
    _legend(figure, axes[0], [method_name((*line, 1)) for line in lines])
    return drawing.svg(figure, "Scores by the share of the data")


def learning_curves(scores: Scores, curves: Curves) -> str:
    """Scores of the evaluations on the way, a panel for each data set; "" where there are none."""
    sets = [s for s in scores.sets if any((*s, m) in curves for m in scores.methods)]
    if not sets:
        return ""
    columns = min(3, len(sets))
    rows = -(-len(sets) // columns)
    figure, axes = drawing.new_figure(3.45 * columns, 0.6 + 2.35 * rows, rows, columns)
    for ax, (task, kind) in zip(axes, sets, strict=False):
        for index, method in enumerate(scores.methods):
            at: dict[int, list[float]] = {}
            for step, value in curves.get((task, kind, method), ()):
                at.setdefault(step, []).append(value)
            if at:
                found = [(step, *mean_interval(at[step])) for step in sorted(at)]
                _line(ax, index, np.array(found).T)
        _titled(ax, f"{task} {kind}", "update")
    for ax in axes[len(sets) :]:
        ax.remove()
    _legend(figure, axes[0], [method_name(m) for m in scores.methods])
    return drawing.svg(figure, "Learning curves, one panel for each data set")


def _interval(ax, index: int, y: float, found: tuple[float, float, float]) -> None:
    color, marker, _ = drawing.style(index)
    mean, low, high = found
    ax.plot([low, high], [y, y], color=color, linewidth=1.8, solid_capstyle="butt")
    ax.plot(mean, y, marker, color=color, markersize=5)


def _line(ax, index: int, found: np.ndarray, marker: bool = False) -> None:
    color, shape, dash = drawing.style(index)
    x, mean, low, high = found
    look = {"marker": shape if marker else "", "linestyle": dash, "color": color}
    ax.plot(x, mean, linewidth=1.6, **look)
    ax.fill_between(x, low, high, color=color, alpha=0.13, linewidth=0)


def _titled(ax, title: str, below: str) -> None:
    ax.set_title(title, loc="left", fontsize=10, color=drawing.INK, pad=8)
    ax.set_xlabel(below, fontsize=8.5)


def _legend(figure, ax, names: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for index in range(len(names)):
        color, marker, dash = drawing.style(index)
        handles.append(Line2D([], [], color=color, marker=marker, linestyle=dash, markersize=5))
    figure.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=min(8, len(names)),
        frameon=False,
        fontsize=8.5,
        labelcolor=drawing.INK,
    )
