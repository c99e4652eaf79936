"""`updates.step` against what it stands for: the step of torch's own Adam, bit for bit."""

import copy

import pytest
import torch
from torch import nn

from dom2_fast.algos import updates


def learn(net, optimiser, step, steps, idle=()) -> None:
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        for name, p in net.named_parameters():
            p.grad = None if name in idle else torch.randn(p.shape, generator=generator)
        step(optimiser)


@pytest.mark.parametrize("idle", [(), ("bias",)])
def test_a_step_is_adams(idle):
    ours = nn.Linear(3, 2)
    theirs = copy.deepcopy(ours)
    one, other = updates.adam(ours, 0.1), updates.adam(theirs, 0.1)
    for steps in (3, 2):
        learn(ours, one, updates.step, steps, idle)
        learn(theirs, other, torch.optim.Adam.step, steps, idle)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
        again = updates.adam(ours, 0.5)  # a checkpoint's state, lr with it, replaces all tensors
        again.load_state_dict(copy.deepcopy(one.state_dict()))
        one = again
    assert str(one.state_dict()) == str(other.state_dict())
