"""Puts the report together: one HTML file with everything inside, every text escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path

from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write
from dom2_fast.report import figures, machine
from dom2_fast.report.load import SETTINGS, Run, load_runs
from dom2_fast.report.scene import scene

# What is drawn of metrics.jsonl, in this order, where some run has it.
PANELS = [
    ("eval/return", "evaluation return"),
    ("loss/bc", "denoising loss"),
    ("loss/critic", "critic loss"),
    ("loss/td", "temporal-difference loss"),
    ("loss/cql", "CQL penalty"),
    ("loss/actor", "actor loss"),
    ("q/data", "Q of the data's actions"),
    ("q/policy", "Q of the policy's actions"),
    ("q/uniform", "Q of uniform actions"),
]


def write_report(
    runs: list,
    out: str | Path,
    *,
    title: str = "dom2-fast report",
    reference: Mapping[str, float] | None = None,
    note: str = "",
) -> Path:
    """Write the report about some run folders.

    Args:
        runs: run folders, at least one.
        out: a folder, for `out/report.html`, or a file whose name ends in `.html`. A report that is
            there already is replaced.
        reference: returns to draw as lines beside the scores, such as {"dataset mean": 273.4}.
        note: a sentence under the title.
    Returns:
        The file's path.
    Raises:
        Dom2Error: no run given, or one that can't be read (see `load_runs`).
    """
    if not runs:
        raise Dom2Error("no run given: name one or more folders that `dom2-fast train` made")
    loaded = load_runs(list(runs))
    out = Path(out)
    path = out if out.suffix == ".html" else out / "report.html"
    text = render(loaded, title=title, reference=dict(reference or {}), note=note)
    with atomic_write(path, "w") as file:
        file.write(text)
    return path


def render(runs: list[Run], *, title: str, reference: dict[str, float], note: str = "") -> str:
    """The whole page as text."""
    tasks = sorted({run.env for run in runs})
    about = f"{len(runs)} run{'s' * (len(runs) != 1)} on {', '.join(tasks)}"
    parts = [
        _summary(runs, reference),
        _intervals(runs, reference),
        _rollouts(runs),
        _curves(runs),
        _times(runs),
        _settings(runs),
        _made(runs),
    ]
    here = resources.files("dom2_fast.report")
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>\n{here.joinpath('style.css').read_text('utf-8')}"
        f"</style>\n</head>\n<body>\n<header><h1>{escape(title)}</h1>"
        f"<p class='note'>{escape(about)}. {escape(note)}</p></header>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n<footer>Made by <code>dom2-fast report</code>.</footer>\n"
        f"<script>\n{here.joinpath('rollout.js').read_text('utf-8')}</script>\n</body>\n</html>\n"
    )


def _section(title: str, content: str, note: str = "") -> str:
    note = f"<p class='note'>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{note}{content}</section>"


def _plot(svg: str) -> str:
    return f"<div class='scroll plot'>{svg}</div>"


def _summary(runs: list[Run], reference: dict[str, float]) -> str:
    settings = _settings_evaluated(runs)
    if not settings:
        return _section(
            "Scores", "", "None of these runs has been evaluated: `dom2-fast evaluate RUN` does it."
        )
    rows = []
    for setting in settings:
        rows.append(
            f"<tr class='group'><th colspan='7' scope='rowgroup'>"
            f"{escape(SETTINGS.get(setting, setting).capitalize())}</th></tr>"
        )
        having = [
            (index, run, run.results[setting])
            for index, run in enumerate(runs)
            if setting in run.results
        ]
        best = max(result["mean"] for _, _, result in having)
        for index, run, result in having:
            mark = " class='best'" if len(having) > 1 and result["mean"] == best else ""
            cells = [
                _interval(result["ci95"]),
                _number(result.get("iqm")),
                _number(result.get("normalised")) + _small(result.get("normalised_ci95")),
                _number(result.get("episodes"), 0),
                _number((run.scores or {}).get("step"), 0),
            ]
            rows.append(
                f"<tr{mark}><td>{_key(index)}{escape(run.name)}</td>"
                f"<td class='number'>{_number(result['mean'])}</td>"
                + "".join(f"<td class='number'>{cell}</td>" for cell in cells)
                + "</tr>"
            )
    heads = [
        "Run",
        "Mean return",
        "95 % interval",
        "IQM",
        "Normalised",
        "Episodes",
        "Trained steps",
    ]
    head = "".join(
        f"<th scope='col'{' class=number' if i else ''}>{name}</th>" for i, name in enumerate(heads)
    )
    table = (
        f"<div class='scroll'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    verdicts = "".join(f"<p>{escape(line)}</p>" for line in _verdicts(runs, settings, reference))
    return _section("Scores", verdicts + table)


def _verdicts(runs: list[Run], settings: list[str], reference: dict[str, float]) -> list[str]:
    """One sentence for each setting: the best run, and whether its interval stands apart."""
    lines = []
    for setting in settings:
        ranked = sorted(
            (run for run in runs if setting in run.results),
            key=lambda run: -run.results[setting]["mean"],
        )
        if len(ranked) < 2:
            continue
        first, second = ranked[:2]
        apart = first.results[setting]["ci95"][0] > second.results[setting]["ci95"][1]
        lines.append(
            f"{SETTINGS.get(setting, setting).capitalize()}: {first.name} has the highest mean, "
            f"{first.results[setting]['mean']:.1f}; its 95 % interval "
            f"{'lies above that' if apart else 'overlaps the one'} of {second.name} "
            f"({second.results[setting]['mean']:.1f})."
        )
    if reference:
        values = ", ".join(f"{name} {value:.1f}" for name, value in reference.items())
        lines.append(f"For comparison: {values}.")
    return lines


def _intervals(runs: list[Run], reference: dict[str, float]) -> str:
    if not _settings_evaluated(runs):
        return ""
    return _section(
        "Score intervals",
        _plot(figures.score_intervals(runs, reference)),
        "Mean return of an episode (marker), its 95 % bootstrap interval (bar) and the mean of the "
        "middle half of the episodes, IQM (tick).",
    )


def _rollouts(runs: list[Run]) -> str:
    scenes = [scene(run) | {"index": i} for i, run in enumerate(runs) if run.rollout is not None]
    if not scenes:
        return ""
    boxes = "".join(_scene_box(i, made) for i, made in enumerate(scenes))
    # "<" can't end the script element this way, whatever a run is called.
    data = json.dumps(scenes, separators=(",", ":")).replace("<", "\\u003c")
    controls = (
        "<div class='controls'><button id='rollout-play' type='button'>Play</button>"
        "<input id='rollout-step' type='range' min='0' value='0' step='1' aria-label='step'>"
        "<output id='rollout-readout'></output></div>"
    )
    return _section(
        "A recorded episode",
        f"<div class='scenes'>{boxes}</div>{controls}"
        f"<script type='application/json' id='rollout-data'>{data}</script>"
        "<noscript>The animation needs JavaScript.</noscript>",
        "The thin square is where everything starts, from -1 to 1 each way.",
    )


def _scene_box(number: int, made: dict) -> str:
    name = escape(made["name"])
    return (
        f"<figure class='scene'><canvas id='scene-{number}' role='img' "
        f"aria-label='{name}: recorded episode'></canvas><figcaption>{_key(made['index'])}"
        f"<b>{name}</b> <span class='note'>{escape(made['caption'])}</span></figcaption></figure>"
    )


def _curves(runs: list[Run]) -> str:
    panels = [
        (key, title)
        for key, title in PANELS
        if any(len(figures.series(run, key)[0]) > 1 for run in runs)
    ]
    if not panels:
        return ""
    return _section(
        "Learning curves",
        _legend(runs) + _plot(figures.learning_curves(runs, panels)),
        "Long curves are drawn twice: faint as logged, and averaged over sixtieths of the run.",
    )


def _times(runs: list[Run]) -> str:
    timed = [run for run in runs if any(figures.stage_milliseconds(run).values())]
    if not timed:
        return ""
    legend = "".join(
        f"<span>{_swatch(index)}{stage}</span>" for index, stage in enumerate(figures.STAGES)
    )
    return _section(
        "Time of one update",
        f"<div class='legend'>{legend}</div>" + _plot(figures.stage_times(timed)),
        "Median over the run: drawing the batch, the critics, the policies, the target networks.",
    )


def _settings(runs: list[Run]) -> str:
    flat = [_flatten(run.config) for run in runs]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    differing = [key for key in keys if len({repr(settings.get(key)) for settings in flat}) > 1]
    parts = []
    if len(runs) > 1:
        if differing:
            parts.append(_settings_table(runs, flat, differing))
            note = "Where the runs' settings differ."
        else:
            note = "All settings of these runs are the same."
    else:
        note = ""
    everything = _settings_table(runs, flat, keys)
    parts.append(f"<details><summary>All {len(keys)} settings</summary>{everything}</details>")
    return _section("Settings", "".join(parts), note)


def _settings_table(runs: list[Run], flat: list[dict], keys: list[str]) -> str:
    head = "".join(
        f"<th scope='col'>{_key(i)}{escape(run.name)}</th>" for i, run in enumerate(runs)
    )
    rows = "".join(
        f"<tr><th scope='row' class='mono'>{escape(key)}</th>"
        + "".join(
            f"<td class='mono'>{escape(str(settings[key])) if key in settings else '&ndash;'}</td>"
            for settings in flat
        )
        + "</tr>"
        for key in keys
    )
    return (
        f"<div class='scroll'><table class='settings'><thead><tr><th scope='col'>Setting</th>{head}"
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _made(runs: list[Run]) -> str:
    items = dict(machine.describe())
    items["runs"] = ", ".join(str(run.path) for run in runs)
    items["data"] = ", ".join(
        dict.fromkeys(str((run.scores or {}).get("data") or run.config.get("data")) for run in runs)
    )
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in items.items())
    return _section("Where and when", f"<dl>{rows}</dl>", "The machine that wrote this report.")


def _settings_evaluated(runs: list[Run]) -> list[str]:
    found = {key for run in runs for key in run.results}
    return [key for key in SETTINGS if key in found] + sorted(found - set(SETTINGS))


def _legend(runs: list[Run]) -> str:
    keys = "".join(f"<span>{_key(i)}{escape(run.name)}</span>" for i, run in enumerate(runs))
    return f"<div class='legend'>{keys}</div>"


def _key(index: int) -> str:
    """The run's marker in its colour, as in the plots."""
    color = f"var(--s{index % 8})"
    shapes = {
        "o": "<circle cx='8' cy='8' r='5.5'/>",
        "s": "<rect x='3' y='3' width='10' height='10'/>",
        "D": "<path d='M8 1.5 14.5 8 8 14.5 1.5 8z'/>",
        "^": "<path d='M8 2 14.5 13.5h-13z'/>",
        "v": "<path d='M8 14 1.5 2.5h13z'/>",
        "P": "<path d='M6 2h4v4h4v4h-4v4H6v-4H2V6h4z'/>",
        "X": "<path d='m4 1.5 4 4 4-4L14.500 4l-4 4 4 4-2.500 2.500-4-4-4 4L1.500 12l4-4-4-4z'/>",
        "*": "<path d='m8 1 2 5h5l-4 3.500 1.500 5.500L8 12l-4.500 3L5 9.500 1 6h5z'/>",
    }
    shape = shapes[figures.style(index)[1]]
    return f"<svg class='key' viewBox='0 0 16 16' fill='{color}' aria-hidden='true'>{shape}</svg>"


def _swatch(index: int) -> str:
    return (
        f"<svg class='key' viewBox='0 0 16 16' fill='var(--s{index})' aria-hidden='true'>"
        f"<rect x='2' y='2' width='12' height='12' rx='2'/></svg>"
    )


def _number(value, digits: int = 1) -> str:
    if value is None:
        return "&ndash;"
    return f"{value:,.{digits}f}".replace("-", "&minus;")


def _interval(bounds) -> str:
    return f"{_number(bounds[0])} to {_number(bounds[1])}"


def _small(bounds) -> str:
    return f" <span class='note'>({_interval(bounds)})</span>" if bounds else ""


def _flatten(values: Mapping, prefix: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
