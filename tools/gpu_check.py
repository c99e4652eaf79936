"""Everything that needs a GPU, in one command, with one file of results.

    make gpu-check               # or: python tools/gpu_check.py [--out FILE] [--only build,tests]

On a machine with an NVIDIA GPU, nvcc and a torch with CUDA: builds the CUDA executors, runs the op
tests on the GPU, the same under compute-sanitizer (a few of them: it is slow), and the benchmarks.
The file says what machine this was, what each command was and how it ended, and is written anew
after each of them. What wasn't done is in it, too, as SKIPPED.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PASSED, FAILED, SKIPPED = "passed", "FAILED", "SKIPPED"
# A few shapes on every kernel: rows that fill no tile, all instructions, dropout, both precisions.
SANITIZED = (
    "cuda and (odd_widths or every_instruction or dropout or bf16 or composed or same_integers)"
)
SANITIZER_FAILED = 99
GPU_TESTS = ["python_tests/ops"]
SHOWN_LINES = 40  # of a command's output, in the file; of the benchmarks all


@dataclass
class Step:
    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    timeout: float = 3600.0
    counts_tests: bool = False  # fails where none passed: skipped tests say nothing
    never: str = ""  # words in the output that mean it didn't do what it is for
    whole: bool = False  # show all of its output
    skip: str = ""  # why it can't be done here


@dataclass
class Outcome:
    step: Step
    state: str
    seconds: float = 0.0
    words: str = ""
    output: str = ""


@dataclass
class Done:
    """How a command ended: code None for one that ran out of time."""

    code: int | None
    output: str


def run(step: Step) -> Done:
    try:
        done = subprocess.run(
            step.command,
            cwd=REPO,
            env={**os.environ, **step.environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=step.timeout,
        )
        return Done(done.returncode, done.stdout)
    except subprocess.TimeoutExpired as stopped:
        output = stopped.stdout or b""  # bytes, whatever was asked for
        return Done(None, output.decode(errors="replace") if isinstance(output, bytes) else output)


def machine() -> dict[str, str]:
    """The device and what drives it. Raises RuntimeError where there is no GPU to check on."""
    try:
        import torch
    except ImportError as error:
        raise RuntimeError(f"torch can't be imported: {error}") from None
    from dom2_fast.cli import gpus
    from dom2_fast.ops.machine import describe

    driver = gpus.driver()
    if not driver["found"]:
        raise RuntimeError(f"there is no NVIDIA driver on this machine ({driver['error']})")
    if not driver["gpus"]:
        raise RuntimeError(f"the NVIDIA driver sees no GPU. {driver['error']}".strip())
    if torch.version.cuda is None:
        raise RuntimeError(
            f"torch {torch.__version__} is built without CUDA: install a CUDA build of it into "
            f"{sys.prefix} (see 'Get started' on pytorch.org)"
        )
    if not torch.cuda.is_available():
        raise RuntimeError("torch can't use the GPU that the driver has; what does nvidia-smi say?")
    nvcc = shutil.which(os.environ.get("CUDACXX") or "nvcc")
    if nvcc is None:
        raise RuntimeError(
            "there is no nvcc on PATH to build the executors: install the CUDA "
            "toolkit, 12.1 or newer"
        )
    card = torch.cuda.get_device_properties(0)
    smi = "--query-gpu=driver_version,clocks.max.sm,power.limit,persistence_mode"
    commit = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return {
        "GPU": f"{card.name}, compute capability {card.major}.{card.minor}, "
        f"{card.multi_processor_count} multiprocessors, {card.total_memory / 2**30:.1f} GiB",
        "driver, clock, power": _output(["nvidia-smi", smi, "--format=csv,noheader", "--id=0"]),
        "driver serves CUDA": driver["cuda"],
        "torch built for CUDA": torch.version.cuda,
        "nvcc": _output([nvcc, "--version"]).splitlines()[-1],
        "commit": _output(commit),
        **describe(),
    }


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def steps(sanitizer: str | None) -> list[Step]:
    python = sys.executable
    cuda = {"DOM2_FAST_CUDA": "1", "DOM2_FAST_REQUIRE_EXTENSION": "1"}
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    todo = [
        Step("build", [python, "setup.py", "--quiet", "build_ext", "--inplace"], cuda),
        Step("doctor", [python, "-m", "dom2_fast.cli.main", "doctor"]),
        Step(
            "GPU tests",
            [*pytest, "-rfEs", *GPU_TESTS, "-k", "cuda"],
            counts_tests=True,
            never="no GPU, or",
        ),
        Step("all tests", [*pytest, "-rfE", "python_tests"], timeout=7200.0, counts_tests=True),
    ]
    for tool in ("memcheck", "racecheck", "synccheck"):
        todo.append(
            Step(
                tool,
                [
                    sanitizer or "compute-sanitizer",
                    "--tool",
                    tool,
                    "--target-processes",
                    "all",
                    "--error-exitcode",
                    str(SANITIZER_FAILED),
                    *pytest,
                    "-rs",
                    "-x",
                    "python_tests/ops",
                    "-k",
                    SANITIZED,
                ],
                # Else torch hands out parts of large blocks, whose ends nobody watches.
                {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
                timeout=7200.0,
                counts_tests=True,
                never="no GPU, or",
                skip="" if sanitizer else "compute-sanitizer is not on PATH (it is in the toolkit)",
            )
        )
    bench = [python, "-m", "pytest", "benchmarks", "--benchmark-only", "-p", "no:cacheprovider"]
    todo.append(Step("benchmarks", bench, timeout=7200.0, counts_tests=True, whole=True))
    return todo


def judge(step: Step, done: Done, seconds: float) -> Outcome:
    """What a command's end means."""
    lines = [line.strip("= ") for line in done.output.splitlines() if line.strip("= ")]
    words = lines[-1] if lines else ""
    state = PASSED if done.code == 0 else FAILED
    summaries = re.findall(
        r"^=*\s*(.*\b(?:passed|failed|skipped|deselected)\b.* in .*?)\s*=*$", done.output, re.M
    )
    if step.counts_tests:
        words = summaries[-1] if summaries else words
        if not re.search(r"\b[1-9]\d* passed", words):
            state = FAILED
            words = f"no test passed: {words}"
    if step.never and step.never in done.output:
        state, words = FAILED, f"tests were skipped ({step.never} ...): {words}"
    if done.code is None:
        words = f"stopped after {step.timeout:.0f} s: {words}"
    elif done.code == SANITIZER_FAILED and "--tool" in step.command:
        errors = [line for line in lines if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line]
        words = f"{errors[-1] if errors else 'errors were found'}; {words}"
    elif state == FAILED and done.code:
        words = f"exit code {done.code}: {words}"
    return Outcome(step, state, seconds, words, done.output)


