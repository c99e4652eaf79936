"""ops.means against reference: the means that an update reports, in one call."""

import pytest
import torch
from test_backend import needs_extension

from dom2_fast import ops
from dom2_fast.ops import reference


def some_tensors(dtype=torch.float32):
    g = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.rand(*shape, generator=g, dtype=dtype) * 2 - 1

    strided = draw(4, 7, 11)[..., 1:][..., :5]
    return [draw(3), draw(()), draw(6, 256), strided, strided.transpose(0, 2), draw(1).expand(9)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_means_are_those_of_float64(dtype):
    values = some_tensors(dtype)
    found, plain = ops.means(values), reference.means(values)
    assert found.shape == plain.shape == (len(values),) and found.dtype == plain.dtype == dtype
    unit = torch.finfo(dtype).eps
    for value, one, other in zip(values, found, plain, strict=True):
        want, size = value.double().mean(), value.double().abs().mean()
        # n additions and a division, each off by at most half a unit of what the sum can reach
        assert (other - want).abs() <= (value.numel() + 1) * unit / 2 * size
        if ops.backend.available() and dtype is torch.float32:  # summed in float64, rounded once
            assert (one - want).abs() <= unit / 2 * want.abs() * (1 + 1e-6)


def test_means_have_no_gradient_and_are_nan_where_there_is_nothing():
    values = [torch.ones(3, requires_grad=True), torch.zeros(2, 0)]
    for run in (ops, reference):
        found = run.means(values)
        assert not found.requires_grad and found[0] == 1.0 and found[1].isnan()


@needs_extension
def test_long_means_are_rounded_once():
    """4 million numbers, of which a running float32 sum would lose most digits."""
    values = torch.full((1 << 22,), 0.1)
    assert ops.means([values])[0] == values.double().mean().float()
