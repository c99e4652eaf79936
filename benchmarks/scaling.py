"""Time against rows, steps and agents, and the memory of a training update, one thread.

    python benchmarks/scaling.py --save cpu                     (about three minutes)

--save NAME writes benchmarks/results/NAME-scaling.json and NAME-scaling.svg. A slope of 1 is time
in proportion; it is fitted to the upper half of the sizes, where fixed costs no longer count.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peak import median_seconds
from peer_torch import Sampler, batched, per_agent
from race import pin

from dom2_fast import networks
from dom2_fast.policies.diffusion import DiffusionPolicy

ROWS = [1, 4, 16, 64, 256, 1024, 4096, 16384]
STEPS = [1, 2, 5, 10, 20, 50]
AGENTS = [1, 2, 4, 8, 16, 32]
BATCHES = [256, 1024, 4096]
BOUND = 1e4  # see bench_denoise


def one(agents: int, rows: int, steps: int) -> dict[str, float]:
    """Seconds of sampling, ours and PyTorch's, which agree."""
    torch.manual_seed(0)
    stacked = networks.stack([networks.MLPNoiseNet(18, 2) for _ in range(agents)]).eval()
    policy = DiffusionPolicy(stacked, steps=steps, backend="native", act_low=-BOUND, act_high=BOUND)
    plain = Sampler((per_agent if agents == 1 else batched)(stacked), steps, BOUND)
    obs, x_T = torch.randn(agents, rows, 18), torch.randn(agents, rows, 2)
    a, b = policy.sample(obs, x_T), plain(obs, x_T)
    assert (a - b).norm() <= 1e-4 * b.norm()
    return {
        "ours": median_seconds(partial(policy.sample, obs, x_T)),
        "PyTorch": median_seconds(partial(plain, obs, x_T)),
    }


def slope(sizes: list[int], seconds: list[float]) -> float:
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(seconds[half:]), 1)[0])


def curve(sizes: list[int], seconds: list[float]) -> dict:
    return {"sizes": sizes, "seconds": seconds, "slope": slope(sizes, seconds)}


def sweeps() -> dict:
    found = {}
    for name, sizes, call in (
        ("rows", ROWS, lambda n: one(1, n, 5)),
        ("steps", STEPS, lambda n: one(1, 256, n)),
        ("agents", AGENTS, lambda n: one(n, 32, 5)),
    ):
        each = [call(n) for n in sizes]
        found[name] = {
            who: {
                "sizes": sizes,
                "seconds": (s := [e[who] for e in each]),
                "slope": slope(sizes, s),
            }
            for who in ("ours", "PyTorch")
        }
    return found


def rss(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(field))
    return int(line.split()[1]) * 1024


def memory_here(kind: str, net: str, batch: int) -> dict[str, int]:
    """Peak resident memory of three updates beyond what a small one has left, in this process."""
    import bench_update
    from peer_torch_dom2 import TorchDOM2

    from dom2_fast.algos.dom2 import DOM2

    torch.set_num_threads(1)
    agent = DOM2(bench_update.paper_config(net, 8), bench_update.random_data())
    agent.net.eval()
    learner = agent if kind == "native" else TorchDOM2(agent, batched)
    learner.update()  # code is loaded, optimisers have their state
    agent.sampler.batch_size = batch
    if learner is not agent:
        learner.c = dataclasses.replace(learner.c, batch_size=batch)
    params = [p for m in (agent.net, agent.critics.net) for p in m.parameters()]
    weights = sum(p.numel() * 4 for p in params)
    before = rss("VmRSS")
    for _ in range(3):
        learner.update()
    return {
        "peak": rss("VmHWM") - before,
        "parameters, targets, Adam": 4 * weights,
        "gradients": weights,
        "rows drawn": 3 * batch * (18 + 2 + 1 + 18 + 1) * 4,
    }


def memory() -> list[dict]:
    """Each in a process of its own: a peak can't be taken back."""
    found = []
    for net, batches in (("mlp", BATCHES), ("unet", BATCHES[:1])):
        for batch in batches:
            for kind in ("native", "eager"):
                command = [sys.executable, __file__, "--memory-of", kind, net, str(batch)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found.append({"net": net, "batch": batch, "kind": kind, **json.loads(done.stdout)})
    return found


def draw(found: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dom2"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2))
    for ax, (name, lines) in zip(axes, found.items(), strict=True):
        for who, line in lines.items():
            label = f"{who}, slope {line['slope']:.2f}"
            style = {"color": "black", "lw": 2} if who == "ours" else {"lw": 1.2}
            milliseconds = [s * 1e3 for s in line["seconds"]]
            ax.loglog(line["sizes"], milliseconds, marker=".", label=label, **style)
        ax.set(xlabel=name, ylabel="ms")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", metavar="NAME")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        kind, net, batch = args.memory_of
        print(json.dumps(memory_here(kind, net, int(batch))))
        return
    used = memory() if Path("/proc/self/status").exists() else []
    torch.set_num_threads(1)
    pin(1)
    with torch.no_grad():
        found = sweeps()
    for name, lines in found.items():
        print(f"\n| {name} | ours | PyTorch | ratio |\n| --- | --- | --- | --- |")
        rows = zip(
            lines["ours"]["sizes"],
            lines["ours"]["seconds"],
            lines["PyTorch"]["seconds"],
            strict=True,
        )
        for n, a, b in rows:
            print(f"| {n} | {a * 1e3:.3g} ms | {b * 1e3:.3g} ms | {b / a:.1f} |")
        print(f"| slope | {lines['ours']['slope']:.2f} | {lines['PyTorch']['slope']:.2f} | |")
    if used:
        keys = [k for k in used[0] if k not in ("net", "batch", "kind")]
        print(f"\n| update of | by | {' | '.join(keys)} |\n{'| --- ' * (len(keys) + 2)}|")
        for u in used:
            cells = " | ".join(f"{u[k] / 2**20:.3g} MiB" for k in keys)
            print(f"| {u['net']}, 3 x {u['batch']} rows | {u['kind']} | {cells} |")
    if args.save:
        stem = Path(__file__).parent / "results" / f"{args.save}-scaling"
        stem.parent.mkdir(exist_ok=True)
        text = json.dumps({"time": found, "memory": used, "torch": torch.__version__}, indent=1)
        stem.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
        draw(found, stem.with_suffix(".svg"))


if __name__ == "__main__":
    main()
