"""A study's report: a page with figures, the tables as CSV and Markdown, these also in a page."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write
from dom2_fast.studies.folder import StudyFolder
from dom2_fast.studies.merge import merged
from dom2_fast.studies.page import render
from dom2_fast.studies.results import Results, curves_of, write_rows
from dom2_fast.studies.state import DONE, State, look
from dom2_fast.studies.tables import Table, tables
from dom2_fast.studies.work import note_data

MARKDOWN, PAGE, ROWS = "report.md", "report.html", "rows.csv"


def write_report(
    out: str | os.PathLike,
    page: str | os.PathLike | None = None,
    others: Sequence[str | os.PathLike] = (),
) -> Path:
    """Writes results.csv and report/ of the study in `out`; gives the report's folder.

    Args:
        others: `results.csv` of other folders of the study, which have cells that aren't done here.
        page: a Markdown file that has the lines `<!-- study NAME -->` and `<!-- /study NAME -->`,
            NAME being the study's: what is between them becomes the tables.
    Raises:
        Dom2Error: no study is there, no cell is done, a file of `others` isn't of this study, the
            page can't be read or lacks the markers (nothing is written then).
    """
    home = StudyFolder(out)
    study = home.study()
    note_data(home, study)
    states = {cell.name: look(home, study, cell) for cell in study.cells}
    results = Results(home, study, states)
    rows = merged(results.rows, study, others)
    curves = curves_of(home, [c for c in study.cells if states[c.name].word == DONE])
    states |= {row["cell"]: State(DONE) for row in rows}
    done = sum(state.word == DONE for state in states.values())
    if done == 0:
        raise Dom2Error(f"no cell of the study in {out} is done: run it first (study run)")
    found = tables(study.cells, rows)
    text = f"{done} of {len(study.cells)} cells are done.\n\n" + "\n".join(
        table.markdown() for table in found
    )
    new_page = None if page is None else _between(Path(page), study.name, text)
    html = render(study, states, rows, found, curves)
    results.write()
    home.report.mkdir(exist_ok=True)
    write_rows(home.report / ROWS, rows)
    for table in found:
        _write_csv(home.report / f"{table.slug}.csv", table)
    _write(home.report / MARKDOWN, f"# {study.name}\n\n{text}")
    _write(home.report / PAGE, html)
    if page is not None:
        _write(Path(page), new_page)
    return home.report


def _between(page: Path, name: str, text: str) -> str:
    first, last = f"<!-- study {name} -->", f"<!-- /study {name} -->"
    try:
        before = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Dom2Error(f"{page} can't be read ({error}): give a Markdown file") from error
    if (
        before.count(first) != 1
        or before.count(last) != 1
        or before.index(first) > before.index(last)
    ):
        raise Dom2Error(f"{page} must have the lines {first} and {last}, once and in this order")
    head, tail = before.split(first)[0], before.split(last)[1]
    return f"{head}{first}\n\n{text}\n{last}{tail}"


def _write(path: Path, text: str) -> None:
    with atomic_write(path, "w") as file:
        file.write(text)


def _write_csv(path: Path, table: Table) -> None:
    with atomic_write(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.header)
        writer.writerows(table.rows)
