"""A study's tables, from rows made by hand, and the report that holds them."""

from __future__ import annotations

import csv
import json
import re

import pytest

from dom2_fast.errors import Dom2Error
from dom2_fast.studies import figures, page, report
from dom2_fast.studies.cell import Cell
from dom2_fast.studies.results import curves_of
from dom2_fast.studies.state import State
from dom2_fast.studies.tables import Scores, by_set, drops, last_and_best, over_sets, tables

SETS = (("simple_spread", "expert"), ("simple_tag", "random"))
SCORES = {  # method, data set -> normalised scores of seeds 1 and 2
    ("dom2", SETS[0]): (100.0, 110.0),
    ("bc", SETS[0]): (90.0, 105.0),
    ("dom2", SETS[1]): (20.0, 30.0),
    ("bc", SETS[1]): (40.0, 50.0),
}
CELLS = [Cell(*s, m, m, seed=n) for s in SETS for m in ("dom2", "bc") for n in (1, 2)]


def rows(shifted: bool = True, best: bool = True, without=()) -> list[dict]:
    made = []
    for (method, (task, kind)), scores in SCORES.items():
        for seed, score in enumerate(scores, 1):
            if (method, kind, seed) in without:
                continue
            places = [("standard", "last", score)]
            places += [("shift_speed", "last", score - 10)] if shifted else []
            places += [("standard", "best", score + 1)] if best else []
            for setting, checkpoint, value in places:
                made.append(
                    {
                        "cell": f"{task}-{kind}-{method}-s{seed}",
                        "task": task,
                        "kind": kind,
                        "label": method,
                        "reweight": "default",
                        "fraction": 1.0,
                        "seed": seed,
                        "setting": setting,
                        "checkpoint": checkpoint,
                        "mean": 3 * value,
                        "normalised": value,
                        "train_seconds": 10.0 * seed,
                    }
                )
    return made


def test_scores_by_set_are_means_over_seeds_and_the_best_is_bold():
    table = by_set(Scores(CELLS, rows()), "standard")
    assert table.header == ["data", "dom2", "bc"]
    assert table.rows == [
        ["simple_spread expert", "**105.0 ± 7.1** (2)", "97.5 ± 10.6 (2)"],
        ["simple_tag random", "25.0 ± 7.1 (2)", "**45.0 ± 7.1** (2)"],
    ]


def test_a_cell_that_is_not_done_is_shown_and_its_set_is_not_counted():
    gone = {("bc", "random", 1), ("bc", "random", 2)}
    scores = Scores(CELLS, rows(without=gone))
    assert by_set(scores, "standard").rows[1] == ["simple_tag random", "**25.0 ± 7.1** (2)", "-"]
    table = over_sets(scores, "standard")
    assert "1 of 2 data sets" in table.note
    assert [row[4] for row in table.rows] == ["1 of 1", "0 of 1"]


def test_methods_over_all_sets():
    table = over_sets(Scores(CELLS, rows()), "standard")
    dom2, bc = table.rows
    # Runs 20, 30, 100, 110: a quarter off at both ends leaves 30 and 100; of bc 50 and 90.
    assert dom2[:2] == ["dom2", "65.0"] and bc[:2] == ["bc", "70.0"]
    assert (dom2[3], bc[3]) == ("65.0", "71.2")
    assert (dom2[4], bc[4]) == ("1 of 2", "1 of 2")
    assert (dom2[5], bc[5]) == ("-", "0.38")  # (3 of 4 + 0 of 4) / 2
    low, high = map(float, dom2[2].split(" to "))
    assert low < 65 < high


def test_one_seed_has_no_interval():
    one = {(m, k, 2) for m in ("dom2", "bc") for k in ("expert", "random")}
    table = over_sets(Scores(CELLS, rows(without=one)), "standard")
    assert [row[2] for row in table.rows] == ["-", "-"]


def test_what_a_shift_costs_and_last_against_best():
    scores = Scores(CELLS, rows())
    assert drops(scores).rows == [["dom2", "10.0"], ["bc", "10.0"]]
    assert last_and_best(scores).rows == [["dom2", "65.0", "66.0"], ["bc", "71.2", "72.2"]]


