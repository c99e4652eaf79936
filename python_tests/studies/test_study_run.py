"""Studies end to end, tiny: workers, failures, adoption of plain runs, kill -9."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest

from dom2_fast.behaviours.collect import collect
from dom2_fast.cli import main as cli
from dom2_fast.errors import Dom2Error
from dom2_fast.studies import run, work
from dom2_fast.studies.folder import StudyFolder
from dom2_fast.studies.results import TIMES, Results, rows_of
from dom2_fast.studies.state import look

TEXT = """
name: tiny
data: {episodes: 20}
steps: 6
run: {log_every: 2, save_every: 2}
evaluate: {episodes: 4, settings: [standard, {shift: speed}]}
grids:
  - {tasks: simple_spread, kinds: random, seeds: [1], algos: [bc_det, {name: wide, algo: bc_det,
     hidden: 8}]}
"""
CELL = "simple_spread-random-bc_det-s1"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return path


def table(out):
    with (out / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def do_all(home, study):
    for cell in study.cells:
        assert work.do(home, study, cell)


def test_the_command_does_all_cells_and_a_second_time_nothing(file, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["study", "run", str(file), "--out", str(out), "--jobs", "2", "--quiet"]
    assert cli.main(argv) == 0
    assert "2 done, 0 running, 0 waiting, 0 failed" in capsys.readouterr().out
    rows = table(out)
    assert [(row["label"], row["setting"]) for row in rows] == [
        (label, setting) for label in ("bc_det", "wide") for setting in ("standard", "shift_speed")
    ]
    assert all(float(row["low"]) <= float(row["mean"]) <= float(row["high"]) for row in rows)
    before = (out / "cells" / CELL / "checkpoint.pt").stat().st_mtime_ns
    assert cli.main(argv) == 0
    assert (out / "cells" / CELL / "checkpoint.pt").stat().st_mtime_ns == before
    assert table(out) == rows


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


def test_plain_runs_in_the_layout_are_adopted(file, tmp_path):
    out = tmp_path / "out"
    data = out / "data" / "simple_spread" / "random" / "seed_1"
    collect("simple_spread", "random", 20, 1, data)
    train = f"train --algo bc_det --data {data} --out {out}/cells/{CELL} --seed 1 --steps 6"
    assert cli.main([*train.split(), "--quiet"]) == 0
    checkpoint = out / "cells" / CELL / "checkpoint.pt"
    before = checkpoint.read_bytes()
    home = StudyFolder(out)
    do_all(home, home.adopt(file))
    assert checkpoint.read_bytes() == before
    assert run.status(out)[1].counts["done"] == 2


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


def test_a_cell_that_fails_does_not_stop_the_others(file, tmp_path):
    out = tmp_path / "out"
    wrong = out / "cells" / CELL
    wrong.mkdir(parents=True)
    (wrong / "thesis.tex").touch()
    found, finished = run.run_study(file, out, jobs=1, progress=False)
    assert finished and found.counts["done"] == 1
    assert "thesis.tex" in found.failed[CELL]


def test_a_worker_killed_with_its_cell_half_done_changes_nothing(file, tmp_path):
    text = TEXT.replace("steps: 6", "steps: 1200").replace("save_every: 2", "save_every: 50")
    file.write_text(text)
    tables = []
    for kills, out in ((0, tmp_path / "calm"), (2, tmp_path / "killed")):
        home = StudyFolder(out)
        study = home.adopt(file)
        command = [sys.executable, "-m", "dom2_fast.cli.main", "study", "cell", str(out), CELL]
        for _ in range(kills):
            worker = subprocess.Popen([*command, "--threads", "1"])
            metrics = out / "cells" / CELL / "metrics.jsonl"
            size = metrics.stat().st_size if metrics.exists() else 0
            while not metrics.exists() or metrics.stat().st_size <= size + 200:
                time.sleep(0.02)
                assert worker.poll() is None
            assert home.is_locked(CELL)
            worker.kill()
            worker.wait()
            assert not home.is_locked(CELL)
        do_all(home, study)
        states = {cell.name: look(home, study, cell) for cell in study.cells}
        Results(home, study, states).write()
        tables.append(table(out))
    assert tables[0] == tables[1]


def test_a_worker_stops_with_its_pool(file, tmp_path):
    file.write_text(TEXT.replace("steps: 6", "steps: 1000000"))
    home = StudyFolder(tmp_path / "out")
    home.adopt(file)
    command = [sys.executable, "-m", "dom2_fast.cli.main", "study", "cell", str(home.path), CELL]
    worker = subprocess.Popen([*command, "--until-input-ends"], stdin=subprocess.PIPE)
    checkpoint = home.path / "cells" / CELL / "metrics.jsonl"
    while not checkpoint.exists() or not checkpoint.stat().st_size:
        time.sleep(0.02)
        assert worker.poll() is None
    worker.stdin.close()
    assert worker.wait(timeout=60) == 130


def test_a_second_run_of_the_same_folder_is_refused(file, tmp_path):
    home = StudyFolder(tmp_path / "out")
    home.adopt(file)
    code = (
        "import sys\nfrom dom2_fast.studies.folder import StudyFolder\n"
        "with StudyFolder(sys.argv[1]).locked('study'): print('held', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(home.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(Dom2Error, match="another process runs the study"):
        run.run_study(file, home.path, progress=False)
    os.kill(other.pid, signal.SIGKILL)
    other.wait()


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
def test_wrong_commands_are_one_line(tmp_path, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", *argv]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "o").exists()
