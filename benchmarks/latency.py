"""How long one action takes, and how seldom longer: percentiles of single calls, one thread.

    python benchmarks/latency.py --json latency.json            (about two minutes)
    python benchmarks/latency.py --calls 2000                   (a few seconds)

Every call is timed on its own, garbage collection and all, as a control loop meets it. Also the
time of `import dom2_fast` beyond that of torch, and the size of the package.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from peer_torch import Sampler, per_agent
from race import pin

import dom2_fast as d2
from dom2_fast import networks
from dom2_fast.algos.acting import Policies
from dom2_fast.ops import backend
from dom2_fast.policies.diffusion import DiffusionPolicy

IMPORT = """
import time
a = time.perf_counter()
import torch
b = time.perf_counter()
import dom2_fast
c = time.perf_counter()
dom2_fast.DiffusionPolicy, dom2_fast.ops
print(b - a, c - b, time.perf_counter() - c)
"""


def percentiles(run, calls: int) -> dict[str, float]:
    """Seconds of single calls; the first hundredth are not counted."""
    times = []
    clock = time.perf_counter_ns
    for _ in range(calls // 100 + 10):
        run()
    for _ in range(calls):
        begin = clock()
        run()
        times.append(clock() - begin)
    times.sort()

    def at(share: float) -> float:
        return times[min(calls - 1, int(share * calls))] * 1e-9

    return {"p50": at(0.5), "p99": at(0.99), "p99.9": at(0.999), "max": times[-1] * 1e-9}


def policy_of(agents: int | None) -> DiffusionPolicy:
    torch.manual_seed(0)
    nets = [networks.MLPNoiseNet(18, 2) for _ in range(agents or 1)]
    net = networks.stack(nets) if agents else nets[0]
    return DiffusionPolicy(net.eval(), steps=5, backend="native")


def same_actions(policy, others) -> None:
    """The other ways to act give what `sample` gives, for the same noise."""
    obs, x_T = torch.randn(1, 18), torch.randn(1, 2)
    expected = policy.sample(obs, x_T)
    for other in others:
        # Up to rounding, which early steps magnify: an untrained network's actions reach the
        # bounds, so the tolerance is on them.
        assert (other(obs, x_T) - expected).abs().max() < 1e-3


def single(calls: int) -> dict:
    policy = policy_of(None)
    plain = Sampler(per_agent(networks.stack([policy.net])).eval())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.safetensors"
        policy.export(path)
        exported = d2.load_policy(path)
    same_actions(policy, [exported.sample, lambda o, x: plain(o[None], x[None])[0]])
    obs = torch.randn(1, 18)
    return {
        "policy.sample, MLP 256, 1 row": percentiles(lambda: policy.sample(obs), calls),
        "policy.act, MLP 256, 1 row": percentiles(lambda: policy.act(obs), calls),
        "exported policy, act, 1 row": percentiles(lambda: exported.act(obs), calls),
        "PyTorch loop, 1 row": percentiles(
            lambda: plain(obs[None], torch.randn(1, 1, 2)), max(calls // 10, 100)
        ),
    }


def environment(calls: int) -> dict:
    """simple_spread with three agents, one copy: acting, and acting and stepping."""
    policies = Policies(policy_of(3))
    env = d2.envs.make("simple_spread", num_envs=1, seed=0)
    state = {"obs": env.reset()}

    def step():
        state["obs"], _, done = env.step(policies.act(state["obs"]))
        if done:
            state["obs"] = env.reset()

    obs = state["obs"]
    return {
        "three agents act": percentiles(lambda: policies.act(obs), calls),
        "three agents act, environment steps": percentiles(step, max(calls // 5, 100)),
    }


def import_seconds(times: int) -> dict[str, float]:
    """Medians over fresh processes; the first isn't counted, it fills the file cache."""
    found = []
    for _ in range(times + 1):
        done = subprocess.run(
            [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
        )
        found.append([float(v) for v in done.stdout.split()])
    names = ("torch", "dom2_fast", "first_use")  # the first use loads the policy and the kernels
    medians = (statistics.median(v) for v in zip(*found[1:], strict=True))
    return dict(zip(names, medians, strict=True))


def sizes(wheel: str | None) -> dict[str, int]:
    folder = Path(d2.__file__).parent
    files = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    found = {
        "extension": sum(p.stat().st_size for p in files if p.suffix in (".so", ".pyd")),
        "package": sum(p.stat().st_size for p in files),
    }
    if wheel:
        found["wheel"] = Path(wheel).stat().st_size
    return found


def text(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--imports", type=int, default=9, help="processes to time importing in")
    parser.add_argument("--wheel", help="a built wheel, to tell its size")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    imports = import_seconds(args.imports)
    pin(1)
    results = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "isa": backend.isa_active(),
            "python": platform.python_version(),
        },
        "calls": args.calls,
        "latency": single(args.calls) | environment(args.calls),
        "import": imports,
        "bytes": sizes(args.wheel),
    }
    print("| one call | p50 | p99 | p99.9 | longest |\n| --- | --- | --- | --- | --- |")
    for name, found in results["latency"].items():
        print(f"| {name} | {' | '.join(text(v) for v in found.values())} |")
    print(
        f"\nimport torch {text(imports['torch'])}, import dom2_fast after it "
        f"{text(imports['dom2_fast'])}, first use of it {text(imports['first_use'])}"
    )
    print(", ".join(f"{k} {v / 1e6:.2f} MB" for k, v in results["bytes"].items()))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
