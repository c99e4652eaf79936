"""Breaks the CUDA kernels, one place at a time, and asks whether the emulated tests notice.

    python tools/mutate_cuda.py                     # build, run all mutants, print what survived
    python tools/mutate_cuda.py --list              # what would be broken
    python tools/mutate_cuda.py --only gemm.h --jobs 2

A copy of csrc gets all mutations at once, each behind a switch (cuda_mutations.py), and is built as
the tests build it: plain, with ASan, with TSan. A mutant is killed when the cases of
python_tests/simt fail: under all schedules in the plain build, else in one of the others.
Survivors stand in mutations_survivors.txt with the reason why nothing can be noticed. A survivor
that doesn't, or an explanation of what is killed, makes the exit code 1.
"""

from __future__ import annotations

import argparse
import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cuda_mutations import HEADER, Mutation, find, switchable

REPO = Path(__file__).resolve().parents[1]
CUDA = REPO / "csrc" / "cuda"
WORK = REPO / "build" / "mutation"
SURVIVORS = Path(__file__).with_name("mutations_survivors.txt")
# The files, and the kinds of cases that run their code.
RUN_BY = {
    "denoise_fwd.cu": ["forward"],
    "steps_bwd.h": ["backward"],
    "denoise_bwd.cu": ["backward"],
    "weight_gradient.cu": ["backward"],
    "gemm.h": ["forward", "backward"],
    "steps.h": ["forward", "backward"],
    "pack_weights.cu": ["forward", "backward"],
    "sample_transitions.cu": ["sample"],
}
FILES = list(RUN_BY)


def enumerate_all() -> list[Mutation]:
    return [m for name in FILES for m in find(name, (CUDA / name).read_text())]


def prepare(mutations: list[Mutation]) -> None:
    """A copy of csrc with every mutation behind its switch. Equal files keep their time stamp."""
    source = WORK / "csrc"
    for folder in ("core", "cuda", "simt"):
        for path in (REPO / "csrc" / folder).iterdir():
            text = path.read_text()
            if folder == "cuda":
                first = next((i for i, m in enumerate(mutations) if m.file == path.name), 0)
                text = switchable(text, [m for m in mutations if m.file == path.name], first)
            put(source / folder / path.name, text)
    put(WORK / "mutant.h", HEADER)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    return found or sys.exit(f"{name} is needed")


def build(sanitizer: str) -> Path:
    folder = WORK / f"build-{sanitizer or 'plain'}"
    ninja = tool("ninja")
    configure = [
        tool("cmake"),
        "-G",
        "Ninja",
        "-S",
        WORK / "csrc" / "testing" / "simt",
        "-B",
        folder,
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DCMAKE_CXX_COMPILER={tool('g++')}",
        f"-DCMAKE_CXX_FLAGS=-include {WORK / 'mutant.h'} -Wno-dangling-else",
        "-DDOM2_SIMT_DRIVER=ON",
        f"-DDOM2_SIMT_SANITIZE={sanitizer}",
    ]
    for command in (configure, [ninja, "-j1", "-C", folder]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout[-6000:] + done.stderr)
    return folder / "driver"


