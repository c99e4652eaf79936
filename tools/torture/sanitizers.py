"""The CPU executors under ASan and UBSan (the op and policy tests) and TSan (threads of C++).

Each build goes to a folder of its own, build/sanitize. At full scale every test of
python_tests/ops, policies and lowering runs; below, those of fewer files. TSan sees a C++ program
only (tools/torture/threads.cpp): PyTorch's own threads aren't compiled for it, so that it would
call every hand-over between them a race.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from torture import reader
from torture.base import Result

REPO = Path(__file__).resolve().parents[2]
COPY = REPO / "build" / "sanitize"
TESTS = (
    *("ops/test_denoise.py", "ops/test_losses.py", "policies/test_frozen.py", "policies"),
    *("ops/test_chain_value.py", "ops", "lowering"),
)
# Not of the extension's own memory: PyTorch and Python never free some of theirs.
OPTIONS = "detect_leaks=0:halt_on_error=0:exitcode=0:detect_odr_violation=0"
_REPORT = re.compile(r"ERROR: AddressSanitizer.*|.*runtime error: .*|WARNING: ThreadSanitizer.*")


def run(scale: float, seed: int, work: Path) -> Iterator[Result]:
    yield _addresses(scale, work)
    yield _threads(scale, work)


def _addresses(scale: float, work: Path) -> Result:
    what = "op and policy tests under ASan and UBSan"
    libraries = [_library(name) for name in ("libasan.so", "libubsan.so")]
    if None in libraries:
        return Result(what, 0, [], "NOT done: gcc has no libasan here")
    flags = "-fsanitize=address,undefined -fno-omit-frame-pointer -g1"
    _copy()
    environment = {
        **os.environ,
        "PYTHONPATH": str(COPY),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DOM2_FAST_REQUIRE_EXTENSION": "1",
        "DOM2_FAST_CUDA": "0",
        "CMAKE_ARGS": "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
        "CXXFLAGS": flags,
    }
    built = _call(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=COPY, env=environment
    )
    if built.returncode:
        return Result(what, 0, [], f"NOT done: it can't be built: {built.stdout[-400:]}")
    count = max(1, round(len(TESTS) * scale))
    done = _call(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *("-k", "not simt and not cpp and not opcheck and not compile", "-s"),
            *(f"python_tests/{name}" for name in TESTS[:count]),
        ],
        cwd=COPY,
        env={
            **environment,
            "LD_PRELOAD": ":".join(str(library) for library in libraries),
            "ASAN_OPTIONS": OPTIONS,
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "OMP_NUM_THREADS": "2",
        },
    )
    (work / "tests.log").write_text(done.stdout)
    passed = int((re.findall(r"(\d+) passed", done.stdout) or [0])[-1])
    problems = sorted(set(_REPORT.findall(done.stdout)))
    if done.returncode:
        problems.append(f"tests fail: {done.stdout.strip()[-300:]}")
    return Result(what, passed, problems, f"tests of {', '.join(TESTS[:count])}; all ISAs here")


def _threads(scale: float, work: Path) -> Result:
    """Several threads act by one policy, each call split over threads of its own."""
    what = "eight threads and one C++ policy under TSan"
    corpus, program = work / "policies", work / "threads"
    corpus.mkdir()
    reader.seeds(corpus)
    built = _call(
        [
            *("g++", "-std=c++17", "-g", "-O1", "-fsanitize=thread", "-pthread"),
            *(f"-I{REPO / 'csrc'}", "-o", program),
            *(REPO / "csrc" / f"{name}.cpp" for name in reader.SOURCES),
            REPO / "tools" / "torture" / "threads.cpp",
        ],
        cwd=work,
        env={**os.environ},
    )
    if built.returncode:
        return Result(what, 0, [], f"NOT done: it can't be built: {built.stdout[-400:]}")
    calls, problems, tries = max(2, round(200 * scale)), [], 0
    for policy in sorted(corpus.iterdir()):
        done = _call(
            [program, policy, str(calls)],
            cwd=work,
            env={**os.environ, "DOM2_FAST_ISA": "base", "TSAN_OPTIONS": "exitcode=66"},
        )
        tries += 8 * calls
        problems += [f"{policy.name}: {line}" for line in set(_REPORT.findall(done.stdout))]
        if done.returncode and not problems:
            problems.append(f"{policy.name}: exit code {done.returncode}: {done.stdout[-200:]}")
    return Result(what, tries, problems, "calls; each split over three threads of its own")


def _copy() -> None:
    """The files under version control, without touching what is built there already."""
    files = _call(["git", "ls-files"], cwd=REPO, env={**os.environ}).stdout.split("\n")
    for name in filter(None, files):
        source, target = REPO / name, COPY / name
        if not source.is_file():
            continue
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def _library(name: str) -> Path | None:
    if shutil.which("gcc") is None:
        return None
    found = _call(["gcc", f"-print-file-name={name}"], cwd=REPO, env={**os.environ}).stdout.strip()
    return Path(found) if Path(found).is_absolute() else None


def _call(command: list, cwd: Path, env: dict) -> subprocess.CompletedProcess:
    words = [str(word) for word in command]
    return subprocess.run(
        words, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
