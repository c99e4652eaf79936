"""Workers of a study as processes: how they end, Ctrl-C, kill -9, two studies in one folder."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
from small_studies import (
    CELL,
    TEXT,
    do_all,
    holders,
    progress,
    start,
    table,
    undisturbed,
    wait_for,
)

from dom2_fast.cli import main as cli
from dom2_fast.errors import Dom2Error
from dom2_fast.studies import pool, run
from dom2_fast.studies.folder import StudyFolder


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return path


def test_the_command_does_all_cells_and_a_second_time_nothing(file, tmp_path, capsys):
    file.write_text(TEXT[: TEXT.index(", {name")] + "]}")
    out = tmp_path / "out"
    argv = ["study", "run", str(file), "--out", str(out), "--jobs", "2", "--quiet"]
    assert cli.main(argv) == 0
    assert "1 done, 0 running, 0 waiting, 0 failed" in capsys.readouterr().out
    rows = table(out)
    assert [row["setting"] for row in rows] == ["standard", "shift_speed"]
    assert all(float(row["low"]) <= float(row["mean"]) <= float(row["high"]) for row in rows)
    before = (out / "cells" / CELL / "checkpoint.pt").stat().st_mtime_ns
    assert cli.main(argv) == 0
    assert (out / "cells" / CELL / "checkpoint.pt").stat().st_mtime_ns == before
    assert table(out) == rows


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ([0], None),
        ([-9, 0], None),
        ([-9, -9, -9], "its worker died by signal 9, 3 times: see"),
        ([1], "its worker died with exit code 1: see"),
    ],
)
def test_a_worker_that_a_signal_ends_is_tried_three_times(file, tmp_path, monkeypatch, codes, said):
    home = StudyFolder(tmp_path / "out")
    cells = home.adopt(file).cells
    left = {cell.name: iter(codes if cell.name == CELL else [0]) for cell in cells}

    def begin(home, cell):
        code = next(left[cell.name])
        end = f"os._exit({code})" if code >= 0 else f"os.kill(os.getpid(), {-code})"
        return subprocess.Popen([sys.executable, "-I", "-S", "-c", f"import os; {end}"])

    monkeypatch.setattr(pool, "_start", begin)
    told = {}
    assert pool.run_cells(home, cells, 2, lambda cell, why: told.update({cell.name: why}))
    assert len(told) == 2 and told.pop(CELL.replace("bc_det", "wide")) is None
    why = told[CELL]
    assert (why or "").startswith(said or "") and (why is None) == (said is None)
    assert home.failure(cells[0]) == why and list(left[CELL]) == []


def test_what_stops_or_kills_a_cell_half_way_changes_nothing(file, tmp_path):
    file.write_text(
        TEXT.replace("steps: 6", "steps: 800").replace(
            "log_every: 2, save_every: 2", "log_every: 10, save_every: 100"
        )
    )
    out = tmp_path / "out"
    expected = undisturbed(tmp_path / "calm", file)

    def interrupt():
        while not progress(out):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    # Ctrl-C: the study in this process, its worker in another.
    assert threading.current_thread() is threading.main_thread()  # gets the signal
    threading.Thread(target=interrupt, daemon=True).start()
    found, finished = run.run_study(file, out, jobs=1, progress=False)
    assert not finished and found.failed == {} and found.counts["waiting"] == 2
    assert holders(out) == [] and (out / "cells" / CELL / "checkpoint.pt").is_file()
    assert table(out) == []

    home = StudyFolder(out)
    size = progress(out)
    worker = start("cell", out, CELL, "--threads", "1")
    wait_for(lambda: progress(out) > size + 200, worker)
    assert home.is_locked(CELL)
    worker.kill()
    worker.wait()
    assert not home.is_locked(CELL)

    # Its input ends when the study's process does, however that ends.
    size = progress(out)
    worker = start("cell", out, CELL, "--threads", "1", "--until-input-ends")
    wait_for(lambda: progress(out) > size + 200, worker)
    worker.stdin.close()
    assert worker.wait(timeout=60) == 130

    do_all(home, home.study())
    assert table(out) == expected


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(file, tmp_path):
    """docs/studies.md has the command that prints where the kills hit."""
    text = TEXT.replace("steps: 6", "steps: 1000").replace("seeds: [1]", "seeds: [1, 2, 3, 4]")
    file.write_text(text.replace("log_every: 2, save_every: 2", "log_every: 10, save_every: 50"))
    out = tmp_path / "out"
    expected = undisturbed(tmp_path / "calm", file)
    home, moments, hit = StudyFolder(out), random.Random(0), []
    whole = sum(progress(tmp_path / "calm", cell.name) for cell in home.check(file).cells)
    for kill in range(20):
        study = start("run", file, "--out", out, "--jobs", "2", "--quiet")
        # One of four hits a study that starts; the others one that has done a random part of its
        # work, of the twentieth that is this kill's.
        if kill % 4 == 0:
            time.sleep(moments.uniform(0, 4))
        else:
            part = whole * (kill - moments.random()) / 20
            wait_for(lambda part=part: sum(map(partial(progress, out), names(home))) >= part, study)
        assert study.poll() is None, study.stdout.read()
        workers = [pid for name in names(home) for pid in holders(out, name)]
        study.kill()
        study.wait()
        for pid in workers if kill % 2 else ():  # others stop when their input ends
            os.kill(pid, signal.SIGKILL)
        done = run.status(out)[1].counts["done"] if names(home) else 0
        how = "study and workers" if kill % 2 else "study"
        hit.append(f"{how} killed, {done} cells done, {len(workers)} at work")
    found, finished = run.run_study(file, out, jobs=2, progress=False)
    print("", *hit, sep="\n")
    assert finished and found.counts["done"] == 8
    assert table(out) == expected and len(expected) == 16
    assert [path for path in out.rglob(".*.tmp")] == []


def names(home):
    return (
        [cell.name for cell in home.study().cells] if (home.path / "study.yaml").is_file() else []
    )


def test_a_second_run_of_the_same_folder_is_refused(file, tmp_path):
    home = StudyFolder(tmp_path / "out")
    home.adopt(file)
    lock = home.path / "locks" / "study"
    lock.parent.mkdir()
    code = (
        f"import fcntl\nf = open({str(lock)!r}, 'w')\nfcntl.flock(f, fcntl.LOCK_EX)\n"
        "print(flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout.readline() == b"\n"
    with pytest.raises(Dom2Error, match="another process runs the study"):
        run.run_study(file, home.path, progress=False)
    other.kill()
    other.wait()
    with home.locked("study", "free"):
        pass
