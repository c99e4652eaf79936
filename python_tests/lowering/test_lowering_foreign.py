"""What other people's networks do that ours don't: SiLU by hand, functions of t, attributes."""

import functools

import pytest
import tolerances
import torch
from torch import nn

from dom2_fast import lowering
from dom2_fast.lowering import LoweringError, attributes
from dom2_fast.ops import reference

F64 = torch.float64
OBS, A = 5, 3


def by_hand(x):
    return x * torch.sigmoid(x)


def untraceable(t, power=1):
    return torch.tensor(t) ** power, torch.exp(-torch.as_tensor(t))


class Net(nn.Module):
    obs_dim, act_dim = OBS, A

    def __init__(self, forward, **attributes):
        super().__init__()
        self.first, self.last = nn.Linear(A + 1 + OBS, 7), nn.Linear(7, A)
        self._forward = forward
        for name, value in attributes.items():
            setattr(self, name, value)
        self.double()

    def forward(self, x, t, obs):
        h = self.first(torch.cat([x, t[:, None], obs], -1))
        return self.last(self._forward(self, h, t))


def net(forward, **held):
    torch.manual_seed(0)
    return Net(forward, **held)


def programs(module, mode, batch=4):
    """The program's results, and the module's own, for a batch of times."""
    g = torch.Generator().manual_seed(0)
    x, obs, t = (
        torch.rand(s, generator=g, dtype=F64) for s in ((batch, A), (batch, OBS), (batch,))
    )
    low = lowering.lower(module, mode)
    params = lowering.grouped_params(module)
    if mode == "row":
        weights, table = low.hoist(params, None, x)
        rows = low.cond(params, obs[None], t[None])
        got = reference.run_program(x[None], rows, weights, table, low.program)[0]
        return got, module(x, t, obs)
    weights, table = low.hoist(params, t[:1], x)
    got = reference.run_program(x[None], obs[None], weights, table, low.program)[0]
    return got, module(x, t[:1].expand(batch), obs)


SILU = {
    "product": lambda s, h, t: h * torch.sigmoid(h),
    "other way": lambda s, h, t: torch.sigmoid(h) * h,
    "function": lambda s, h, t: torch.mul(h, torch.sigmoid(h)),
    "method": lambda s, h, t: h.mul(h.sigmoid()),
    "attribute": lambda s, h, t: s.act(h),
    "twice": lambda s, h, t: by_hand(by_hand(h)) + h,
}


@pytest.mark.parametrize("mode", ["table", "row"])
@pytest.mark.parametrize("kind", SILU)
def test_silu_by_hand(kind, mode):
    module = net(SILU[kind], act=by_hand)
    got, want = programs(module, mode)
    torch.testing.assert_close(got, want, **tolerances.SAME_FORMULA_64)


LONE = {
    "alone": lambda s, h, t: torch.sigmoid(h),
    "another factor": lambda s, h, t: (h + 1.0) * torch.sigmoid(h),
    "both": lambda s, h, t: torch.sigmoid(h) + h * torch.sigmoid(h),
}


@pytest.mark.parametrize("mode", ["table", "row"])
@pytest.mark.parametrize("kind", LONE)
def test_other_uses_of_sigmoid(kind, mode):
    got, want = programs(net(LONE[kind]), mode)
    torch.testing.assert_close(got, want, **tolerances.SAME_FORMULA_64)


@pytest.mark.parametrize("mode", ["table", "row"])
@pytest.mark.filterwarnings("ignore:To copy construct")
def test_a_function_of_t_that_cannot_be_traced_is_called_as_it_is(mode):
    partial = functools.partial(untraceable, power=2)
    module = net(lambda s, h, t: h * s.std(t)[1][:, None] + s.std(t)[0][:, None], std=partial)
    got, want = programs(module, mode)
    torch.testing.assert_close(got, want, **tolerances.SAME_FORMULA_64)
    assert module.std is partial


@pytest.mark.filterwarnings("ignore:To copy construct")
def test_such_a_function_of_anything_else_is_refused():
    module = net(lambda s, h, t: h * s.std(h)[1], std=untraceable)
    with pytest.raises(LoweringError, match="can't trace Net"):
        lowering.lower(module, "table")
    assert module.std is untraceable


def test_what_a_forward_writes_to_attributes_is_taken_back():
    def forward(s, h, t):
        s.first_time = s.count = s.count + 1
        s.last.seen = h
        return h

    module = net(forward, count=0)
    lowering.lower(module, "table")
    assert module.count == 0
    assert not hasattr(module, "first_time") and not hasattr(module.last, "seen")
    with pytest.raises(KeyError), attributes.attributes_kept(module):
        module.count = 5
        raise KeyError
    assert module.count == 0
