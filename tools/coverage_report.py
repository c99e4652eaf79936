"""Lines and branches that the test suite reaches, in dom2_fast and in csrc. `make coverage`.

Works on a copy in build/coverage, whose extension is compiled with gcov's counters: they make it
slower and its bits other ones, so tests that compare bits with a separately built program are left
out there (test_frozen_cpp.py). What tests run in other processes is not counted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
COPY = REPO / "build" / "coverage"
LEFT_OUT = ["--ignore=python_tests/policies/test_frozen_cpp.py"]
FLAGS = " ".join(
    [
        "-DCMAKE_CXX_FLAGS=--coverage",
        "-DCMAKE_MODULE_LINKER_FLAGS=--coverage",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
    ]
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", nargs="*", help="as pytest takes them; all without any")
    asked = parser.parse_args()
    files = subprocess.run(
        ["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True
    )
    for name in files.stdout.split("\n"):
        if (REPO / name).is_file():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, COPY / name)
    emulated = COPY / "build" / "simt"
    emulated.mkdir(parents=True, exist_ok=True)
    shutil.copy2(REPO / "build" / "simt" / "dom2_simt.so", emulated)
    for counters in COPY.rglob("*.gcda"):
        counters.unlink()
    environment = {
        **os.environ,
        "PYTHONPATH": str(COPY),
        "CMAKE_ARGS": FLAGS,
        "DOM2_FAST_REQUIRE_EXTENSION": "1",
        "DOM2_FAST_CUDA": "0",
    }

    def run(*command: str, check: bool = True) -> int:
        done = subprocess.run([sys.executable, *command], cwd=COPY, env=environment, check=check)
        return done.returncode

    run("setup.py", "--quiet", "build_ext", "--inplace")
    tests = asked.tests or LEFT_OUT
    source = ("--branch", "--source=dom2_fast", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    failed = run("-m", "coverage", "run", *source, *tests, check=False)
    run("-m", "coverage", "report", "--skip-covered")
    gcovr = ["--root", ".", "--filter", "csrc/", "--exclude", "csrc/testing", "--print-summary"]
    run("-m", "gcovr", *gcovr, "--gcov-ignore-parse-errors", "--output", os.devnull, "build")
    return failed


if __name__ == "__main__":
    sys.exit(main())
