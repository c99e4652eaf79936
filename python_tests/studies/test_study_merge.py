"""Rows of another folder of the same study beside one's own."""

from __future__ import annotations

import csv

import pytest

from dom2_fast.errors import Dom2Error
from dom2_fast.studies import spec
from dom2_fast.studies.merge import merged, read_rows
from dom2_fast.studies.results import COLUMNS, write_rows

STUDY = """
name: two
steps: 7
evaluate: {episodes: 5}
grids:
  - tasks: simple_spread
    kinds: expert
    algos: [bc, {name: q, algo: dom2, eta: 2.0}]
    seeds: [1, 2]
"""


@pytest.fixture
def study(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    return spec.read(file)


def row(study, name, mean=1.0, **changed):
    cell = study.cell(name)
    settings = '{"eta": 2.0}' if cell.label == "q" else "{}"
    numbers = {"step": 7, "episodes": 5, "seed": cell.seed, "fraction": 1.0}
    scores = dict.fromkeys(("mean", "low", "high", "normalised", "train_seconds"), mean)
    empty = dict.fromkeys(("normalised_by_data", "data_mean", "cell_seconds", "commit"))
    words = {"cell": name, "task": cell.task, "kind": cell.kind, "label": cell.label}
    words |= {"algo": cell.algo, "reweight": "default", "settings": settings, "version": "0.1.0"}
    places = {"setting": "standard", "checkpoint": "last"}
    made = words | places | numbers | scores | empty | changed
    assert set(made) == set(COLUMNS)
    return made


def test_rows_come_back_as_they_were_written(study, tmp_path):
    rows = [row(study, cell.name, 0.1 + i) for i, cell in enumerate(study.cells)]
    write_rows(tmp_path / "rows.csv", rows)
    assert read_rows(tmp_path / "rows.csv", study) == rows


def test_own_cells_count_before_those_of_files_and_files_in_their_order(study, tmp_path):
    names = [cell.name for cell in study.cells]
    own = [row(study, names[1], 10.0)]
    write_rows(tmp_path / "a.csv", [row(study, names[2], 20.0), row(study, names[1], 21.0)])
    write_rows(tmp_path / "b.csv", [row(study, n, 30.0) for n in (names[2], names[0])])
    found = merged(own, study, [tmp_path / "a.csv", tmp_path / "b.csv"])
    assert [(r["cell"], r["mean"]) for r in found] == [
        (names[0], 30.0),
        (names[1], 10.0),
        (names[2], 20.0),
    ]


def test_a_setting_that_the_study_does_not_ask_for_is_left_out(study, tmp_path):
    name = study.cells[0].name
    rows = [row(study, name), row(study, name, setting="shift_speed")]
    write_rows(tmp_path / "rows.csv", rows)
    assert read_rows(tmp_path / "rows.csv", study) == rows[:1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"episodes": 6}, "episodes of .* is 6 there and 5 in the study"),
        ({"step": 8}, "step of .* is 8 there and 7 in the study"),
        ({"settings": '{"eta": 1.0}'}, "settings of"),
        ({"cell": "simple_tag-expert-bc-s1"}, "is no cell of the study two"),
        ({"mean": "much"}, "mean must be a number, not 'much'"),
    ],
)
def test_rows_of_something_else_are_refused(study, tmp_path, changed, message):
    write_rows(tmp_path / "rows.csv", [row(study, study.cells[0].name, **changed)])
    with pytest.raises(Dom2Error, match=f"line 2: .*{message}"):
        read_rows(tmp_path / "rows.csv", study)


def test_another_table_or_none_is_refused(study, tmp_path):
    file = tmp_path / "rows.csv"
    with pytest.raises(Dom2Error, match="can't be read"):
        read_rows(file, study)
    with open(file, "w", newline="") as out:
        csv.writer(out).writerow(["cell", "mean"])
    with pytest.raises(Dom2Error, match="its first line must be cell,task"):
        read_rows(file, study)
