"""Workers on a Ray cluster: tasks that each do one cell. Ray says where and when, and retries.

A task is a process of its own with one thread, like a worker of `pool`. All nodes must have this
package, and see the study's folder under the same path; the locks in it must hold between them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator

from dom2_fast._version import __version__
from dom2_fast.errors import Dom2Error
from dom2_fast.ops.machine import usable_cores
from dom2_fast.runs.signals import StopSignal
from dom2_fast.studies.cell import Cell
from dom2_fast.studies.folder import StudyFolder
from dom2_fast.studies.pool import TRIES, check_jobs

INSTALL = "pip install 'dom2-fast[ray]'"
LOCAL = "local"  # a cluster on this machine, for as long as the study runs
_CONNECT, _ANSWER = 5.0, 60.0  # seconds that an address, and a cluster there, have to answer
_POLL = 0.1
_TRY = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level=40)"


class Stopped(RuntimeError):
    """A signal ended a cell's training on its node, with a checkpoint: Ray tries again."""


@contextlib.contextmanager
def connected(address: str = LOCAL, jobs: int | None = None) -> Iterator[int]:
    """Connects with a cluster, and leaves it at the end; gives its number of CPUs.

    Args:
        address: "local": starts one here; "auto": the one that runs on this machine; HOST:PORT of
            a cluster that this machine is in; ray://HOST:PORT of a Ray client server.
        jobs: CPUs of a local cluster; None: this machine's.
    Raises:
        Dom2Error: ray isn't installed; `jobs` with an address; the address isn't one, or doesn't
            answer within a minute.
    """
    ray = need_ray()
    options: dict = {}
    if address == LOCAL:
        cores = check_jobs(usable_cores() if jobs is None else jobs)
        options = {"num_cpus": cores, "include_dashboard": False}
    elif jobs is not None:
        raise Dom2Error(
            f"--jobs {jobs} is of workers on this machine, the cluster at {address} has as many as "
            "it has CPUs: leave one of --jobs and --ray ADDRESS out"
        )
    else:
        _check_answer(address)
    # Unless the user says otherwise, a cluster started here reports nothing to Ray's makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:
        raise Dom2Error(_no_cluster(address, f"{type(error).__name__}: {error}")) from error
    try:
        yield max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        ray.shutdown()


def run_cells(
    home: StudyFolder, cells: list[Cell], ended: Callable[[Cell, str | None], None]
) -> bool:
    """Does the cells, as many at a time as Ray likes; False where Ctrl-C or SIGTERM stopped it.

    A cell whose worker dies is tried again by Ray, and goes on where it was.

    Args:
        ended: called after each cell, with why it failed, or None.
    """
    ray = need_ray()
    task = ray.remote(num_cpus=1, max_calls=1, max_retries=TRIES - 1, retry_exceptions=[Stopped])(
        do_cell
    )
    out = str(home.path.resolve())
    told = False
    with StopSignal() as stop:
        running = {
            task.options(name=cell.name).remote(out, cell.name, __version__): cell for cell in cells
        }
        while running:
            if stop.received and not told:
                told = True
                for ref in running:
                    ray.cancel(ref)  # like Ctrl-C in the worker
            for ref in ray.wait(list(running), timeout=_POLL)[0]:
                cell = running.pop(ref)
                died = _why_it_died(ray, ref)
                if died is None or not stop.received:
                    ended(cell, None if died is None else home.explain_failure(cell, died))
    return not stop.received


def do_cell(out: str, name: str, version: str) -> None:
    """What a task does. Output goes to the cell's log, as that of a worker of `pool` does.

    Raises:
        Dom2Error: this node has another version of the package, or doesn't see the folder; else
            see `work.do`.
    """
    node = socket.gethostname()
    if version != __version__:
        raise Dom2Error(
            f"the node {node} has dom2-fast {__version__}, the study was started with {version}: "
            "install the same version on all nodes"
        )
    home = StudyFolder(out)
    if not home.path.is_dir():
        raise Dom2Error(
            f"the node {node} doesn't see {out}: put the study's folder on a file system that all "
            "nodes have under the same path"
        )
    import torch

    from dom2_fast.studies import work

    torch.set_num_threads(1)
    study = home.study()
    cell = study.cell(name)
    home.log(cell).parent.mkdir(parents=True, exist_ok=True)
    with home.log(cell).open("ab") as log:  # the process ends with the task: max_calls
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    try:
        finished = work.do(home, study, cell)
    except Exception:
        traceback.print_exc()
        raise
    if not finished:
        raise Stopped(f"a signal stopped {name} on the node {node}")


def need_ray():
    """The package ray; `Dom2Error` where it isn't there or can't be imported."""
    try:
        import ray
    except ImportError as error:
        raise Dom2Error(f"--ray needs Ray, which can't be imported ({error}): {INSTALL}") from error
    return ray


def _why_it_died(ray, ref) -> str | None:
    try:
        ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        return f"failed with {type(cause).__name__}: {cause}"
    except ray.exceptions.RayError as error:
        return f"died ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
    return None


def _check_answer(address: str) -> None:
    """Refuses an address at which no cluster answers. (Of "auto" Ray knows at once.)

    Raises:
        Dom2Error: see `connected`.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise Dom2Error(
            f"--ray {address} is no address: give HOST:PORT, ray://HOST:PORT, auto for the cluster "
            "that runs on this machine, or nothing to start one here"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise Dom2Error(_no_cluster(address, str(error))) from error
    # In a process of its own, that can be ended: Ray itself would try for minutes.
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRY, address], capture_output=True, text=True, timeout=_ANSWER
        )
    except subprocess.TimeoutExpired:
        raise Dom2Error(
            _no_cluster(address, f"something answers, but not as Ray, in {_ANSWER:g} seconds")
        ) from None
    if done.returncode != 0:
        raise Dom2Error(_no_cluster(address, (done.stderr.strip().splitlines() or ["?"])[-1]))


def _no_cluster(address: str, why: str) -> str:
    if address == LOCAL:
        return f"Ray couldn't start a cluster on this machine: {why}"
    return (
        f"no Ray cluster at {address} ({why}): start one (`ray start --head`), "
        "give another address, or none after --ray for a cluster on this machine alone"
    )
