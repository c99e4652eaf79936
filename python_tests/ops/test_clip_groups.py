"""ops.clip_groups against reference: gradients of groups scaled to a norm, each on its own."""

import pytest
import torch
from test_backend import needs_extension

from dom2_fast import ops
from dom2_fast.ops import reference

# Float32 sums of at most 64 squares in a row, the rest in float64: a few units in the last place.
CLOSE = {"rtol": 4e-6, "atol": 0.0}
SHAPES = [(1, 1), (1, 5), (16, 1), (33, 70), (3, 129), (256, 300)]


def gradients(groups: int, dtype=torch.float32):
    g = torch.Generator().manual_seed(groups)
    size = torch.tensor([10.0**k for k in range(groups)]).to(dtype)  # each group its own
    made = [torch.randn(groups, *s, generator=g, dtype=dtype) for s in SHAPES]
    made.append(torch.randn(groups, 17, generator=g, dtype=dtype))
    return [v * size.view(-1, *[1] * (v.ndim - 1)) for v in made]


def norms(grads):
    return torch.cat([g.double().flatten(1) for g in grads], 1).norm(dim=1)


@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("most", [1.0, 1e3])
def test_each_group_is_scaled_to_its_norm(groups, most):
    grads = gradients(groups)
    want = [g.clone() for g in gradients(groups)]
    before = norms(grads)
    assert (before > most).any() if most == 1.0 else before[0] < most
    reference.clip_groups(want, most)
    ops.clip_groups(grads, most)
    for a, b, c in zip(grads, want, gradients(groups), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
        small = before < 0.99 * most
        assert torch.equal(a[small], c[small])  # those within it stay as they are
    torch.testing.assert_close(norms(grads), before.clamp(max=most), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_layouts_and_types_are_clipped_too(dtype):
    grads = [v.transpose(1, 2).contiguous().transpose(1, 2) for v in gradients(3, dtype)[:-1]]
    assert not grads[3].is_contiguous()
    ops.clip_groups(grads, 1.0)
    assert (norms(grads) <= 1.0 + 1e-5).all()


@needs_extension
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_visible_and_within_its_group(bad):
    grads, want = gradients(3), gradients(3)
    for held in (grads, want):
        held[0][1] = bad
    ops.clip_groups(grads, 1.0)
    reference.clip_groups(want, 1.0)
    for a, b in zip(grads, want, strict=True):
        torch.testing.assert_close(a, b, **CLOSE, equal_nan=True)
    assert torch.cat([g[1].flatten() for g in grads]).isnan().any()
    assert all(g[[0, 2]].isfinite().all() for g in grads)


def test_no_rows_and_no_groups():
    ops.clip_groups([torch.zeros(2, 0), torch.full((2, 3), 5.0)], 1.0)
    ops.clip_groups([torch.zeros(0, 3)], 1.0)
