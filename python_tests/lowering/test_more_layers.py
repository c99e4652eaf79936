"""GroupNorm over a row, and the layout of CleanDiffuser's PearceMlp."""

import pytest
import torch
from test_lowering import Net, check
from torch import nn
from torch.nn import functional as F

from dom2_fast.ops.program import Op


def layer(make, module=True):
    class Layer(Net):
        act_dim = 6

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(11, 24), nn.Linear(24, 6)
            self.layer = make() if module else None
            self.gain = nn.Parameter(torch.rand(24))

        def forward(self, x, t, obs):
            h = self.first(torch.cat([x, obs], 1))
            h = self.layer(h) if self.layer is not None else make(self, h)
            return self.last(h) * t[:, None]

    return Layer


def noisy_norm():
    norm = nn.GroupNorm(4, 24)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.5, 0.5)
    return norm


@pytest.mark.parametrize(
    "make",
    [noisy_norm, lambda: nn.GroupNorm(1, 24), lambda: nn.GroupNorm(12, 24, 0.1, affine=False)],
)
def test_group_norm(make):
    low = check(layer(make))["table"]
    assert sum(i.op is Op.LAYER_NORM for i in low.program.instrs) == make().num_groups


def test_functional_forms():
    check(layer(lambda s, h: F.group_norm(h, 3, s.gain), module=False))
    check(layer(lambda s, h: F.leaky_relu(h, inplace=False) + F.elu(h) * h.sigmoid(), module=False))
    check(layer(lambda s, h: torch.sigmoid(h.view(-1, 4, 6)).flatten(1), module=False))


@pytest.mark.parametrize("make", [nn.LeakyReLU, nn.ELU, nn.Sigmoid])
def test_activation_modules(make):
    check(layer(make))


def test_the_layout_of_pearce_mlp():
    """Pearce et al. 2023, as in CleanDiffuser: blocks of Linear, GroupNorm(8) and GELU, residuals
    over sqrt 2, and embeddings through LeakyReLU."""

    class Block(nn.Module):
        def __init__(self, n_in, n):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(n_in, n), nn.GroupNorm(8, n), nn.GELU())

        def forward(self, x):
            return self.net(x)

    class Pearce(Net):
        def __init__(self):
            super().__init__()
            embed = lambda n: nn.Sequential(nn.Linear(n, 8), nn.LeakyReLU(), nn.Linear(8, 8))  # noqa: E731
            self.time, self.act, self.obs = embed(1), embed(3), embed(5)
            self.blocks = nn.ModuleList([Block(8 * 3, 16), Block(16 + 1 + 3, 16)])
            self.out = nn.Linear(16 + 4, 3)

        def forward(self, x, t, obs):
            t = t[:, None]
            h = torch.cat([self.act(x), self.time(t), self.obs(obs)], -1)
            h1 = self.blocks[0](h)
            h2 = self.blocks[1](torch.cat([h1 / 1.414, x, t], -1)) + h1 / 1.414
            return self.out(torch.cat([h2 / 1.414, x, t], -1))

    check(Pearce)
