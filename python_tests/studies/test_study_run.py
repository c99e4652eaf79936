"""Studies end to end, tiny: adoption of plain runs, what fails, full disks.

Cells are done in this process, one after the other, where processes aren't what is tested
(test_study_pool has these).
"""

import errno
import os

import pytest
from small_studies import CELL, TEXT, do_all, table

from dom2_fast import files
from dom2_fast.behaviours.collect import collect
from dom2_fast.cli import main as cli
from dom2_fast.errors import Dom2Error
from dom2_fast.studies import report, run, work
from dom2_fast.studies.folder import StudyFolder
from dom2_fast.studies.results import rows_of
from dom2_fast.studies.state import look

WIDE = CELL.replace("bc_det", "wide")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def here(monkeypatch):
    """The cells of `run_study` are done here instead of by processes."""

    def run_cells(home, cells, ended, jobs):
        study = home.study()
        for cell in cells:
            try:
                work.do(home, study, cell)
                ended(cell, None)
            except Exception:
                ended(cell, home.explain_failure(cell, "died"))
        return True

    monkeypatch.setattr(run.pool, "run_cells", run_cells)
    monkeypatch.setattr(report, "render", lambda *args: "")  # figures take seconds


def test_the_best_checkpoint_has_rows_of_its_own(file, tmp_path):
    file.write_text(TEXT.replace("save_every: 2", "save_every: 2, eval_every: 2, eval_episodes: 4"))
    home = StudyFolder(tmp_path / "out")
    study = home.adopt(file)
    do_all(home, study)
    cell = study.cells[0]
    rows = rows_of(home, study, cell, look(home, study, cell))
    assert [(row["setting"], row["checkpoint"]) for row in rows] == [
        (s, c) for s in ("standard", "shift_speed") for c in ("last", "best")
    ]
    assert {row["step"] for row in rows if row["checkpoint"] == "last"} == {6}


def test_a_shift_whose_option_is_a_list_is_found_in_the_scores(file, tmp_path):
    text = TEXT.replace("simple_spread", "spread_6_landmarks").replace("speed", "landmarks")
    file.write_text(text)
    home = StudyFolder(tmp_path / "out")
    study = home.adopt(file)
    do_all(home, study)
    assert {look(home, study, cell).word for cell in study.cells} == {"done"}


def test_plain_runs_in_the_layout_are_adopted(file, tmp_path, here):
    out = tmp_path / "out"
    data = out / "data" / "simple_spread" / "random" / "seed_1"
    collect("simple_spread", "random", 20, 1, data)
    train = f"train --algo bc_det --data {data} --out {out}/cells/{CELL} --seed 1 --steps 6"
    assert cli.main([*train.split(), "--quiet"]) == 0
    checkpoint = out / "cells" / CELL / "checkpoint.pt"
    before = checkpoint.read_bytes()
    run.run_study(file, out, progress=False)
    assert checkpoint.read_bytes() == before
    assert run.status(out)[1].counts["done"] == 2


def test_the_table_knows_the_data_of_cells_that_were_done_elsewhere(file, tmp_path, here):
    out = tmp_path / "out"
    run.run_study(file, out, progress=False)
    collect("simple_spread", "expert", 20, 1, out / "data" / "simple_spread" / "expert" / "seed_1")
    note = out / "data" / "simple_spread" / "random" / "seed_1.json"
    note.unlink()  # nobody else than a study's worker writes it
    run.run_study(file, out, progress=False)
    rows = table(out)
    constants = 159.8, 516.8  # docs/envs.md
    assert note.is_file() and len({row["data_mean"] for row in rows}) == 1
    for row in rows:
        by_data, score = float(row["normalised_by_data"]), float(row["normalised"])
        expert = work.read_about(out / "data" / "simple_spread" / "expert" / "seed_1")["mean"]
        share = (constants[1] - constants[0]) / (expert - constants[0])
        assert by_data == pytest.approx(score * share, rel=1e-12)
    note.unlink()
    report.write_report(out)
    assert table(out) == rows


