"""Runs the parts of the torture and prints a table of what they found, for docs/reliability.md.

make torture                              all parts at full scale, up to an hour
make torture PARTS="kill files" SCALE=0.1
PYTHONPATH=tools python -m torture --list
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from torture.base import Result, markdown

PARTS = ("kill", "files", "reader", "faults", "sanitizers", "memory", "threads")


def main() -> int:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full amount of work")
    parser.add_argument("--seed", type=int, default=0, help="of kill moments and mutations")
    parser.add_argument("--keep", action="store_true", help="leave the folder with what was made")
    parser.add_argument("--list", action="store_true", help="say what the parts do")
    asked = parser.parse_args()
    if unknown := [part for part in asked.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]}; there are {', '.join(PARTS)}")
    if not asked.scale > 0:
        parser.error(f"--scale must be above 0, not {asked.scale}")
    if asked.list:
        for part in PARTS:
            about = importlib.import_module(f"torture.{part}").__doc__.splitlines()[0]
            print(f"{part:<11} {about}")
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
    work = Path(tempfile.mkdtemp(prefix="torture_"))
    results: list[Result] = []
    try:
        for part in asked.parts or PARTS:
            print(f"==== {part}", flush=True)
            begin = time.perf_counter()
            folder = work / part
            folder.mkdir()
            run = importlib.import_module(f"torture.{part}").run
            for result in run(asked.scale, asked.seed, folder):
                result.part = part
                print(result.line(), flush=True)
                results.append(result)
            print(f"---- {part}: {time.perf_counter() - begin:.0f} s", flush=True)
    finally:
        if asked.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print("\n" + _where(asked) + "\n\n" + markdown(results))
    return 1 if any(result.problems for result in results) else 0


def _where(asked) -> str:
    import torch

    from dom2_fast.ops import machine

    return (
        f"{datetime.now(timezone.utc):%Y-%m-%d}, {machine.processor()}, {machine.usable_cores()} "
        f"cores, Python {platform.python_version()}, torch {torch.__version__}, scale "
        f"{asked.scale:g}, seed {asked.seed}"
    )


if __name__ == "__main__":
    sys.exit(main())
