"""bf16 weights without bf16 instructions: `DOM2_FAST_ISA=avx2 python benchmarks/bf16_kept.py`.

Sampling with precision="bf16" beside "fp32", in turns, for networks that the second-level cache
holds and some that it doesn't. Prints a table in Markdown.
"""

from __future__ import annotations

import statistics
import time

import torch
from race import pin

from dom2_fast import networks
from dom2_fast.ops import backend
from dom2_fast.policies.diffusion import DiffusionPolicy

NETWORKS = {
    "MLP of 256": lambda: networks.MLPNoiseNet(18, 2, hidden=256),
    "MLP of 768": lambda: networks.MLPNoiseNet(18, 2, hidden=768),
    "MLP of 1,024": lambda: networks.MLPNoiseNet(18, 2, hidden=1024),
    "U-Net": lambda: networks.UNetNoiseNet(18, 2),
}
ROWS = (1, 2, 8, 64)
ROUNDS, STRETCH = 40, 0.003  # seconds of calls in one go


def timed(run, n: int) -> float:
    run()  # fetches its own weights into the caches
    begin = time.perf_counter()
    for _ in range(n):
        run()
    return (time.perf_counter() - begin) / n


def beside(net, rows: int) -> tuple[float, float]:
    """Seconds of fp32, and how many times longer that is than bf16."""
    obs, x_T = torch.rand(rows, net.obs_dim), torch.rand(rows, net.act_dim)
    runs = []
    for precision in ("fp32", "bf16"):
        policy = DiffusionPolicy(net, precision=precision)
        policy.sample(obs, x_T)  # the second call keeps what is packed
        runs.append(lambda policy=policy: policy.sample(obs, x_T))
    counts = [max(1, round(STRETCH / timed(run, 1))) for run in runs]
    pairs = [
        tuple(timed(run, n) for run, n in zip(runs, counts, strict=True)) for _ in range(ROUNDS)
    ]
    return statistics.median(a for a, _ in pairs), statistics.median(a / b for a, b in pairs)


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    pin(1)
    print(f"{backend.isa_active()}, one thread, torch {torch.__version__}\n")
    print(f"| network | weights | {' | '.join(f'{n} row' + 's' * (n > 1) for n in ROWS)} |")
    print("| --- " * (2 + len(ROWS)) + "|")
    for name, make in NETWORKS.items():
        net = make().eval()
        size = sum(p.numel() for p in net.parameters()) * 4 / 2**20
        cells = [f"{t * 1e6:.0f} µs, {ratio:.2f}" for t, ratio in (beside(net, n) for n in ROWS)]
        print(f"| {name} | {size:.1f} MiB | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
