"""Behaviour policies that are a rule, not a network, where the rule is plain."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

XOR_MODE, XOR_SPREAD = 0.6, 0.1


def xor_pair(obs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Two agents of the XOR game with a coin in common: one draws a positive action, the other a
    negative one, and which is which the coin says. No pair of independent policies is that one.

    Args:
        obs: [2, E, 1], not looked at.
    Returns:
        actions [2, E, 1]: +-(XOR_MODE + XOR_SPREAD N(0, 1)), clipped to stay in (0, 1] and [-1, 0).
    """
    copies = obs.shape[1]
    coin = torch.randint(2, (copies, 1), generator=generator) * 2.0 - 1  # [E, 1]
    size = XOR_MODE + XOR_SPREAD * torch.randn(copies, 2, generator=generator)
    signs = torch.cat([coin, -coin], dim=1)
    return (signs * size.clamp(0.05, 1.0)).T.unsqueeze(-1).contiguous()


# Environment -> quality -> policy.
POLICIES: dict[str, dict[str, Callable[..., Tensor]]] = {"xor": {"expert": xor_pair}}
