"""The executors that the op tests run on: each instruction set, CUDA emulated, CUDA itself."""

import functools
import inspect
import types
from pathlib import Path

import pytest
import torch

from dom2_fast import ops
from dom2_fast.ops import _register, backend

SIMT = Path(__file__).resolve().parents[2] / "build" / "simt" / "dom2_simt.so"


@functools.cache
def simt():
    """The emulated ops, or why there are none. alias_table is the CPU's on every device."""
    if not backend.available():
        return f"no compiled extension: {backend.reason()}"
    if not SIMT.exists():
        return "the emulated CUDA executors are not built: make simt"
    torch.ops.load_library(SIMT)
    native = vars(_register.register("dom2_fast_simt"))
    return types.SimpleNamespace(**native | {"alias_table": torch.ops.dom2_fast.alias_table})


def on_cuda(function):
    """`function` with its tensors moved to the GPU and its results back, differentiably."""

    def move(value, device):
        if isinstance(value, torch.Tensor):
            return value.to(device)
        if isinstance(value, (list, tuple)):
            return type(value)(move(v, device) for v in value)
        return value

    @functools.wraps(function)
    def call(*args, **kwargs):
        given = inspect.signature(function).bind(*args, **kwargs)
        for name, value in given.arguments.items():
            if name not in ("solver", "rng"):  # control tensors, on the CPU
                given.arguments[name] = move(value, "cuda")
        return move(function(*given.args, **given.kwargs), "cpu")

    return call


def choose(name, monkeypatch):
    """Has dom2_fast.ops run on this executor, or skips."""
    if name == "none":
        pytest.skip(f"no compiled extension: {backend.reason()}")
    if name == "simt":
        emulated = simt()
        if isinstance(emulated, str):
            pytest.skip(emulated)
        monkeypatch.setattr(ops, "_NATIVE", emulated)
        # As on a GPU, losses are composed: the tensors lie on the CPU, where they'd be one op.
        monkeypatch.setattr(ops, "_fused", lambda name, like: None)
    elif name == "cuda":
        for name in _register.OPS:  # those with a function of their own; backward ops have none
            if name != "alias_table" and hasattr(ops, name):
                monkeypatch.setattr(ops, name, on_cuda(getattr(ops, name)))


# Cases for a GPU are collected where there is one.
CUDA = ["simt", *(["cuda"] if torch.cuda.is_available() and backend.cuda_built() else [])]


NATIVE = backend.isas_runnable() or ["none"]


@pytest.fixture(params=[*NATIVE, *CUDA])
def executor(request, monkeypatch):
    """Runs the test on every executor; gives its name."""
    yield from _on(request, monkeypatch)


@pytest.fixture(params=NATIVE)
def native_executor(request, monkeypatch):
    """Runs the test on each instruction set of the CPU: where losses are ops of their own."""
    yield from _on(request, monkeypatch)


def _on(request, monkeypatch):
    name = request.param
    before = backend.isa_active()
    choose(name, monkeypatch)
    if name in backend.isas_runnable():
        backend.set_isa(name)
    yield name
    if before:
        backend.set_isa(before)


@pytest.fixture(params=CUDA)
def cuda_executor(request, monkeypatch):
    """Runs the test on the CUDA executors alone, emulated and real."""
    choose(request.param, monkeypatch)
    return request.param
