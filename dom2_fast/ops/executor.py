"""Who runs a program: compiled kernels or the reference, by what a module or policy asks."""

from __future__ import annotations

import functools
import warnings

import torch

from dom2_fast import ops
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend as backends
from dom2_fast.ops import reference

BACKENDS = ("auto", "native", "reference")


@functools.cache
def natives() -> frozenset:
    """What the compiled kernels compute: pairs of device type and dtype."""
    return frozenset(
        (device, torch.float32)
        for device in (["cpu", "cuda"] if backends.cuda_built() else ["cpu"])
    )


def check_backend(backend: str) -> str:
    """Raises Dom2Error for an unknown backend, or for "native" without the compiled kernels."""
    if backend not in BACKENDS:
        raise Dom2Error(f"unknown backend {backend!r}; choose from {list(BACKENDS)}")
    if backend == "native" and not backends.available():
        raise Dom2Error(f"backend='native' needs the compiled kernels: {backends.reason()}")
    return backend


def executor(backend: str, like: torch.Tensor):
    """The module, `ops` or `reference`, that runs programs for tensors like this one."""
    if backend == "reference":
        return reference
    if (like.device.type, like.dtype) in natives():
        return ops
    if backend == "native":
        raise Dom2Error(
            f"the compiled kernels take {_natives()}, not {like.dtype} on {like.device}; convert "
            f"the network, or choose backend='auto' or 'reference'"
        )
    if not torch.compiler.is_compiling():
        _warn_not_native(str(like.dtype), like.device.type)
    return reference


def _natives() -> str:
    return ", ".join(f"{dtype} on {device}" for device, dtype in sorted(natives(), key=str))


@functools.cache
def _warn_not_native(dtype: str, device: str) -> None:
    warnings.warn(
        f"{dtype} on {device} runs the slow reference path; the compiled kernels take "
        f"{_natives()}. backend='reference' asks for it without this warning",
        RuntimeWarning,
        stacklevel=4,
    )
