"""Settings of all benchmarks: pinned threads, machine facts in the results, how equal is equal.

Run with `pytest benchmarks --benchmark-only`; `--threads 1,2` chooses the numbers of threads. Every
benchmark asserts, before it times anything, that the two things it compares give the same result.
"""

import platform

import pytest
import torch

from dom2_fast import backend


def pytest_addoption(parser):
    parser.addoption("--threads", default="1", help="numbers of threads to time with: 1 or 1,2")


def pytest_generate_tests(metafunc):
    if "threads" in metafunc.fixturenames:
        counts = [int(n) for n in metafunc.config.getoption("--threads").split(",")]
        metafunc.parametrize("threads", counts, ids=[f"{n}thread" for n in counts], indirect=True)


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def extension():
    if not backend.available():
        pytest.skip(f"no compiled extension to time: {backend.reason()}")


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["torch"] = torch.__version__
    machine_info["isa"] = backend.isa_active()
    machine_info["python"] = platform.python_version()


def close(native: torch.Tensor, eager: torch.Tensor) -> None:
    """Equal up to float32 rounding through a few hundred operations, as a whole.

    A ReLU whose input rounds to the other side of zero moves a gradient by up to 5e-5, PyTorch's as
    much as ours (both measured against float64).
    """
    error = (native - eager).norm() / eager.norm().clamp(min=1e-6)
    assert error <= 1e-4, f"relative difference {error:.1e}"
