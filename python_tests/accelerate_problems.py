"""Data, comparison and refusals that the tests of accelerate share."""

import pytest
import tolerances
import torch
from foreign import OBS, A, QLNet, QLPolicy, ql_betas, rand
from torch import nn

from dom2_fast.accelerate import accelerate
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend

F32, F64 = torch.float32, torch.float64
native = pytest.mark.skipif(not backend.available(), reason="the extension is not built")


def diffusion(n=5, dtype=F32, seed=0, **kwargs):
    torch.manual_seed(seed)
    return QLPolicy(QLNet(), ql_betas(n), **kwargs).to(dtype)


def draws(n, batch=7, dtype=F32):
    return (
        rand(batch, OBS, dtype=dtype),
        rand(batch, A, seed=1, dtype=dtype),
        rand(n, batch, A, seed=2, dtype=dtype),
    )


def close(got, want):
    if want.dtype == got.dtype == F64:
        torch.testing.assert_close(got, want, **tolerances.SAME_FORMULA_64)
    else:
        error = tolerances.relative_error(got, want)
        assert error <= tolerances.ACCELERATED_32, error


def snapshot(obj):
    """Everything of an object that could be touched, for comparison with ==."""
    modules = list(obj.modules()) if isinstance(obj, nn.Module) else [obj]
    held = [(id(v), k) for m in modules for k, v in vars(m).items() if not isinstance(v, dict)]
    inner = [
        (id(v), k)
        for m in modules
        for d in vars(m).values()
        if isinstance(d, dict)
        for k, v in d.items()
    ]
    flags = [m.training for m in modules if isinstance(m, nn.Module)]
    values = obj.state_dict() if isinstance(obj, nn.Module) else {}
    tensors = [(k, v.sum().item(), v._version) for k, v in values.items()]
    return type(obj), held, inner, flags, tensors, torch.get_rng_state().sum().item()


def refused(obj, message, **options):
    """Asserts the very words of a refusal, and that the original is as it was."""
    before = snapshot(obj)
    with pytest.raises(Dom2Error) as error:
        accelerate(obj, **options)
    assert str(error.value) == message
    assert snapshot(obj) == before
