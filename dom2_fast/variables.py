"""The environment variables that have a meaning here, and the only list of them.

`dom2-fast doctor` prints what each is set to, docs/variables.md explains them; a test looks for
others in the sources.
"""

from __future__ import annotations

import os

# name -> (who reads it, what it does)
VARIABLES = {
    "DOM2_FAST_ISA": ("package, C++ reader", "the kernels' instruction set"),
    "DOM2_FAST_TRACEBACK": ("command line", "1: a mistake shows where it came from"),
    "DOM2_FAST_CUDA": ("build", "whether CUDA executors are built: auto, 0, 1"),
    "DOM2_FAST_CUDA_ARCHS": ("build", "the cards that they are built for"),
    "DOM2_FAST_REQUIRE_EXTENSION": ("build", "1: kernels that can't be built are an error"),
    "DOM2_FAST_BENCH_THREADS": ("benchmarks", "threads of a benchmark"),
}
PREFIX = "DOM2_FAST_"


def examine() -> list[dict[str, str | bool | None]]:
    """Every variable with its `name`, who it is `read_by`, what it `does`, its `value` or None.

    One that is set and has no meaning here, a misspelt one say, stands last with known = False.
    """
    known = [
        {"name": name, "value": os.environ.get(name), "read_by": by, "does": does, "known": True}
        for name, (by, does) in VARIABLES.items()
    ]
    others = sorted(n for n in os.environ if n.startswith(PREFIX) and n not in VARIABLES)
    return known + [
        {"name": name, "value": os.environ[name], "read_by": None, "does": None, "known": False}
        for name in others
    ]