def test_data_that_a_run_was_not_trained_on_is_not_in_its_rows(file, tmp_path, here):
    out = tmp_path / "out"
    run.run_study(file, out, progress=False)
    data = out / "data" / "simple_spread" / "random"
    about = work.read_about(data / "seed_1")
    (data / "seed_1.json").write_text(str(about | {"fingerprint": "0"}).replace("'", '"'))
    run.run_study(file, out, progress=False)
    assert {row["data_mean"] for row in table(out)} == {""}


def test_a_run_of_other_settings_is_refused_and_kept(file, tmp_path):
    out = tmp_path / "out"
    home = StudyFolder(out)
    study = home.adopt(file)
    do_all(home, study)
    before = (out / "cells" / CELL / "checkpoint.pt").read_bytes()
    file.write_text(TEXT.replace("algos: [bc_det,", "algos: [{algo: bc_det, hidden: 4},"))
    study = home.adopt(file)
    with pytest.raises(Dom2Error, match="other settings: hidden 64, not 4"):
        work.do(home, study, study.cell(CELL))
    assert (out / "cells" / CELL / "checkpoint.pt").read_bytes() == before
    found = run.status(out)[1]
    assert found.counts["done"] == 1 and "hidden 64, not 4" in found.failed[CELL]


def test_other_data_is_refused(file, tmp_path):
    out = tmp_path / "out"
    collect("simple_spread", "random", 12, 1, out / "data" / "simple_spread" / "random" / "seed_1")
    home = StudyFolder(out)
    study = home.adopt(file)
    with pytest.raises(Dom2Error, match="episodes 12, not 20"):
        work.do(home, study, study.cell(CELL))


def test_cells_that_fail_or_diverge_are_listed_and_the_others_end(file, tmp_path, here):
    algos = "algos: [bc_det, {name: away, algo: bc_det, lr: 1.0e30},"
    file.write_text(TEXT.replace("algos: [bc_det,", algos))
    out = tmp_path / "out"
    wrong = out / "cells" / CELL
    wrong.mkdir(parents=True)
    (wrong / "thesis.tex").touch()
    found, finished = run.run_study(file, out, progress=False)
    assert finished and (found.counts["done"], found.counts["failed"]) == (1, 2)
    assert "thesis.tex" in found.failed[CELL]
    assert "finite" in found.failed[CELL.replace("bc_det", "away")]
    assert {row["cell"] for row in table(out)} == {WIDE}
    (wrong / "thesis.tex").unlink()
    assert run.run_study(file, out, progress=False)[0].counts["done"] == 2


def test_a_reason_of_an_earlier_try_is_forgotten_when_a_cell_is_tried_again(
    file, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    home = StudyFolder(out)
    study = home.adopt(file)
    home.note_failure(study.cells[0], "an earlier one")
    monkeypatch.setattr(run.pool, "run_cells", lambda *args, **kwargs: False)
    found, finished = run.run_study(file, out, progress=False)
    assert not finished and found.failed == {} and found.counts["waiting"] == 2


@pytest.fixture
def full(monkeypatch):
    """full(*names): no space is left for files of these names; full() frees some."""
    names = ()
    sync = os.fsync

    def fsync(descriptor):
        if any(name in os.readlink(f"/proc/self/fd/{descriptor}") for name in names):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    def fill(*given):
        nonlocal names
        names = given

    monkeypatch.setattr(files.os, "fsync", fsync)
    return fill


def test_no_space_for_the_table_stops_no_cell(file, tmp_path, here, full, capsys):
    out = tmp_path / "out"
    home = StudyFolder(out)
    do = work.do
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "do", lambda *args: (full("results.csv"), do(*args))[1])
        with pytest.raises(Dom2Error, match=r"no space left while writing .*results\.csv"):
            run.run_study(file, out, progress=False)
    assert "warning: no space left" in capsys.readouterr().out
    study = home.study()
    assert [look(home, study, cell).word for cell in study.cells] == ["done", "done"]
    assert table(out) == []  # the file from before the first cell, whole
    full()
    run.run_study(file, out, progress=False)
    assert len(table(out)) == 4


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("name", ["checkpoint.pt", "scores.json"])
def test_no_space_for_a_cells_files_fails_that_cell(file, tmp_path, here, full, name, noted):
    out = tmp_path / "out"
    full(f"{CELL}/.{name}", *([] if noted else [".failed"]))
    found, _ = run.run_study(file, out, progress=False)
    assert found.counts["done"] == 1
    reason = found.failed[CELL]
    assert (f"{name}: " if noted else f"see {out}/logs") in reason
    assert ("no space left while writing" in reason) == noted
    assert list((out / "cells" / CELL).glob(".*.tmp")) == []
    full()
    assert run.run_study(file, out, progress=False)[0].counts["done"] == 2


