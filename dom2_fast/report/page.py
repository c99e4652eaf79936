"""Puts the report together: one HTML file with everything inside, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write
from dom2_fast.ops import machine
from dom2_fast.report import figures
from dom2_fast.report.load import Run, load_runs
from dom2_fast.report.panels import panels
from dom2_fast.report.scene import playable, scene
from dom2_fast.runs.folder import setting_title, settings_in_order

# Tells a report that may be replaced from a file of the user's.
_GENERATOR = "<meta name='generator' content='dom2-fast'>"

# The plots' markers, as shapes in a square of 16.
_SHAPES = {
    "o": "<circle cx='8' cy='8' r='5.5'/>",
    "s": "<rect x='3' y='3' width='10' height='10'/>",
    "D": "<path d='M8 1.5 14.5 8 8 14.5 1.5 8z'/>",
    "^": "<path d='M8 2 14.5 13.5h-13z'/>",
    "v": "<path d='M8 14 1.5 2.5h13z'/>",
    "P": "<path d='M6 2h4v4h4v4h-4v4H6v-4H2V6h4z'/>",
    "X": "<path d='m4 1.5 4 4 4-4L14.5 4l-4 4 4 4-2.5 2.5-4-4-4 4L1.5 12l4-4-4-4z'/>",
    "*": "<path d='m8 1 2 5h5l-4 3.5 1.5 5.5L8 12l-4.5 3L5 9.5 1 6h5z'/>",
}


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
    from markupsafe import Markup

    tasks = sorted({run.env for run in runs})
    scores = _scores(runs)
    curves = panels(runs)
    timed = [run for run in runs if any(figures.stage_milliseconds(run).values())]
    page = _template().render(
        generator=Markup(_GENERATOR),
        css=Markup(_text("style.css")),
        script=Markup(_text("rollout.js")),
        title=title,
        about=f"{len(runs)} run{'s' * (len(runs) != 1)} on {', '.join(tasks)}",
        note=note,
        runs=runs,
        scores=scores,
        verdicts=_verdicts(scores, reference),
        intervals=Markup(figures.score_intervals(runs, reference)) if scores else "",
        scenes=_scenes(runs),
        curves=Markup(figures.learning_curves(runs, curves)) if curves else "",
        times=Markup(figures.stage_times(timed)) if timed else "",
        stages=figures.stages(timed),
        settings=_settings(runs),
        made=_made(runs),
    )
    return page.lstrip() + "\n"


def _template():
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters["number"] = _number
    environment.globals["marker"] = lambda index: Markup(_SHAPES[figures.style(index)[1]])
    return environment.from_string(_text("page.html.jinja"))


def _text(name: str) -> str:
    return resources.files("dom2_fast.report").joinpath(name).read_text("utf-8")


def _number(value, digits: int = 1) -> str:
    return "\N{EN DASH}" if value is None else f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _scores(runs: list[Run]) -> list[dict]:
    """For each setting that was evaluated its title, and a row for each run."""
    groups = []
    for setting in settings_in_order(key for run in runs for key in run.results):
        having = [(index, run) for index, run in enumerate(runs) if setting in run.results]
        best = max(run.results[setting]["mean"] for _, run in having)
        optional = dict.fromkeys(("iqm", "normalised", "normalised_ci95", "episodes"))
        rows = [
            {
                "index": index,
                "name": run.name,
                "step": run.results[setting].get("step", (run.scores or {}).get("step")),
                "result": optional | run.results[setting],
                "best": len(having) > 1 and run.results[setting]["mean"] == best,
            }
            for index, run in having
        ]
        groups.append({"title": setting_title(setting), "rows": rows})
    return groups


def _verdicts(scores: list[dict], reference: dict[str, float]) -> list[str]:
    """One sentence for each setting: the best run, and whether its interval stands apart."""
    lines = []
    for group in scores:
        ranked = sorted(group["rows"], key=lambda row: -row["result"]["mean"])
        if len(ranked) < 2:
            continue
        first, second = ranked[:2]
        apart = first["result"]["ci95"][0] > second["result"]["ci95"][1]
        lines.append(
            f"{group['title'].capitalize()}: {first['name']} has the highest mean, "
            f"{first['result']['mean']:.1f}; its 95 % interval "
            f"{'lies above that' if apart else 'overlaps the one'} of {second['name']} "
            f"({second['result']['mean']:.1f})."
        )
    if reference:
        values = ", ".join(f"{name} {value:.1f}" for name, value in reference.items())
        lines.append(f"For comparison: {values}.")
    return lines


def _scenes(runs: list[Run]) -> list[dict]:
    scenes = [scene(run) | {"index": i} for i, run in enumerate(runs) if playable(run)]
    reach = max((made["reach"] for made in scenes), default=0)
    return [made | {"reach": reach} for made in scenes]  # one scale, so that the pictures compare


def _settings(runs: list[Run]) -> dict:
    """Every run's settings with dotted names, all the names, and those in which runs differ."""
    of_runs = [_flat(run.config) for run in runs]
    names = list(dict.fromkeys(name for own in of_runs for name in own))
    differing = [name for name in names if len({repr(own.get(name)) for own in of_runs}) > 1]
    note = ""
    if len(runs) > 1:
        note = "Where the runs' settings differ."
        if not differing:
            note = "All settings of these runs are the same."
    return {"of_runs": of_runs, "all": names, "differing": differing, "note": note}


def _flat(values: Mapping, prefix: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _made(runs: list[Run]) -> dict[str, str]:
    data = [str((run.scores or {}).get("data") or run.config.get("data")) for run in runs]
    return dict(machine.describe()) | {
        "runs": ", ".join(str(run.path) for run in runs),
        "data": ", ".join(dict.fromkeys(data)),
    }
