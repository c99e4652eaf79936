"""`dom2-fast bench`: time the native ops against the eager reference."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import SUPPRESS
from pathlib import Path

from dom2_fast.errors import Dom2Error, whole_number

ABOUT = "Time the native ops against the eager reference (needs a checkout)."


def add_options(parser, argv: list[str]) -> None:
    add = parser.add_argument
    add(
        "--filter",
        type=str,
        default=SUPPRESS,
        help="only benchmarks whose name matches (pytest -k)",
    )
    add("--json", type=str, default=SUPPRESS, help="also write the results to this file")
    add("--threads", type=int, default=1, help="CPU threads of both sides")


def run(threads: int, filter: str | None = None, json: str | None = None) -> int:
    os.environ["DOM2_FAST_BENCH_THREADS"] = str(whole_number("--threads", threads))
    folders = [Path.cwd() / "benchmarks", Path(__file__).resolve().parents[2] / "benchmarks"]
    folder = next((f for f in folders if any(f.glob("bench_*.py"))), None)
    if folder is None:
        raise Dom2Error(
            "there are no benchmarks here: they are in the source tree, not in the installed "
            "package. Run this in a checkout, after `pip install .[test]`"
        )
    try:
        import pytest  # noqa: F401
        import pytest_benchmark  # noqa: F401
    except ImportError as error:
        raise Dom2Error(
            f"the benchmarks need {error.name}: `pip install pytest pytest-benchmark`"
        ) from None
    command = [sys.executable, "-m", "pytest", str(folder), "--benchmark-only"]
    command += ["-k", filter] if filter else []
    command += [f"--benchmark-json={json}"] if json else []
    return subprocess.run(command, cwd=folder.parent, check=False).returncode
