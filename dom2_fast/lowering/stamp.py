"""Has a module's state changed since? For caches of what was computed from parameters."""

from __future__ import annotations

import torch
from torch import nn

from dom2_fast.ops import backend


def versions_of(tensors) -> list[int] | None:
    """Version counters; None where there are none (tensors made in inference mode)."""
    try:
        return [p._version for p in tensors]
    except RuntimeError:
        return None


class Stamp:
    """The state of a module's tensors at one time.

    `fresh()` compares, in about two microseconds, which tensors there are, their version counters
    and their storage. Writes through `.data` leave the counters as they are, as in many target
    updates; so on the CPU the first and last element of every tensor are compared, too. What slips
    through is a write through `.data` to inner elements only.
    For tensors that have counters, see `versions_of`. `entries`: more (dict, key, value) that must
    stay as they are. `watch` does the comparing (csrc/python/actor.cpp).
    """

    def __init__(self, module: nn.Module, entries=()):
        entries, tensors = list(entries), []
        for owner in module.modules():
            entries.append((owner.__dict__, "training", owner.training))
            entries += [(owner._modules, n, m) for n, m in owner._modules.items()]
            for held in (owner._parameters, owner._buffers):
                for name, p in held.items():
                    if p is None:
                        continue
                    entries.append((held, name, p))
                    tensors.append(p)
        self.watch = watch(tensors, entries)

    def fresh(self) -> bool:
        """True where nothing has changed."""
        return self.watch.fresh()


def watch(tensors, entries=()):
    """What `Stamp` asks: have these tensors, and the entries, stayed as they are?"""
    ends = []
    for p in tensors:
        plain = p.dtype in (torch.float32, torch.float64) and p.is_contiguous()
        if plain and p.device.type == "cpu" and p.numel():
            first, size = p.data_ptr(), p.element_size()
            ends += [(first, size), (first + (p.numel() - 1) * size, size)]
    held = [(p, p._version, p.data_ptr()) for p in tensors]
    return backend.extension().Watch(list(entries), held, ends)