def test_data_that_is_not_kept_goes_with_the_last_of_its_cells(file, tmp_path, here):
    file.write_text(TEXT.replace("{episodes: 20}", "{episodes: 20, keep: false}"))
    out = tmp_path / "out"
    data = out / "data" / "simple_spread" / "random"
    there = []
    ended = run._drop_data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            run,
            "_drop_data",
            lambda *args: (there.append((data / "seed_1").is_dir()), ended(*args)),
        )
        run.run_study(file, out, progress=False)
    assert there == [True, True] and not (data / "seed_1").exists()
    rows = table(out)
    assert all(float(row["data_mean"]) for row in rows)  # its note stays
    run.run_study(file, out, progress=False)
    assert table(out) == rows and not (data / "seed_1").exists()


def test_data_that_is_not_kept_stays_for_a_cell_that_failed(file, tmp_path, here):
    text = TEXT.replace("{episodes: 20}", "{episodes: 20, keep: false}")
    file.write_text(text.replace("hidden: 8", "hidden: 8, lr: 1.0e30"))
    out = tmp_path / "out"
    found, _ = run.run_study(file, out, progress=False)
    assert set(found.failed) == {WIDE}
    assert (out / "data" / "simple_spread" / "random" / "seed_1").is_dir()


def test_shares_of_the_data_are_cells_of_their_own(file, tmp_path, here):
    file.write_text(TEXT.replace("seeds: [1],", "seeds: [1], fractions: [0.25, 1],"))
    out = tmp_path / "out"
    found, _ = run.run_study(file, out, progress=False)
    assert found.counts["done"] == 4
    rows = [row for row in table(out) if row["setting"] == "standard"]
    assert [(row["label"], row["fraction"]) for row in rows] == [
        (label, share) for label in ("bc_det", "wide") for share in ("0.25", "1.0")
    ]
    assert len({row["mean"] for row in rows}) == 4
    assert len({row["data_mean"] for row in rows}) == 1  # of the whole set
    told = [(out / "cells" / row["cell"] / "config.yaml").read_text() for row in rows]
    assert ["fraction: 0.25" in text for text in told] == [True, False, True, False]
    header = report.write_report(out).joinpath("standard_by_set.csv").read_text().splitlines()[0]
    assert header == 'data,"bc_det, 25 %",bc_det,"wide, 25 %",wide'


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "missing.yaml", "--out", "o"], "no settings file missing.yaml"),
        (["run", "x.yaml", "--out", "o", "--jobs", "0"], "--jobs must be at least 1"),
        (["status", "nowhere"], "is no study's folder"),
        (["status", ".", "--job", "2"], "unknown option --job"),
        (["cell", "nowhere", "a"], "is no study's folder"),
    ],
)
def test_wrong_commands_are_one_line(file, tmp_path, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(tmp_path)
    file.rename("x.yaml")
    assert cli.main(["study", *argv]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "o").exists()
