"""The activations: what a program, the lowering and the networks know of each, in one table.

To add one: a line here; its name, value and derivative in csrc/core/activations.h.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Activation(NamedTuple):
    """One line of the table."""

    name: str  # `Act`'s, in lower case, and that of `networks.activation`
    function: Callable  # what it means
    module: type[nn.Module] | None = None  # with its default options
    spellings: tuple = ()  # other functions of torch that mean it, and tensor methods by name


# In the order of the codes, which are part of a program's encoding: new ones go to the end.
TABLE = (
    Activation("none", lambda v: v),
    Activation("mish", F.mish, nn.Mish),
    Activation("silu", F.silu, nn.SiLU),
    Activation("relu", F.relu, nn.ReLU, (torch.relu, F.relu_, torch.relu_, "relu", "relu_")),
    Activation("gelu", F.gelu, nn.GELU),
    Activation("gelu_tanh", lambda v: F.gelu(v, approximate="tanh")),  # an option of nn.GELU
    Activation("tanh", torch.tanh, nn.Tanh, (F.tanh, "tanh")),
    Activation("softplus", F.softplus, nn.Softplus),
    Activation("sigmoid", torch.sigmoid, nn.Sigmoid, (F.sigmoid, "sigmoid")),
    Activation("leaky_relu", F.leaky_relu, nn.LeakyReLU),  # of slope 0.01
    Activation("elu", F.elu, nn.ELU),  # with alpha 1
)

# Act.NONE, Act.MISH, ...: the codes.
Act = IntEnum("Act", [line.name.upper() for line in TABLE], start=0, module=__name__)

FUNCTIONS: dict[Act, Callable] = {Act(k): line.function for k, line in enumerate(TABLE)}
MODULES: dict[type[nn.Module], Act] = {
    line.module: Act(k) for k, line in enumerate(TABLE) if line.module is not None
}
# What torch calls them: functions, and the names of tensor methods.
SPELLINGS: dict[Callable | str, Act] = {
    spelling: Act(k)
    for k, line in enumerate(TABLE)
    if line.module is not None
    for spelling in (line.function, *line.spellings)
}