class Tester:
    """The cases on one build; the quickest first, as a mutant ends at the first failure."""

    def __init__(self, how: str, driver: Path, files: list[Path], schedules: str = ""):
        self.how, self.files = how, files
        self.command = [driver, "--stop", *(["--schedules", schedules] if schedules else [])]
        self.environment = os.environ | {
            "TSAN_OPTIONS": f"halt_on_error=1:suppressions={REPO / 'csrc/testing/simt/tsan.supp'}"
        }
        start = subprocess.run([driver], capture_output=True, text=True)
        if "unexpected memory mapping" in start.stderr:  # too much address randomisation for it
            self.command = ["setarch", "-R", *self.command]
        begin = time.monotonic()
        why, output = self.run(None)
        if why:
            sys.exit(f"the unchanged kernels fail ({how}): {why}\n{output}")
        self.timeout = 60 + 5 * (time.monotonic() - begin)
        took = [float(t) for t in re.findall(r"\(([\d.]+) s\)$", output, re.M)]
        self.files = [f for _, f in sorted(zip(took, files, strict=True))]

    timeout = 3600.0

    def run(self, mutant: int | None, file: str = "") -> tuple[str, str]:
        """Why the mutant of `file` was noticed, or an empty string; and what the driver said."""
        switch = {} if mutant is None else {"DOM2_MUTANT": str(mutant)}
        files = [f for f in self.files if not file or f.stem.split("-")[1] in RUN_BY[file]]
        try:
            done = subprocess.run(
                [*self.command, *files],
                env=self.environment | switch,
                capture_output=True,
                text=True,
                timeout=self.timeout,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            return f"{self.how}: time is up", ""
        if done.returncode == 0:
            return "", done.stdout
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
        summary = re.search(r"SUMMARY: \w+: ([\w -]+)", done.stderr)
        if "can't read" in done.stdout:
            raise RuntimeError(done.stdout)
        words = failed[-1][5:] if failed else summary[1].strip() if summary else "crash"
        return f"{self.how}: {words}", done.stdout + done.stderr[-3000:]


def write_cases() -> list[tuple[bool, Path]]:
    """(small enough for TSan, file) of each case."""
    sys.path.insert(0, str(REPO / "python_tests" / "simt"))
    import torch
    from kernel_case_list import CASES
    from kernel_cases import write

    torch.set_num_threads(1)  # they are small
    folder = Path(tempfile.mkdtemp(prefix="dom2-mutation-"))  # not shared with another run
    atexit.register(shutil.rmtree, folder)
    result = []
    for number, case in enumerate(CASES):
        arrays = case.arrays()
        result.append((case.tsan, folder / f"{number:03}-{arrays['op']}.case"))
        write(result[-1][1], arrays)
    return result


def read_survivors(text: str) -> dict[str, str]:
    """name -> reason: a line with a mutation's name, then indented lines that say why."""
    result: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line[0] == " ":
            result[name] = " ".join([result[name], line.strip()]).strip()
        else:
            name = line.strip()
            result[name] = ""
    return result


def run_all(mutations: list[Mutation], chosen: list[int], jobs: int) -> dict[int, str]:
    """Number -> why it was killed, empty for survivors."""
    prepare(mutations)
    cases = write_cases()
    print("building", flush=True)
    every, small = [f for _, f in cases], [f for few, f in cases if few]
    testers = [
        Tester("values", build(""), every),
        Tester("ASan", build("address"), every, "forward"),
        Tester("TSan", build("thread"), small, "forward"),
    ]
    print("built", flush=True)

    def one(number: int) -> str:
        m = mutations[number]
        why = next(filter(None, (t.run(number, m.file)[0] for t in testers)), "")
        print("killed  " if why else "SURVIVED", m.name, f"[{why}]", flush=True)
        return why

    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(chosen, pool.map(one, chosen), strict=True))


def report(mutations: list[Mutation], result: dict[int, str], reasons: dict[str, str]) -> int:
    """Prints the totals and every survivor; returns the exit code."""
    total, killed = len(result), sum(bool(why) for why in result.values())
    by = Counter(why.split(":")[0] for why in result.values())
    print(f"\n{'file':22} killed  total")
    for name in FILES:
        mine = [why for n, why in result.items() if mutations[n].file == name]
        if mine:
            print(f"{name:22} {sum(map(bool, mine)):6} {len(mine):6}")
    print(f"{'all':22} {killed:6} {total:6}   {100 * killed / max(total, 1):.1f} %, ", end="")
    print(f"{by['ASan']} by ASan alone, {by['TSan']} by TSan alone")
    unexplained = 0
    for number, why in result.items():
        if not why:
            name = mutations[number].name
            unexplained += name not in reasons
            print(f"\nsurvived: {name}\n    {reasons.get(name, 'NOT EXPLAINED')}")
    survived = {mutations[n].name for n, why in result.items() if not why}
    ran = {mutations[n].name for n in result}
    known = {m.name for m in mutations}
    stale = [n for n in reasons if (n in ran and n not in survived) or n not in known]
    for name in stale:
        print(f"\nexplained, but killed or gone: {name}")
    return 1 if unexplained or stale else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", metavar="FILE", help="mutants of one file of csrc/cuda")
    parser.add_argument(
        "--match", metavar="TEXT", action="append", default=[], help="mutants whose name has this"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants' names and stop")
    parser.add_argument("--jobs", type=int, default=1, help="mutants that run at once")
    given = parser.parse_args()
    mutations = enumerate_all()
    chosen = [
        i
        for i, m in enumerate(mutations)
        if given.only in (None, m.file) and any(text in m.name for text in given.match or [""])
    ]
    if given.list:
        print(*(mutations[i].name for i in chosen), sep="\n")
        print(f"{len(chosen)} mutants")
        return 0
    if not chosen:
        parser.error(f"there are no mutants of that; files are {', '.join(FILES)}")
    reasons = read_survivors(SURVIVORS.read_text()) if SURVIVORS.exists() else {}
    return report(mutations, run_all(mutations, chosen, given.jobs), reasons)


if __name__ == "__main__":
    sys.exit(main())
