"""Sampling beside the machine's own matrix product, one thread: `python benchmarks/peak.py`."""

import statistics
import time
from functools import partial

import torch

from dom2_fast import networks
from dom2_fast.policy import DiffusionPolicy


def median_seconds(run) -> float:
    """Median over a second of calls, and 20 at least."""
    for _ in range(3):
        run()
    times = []
    end = time.perf_counter() + 1.0
    while len(times) < 20 or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def one_row(hidden: int) -> float:
    """Seconds of one `sample` of one row; the weights are laid out from the second call on."""
    policy = DiffusionPolicy(networks.MLPNoiseNet(18, 2, hidden).eval(), steps=5, backend="native")
    return median_seconds(partial(policy.sample, torch.randn(1, 18), torch.randn(1, 2)))


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    a = torch.randn(1024, 1024)
    peak = 2 * 1024**3 / median_seconds(lambda: a @ a) / 1e9
    print(f"sgemm 1024: {peak:.0f} GFLOP/s\n")
    print("| network | batch | time | GFLOP/s | of sgemm |\n| --- | --- | --- | --- | --- |")
    for name, kind in (("MLP", networks.MLPNoiseNet), ("U-Net", networks.UNetNoiseNet)):
        policy = DiffusionPolicy(kind(18, 2).eval(), steps=5, backend="native")
        program = policy._programs.get("table").program
        once = {i.weight for i in program.instrs if i.once and i.weight >= 0}
        per_row = sum(
            2 * n * k * (1 if i in once else policy.steps)
            for i, (n, k) in enumerate(program.weights)
        )
        for batch in (1, 32, 256, 1024):
            obs, x_T = torch.randn(batch, 18), torch.randn(batch, 2)
            seconds = median_seconds(partial(policy.sample, obs, x_T))
            rate = batch * per_row / seconds / 1e9
            print(f"| {name} | {batch} | {seconds * 1e6:.0f} µs | {rate:.0f} | {rate / peak:.0%} |")
    whole, empty = one_row(256), one_row(1)
    print(
        f"\nOne row, MLP: {whole * 1e6:.0f} µs = call {empty * 1e6:.0f} (what it takes with a "
        f"network of width 1) + network {(whole - empty) * 1e6:.0f}"
    )


if __name__ == "__main__":
    main()
