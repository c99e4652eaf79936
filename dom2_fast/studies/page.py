"""A study's page: one HTML file with its figures and tables inside, read without a network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources

from dom2_fast.ops import machine
from dom2_fast.runs.folder import setting_title
from dom2_fast.studies import figures
from dom2_fast.studies.spec import Study
from dom2_fast.studies.state import DONE, State
from dom2_fast.studies.tables import Scores, Table


def render(
    study: Study,
    states: Mapping[str, State],
    rows: Sequence[dict],
    tables: Sequence[Table],
    curves: figures.Curves,
) -> str:
    """The whole page as text; every text in it is escaped.

    Args:
        states: of the study's cells, by name.
        rows: as `results.Results.rows`. tables: made of them.
        curves: (task, kind, method) -> (step, score) of evaluations on the way, of all seeds.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["bold"] = _bold
    scores = Scores(study.cells, rows)
    drawn = [("All data sets", figures.over_sets(scores))]
    drawn += [
        (f"Scores by data set, {setting_title(s)}", figures.by_set(scores, s))
        for s in scores.settings
    ]
    drawn += [
        ("Shifted against standard", figures.shifted(scores)),
        ("Reweighting", figures.reweighting(scores)),
        ("Share of the data", figures.efficiency(scores)),
        ("Learning curves", figures.learning_curves(scores, curves)),
    ]
    page = environment.from_string(_text("dom2_fast.studies", "page.html.jinja")).render(
        name=study.name,
        css=Markup(_text("dom2_fast.report", "style.css")),
        done=sum(state.word == DONE for state in states.values()),
        cells=len(study.cells),
        figures=[(title, Markup(svg)) for title, svg in drawn if svg],
        tables=tables,
        missing=[(n, s.reason or s.word) for n, s in states.items() if s.word != DONE],
        made=dict(machine.describe())
        | {
            "runs made by": ", ".join(sorted({f"dom2-fast {row['version']}" for row in rows})),
            "commits": ", ".join(sorted({row["commit"] or "not noted" for row in rows})),
        },
    )
    return page.lstrip() + "\n"


def _text(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text("utf-8")


def _bold(text: str):
    """A table's text with its Markdown bold as HTML."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(text))))
