"""Memory doesn't grow: a training loop for 30 minutes, and 10 million acts.

The resident size is read a hundred times; it may grow by no more than it does in noise after the
first tenth, in which caches and allocators fill.
"""

from __future__ import annotations

import gc
import resource
import time
from pathlib import Path

from torture import problem
from torture.base import Result, must, warm_up

MINUTES = 30
ACTS = 10_000_000
ALLOWED = 4 << 20  # bytes: the allocator's own pages come and go


def run(scale: float, seed: int, work: Path) -> list[Result]:
    warm_up()
    must(problem.collect(work / "data"), work / "log")
    return [_training(MINUTES * 60 * scale, work), _acts(round(ACTS * scale), seed)]


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _judged(what: str, tries: int, sizes: list[int], note: str) -> Result:
    """Compares the largest size of the second tenth with that of the last one."""
    tenth = max(1, len(sizes) // 10)
    early, late = max(sizes[tenth : 2 * tenth + 1]), max(sizes[-tenth:])
    grown = late - early
    told = f"{note}; {early / 2**20:.1f} MiB early, {late / 2**20:.1f} MiB late"
    problems = [f"grew by {grown / 2**20:.1f} MiB"] if grown > ALLOWED else []
    return Result(what, tries, problems, told)


def _training(seconds: float, work: Path) -> Result:
    """DOM2's update with logs and checkpoints, as `dom2-fast train` does it."""
    from dom2_fast.algos.dom2 import DOM2Config
    from dom2_fast.runs import train

    config = DOM2Config(hidden=32, critic_hidden=32, batch_size=64, weights="thresholds:0")
    sizes: list[int] = []
    begin, step = time.monotonic(), 0
    loop = train.Meter.add

    def add(self, values):
        nonlocal step
        loop(self, values)
        step += 1
        now = time.monotonic() - begin
        if now > seconds * len(sizes) / 100:
            sizes.append(_resident())
        if now > seconds:
            raise _Enough

    train.Meter.add = add
    try:
        train.train(
            *(config, work / "data", work / "run", 10**9),
            **{"progress": False, "tensorboard": True, "log_every": 20, "save_every": 50},
        )
    except _Enough:
        pass
    finally:
        train.Meter.add = loop
    return _judged("memory of training", step, sizes, f"{seconds / 60:.1f} minutes of updates")


class _Enough(Exception):
    pass


def _acts(count: int, seed: int) -> Result:
    """A policy that follows its training, and a frozen one; one row a call, as a control loop."""
    import torch

    import dom2_fast as d2
    from dom2_fast import networks

    torch.manual_seed(seed)
    policy = d2.DiffusionPolicy(networks.MLPNoiseNet(18, 2, hidden=16, depth=1), steps=1)
    frozen = policy.frozen()
    obs, generator = torch.zeros(1, 18), torch.Generator().manual_seed(seed)
    sizes: list[int] = []
    every = max(1, count // 100)
    with torch.no_grad():
        for number in range(count):
            (frozen if number % 2 else policy).sample(obs, generator=generator)
            if number % every == 0:
                sizes.append(_resident())
    return _judged("memory of acting", count, sizes, "half frozen, half not")
