"""How the losses of ops are checked: `test_losses.py`, `test_chain_value.py`."""

import torch
from tolerances import assert_as_good_as_torch

from dom2_fast import ops
from dom2_fast.ops import reference

RNG = torch.tensor([42, 7])


def draw(*shape, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def check(run, p, more, leaves=None, **kw):
    """`run(ops or reference, problem, more) -> loss [G], other results`, value and gradients."""
    results = []
    for op, dtype in ((ops, torch.float32), (reference, torch.float32), (reference, torch.float64)):
        q = p.to(dtype)
        wanted = q.leaves if leaves is None else leaves(q)
        for t in q.leaves:
            t.requires_grad_(any(t is w for w in wanted))
        loss, others = run(op, q, *(m.to(dtype) for m in more), **kw)
        scale = draw(*loss.shape, seed=3).to(dtype)  # each group's own
        grads = torch.autograd.grad(loss, wanted, scale, allow_unused=True)
        results.append((loss, *others, *grads))
    for i, (n, o, e) in enumerate(zip(*results, strict=True)):
        if e is None:
            assert n is None or not n.any(), i
        elif e.isnan().any():  # the mean over no rows
            assert n.isnan().equal(e.isnan()), i
        else:
            assert_as_good_as_torch(n, o, e, str(i))


def weights_and_table(q):
    return [q.table, *q.weights]
