"""Studies on a Ray cluster: two workers here, one of which dies; addresses that aren't clusters."""

import importlib.util
import os
import signal
import socket
import sys
import time

import pytest
from small_studies import CELL, TEXT, holders, progress, start, table, undisturbed, wait_for

from dom2_fast.cli import main as cli
from dom2_fast.errors import Dom2Error
from dom2_fast.studies import cluster
from dom2_fast.studies.folder import StudyFolder

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason=f"ray isn't installed: {cluster.INSTALL}"
)
LONG = TEXT.replace("steps: 6", "steps: 1200").replace("save_every: 2", "save_every: 50")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(LONG)
    return path


@needs_ray
@pytest.mark.slow
def test_a_cluster_makes_the_same_table_and_a_killed_worker_is_tried_again(file, tmp_path):
    calm, out = tmp_path / "calm", tmp_path / "out"
    expected = undisturbed(calm, file)
    study = start("run", file, "--out", out, "--ray", "--jobs", "2", "--quiet")
    wait_for(lambda: progress(out) > 200, study)
    (worker,) = holders(out)
    os.kill(worker, signal.SIGKILL)
    said, _ = study.communicate(timeout=300)
    assert study.returncode == 0 and "2 done, 0 running, 0 waiting, 0 failed" in said
    assert table(out) == expected


@needs_ray
@pytest.mark.slow
def test_ctrl_c_stops_the_cells_with_a_checkpoint(file, tmp_path):
    file.write_text(TEXT.replace("steps: 6", "steps: 1000000").replace("save_every: 2", ""))
    out = tmp_path / "out"
    study = start("run", file, "--out", out, "--ray", "--jobs", "2", "--quiet")
    wait_for(lambda: progress(out) > 200, study)
    os.killpg(study.pid, signal.SIGINT)  # as a terminal does
    said, _ = study.communicate(timeout=120)
    assert study.returncode == 130 and "go on: dom2-fast study run" in said
    assert "0 failed" in said
    assert holders(out) == []
    assert (out / "cells" / CELL / "checkpoint.pt").is_file()


@needs_ray
@pytest.mark.slow
def test_failures_are_told_and_what_dies_every_time_fails(file, tmp_path):
    file.write_text(TEXT.replace("algo: bc_det,", "algo: bc_det, lr: 1.0e30,"))
    out = tmp_path / "out"
    with cluster.connected(jobs=2) as cpus:
        assert cpus == 2
        home = StudyFolder(out)
        study = home.adopt(file)
        told = {}
        assert cluster.run_cells(home, study.cells, lambda c, reason: told.update({c.name: reason}))
        import ray

        die = ray.remote(num_cpus=1, max_calls=1, max_retries=1)(lambda: os._exit(1))
        died = cluster._why_it_died(ray, die.remote())
        other = cluster._why_it_died(ray, ray.remote(cluster.do_cell).remote(str(out), CELL, "0"))
        nowhere = ray.remote(cluster.do_cell).remote("/nowhere", CELL, cluster.__version__)
        assert "doesn't see /nowhere" in cluster._why_it_died(ray, nowhere)
        cluster._check_answer(ray.get_runtime_context().gcs_address)  # it is one
    diverged = next(name for name in told if "wide" in name)
    assert told[CELL] is None
    assert "finite" in told[diverged] and home.failure(study.cell(diverged)) == told[diverged]
    assert died.startswith("died (WorkerCrashedError")
    assert "the study was started with 0" in other


@pytest.fixture
def port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        yield server.getsockname()[1]  # nobody listens there


@needs_ray
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_dead_address_is_refused_in_seconds_before_anything_is_written(
    file, tmp_path, capsys, port, scheme
):
    out = tmp_path / "out"
    begin = time.monotonic()
    address = f"{scheme}127.0.0.1:{port}"
    assert cli.main(["study", "run", str(file), "--out", str(out), "--ray", address]) == 2
    assert time.monotonic() - begin < 30  # Ray itself would take two minutes
    said = capsys.readouterr().err
    assert f"no Ray cluster at {address}" in said and "ray start --head" in said
    assert said.count("\n") == 1 and not out.exists()


@needs_ray
def test_an_address_that_answers_but_is_no_cluster_is_given_up(file, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(Dom2Error, match=r"not as Ray, in 0\.5 seconds"):
            cluster.connected(address).__enter__()


@needs_ray
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ray", "somewhere"], "--ray somewhere is no address: give HOST:PORT"),
        (["--ray", "host:6379", "--jobs", "2"], "leave one of --jobs and --ray ADDRESS out"),
        (["--ray", "--jobs", "0"], "--jobs must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(file, tmp_path, capsys, options, said):
    out = tmp_path / "out"
    assert cli.main(["study", "run", str(file), "--out", str(out), *options]) == 2
    assert said in capsys.readouterr().err and not out.exists()


def test_without_ray_its_install_command_is_named(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out"
    assert cli.main(["study", "run", str(file), "--out", str(out), "--ray"]) == 2
    assert "pip install 'dom2-fast[ray]'" in capsys.readouterr().err and not out.exists()
