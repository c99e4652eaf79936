"""Networks that a program can't express: the error names the node, whatever the reason."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dom2_fast import lowering, networks
from dom2_fast.lowering import LoweringError


class Net(nn.Module):
    obs_dim, act_dim = 5, 3


def net_with(forward, **parts):
    class Bad(Net):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, x, t, obs):
            return forward(self, x, t, obs)

    return Bad()


BAD = {
    "softsign": (lambda s, x, t, o: F.softsign(x), r"node 'softsign' \(softsign\).*Supported: Lin"),
    "slope": (
        lambda s, x, t, o: F.leaky_relu(x, negative_slope=0.2),
        "negative_slope = 0.2; .*0.01",
    ),
    "elu": (
        lambda s, x, t, o: F.elu(x, alpha=0.5),
        "elu with alpha = 0.5; a program has it with 1",
    ),
    "groups": (lambda s, x, t, o: F.group_norm(x, 2), "GroupNorm of 2 groups"),
    "module": (lambda s, x, t, o: s.part(x), r"Softsign 'part'"),
    "softmax": (lambda s, x, t, o: x.softmax(-1), "softmax"),
    "softplus": (lambda s, x, t, o: F.softplus(x, beta=2.0), "softplus with beta = 2.0"),
    "batch cat": (lambda s, x, t, o: torch.cat([x, x], 0)[:4], "dim must be 1 or -1"),
    "rows": (lambda s, x, t, o: x[:2], "slices columns"),
    "column": (lambda s, x, t, o: x[:, 0], "slices columns"),
    "step": (lambda s, x, t, o: x[:, ::2], "the columns"),
    "widths": (lambda s, x, t, o: x + o, "operands of 5 and 3 columns|columns"),
    "matmul": (lambda s, x, t, o: x @ o.T, "node 'getattr_1'|attribute 'T'"),
    "reciprocal": (lambda s, x, t, o: x / o[:, :3], "division by a value"),
    "branch": (lambda s, x, t, o: x if x.sum() > 0 else -x, "can't trace.*straight line"),
    "time mix": (lambda s, x, t, o: x * t.mean(), "mixes the rows of t"),
    "time rank": (lambda s, x, t, o: x * t, "second dimension"),
    "item": (lambda s, x, t, o: x * t.sum().item(), "mixes the rows|number read from t"),
    "all dropped": (lambda s, x, t, o: F.dropout(x, 1.0, True), "dropout of everything"),
    "two results": (lambda s, x, t, o: (x, x), "one tensor"),
    "missing": (lambda s, x, t, o: x.foo(), "node 'foo'"),
    "alpha": (lambda s, x, t, o: torch.add(x, x, alpha=2), "arithmetic with options"),
    "other row's time": (lambda s, x, t, o: x * t.flip(0)[:, None], "differs from the module"),
    "in place": (lambda s, x, t, o: F.relu(x, inplace=True) + x, "differs from the module"),
    "noise": (lambda s, x, t, o: x * torch.rand_like(t)[:, None], "differs from the module"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_name_the_node(case):
    forward, message = BAD[case]
    with pytest.raises(LoweringError, match=message):
        lowering.lower(net_with(forward, part=nn.Softsign()), "table")


def test_hooks_and_parametrizations_are_not_skipped():
    hooked = nn.Linear(3, 3)
    hooked.register_forward_hook(lambda m, i, out: out * 2)
    with pytest.raises(LoweringError, match="forward hooks"):
        lowering.lower(net_with(lambda s, x, t, o: s.part(x), part=hooked), "table")
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    with pytest.raises(LoweringError, match="part"):
        lowering.lower(net_with(lambda s, x, t, o: s.part(x), part=normed), "table")


def test_wrong_number_of_arguments():
    with pytest.raises(LoweringError, match="forward takes 2 arguments; x, t, obs are needed"):
        lowering.lower(networks.MLPCritic(3, 2), "table")
    for mode in (None, "act"):
        with pytest.raises(LoweringError, match="this argument has no value"):
            lowering.lower(networks.MLPNoiseNet(3, 2), mode)


def test_an_actor_that_cant_be_lowered_names_its_node():
    class Actor(nn.Module):
        obs_dim = 3

        def forward(self, obs):
            return torch.sin(obs)

    with pytest.raises(LoweringError, match=r"can't lower Actor: node 'sin' \(sin\)"):
        lowering.lower(Actor(), "act")


def test_bad_requests():
    net = networks.MLPNoiseNet(3, 2)
    with pytest.raises(ValueError, match="'table', 'row', 'act' or None"):
        lowering.lower(net, "steps")
    with pytest.raises(ValueError, match="no attribute act_dim"):
        lowering.lower(nn.Linear(2, 2), None)
    with pytest.raises(ValueError, match="hoist takes t"):
        lowering.lower(net, "table").hoist(lowering.grouped_params(net))
