"""The changes that CONTRIBUTING.md shows: each is applied to a copy of the product, and works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dom2_fast.ops import backend

REPO = Path(__file__).resolve().parents[1]
MOST_LINES = 60  # of a diff, context included; an op has more places
COMPILED = {"an activation", "an op"}


def changes() -> dict[str, tuple[str, str]]:
    """Heading -> (diff, the code that tries it)."""
    text = (REPO / "CONTRIBUTING.md").read_text()
    found = re.findall(
        r"^### (.+?)\n.*?^```diff\n(.*?)^```\n.*?^```python\n(.*?)^```", text, re.M | re.S
    )
    return {heading.lower(): (diff, code) for heading, diff, code in found}


def apply(diff: str, folder: Path) -> None:
    """A copy of what is built and installed, with the change in it."""
    for name in ("dom2_fast", "csrc"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPO / name, folder / name, ignore=ignore)
    for name in ("CMakeLists.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, folder / name)
    command = ["git", "apply", "--whitespace=error", "-"]
    done = subprocess.run(command, cwd=folder, input=diff, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_one_of_each():
    assert list(changes()) == [
        "an algorithm",
        "an environment",
        "a data format",
        "an activation",
        "an op",
    ]


@pytest.mark.parametrize("name", [name for name in changes() if name not in COMPILED])
def test_a_change_of_python(name, tmp_path):
    diff, code = changes()[name]
    assert diff.count("\n") <= MOST_LINES
    assert diff.count("\n+++ ") + diff.startswith("+++ ") <= 3  # files that change
    apply(diff, tmp_path)
    run([sys.executable, "-c", code], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COMPILED))
def test_a_change_of_the_kernels(name, tmp_path):
    if not backend.available():
        pytest.skip(f"no compiled extension: {backend.reason()}")
    diff, code = changes()[name]
    apply(diff, tmp_path)
    for built in (tmp_path / "dom2_fast").glob("_C*"):
        built.unlink()
    run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], tmp_path)
    run([sys.executable, "-c", code], tmp_path)
