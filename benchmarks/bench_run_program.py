"""Critics: six of them (three agents, twins), 11 actions per observation, value and gradient."""

import pytest
import torch
from conftest import close

from dom2_fast import networks
from dom2_fast.lowering import FusedModule


@pytest.mark.parametrize("kind", ["native", "eager"])
@pytest.mark.parametrize("batch", [256, 1024])
def bench_critics(benchmark, threads, batch, kind):
    benchmark.group = f"critics + gradient, 6 x {batch} x 11 rows, {threads} threads"
    torch.manual_seed(0)
    critics = networks.stack([networks.MLPCritic(18, 2) for _ in range(6)])
    fused = FusedModule(critics, backend="native")
    act, obs = torch.rand(6, 11 * batch, 2) * 2 - 1, torch.randn(6, batch, 18)
    leaves = list(critics.parameters())

    def eager(a, o):
        return critics(a, o.repeat_interleave(11, 1))

    def run(q):
        return torch.autograd.grad(q(act, obs).square().mean(), leaves)

    for a, b in zip(run(fused), run(eager), strict=True):
        close(a, b)
    benchmark(run, fused if kind == "native" else eager)
