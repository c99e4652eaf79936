"""A whole DOM2 update on the emulated CUDA executors: every op, forward and backward, together."""

import pytest
import torch
from conftest import choose
from small_data import dataset
from tolerances import NETWORK32

from dom2_fast.algos.dom2 import DOM2, DOM2Config


@pytest.fixture
def emulated(monkeypatch):
    return lambda: choose("simt", monkeypatch)


def train(updates):
    sizes = {"hidden": 24, "critic_hidden": 16, "batch_size": 12}
    config = DOM2Config(**sizes, q_action="chain", q_warmup=0, weights="uniform")
    agents = DOM2(config, dataset(8, 25))
    metrics = [agents.fit(1) for _ in range(updates)]
    return metrics, torch.cat([p.detach().flatten() for p in agents.net.parameters()])


def test_it_learns_the_same_as_on_the_cpu(emulated):
    expected, parameters = train(2)
    emulated()
    got, others = train(2)
    assert got[0].keys() == expected[0].keys()
    for name, value in expected[0].items():  # the second one has taken Adam's first step
        # Draws are the same; ten layers of rounding, and normalisation by E |Q|, lie between.
        assert got[0][name] == pytest.approx(value, rel=10 * NETWORK32, abs=10 * NETWORK32), name
    assert not torch.equal(others, parameters)  # or the emulated ops were not called at all
    # Adam's first steps are of size lr whatever the gradient, so its sign decides: few may differ.
    differ = (others - parameters).abs() > 1e-4
    assert differ.double().mean() < 0.01
