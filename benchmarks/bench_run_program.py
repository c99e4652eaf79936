"""Critics: six of them (three agents, twins), 11 actions per observation, value and gradient."""

import pytest
import torch
from conftest import close
from peer_torch import batched

from dom2_fast import networks
from dom2_fast.lowering import FusedModule


@pytest.mark.parametrize("kind", ["native", "eager", "batched"])
@pytest.mark.parametrize("batch", [256, 1024])
def bench_critics(race, threads, batch, kind):
    torch.manual_seed(0)
    critics = networks.stack([networks.MLPCritic(18, 2) for _ in range(6)])
    fused = FusedModule(critics, backend="native")
    act, obs = torch.rand(6, 11 * batch, 2) * 2 - 1, torch.randn(6, batch, 18)
    leaves = list(critics.parameters())
    plain = batched(critics)

    def run(q, parameters):
        return torch.autograd.grad(q(act, obs).square().mean(), parameters)

    def repeated(net):
        return lambda a, o: net(a, o.repeat_interleave(11, 1))

    ways = {
        "native": (fused, leaves),
        "eager": (repeated(critics), leaves),
        "batched": (repeated(plain), list(plain.parameters())),
    }

    def make(kinds):
        for one, other in (("native", "eager"), ("eager", "batched")):
            for a, b in zip(run(*ways[one]), run(*ways[other]), strict=True):
                close(a, b)
        return {kind: (lambda way=ways[kind]: run(*way)) for kind in kinds}

    race(f"critics + gradient, 6 x {batch} x 11 rows, {threads} threads", make)
