"""Has a module's state changed since? For caches of what was computed from parameters."""

from __future__ import annotations

import torch
from torch import nn


def versions_of(tensors) -> list[int] | None:
    """Version counters; None where there are none (tensors made in inference mode)."""
    try:
        return [p._version for p in tensors]
    except RuntimeError:
        return None


class Stamp:
    """The state of a module's tensors at one time.

    `fresh()` compares, in a few microseconds, which tensors there are, their version counters and
    their storage. Writes through `.data` leave the counters as they are, as in many target updates;
    so on the CPU the first and last element of every tensor are compared, too. What slips through
    is a write through `.data` to inner elements only.
    For tensors that have counters, see `versions_of`.
    """

    def __init__(self, module: nn.Module):
        self._children, self._tensors, self._ends = [], [], []
        for owner in module.modules():
            self._children += [(owner._modules, n, m) for n, m in owner._modules.items()]
            for held in (owner._parameters, owner._buffers):
                for name, p in held.items():
                    if p is not None:
                        self._add(held, name, p)
        self._values = self._read()

    def _add(self, held: dict, name: str, p: torch.Tensor) -> None:
        self._tensors.append((held, name, p, p._version, p.data_ptr()))
        plain = p.dtype in (torch.float32, torch.float64) and p.is_contiguous()
        if plain and p.device.type == "cpu" and p.numel():
            array = p.detach().view(-1).numpy()  # shares the storage
            self._ends += [(array, 0), (array, len(array) - 1)]

    def _read(self) -> list:
        return [array[k] for array, k in self._ends]

    def fresh(self) -> bool:
        """True where nothing has changed."""
        for held, name, module in self._children:
            if held.get(name) is not module:
                return False
        for held, name, p, version, pointer in self._tensors:
            if held.get(name) is not p or p._version != version or p.data_ptr() != pointer:
                return False
        return self._read() == self._values
