"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Folder with recorded episodes and prey networks of OMAR's code (not ours to ship)."""
    path = REPO.parent / "shared" / "reference"
    if not path.is_dir():
        pytest.skip("recorded OMAR reference data is not beside this checkout (shared/reference)")
    return path
