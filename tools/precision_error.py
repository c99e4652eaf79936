"""How far bf16 moves a trained policy's actions and scores: what docs/precision.md reports.

    python tools/precision_error.py RUN [--on cpu|emulated|cuda] [--episodes 200]

On the CPU's executors, on the emulated CUDA executors (`make simt`) or on a GPU. The error is
against float64, beside that of PyTorch's own bf16 and float32 paths, over observations ten steps
into 256 episodes, of the first agent.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import torch

from dom2_fast import algos, checkpoint, envs, ops
from dom2_fast.ops import backend
from dom2_fast.policies.diffusion import DiffusionPolicy
from dom2_fast.runs.evaluation import evaluate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python_tests" / "ops"))


def device(on: str) -> str:
    """The torch device; emulated ops take the CPU ops' place."""
    if on == "cuda" and not (torch.cuda.is_available() and backend.cuda_built()):
        sys.exit("no GPU, or no CUDA executors: `dom2-fast doctor` says why; try --on emulated")
    if on == "emulated":
        from conftest import simt

        emulated = simt()
        if isinstance(emulated, str):
            sys.exit(emulated)
        ops._NATIVE = emulated
    return "cuda" if on == "cuda" else "cpu"


def sample(net, obs, x_T, where, dtype, backend, steps, solver, precision="fp32"):
    policy = DiffusionPolicy(
        copy.deepcopy(net).to(where, dtype),
        solver=solver,
        steps=steps,
        backend=backend,
        precision=precision,
    )
    with torch.no_grad():
        return policy.sample(obs.to(where, dtype), x_T=x_T.to(where, dtype)).double().cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="folder of a training run")
    parser.add_argument("--on", choices=("cpu", "emulated", "cuda"), default="cpu")
    parser.add_argument("--episodes", type=int, default=200)
    args = parser.parse_args()
    state = checkpoint.load(args.run)
    agents = algos.algorithm(state["algo"]).from_state(state)
    world = envs.make(agents.env, num_envs=256, seed=0)
    obs = world.reset()
    for _ in range(10):
        obs, _, _ = world.step(agents.policies.act(obs, torch.Generator().manual_seed(0)))
    obs = obs[0].float()
    x_T = torch.randn(len(obs), agents.act_dim, generator=torch.Generator().manual_seed(3))
    cpu_score = evaluate(agents.policies, env=agents.env, episodes=args.episodes)
    where = device(args.on)
    net = agents.policies.policy.net.unstack()[0]
    print("| sampler | PyTorch bf16 | bf16 | PyTorch fp32 | fp32 |\n" + "| --- " * 5 + "|")
    for solver, steps in (("dpm1", 1), ("dpm1", 5), ("dpm1", 20), ("dpm++2m", 5)):
        call = {"steps": steps, "solver": solver}
        exact = sample(net, obs, x_T, "cpu", torch.float64, "reference", **call)
        cells = [
            sample(net, obs, x_T, where, torch.bfloat16, "reference", **call),
            sample(net, obs, x_T, where, torch.float32, "native", precision="bf16", **call),
            sample(net, obs, x_T, where, torch.float32, "reference", **call),
            sample(net, obs, x_T, where, torch.float32, "native", **call),
        ]
        rms = [f"{(c - exact).square().mean().sqrt().item():.1e}" for c in cells]
        print(f"| {solver}, {steps} steps | {' | '.join(rms)} |")
    policies = agents.policies
    policies.policy.to(where)
    for precision in ("fp32", "bf16"):
        policies.policy.precision = precision
        score = evaluate(policies, env=agents.env, episodes=args.episodes)
        print(f"score, {precision} on {args.on}: {score['mean']:.2f} {score['ci95']}")
    print(f"score, CPU executors: {cpu_score['mean']:.2f} {cpu_score['ci95']}")


if __name__ == "__main__":
    main()
