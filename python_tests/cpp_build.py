"""Builds the C++ programs that tests run: examples/act.cpp and cpp/policy_check.cpp."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
CHECK = REPO / "python_tests" / "cpp" / "policy_check.cpp"


def tool(*names):
    """The first of these programs that is installed, in this environment or on the system."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    found = next((f for n in names if (f := shutil.which(n, path=path))), None)
    return found or pytest.skip(f"none of {', '.join(names)} is installed")


def call(*command, **kwargs):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def built():
    """Folder with `act` and `policy_check`; kept between runs, so that only changes are built."""
    cmake, compiler = tool("cmake"), tool("c++", "g++", "clang++")
    ninja = tool("ninja", "make")
    folder = REPO / "build" / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cache = folder / "CMakeCache.txt"
        if cache.is_file() and f"CMAKE_HOME_DIRECTORY:INTERNAL={REPO}/" not in cache.read_text():
            cache.unlink()  # the checkout was moved or copied
        if not cache.is_file():
            ninja = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if "ninja" in ninja else []
            call(cmake, "-S", REPO / "examples", "-B", folder, *ninja)
        call(cmake, "--build", folder)
        call(
            compiler,
            "-std=c++17",
            "-O1",
            f"-I{REPO / 'csrc'}",
            CHECK,
            folder / "dom2_core" / "libdom2_core.a",
            "-o",
            folder / "policy_check",
        )
    return folder
