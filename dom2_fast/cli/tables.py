"""Small tables and durations for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from dom2_fast.runs.folder import setting_title

# What `runs.solutions` counts, where it was asked for.
_WAYS = {"ways": "ways", "entropy": "entropy", "solved": "solved", "solved_ways": "solved ways"}


def scores(results: Mapping[str, Mapping[str, dict]]) -> str:
    """Scores as aligned text: a line for each name and setting.

    Args:
        results: name -> setting ("standard", "shift_speed", ...) -> statistics.
    """
    head = ["", "setting", "mean return", "95 % interval", "IQM", "normalised", "episodes"]
    repeated = any("solutions" in r for settings in results.values() for r in settings.values())
    if repeated:
        head += list(_WAYS.values())
    rows = []
    for name, settings in results.items():
        for setting, result in settings.items():
            low, high = result["ci95"]
            rows.append(
                [
                    name,
                    setting_title(setting),
                    f"{result['mean']:.1f}",
                    f"{low:.1f} to {high:.1f}",
                    _number(result.get("iqm")),
                    _number(result.get("normalised")),
                    str(result.get("episodes", "-")),
                ]
            )
            if repeated:
                ways = result.get("solutions", {})
                rows[-1] += [f"{ways[key]:.2f}" if key in ways else "-" for key in _WAYS]
    return table(head, rows, left=2)


def prey(results: Mapping[str, dict]) -> str:
    """What scores in tag and world depend on, a line for each prey; "" where there is none.

    Args:
        results: setting -> statistics, as `evaluate` gives them.
    """
    lines = {}
    for result in results.values():
        if "prey" in result:
            known = result.get("prey_strength", {})
            text = ", ".join(f"{chasers} {score:.1f}" for chasers, score in known.items())
            lines[f"prey: {result['prey']}" + (f" (scripted chasers: {text})" if text else "")] = 0
    return "\n".join(lines)


def table(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    """Aligned columns with a rule under the head; the first `left` columns to the left."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: list[str]) -> str:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])


def duration(seconds: float) -> str:
    """`9.3 s`, `1 min 23 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
