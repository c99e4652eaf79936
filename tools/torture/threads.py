"""Exported and frozen policies used by eight threads at once: results equal to one thread's."""

from __future__ import annotations

import threading
from pathlib import Path

from torture.base import Result

THREADS = 8
CALLS = 2500  # of each thread


def run(scale: float, seed: int, work: Path) -> list[Result]:
    import torch

    torch.set_num_threads(1)
    calls = max(20, round(CALLS * scale))
    return [_together(name, policy, calls, seed) for name, policy in _policies(work, seed)]


def _policies(work: Path, seed: int):
    import torch

    import dom2_fast as d2
    from dom2_fast import networks

    torch.manual_seed(seed)

    def noise(**kwargs):
        return networks.MLPNoiseNet(18, 2, **{"hidden": 32, **kwargs})

    single = d2.DiffusionPolicy(noise(), solver="ddpm", steps=5)
    single.export(work / "policy.safetensors")
    yield "loaded from a file", d2.load_policy(work / "policy.safetensors")
    yield "bf16", d2.load_policy(work / "policy.safetensors", precision="bf16")
    stack = networks.stack([noise() for _ in range(3)])
    yield "frozen, of three agents", d2.DiffusionPolicy(stack, solver="dpm++2m").frozen()
    actor = networks.MLPGaussianActor(18, 2, hidden=32)
    yield "frozen, of one pass", d2.GaussianPolicy(actor).frozen()


def _together(name: str, policy, calls: int, seed: int) -> Result:
    import torch

    # Each call has rows and draws of its own, among them sizes that take other paths.
    def act(number: int) -> torch.Tensor:
        own = torch.Generator().manual_seed(seed * 1_000_003 + number)
        rows = (1, 2, 7, 33)[number % 4]
        shape = (rows, policy.obs_dim) if policy.groups is None else (policy.groups, rows, 18)
        return policy.sample(torch.randn(shape, generator=own), generator=own)

    alone = [act(number) for number in range(calls)]
    problems: list[str] = []
    begin = threading.Barrier(THREADS)

    def work(first: int) -> None:
        begin.wait()
        for step in range(calls):
            number = (first + step) % calls  # all threads do all calls, each from its own place
            try:
                if not torch.equal(act(number), alone[number]):
                    problems.append(f"call {number} differs")
            except Exception as error:
                problems.append(f"call {number}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(i * calls // THREADS,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    what = f"a policy in {THREADS} threads, {name}"
    return Result(what, THREADS * calls, problems, "bit for bit as in one thread")
