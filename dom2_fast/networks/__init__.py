"""Noise networks and critics as plain `torch.nn.Module`s, and `stack`, which batches several.

Nothing here is fast by itself: `lowering` turns these (and anyone's similar) modules into step
programs. A noise network is called net(x, t, obs), a critic net(act, obs), an actor net(obs).
"""

from dom2_fast.networks.actors import MLPActor, MLPGaussianActor, Scaled, Standardised
from dom2_fast.networks.critics import MLPCritic, MLPValue, ScaledCritic
from dom2_fast.networks.layers import FourierTime, SinusoidalTime, activation
from dom2_fast.networks.noise import Chunked, MLPNoiseNet, UNetNoiseNet
from dom2_fast.networks.stacking import (
    StackedModule,
    first_parameter,
    named_tensors,
    parameters_of,
    stack,
)

__all__ = [
    "Chunked",
    "FourierTime",
    "MLPActor",
    "MLPCritic",
    "MLPGaussianActor",
    "MLPNoiseNet",
    "MLPValue",
    "Scaled",
    "ScaledCritic",
    "SinusoidalTime",
    "StackedModule",
    "Standardised",
    "UNetNoiseNet",
    "activation",
    "first_parameter",
    "named_tensors",
    "parameters_of",
    "stack",
]
