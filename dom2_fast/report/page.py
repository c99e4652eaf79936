"""Puts the report together: one HTML file with everything inside, every text escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path

from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write
from dom2_fast.ops import machine
from dom2_fast.report import figures, pieces
from dom2_fast.report.load import Run, load_runs
from dom2_fast.report.scene import playable, scene
from dom2_fast.runs.folder import setting_title, settings_in_order

# Tells a report that may be replaced from a file of the user's.
_GENERATOR = "<meta name='generator' content='dom2-fast'>"

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
            there already is replaced; any other file is not.
        reference: returns to draw as lines beside the scores, such as {"dataset mean": 273.4}.
        note: a sentence under the title.
    Returns:
        The file's path.
    Raises:
        Dom2Error: no run given, or one that can't be read (see `load_runs`); the file that is
            there is no report.
    """
    if not runs:
        raise Dom2Error("no run given: name one or more folders that `dom2-fast train` made")
    loaded = load_runs(list(runs))
    out = Path(out)
    path = out if out.suffix == ".html" else out / "report.html"
    if path.is_file() and _GENERATOR not in path.read_text("utf-8", errors="replace")[:1000]:
        raise Dom2Error(f"{path} is there and no report of dom2-fast: choose another name")
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
        f"{_GENERATOR}\n<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>\n{here.joinpath('style.css').read_text('utf-8')}"
        f"</style>\n</head>\n<body>\n<header><h1>{escape(title)}</h1>"
        f"<p class='note'>{escape(about)}. {escape(note)}</p></header>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n<footer>Made by <code>dom2-fast report</code>.</footer>\n"
        f"<script>\n{here.joinpath('rollout.js').read_text('utf-8')}</script>\n</body>\n</html>\n"
    )


def _summary(runs: list[Run], reference: dict[str, float]) -> str:
    settings = _settings_evaluated(runs)
    if not settings:
        return pieces.section(
            "Scores", "", "None of these runs has been evaluated: `dom2-fast evaluate RUN` does it."
        )
    rows = []
    for setting in settings:
        rows.append(
            f"<tr class='group'><th colspan='7' scope='rowgroup'>"
            f"{escape(setting_title(setting).capitalize())}</th></tr>"
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
                pieces.interval(result["ci95"]),
                pieces.number(result.get("iqm")),
                pieces.number(result.get("normalised"))
                + pieces.small(result.get("normalised_ci95")),
                pieces.number(result.get("episodes"), 0),
                pieces.number((run.scores or {}).get("step"), 0),
            ]
            rows.append(
                f"<tr{mark}><td>{pieces.key(index)}{escape(run.name)}</td>"
                f"<td class='number'>{pieces.number(result['mean'])}</td>"
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
    return pieces.section("Scores", verdicts + table)


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
            f"{setting_title(setting).capitalize()}: {first.name} has the highest mean, "
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
    return pieces.section(
        "Score intervals",
        pieces.plot(figures.score_intervals(runs, reference)),
        "Mean return of an episode (marker), its 95 % bootstrap interval (bar) and the mean of the "
        "middle half of the episodes, IQM (tick).",
    )


def _rollouts(runs: list[Run]) -> str:
    scenes = [scene(run) | {"index": i} for i, run in enumerate(runs) if playable(run)]
    if not scenes:
        return ""
    reach = max(made["reach"] for made in scenes)  # one scale, so that the pictures compare
    scenes = [made | {"reach": reach} for made in scenes]
    boxes = "".join(_scene_box(i, made) for i, made in enumerate(scenes))
    # "<" can't end the script element this way, whatever a run is called.
    data = json.dumps(scenes, separators=(",", ":")).replace("<", "\\u003c")
    controls = (
        "<div class='controls'><button id='rollout-play' type='button'>Play</button>"
        "<input id='rollout-step' type='range' min='0' value='0' step='1' aria-label='step'>"
        "<output id='rollout-readout'></output></div>"
    )
    return pieces.section(
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
        f"aria-label='{name}: recorded episode'></canvas><figcaption>{pieces.key(made['index'])}"
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
    return pieces.section(
        "Learning curves",
        _legend(runs) + pieces.plot(figures.learning_curves(runs, panels)),
        "Long curves are drawn twice: faint as logged, and averaged over sixtieths of the run.",
    )


def _times(runs: list[Run]) -> str:
    timed = [run for run in runs if any(figures.stage_milliseconds(run).values())]
    if not timed:
        return ""
    legend = "".join(
        f"<span>{pieces.swatch(index)}{stage}</span>"
        for index, stage in enumerate(figures.stages(timed))
    )
    return pieces.section(
        "Time of one update",
        f"<div class='legend'>{legend}</div>" + pieces.plot(figures.stage_times(timed)),
        "Median over the run, by the stages that its algorithm tells apart.",
    )


def _settings(runs: list[Run]) -> str:
    flat = [pieces.flatten(run.config) for run in runs]
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
    return pieces.section("Settings", "".join(parts), note)


def _settings_table(runs: list[Run], flat: list[dict], keys: list[str]) -> str:
    head = "".join(
        f"<th scope='col'>{pieces.key(i)}{escape(run.name)}</th>" for i, run in enumerate(runs)
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
    return pieces.section(
        "Where and when", f"<dl>{rows}</dl>", "The machine that wrote this report."
    )


def _settings_evaluated(runs: list[Run]) -> list[str]:
    return settings_in_order(key for run in runs for key in run.results)


def _legend(runs: list[Run]) -> str:
    keys = "".join(f"<span>{pieces.key(i)}{escape(run.name)}</span>" for i, run in enumerate(runs))
    return f"<div class='legend'>{keys}</div>"
