"""Weighted draw and gather from 1 M transitions of three agents (18 + 2 + 1 + 18 + 1 numbers each).

`eager` is what one would write in PyTorch: searchsorted on a cached cumulative sum, then gathers.
"""

import pytest
import torch

from dom2_fast import ops

AGENTS, EPISODES, LENGTH, WIDTHS = 3, 40_000, 25, (18, 2, 0, 18, 0)


@pytest.fixture(scope="module")
def data():
    n = EPISODES * LENGTH
    fields = [torch.randn((n, w) if w else (n,)) for w in WIDTHS for _ in range(AGENTS)]
    weights = torch.randint(1, 9, (AGENTS, EPISODES)).double()
    return fields, weights, torch.arange(0, n + 1, LENGTH)


@pytest.mark.parametrize("kind", ["native", "eager"])
@pytest.mark.parametrize("batch", [256, 1024])
def bench_draw_and_gather(benchmark, threads, data, batch, kind):
    benchmark.group = f"draw + gather, 3 x {batch} of 1 M rows, {threads} threads"
    fields, weights, starts = data
    tables = ops.alias_table(weights)
    cumulative = weights.cumsum(1)

    def native():
        return ops.sample_transitions(fields, *tables, starts, batch, ops.make_rng(), check=False)

    def eager():
        u = torch.rand(AGENTS, batch, dtype=torch.float64) * cumulative[:, -1:]
        step = torch.randint(LENGTH, (AGENTS, batch))
        index = torch.searchsorted(cumulative, u) * LENGTH + step
        return [f[index[i % AGENTS]] for i, f in enumerate(fields)], index

    outs, index = native()
    for f, out in enumerate(outs):  # what was drawn is what was gathered
        for g in range(AGENTS):
            assert torch.equal(out[g], fields[f * AGENTS + g][index[g]])
    benchmark(native if kind == "native" else eager)
