"""The report's plots, as SVG text that takes its colours from the page (light, dark, print).

Drawing only: what is drawn has been read and checked by `load`.
"""

from __future__ import annotations

import io
import re

import numpy as np

from dom2_fast.report.load import Run
from dom2_fast.runs.folder import setting_title, settings_in_order

# Stand-ins that matplotlib draws with; each becomes a CSS variable of the page afterwards.
INK, _MUTED, _GRID, _PAGE = "#010101", "#020202", "#030303", "#040404"
_SERIES = [f"#0500{index:02d}" for index in range(8)]
_VARIABLES = {INK: "--ink", _MUTED: "--muted", _GRID: "--grid", _PAGE: "--card"}
_VARIABLES |= {color: f"--s{index}" for index, color in enumerate(_SERIES)}

# Runs differ by colour, marker and dash, so that no one needs the colour.
_MARKERS = "osD^vPX*"
_DASHES = ["-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2))]

_STAGE = "seconds/"  # what the logged time of a stage begins with


def style(index: int) -> tuple[str, str, object]:
    """(colour, marker, dash) of the run with this index."""
    return _SERIES[index % 8], _MARKERS[index % 8], _DASHES[index % 4]


def learning_curves(runs: list[Run], panels: list[tuple[str, str]]) -> str:
    """One small plot for each (metric key, title), a line for each run that logged it."""
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = new_figure(3.45 * columns, 2.35 * lines, lines, columns)
    for ax, (key, title) in zip(axes, panels, strict=False):
        for index, run in enumerate(runs):
            steps, values = series(run, key)
            if not len(steps):
                continue
            color, marker, dash = style(index)
            if len(values) > 60:
                ax.plot(steps, values, color=color, linewidth=0.8, alpha=0.22)
                steps, values = _smooth(steps, values)
            sparse = len(steps) <= 40
            ax.plot(
                steps,
                values,
                color=color,
                linestyle=dash,
                linewidth=1.7,
                label=run.name,
                marker=marker if sparse else "",
                markersize=4,
            )
        ax.set_title(title, loc="left", fontsize=10, color=INK, pad=8)
        ax.set_xlabel("gradient step", fontsize=8.5)
        ax.margins(x=0.02)
    for ax in axes[len(panels) :]:
        ax.remove()
    return svg(figure, "Learning curves: " + ", ".join(title for _, title in panels))


def series(run: Run, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, finite values) of one logged number."""
    pairs = [
        (row["step"], row[key])
        for row in run.metrics
        if isinstance(row.get(key), int | float) and np.isfinite(row[key])
    ]
    return np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs], float)


def score_intervals(runs: list[Run], reference: dict[str, float]) -> str:
    """A forest plot: mean with its 95 % interval and the IQM, one panel for each setting."""
    settings = settings_in_order(key for run in runs for key in run.results)
    figure, axes = new_figure(
        10.4, 1.0 + 0.46 * max(2, len(runs)), 1, len(settings), sharex=True, sharey=True
    )
    for ax, setting in zip(axes, settings, strict=True):
        for index, run in enumerate(runs):
            result = run.results.get(setting)
            if result is None:
                continue
            color, marker, _ = style(index)
            low, high = result["ci95"]
            ax.plot([low, high], [index, index], color=color, linewidth=3.2, solid_capstyle="butt")
            ax.plot(result["mean"], index, marker, color=color, markersize=8)
            if result.get("iqm") is not None:
                ax.plot(result["iqm"], index, "|", color=color, markersize=15, markeredgewidth=1.4)
            ax.annotate(
                f"{result['mean']:.1f}",
                (result["mean"], index),
                (0, 10),
                fontsize=8.5,
                textcoords="offset points",
                ha="center",
                color=INK,
            )
        for label, value in reference.items():
            ax.axvline(value, color=_MUTED, linewidth=1.1, linestyle=(0, (4, 3)), zorder=0)
            ax.annotate(
                f"{label} {value:.1f}",
                (value, 1.0),
                (3, -3),
                fontsize=8,
                color=_MUTED,
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="top",
            )
        ax.set_title(setting_title(setting), loc="left", fontsize=10, color=INK, pad=8)
        ax.set_xlabel("episode return", fontsize=8.5)
        ax.set_yticks(range(len(runs)), [run.name for run in runs])
        ax.set_ylim(len(runs) - 0.45, -0.75 - (0.35 if reference else 0))
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.08)
    return svg(figure, "Mean episode return with 95 % intervals, one panel for each setting")


def stage_times(runs: list[Run]) -> str:
    """Milliseconds of one update by stage, a stacked bar for each run."""
    names = stages(runs)
    figure, (ax,) = new_figure(10.4, 0.95 + 0.42 * len(runs), 1, 1)
    totals = []
    for index, run in enumerate(runs):
        left = 0.0
        times = stage_milliseconds(run)
        for color, stage in enumerate(names):
            value = times.get(stage, 0.0)
            ax.barh(
                index,
                value,
                left=left,
                height=0.56,
                color=style(color)[0],
                edgecolor=_PAGE,
                linewidth=1.2,
                label=stage if not index else None,
            )
            left += value
        totals.append(left)
        ax.annotate(
            f"{left:.2f} ms",
            (left, index),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    ax.set_yticks(range(len(runs)), [run.name for run in runs])
    ax.set_ylim(len(runs) - 0.5, -0.5)
    ax.set_xlim(0, 1.12 * max(totals, default=1.0) or 1.0)
    ax.set_xlabel("milliseconds per update (all agents)", fontsize=8.5)
    ax.grid(axis="y", visible=False)
    return svg(figure, "Time of one update by stage: " + ", ".join(names))


def stages(runs: list[Run]) -> list[str]:
    """The stages of an update that some run logged the time of, in the order they are logged."""
    keys = dict.fromkeys(key for run in runs for row in run.metrics for key in row)
    return [key.removeprefix(_STAGE) for key in keys if key.startswith(_STAGE)]


def stage_milliseconds(run: Run) -> dict[str, float]:
    """The median time of each stage of one update, in milliseconds; empty where none was logged."""
    found = {}
    for stage in stages([run]):
        values = series(run, _STAGE + stage)[1]  # seconds per update
        if len(values):
            found[stage] = 1e3 * float(np.median(values))
    return found


def _smooth(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of about 60 equal pieces: a loss at every step is noise to the eye."""
    pieces = np.array_split(np.arange(len(values)), 60)
    return (
        np.array([steps[piece].mean() for piece in pieces]),
        np.array([values[piece].mean() for piece in pieces]),
    )


def new_figure(width: float, height: float, rows: int, columns: int, **kwargs):
    """(figure of width x height inches, its axes [rows * columns]), drawn without a window."""
    # The figure class, not pyplot: no global state, no display needed.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"axes.unicode_minus": True}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **kwargs).ravel()
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12, wspace=0.03, hspace=0.06)
    for ax in axes:
        ax.set_facecolor("none")
        ax.grid(color=_GRID, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(colors=_MUTED, labelsize=8.5, length=0)
        ax.xaxis.label.set_color(_MUTED)
        ax.locator_params(axis="x", nbins=6)
        ax.ticklabel_format(useOffset=False)
        for side, spine in ax.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(_GRID)
    return figure, axes


def svg(figure, description: str) -> str:
    """The figure as an inline <svg>: colours as CSS variables, text as text, unique ids."""
    import hashlib
    from html import escape

    from matplotlib import rc_context

    salt = hashlib.sha256(description.encode()).hexdigest()[:12]
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(
        r' id="(?:figure|axes|patch|line2d|text|matplotlib|xtick|ytick|L)[^"]*"', "", text
    )
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    # Width and height in points would pin the size; the view box alone lets the page scale it.
    text = re.sub(r'<svg ([^>]*?)height="[^"]*" ([^>]*?)width="[^"]*"', r"<svg \1\2", text, count=1)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" ([^>]*?)height="[^"]*"', r"<svg \1\2", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)
