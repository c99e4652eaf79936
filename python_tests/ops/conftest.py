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
    _register.register("dom2_fast_simt")
    native = torch.ops.dom2_fast_simt
    names = ["denoise", "denoise_backward", "pack_weights", "run_program", "run_program_backward",
             "sample_transitions"]  # fmt: skip
    return types.SimpleNamespace(
        **{name: getattr(native, name) for name in names},
        alias_table=torch.ops.dom2_fast.alias_table,
    )


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
    elif name == "cuda":
        if not (torch.cuda.is_available() and backend.cuda_built()):
            pytest.skip("no GPU, or the extension was built without CUDA")
        for function in ("denoise", "run_program", "sample_transitions", "pack_weights",
                         "denoising_loss", "conservative_loss", "chain_value"):  # fmt: skip
            monkeypatch.setattr(ops, function, on_cuda(getattr(ops, function)))


CUDA = ["simt", "cuda"]


@pytest.fixture(params=[*(backend.isas_runnable() or ["none"]), *CUDA])
def executor(request, monkeypatch):
    """Runs the test on every executor; gives its name."""
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