def render(facts: dict[str, str], outcomes: list[Outcome], pending: list[Step]) -> str:
    """The results as Markdown."""
    failed = sum(outcome.state == FAILED for outcome in outcomes)
    skipped = sum(outcome.state == SKIPPED for outcome in outcomes)
    verdict = f"{failed} FAILED" if failed else "all passed"
    if skipped:
        verdict += f", {skipped} SKIPPED"
    if pending:
        verdict = f"unfinished, {len(pending)} steps to do; so far {verdict}"
    lines = [f"# GPU check: {verdict}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "| step | outcome | seconds | |", "| --- | --- | --- | --- |"]
    for o in outcomes:
        lines.append(f"| {o.step.name} | {o.state} | {o.seconds:.0f} | {o.words} |")
    lines += [f"| {step.name} | not done yet | | |" for step in pending]
    for o in outcomes:
        settings = [f"{name}={value}" for name, value in o.step.environment.items()]
        shown = o.output.rstrip().splitlines()
        if not o.step.whole and len(shown) > SHOWN_LINES:
            shown = [f"({len(shown) - SHOWN_LINES} lines before)", *shown[-SHOWN_LINES:]]
        command = " ".join([*settings, *(f"'{c}'" if " " in c else c for c in o.step.command)])
        lines += ["", f"## {o.step.name}: {o.state}", "", "```", f"$ {command}", *shown, "```"]
    return "\n".join(lines) + "\n"


def check(
    todo: list[Step], facts: dict[str, str], out: Path, runner: Callable[[Step], Done]
) -> int:
    """Runs the steps, writing the file after each; without a build the rest says nothing."""
    outcomes: list[Outcome] = []
    broken = ""
    for i, step in enumerate(todo):
        if reason := broken or step.skip:
            outcomes.append(Outcome(step, SKIPPED, words=reason))
        else:
            print(f"{step.name}: {' '.join(step.command)}", flush=True)
            start = time.monotonic()
            outcomes.append(judge(step, runner(step), time.monotonic() - start))
        last = outcomes[-1]
        if step.name == "build" and last.state == FAILED:
            broken = "the build failed"
        print(f"{step.name}: {last.state}, {last.seconds:.0f} s; {last.words}", flush=True)
        new = out.with_name(out.name + ".new")
        new.write_text(render(facts, outcomes, todo[i + 1 :]), encoding="utf-8")
        new.replace(out)
    print(f"results: {out}")
    return int(any(outcome.state == FAILED for outcome in outcomes))


def main(argv: list[str] | None = None, runner: Callable[[Step], Done] = run) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H%M%S")
    parser.add_argument("--out", type=Path, default=Path(f"gpu_check_{now}.md"), help="results")
    parser.add_argument("--only", help="names of steps, separated by commas")
    options = parser.parse_args(argv)
    todo = steps(shutil.which("compute-sanitizer"))
    if options.only:
        names = [name.strip() for name in options.only.split(",")]
        if unknown := set(names) - {step.name for step in todo}:
            parser.error(
                f"--only: no step is called {', '.join(sorted(unknown))}; there are "
                f"{', '.join(step.name for step in todo)}"
            )
        todo = [step for step in todo if step.name in names]
    if options.out.exists():
        parser.error(f"--out {options.out} exists already; choose another name")
    try:
        facts = machine()
    except RuntimeError as error:
        print(
            f"gpu_check: this needs a machine with an NVIDIA GPU: {error}. Nothing was done.",
            file=sys.stderr,
        )
        return 2
    return check(todo, facts, options.out.resolve(), runner)


if __name__ == "__main__":
    sys.exit(main())
