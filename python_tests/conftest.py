"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
import torch
from cpp_build import built  # noqa: F401  a fixture, for whoever asks for it

from dom2_fast.ops import backend

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def one_thread():
    """The problems are small, and on a busy machine threads that wait for each other take minutes.

    What depends on the number of threads is tested with more of them (test_denoise).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=backend.isas_runnable() or ["none"])
def isa(request):
    """Runs the test once per instruction set that this machine has."""
    if request.param == "none":
        pytest.skip(f"no compiled extension: {backend.reason()}")
    before = backend.isa_active()
    backend.set_isa(request.param)
    yield request.param
    backend.set_isa(before)


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Folder with recorded episodes and prey networks of OMAR's code (not ours to ship)."""
    path = REPO.parent / "shared" / "reference"
    if not path.is_dir():
        pytest.skip("recorded OMAR reference data is not beside this checkout (shared/reference)")
    return path
