"""Sampling and training beside the machine's own matrix product: `python benchmarks/peak.py`.

`python benchmarks/peak.py layers`: what a hidden layer and its activation take, from networks of
0 to 4 layers of 256 x 256, with and without Mish, beside what the layer's products alone would take
at the peak of FMAs (fma_peak.c).

One thread. Only the operations that the work needs are counted: a gradient is twice its forward
pass, whatever is computed again.
"""

import statistics
import sys
import time
from functools import partial

import torch
from bench_update import paper_config, random_data
from floor import Peak
from torch import nn

from dom2_fast import networks
from dom2_fast.algos.dom2 import DOM2
from dom2_fast.ops import backend
from dom2_fast.policies.diffusion import DiffusionPolicy


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


def work(program) -> tuple[int, int]:
    """Floating-point operations of a program's products: per condition vector, per row and step."""
    once = {i.weight for i in program.instrs if i.once and i.weight >= 0}
    of = [2 * n * k for n, k in program.weights]
    first = sum(of[i] for i in once)
    return first, sum(of) - first


def update_work(agent: DOM2) -> int:
    """Of one update: target actions and their values, critics, the chain with Q, the BC loss."""
    c, rows = agent.config, agent.num_agents * agent.config.batch_size
    first, step = work(agent.policy._programs.get("table").program)
    bc = sum(work(agent.policy._programs.get("row").program))
    q_first, q_row = work(agent.critics.q._programs.get(None).program)
    sampled = rows * (first + c.steps * step)
    critics = 2 * rows * (q_first + (1 + c.cql_actions) * q_row)
    rated = rows * (q_first + q_row)
    return 4 * sampled + 3 * rows * bc + 3 * critics + 2 * rated + 2 * rated


def update_rows(peak: float) -> None:
    data = random_data()
    print("\n| DOM2 update | batch | time | GFLOP/s | of sgemm |\n| --- | --- | --- | --- | --- |")
    for network in ("mlp", "unet"):
        for batch in (256, 1024):
            agent = DOM2(paper_config(network, batch), data)
            agent.net.eval()
            seconds = median_seconds(agent.update)
            rate = update_work(agent) / seconds / 1e9
            print(
                f"| {network} | {batch} | {seconds * 1e3:.1f} ms | {rate:.0f} | {rate / peak:.0%} |"
            )


LAYERS = (0, 1, 2, 4)


class Layers(nn.Module):
    """As many hidden layers of 256 as asked for, after a first one that reads x and obs."""

    act_dim, obs_dim = 3, 17

    def __init__(self, count: int, activation: type[nn.Module]) -> None:
        super().__init__()
        inner = [part for _ in range(count) for part in (nn.Linear(256, 256), activation())]
        self.net = nn.Sequential(nn.Linear(20, 256), activation(), *inner, nn.Linear(256, 3))

    def forward(self, x, t, obs):
        return self.net(torch.cat([x, obs], -1))


@torch.no_grad()
def layer_rows() -> None:
    """Microseconds of one sampling call by depth, in turns."""
    isa = backend.isa_active()
    peak = Peak(isa).rate() / 1e9
    print(f"{isa}, FMA peak {peak:.0f} GFLOP/s\n")
    head = " | ".join(f"{n} layers" for n in LAYERS)
    print(f"| rows, activation | {head} | a layer | its products at the peak |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    kinds = {"none": nn.Identity, "Mish": nn.Mish}
    policies = {
        (name, n): DiffusionPolicy(Layers(n, kind), steps=5).frozen()
        for name, kind in kinds.items()
        for n in LAYERS
    }
    for rows in (32, 256):
        obs, x_T = torch.randn(rows, 17), torch.randn(rows, 3)
        taken: dict[tuple, list[float]] = {key: [] for key in policies}
        for _ in range(25):
            for key, policy in policies.items():
                begin = time.perf_counter()
                for _ in range(2048 // rows):
                    policy.sample(obs, x_T=x_T)
                taken[key].append((time.perf_counter() - begin) / (2048 // rows) * 1e6)
        best = rows * 5 * 2 * 256 * 256 / peak / 1e3
        for name in kinds:
            of = [statistics.median(taken[name, n]) for n in LAYERS]
            each = (of[-1] - of[1]) / (LAYERS[-1] - LAYERS[1])
            times = " | ".join(f"{t:.0f} µs" for t in of)
            print(
                f"| {rows}, {name} | {times} | {each:.0f} µs | {best:.0f} µs, {best / each:.0%} |"
            )


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:] == ["layers"]:
        return layer_rows()
    a = torch.randn(1024, 1024)
    peak = 2 * 1024**3 / median_seconds(lambda: a @ a) / 1e9
    print(f"sgemm 1024: {peak:.0f} GFLOP/s\n")
    sampling_rows(peak)
    update_rows(peak)


@torch.no_grad()
def sampling_rows(peak: float) -> None:
    print("| network | batch | time | GFLOP/s | of sgemm |\n| --- | --- | --- | --- | --- |")
    for name, kind in (("MLP", networks.MLPNoiseNet), ("U-Net", networks.UNetNoiseNet)):
        policy = DiffusionPolicy(kind(18, 2).eval(), steps=5, backend="native")
        first, step = work(policy._programs.get("table").program)
        per_row = first + policy.steps * step
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