def test_only_tables_that_the_rows_have_something_for():
    assert [t.slug for t in tables(CELLS, rows(shifted=False, best=False))] == [
        "standard_by_set",
        "standard_over_sets",
        "seconds",
    ]
    assert tables(CELLS, []) == []


class _Home:
    def __init__(self, path):
        self.path, self.report = path, path / "report"

    def data(self, cell):
        return self.path / "data"

    def run(self, cell):
        return self.path / cell.name


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study whose rows are those above, without any run."""

    class Study:
        name, cells = "particle", CELLS

    class Found:
        def __init__(self, home, study, states):
            self.rows = [row | {"version": "0.1.0", "commit": None} for row in rows()]
            self.write = lambda: None

    class Done:
        word, reason = report.DONE, ""

    monkeypatch.setattr(report, "StudyFolder", lambda out: _Home(tmp_path))
    monkeypatch.setattr(_Home, "study", lambda self: Study, raising=False)
    monkeypatch.setattr(report, "look", lambda home, study, cell: Done)
    monkeypatch.setattr(report, "Results", Found)
    return tmp_path


def test_a_report_has_every_table_as_csv_and_all_as_markdown(study):
    folder = report.write_report(study)
    text = (folder / "report.md").read_text()
    assert "8 of 8 cells are done" in text and "| dom2 | 65.0 |" in text
    with open(folder / "standard_by_set.csv", newline="") as file:
        assert list(csv.reader(file))[2] == [
            "simple_tag random",
            "25.0 ± 7.1 (2)",
            "**45.0 ± 7.1** (2)",
        ]


def test_a_page_gets_the_tables_between_its_markers(study):
    target = study / "page.md"
    target.write_text("before\n<!-- study particle -->\nold\n<!-- /study particle -->\nafter\n")
    for _ in range(2):  # the second time changes nothing
        report.write_report(study, target)
        text = target.read_text()
        assert text.startswith("before\n<!-- study particle -->\n")
        assert text.endswith("<!-- /study particle -->\nafter\n")
        assert "old" not in text and text.count("What a shift costs") == 1


@pytest.mark.parametrize(
    "text", ["none", "<!-- /study particle --> <!-- study particle -->", "<!-- study particle -->"]
)
def test_a_page_without_markers_is_refused_before_anything_is_written(study, text):
    target = study / "page.md"
    target.write_text(text)
    with pytest.raises(Dom2Error, match="must have the lines"):
        report.write_report(study, target)
    assert target.read_text() == text and not (study / "report").exists()


def test_a_study_without_a_done_cell_has_no_report(study, monkeypatch):
    monkeypatch.setattr(report, "look", lambda *_: type("S", (), {"word": "waiting"}))
    monkeypatch.setattr(report, "Results", lambda *_: type("R", (), {"rows": []}))
    with pytest.raises(Dom2Error, match="no cell"):
        report.write_report(study)


def test_the_page_is_one_file_with_figures_tables_and_what_is_missing():
    states = {cell.name: State("done") for cell in CELLS}
    states[CELLS[0].name] = State("failed", "no <space> left")
    study = type("S", (), {"name": "a & b", "cells": CELLS})
    made = [row | {"version": "0.1.0", "commit": None} for row in rows()]
    curves = {(*SETS[0], CELLS[0].method): [(1, 3.0), (2, 4.0), (1, 5.0)]}
    text = page.render(study, states, made, tables(CELLS, made), curves)
    # All sets, both settings by set, shifted against standard, curves; no share of the data.
    assert text.count("<svg") == 5 and "Shifted against standard" in text
    assert "a &amp; b" in text and "no &lt;space&gt; left" in text and "7 of 8 cells" in text
    assert "<b>105.0 ± 7.1</b> (2)" in text
    assert not re.search(r"(src|href)=|url\(", re.sub(r'href="#|url\(#', "", text))


def test_shares_of_the_data_are_drawn_where_there_are_several():
    cells = [Cell("simple_spread", "expert", "bc", "bc", fraction=f, seed=1) for f in (0.1, 1.0)]
    one = rows()[0] | {"label": "bc"}
    made = [one | {"fraction": f, "normalised": 10 * f} for f in (0.1, 1.0)]
    svg = figures.efficiency(Scores(cells, made))
    assert "% of the trajectories" in svg and "simple_spread expert" in svg
    assert figures.efficiency(Scores(CELLS, rows())) == ""


@pytest.fixture
def seen(monkeypatch):
    """The figures that have been drawn."""
    found, plain = [], figures.drawing.svg

    def svg(figure, title):
        found.append(figure)
        return plain(figure, title)

    monkeypatch.setattr(figures.drawing, "svg", svg)
    return found


def test_a_shift_is_drawn_over_the_standard_score(seen):
    text = figures.shifted(Scores(CELLS, rows()))
    assert "standard score" in text and "speed" in text
    (ax,) = seen[0].axes
    dom2, bc, diagonal = ax.lines
    assert sorted(zip(*dom2.get_data(), strict=True)) == [(25.0, 15.0), (105.0, 95.0)]
    assert sorted(zip(*bc.get_data(), strict=True)) == [(45.0, 35.0), (97.5, 87.5)]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [15.0, 105.0]
    assert figures.shifted(Scores(CELLS, rows(shifted=False))) == ""


def test_reweighting_is_drawn_as_the_difference_to_none(seen):
    # What both leave out is their own: DOM2's is tuned, BC's the preset.
    cells, made = [], []
    for label, reweight, scores in (
        ("dom2", None, (30.0, 40.0)),
        ("dom2", "uniform", (10.0, 20.0)),
        ("bc", "uniform", (5.0, 5.0)),
        ("bc", None, (1.0, 2.0)),
    ):
        for seed, score in enumerate(scores, 1):
            cells.append(Cell("simple_spread", "expert", label, label, {}, reweight, seed=seed))
            found = {"label": label, "reweight": reweight or "default", "normalised": score}
            made.append(rows()[0] | found | {"seed": seed})
    scores = Scores(cells, made)
    assert list(scores.weights.values()) == ["tuned", "uniform", "uniform", "preset"]
    text = figures.reweighting(scores)
    assert "dom2, tuned" in text and "bc, preset" in text
    (ax,) = seen[0].axes
    ends, mean, bc_ends, bc_mean, _ = ax.lines
    assert mean.get_xdata()[0] == 20.0 and bc_mean.get_xdata()[0] == -3.5
    low, high = ends.get_xdata()
    assert low == 10.0 and high == 30.0  # of resamples of two seeds each
    assert list(bc_ends.get_xdata()) == [-4.0, -3.0]
    assert figures.reweighting(Scores(CELLS, rows())) == ""


def test_the_interval_of_a_mean():
    assert figures.mean_interval([3.0]) == (3.0, 3.0, 3.0)
    mean, low, high = figures.mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and 1.0 <= low < 2.0 < high <= 3.0


def test_curves_are_of_the_evaluations_on_the_way(tmp_path):
    home = _Home(tmp_path)
    for cell, add in zip(CELLS[:2], (0, 10), strict=True):
        home.run(cell).mkdir()
        lines = [{"step": 1, "rate": 5.0}, {"step": 1, "eval/return": 7 + add}]
        lines += [{"step": 2, "eval/return": 9, "eval/normalised": 1 + add}]
        (home.run(cell) / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    place = ("simple_spread", "expert", CELLS[0].method)
    assert curves_of(home, CELLS) == {place: [(1, 7), (2, 1), (1, 17), (2, 11)]}


def test_tables_say_where_scores_are_raw():
    assert "Normalised; mean" in by_set(Scores(CELLS, rows()), "standard").note
    raw = [row | {"normalised": None} for row in rows()]
    assert "Raw; mean" in by_set(Scores(CELLS, raw), "standard").note
    assert "Raw points below" in drops(Scores(CELLS, raw)).note
    mixed = [*rows(), *raw]
    assert "Normalised or raw; mean" in by_set(Scores(CELLS, mixed), "standard").note
