"""The C++ reader of policy files, fuzzed by coverage (clang's libFuzzer) under ASan and UBSan.

Ten minutes at full scale. Without clang: gcc, AFL and others have no such driver, so it is said
that nothing was done. The seeds are exported policies of every kind; what was found to crash it
stays in the printed folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from torture.base import Result

REPO = Path(__file__).resolve().parents[2]
SECONDS = 600
MEMORY = 2048  # MiB for one file
TIMEOUT = 20  # seconds for one file
SOURCES = ("core/plan", "core/policy_file", "core/safetensors", "cpu/isa", "cpu/pack")
SOURCES += ("cpu/policy", "cpu/run", "cpu/kernels_base")


def run(scale: float, seed: int, work: Path) -> list[Result]:
    compiler = next(filter(None, map(shutil.which, ("clang++", "clang++-14", "clang++-19"))), None)
    what = "C++ policy reader, libFuzzer with ASan and UBSan"
    if compiler is None:
        return [Result(what, 0, [], "NOT done: no clang++ is installed")]
    program, corpus = work / "read_policy", work / "corpus"
    built = subprocess.run(
        [
            *(compiler, "-std=c++17", "-g", "-O1", f"-I{REPO / 'csrc'}", "-o", program),
            "-fsanitize=fuzzer,address,undefined",
            "-fno-sanitize-recover=undefined",
            *(REPO / "csrc" / f"{name}.cpp" for name in SOURCES),
            REPO / "tools" / "torture" / "read_policy.cpp",
        ],
        capture_output=True,
        text=True,
    )
    if built.returncode:
        return [Result(what, 0, [], f"NOT done: it can't be built: {built.stderr[-300:]}")]
    corpus.mkdir()
    seeds(corpus)
    begun = len(list(corpus.iterdir()))
    done = subprocess.run(
        [
            *(program, corpus, f"-max_total_time={round(SECONDS * scale)}", f"-seed={seed + 1}"),
            *(f"-rss_limit_mb={MEMORY}", f"-malloc_limit_mb={MEMORY}", f"-timeout={TIMEOUT}"),
            *("-print_final_stats=1", f"-artifact_prefix={work}/found-", "-max_len=65536"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "DOM2_FAST_ISA": "base"},
        cwd=work,
    )
    text = done.stderr
    tries = int((re.findall(r"number_of_executed_units:\s*(\d+)", text) or [0])[-1])
    covered = (re.findall(r"cov: (\d+)", text) or ["?"])[-1]
    memory = (re.findall(r"peak_rss_mb:\s*(\d+)", text) or ["?"])[-1]
    note = f"{round(SECONDS * scale)} s from {begun} seeds, {covered} edges, peak {memory} MiB"
    problems = []
    if done.returncode:
        said = re.findall(r"(?:ERROR: .*|runtime error: .*|SUMMARY: .*)", text)
        problems = [f"{'; '.join(said[:2])[:300]} (input in {work}, keep it with --keep)"]
    return [Result(what, tries, problems, note)]


def seeds(folder: Path) -> None:
    """Small exported policies of every kind, solver and version."""
    import torch

    import dom2_fast as d2
    from dom2_fast import networks

    torch.manual_seed(0)
    small = {"hidden": 4, "depth": 1, "time_dim": 4}

    def noise():
        return networks.MLPNoiseNet(3, 2, **small)

    policies = [
        d2.DiffusionPolicy(noise(), solver=solver, steps=2 + order)
        for order, solver in enumerate(("dpm1", "ddpm", "dpm++2m"))
    ]
    policies.append(d2.DiffusionPolicy(networks.stack([noise(), noise()])))
    policies.append(d2.DeterministicPolicy(networks.MLPActor(3, 2, hidden=4)))
    policies.append(d2.GaussianPolicy(networks.MLPGaussianActor(3, 2, hidden=4)))
    for number, policy in enumerate(policies):
        policy.export(folder / f"seed-{number}.safetensors")
        policy.frozen().export(folder / f"half-{number}.safetensors", half=True)
