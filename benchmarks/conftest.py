"""Settings of all benchmarks: pinned threads, machine facts in the results, how equal is equal.

Run with `pytest benchmarks --benchmark-only`; `--threads 1,2` chooses the numbers of threads. Every
benchmark asserts, before it times anything, that the things it compares give the same result.
Peers that aren't installed are skipped: `pip install -e '.[peers]'` installs them.
"""

import importlib.metadata
import importlib.util
import os
import platform

import pytest
import torch
from race import Race, pin, unpin

from dom2_fast.ops import backend

PEERS = ("jax", "onnxruntime", "torchrl", "cpprb", "mpe2")


def pytest_addoption(parser):
    parser.addoption("--threads", default="1", help="numbers of threads to time with: 1 or 1,2")


def pytest_configure(config):
    # XLA makes its pool of threads once, of this size; one run per number of threads is exact,
    # with several the smaller ones share fewer cores between as many threads.
    most = max(int(n) for n in config.getoption("--threads").split(","))
    os.environ.setdefault("NPROC", str(most))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Otherwise torch.compile starts a pool of processes, which go on while others are timed.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def pytest_report_header(config):
    found = (f"{name} {version(name) or 'not installed'}" for name in PEERS)
    return f"peers: {', '.join(found)}"


def pytest_generate_tests(metafunc):
    if "threads" in metafunc.fixturenames:
        counts = [int(n) for n in metafunc.config.getoption("--threads").split(",")]
        metafunc.parametrize("threads", counts, ids=[f"{n}thread" for n in counts], indirect=True)


@pytest.fixture
def threads(request):
    """So many threads in PyTorch and ours, and so many cores for all threads of the process."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    cpus = pin(request.param)
    yield request.param
    unpin(cpus)
    torch.set_num_threads(before)


@pytest.fixture
def race(request, benchmark, threads):
    return Race(request, benchmark, threads)


@pytest.fixture(autouse=True)
def extension():
    if not backend.available():
        pytest.skip(f"no compiled extension to time: {backend.reason()}")


def version(package: str) -> str | None:
    """Of an installed package, or None; doesn't import it."""
    if importlib.util.find_spec(package) is None:
        return None
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "?"


def missing(package: str) -> str | None:
    """Why a peer can't be timed, or None where it can."""
    if version(package) is None:
        return f"{package} is not installed: pip install -e '.[peers]'"
    return None


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["torch"] = torch.__version__
    machine_info["isa"] = backend.isa_active()
    machine_info["python"] = platform.python_version()
    machine_info["peers"] = {name: version(name) for name in PEERS}


def close_in_bf16(native: torch.Tensor, autocast: torch.Tensor, exact: torch.Tensor) -> None:
    """At most twice as far from the float32 result as PyTorch's own bf16 path."""
    error, own = ((t - exact).norm() / exact.norm() for t in (native, autocast))
    assert error <= 2 * own, f"relative difference {error:.1e}, PyTorch's own in bf16 {own:.1e}"


def close(native: torch.Tensor, eager: torch.Tensor) -> None:
    """Equal up to float32 rounding through a few hundred operations, as a whole.

    A ReLU whose input rounds to the other side of zero moves a gradient by up to 5e-5, PyTorch's as
    much as ours (both measured against float64).
    """
    error = (native - eager).norm() / eager.norm().clamp(min=1e-6)
    assert error <= 1e-4, f"relative difference {error:.1e}"
