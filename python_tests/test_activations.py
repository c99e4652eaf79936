"""The tables of activations: Python's, C++'s, and what reads them."""

import pytest
import torch
from torch import nn

from dom2_fast import activations, networks
from dom2_fast.activations import Act
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend


@pytest.mark.skipif(not backend.available(), reason="no compiled extension")
def test_both_lists_agree_in_names_and_codes():
    names = [name.lower() for name in backend.extension().activations()]
    assert names == [act.name.lower().replace("_", "") for act in Act]


def test_every_name_of_torch_means_what_the_table_says():
    v = torch.linspace(-3.0, 3.0, 13)
    for module, act in activations.MODULES.items():
        assert torch.equal(module()(v), activations.FUNCTIONS[act](v))
    for spelling, act in activations.SPELLINGS.items():
        function = getattr(torch.Tensor, spelling) if isinstance(spelling, str) else spelling
        assert torch.equal(function(v.clone()), activations.FUNCTIONS[act](v)), spelling
    assert torch.equal(activations.FUNCTIONS[Act.GELU_TANH](v), nn.GELU(approximate="tanh")(v))
    assert torch.equal(activations.FUNCTIONS[Act.NONE](v), v)


def test_networks_take_the_names_of_the_table():
    for line in activations.TABLE:
        if line.module is not None:
            assert type(networks.activation(line.name)) is line.module
    with pytest.raises(Dom2Error, match=r"'elu', 'gelu', 'leaky_relu', 'mish', 'relu', 'sigm"):
        networks.activation("sine")
