"""One whole DOM2 update of three agents: draw, critics, policy through the chain, targets."""

import dataclasses

import pytest
import torch
from conftest import close

from dom2_fast.algos.dom2 import DOM2, DOM2Config
from dom2_fast.data.trajectories import TrajectoryDataset


@pytest.fixture(scope="module")
def data():
    g = torch.Generator().manual_seed(0)
    episodes, length = 200, 25

    def draw(steps, width):
        return [torch.randn(episodes, steps, width, generator=g) for _ in range(3)]

    obs = draw(length + 1, 18)
    return TrajectoryDataset.from_arrays(
        obs=[o[:, :-1].reshape(-1, 18).numpy() for o in obs],
        act=[a.clamp(-1, 1).reshape(-1, 2).numpy() for a in draw(length, 2)],
        reward=[r.reshape(-1).numpy() for r in draw(length, 1)],
        next_obs=[o[:, 1:].reshape(-1, 18).numpy() for o in obs],
        episode_length=length,
    )


@pytest.mark.parametrize("kind", ["native", "reference"])
@pytest.mark.parametrize("batch", [256, 1024])
def bench_dom2_update(benchmark, threads, data, batch, kind):
    benchmark.group = f"DOM2 update, mlp, 3 x {batch} rows, {threads} threads"
    config = DOM2Config(batch_size=batch, weights="uniform")
    native, eager = (
        DOM2(dataclasses.replace(config, backend=b), data) for b in ("native", "reference")
    )
    first = native.update(), eager.update()
    assert first[0].keys() == first[1].keys()
    for name in first[0]:
        close(first[0][name], first[1][name])
    benchmark.pedantic((native if kind == "native" else eager).update, rounds=7, warmup_rounds=1)
