"""Drawing past the dispatcher: the same batches as the op gives, and the same errors."""

import pytest
import torch

from dom2_fast import ops
from dom2_fast.ops import backend

pytestmark = pytest.mark.skipif(
    not backend.available(), reason=f"no compiled extension: {backend.reason()}"
)


def tables(dtype=torch.float32, widths=(3, 0, 20), groups=2):
    g = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 30, (40,), generator=g)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    n = int(starts[-1])
    fields = [
        torch.randn((n, w) if w else (n,), generator=g, dtype=dtype)
        for w in widths
        for _ in range(groups)
    ]
    weights = torch.rand(groups, 40, generator=g, dtype=torch.float64)
    return fields, *ops.alias_table(weights), starts


@pytest.mark.parametrize("batch", [0, 1, 7, 300, 20_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_same_batches_as_the_op(batch, dtype, threads):
    torch.set_num_threads(threads)
    args, rng = tables(dtype), torch.tensor([9, 4])
    outs, index = ops.drawer(*args).draw(batch, rng)
    expected, rows = ops.sample_transitions(*args, batch, rng)
    assert torch.equal(index, rows) and index.dtype == torch.int64
    for out, want in zip(outs, expected, strict=True):
        assert out.dtype == torch.float32 and torch.equal(out, want)


def test_results_are_float32_whatever_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        (out, *_), _ = ops.drawer(*tables()).draw(3, torch.tensor([1, 1]))
    finally:
        torch.set_default_dtype(torch.float32)
    assert out.dtype == torch.float32


def test_columns_of_a_wider_table():
    fields, *rest = tables()
    record = torch.cat([f.reshape(len(f), -1) for f in fields], 1)
    views = list(record.split([f[0].numel() for f in fields], 1))
    drawer, rng = ops.drawer(views, *rest), torch.tensor([2, 3])
    del record, views  # it holds what it reads
    outs, index = drawer.draw(50, rng)
    expected, rows = ops.sample_transitions(fields, *rest, 50, rng)
    assert torch.equal(index, rows)
    for out, want in zip(outs, expected, strict=True):
        assert torch.equal(out.reshape(2, 50, -1), want.reshape(2, 50, -1))


def test_agents_of_different_widths_are_left_to_the_op():
    fields, *rest = tables()
    fields[1] = torch.cat([fields[1], fields[1]], 1)
    assert ops.drawer(fields, *rest) is None


def test_bad_tables_are_named_before_anything_is_drawn():
    fields, threshold, alias, starts = tables()
    with pytest.raises(RuntimeError, match="alias table is out of range"):
        ops.drawer(fields, threshold, alias + 1000, starts)
    with pytest.raises(RuntimeError, match=r"fields\[0\] has shape"):
        ops.drawer([f[:-1] for f in fields], threshold, alias, starts)
