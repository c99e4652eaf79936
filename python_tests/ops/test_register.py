"""What is registered with PyTorch: shapes of fake results, gradients that are not there."""

import pytest
import torch
from conftest import simt
from op_problems import mlp, problem, solver_table

from dom2_fast.ops import backend

pytestmark = pytest.mark.skipif(not backend.available(), reason="no compiled extension")


@pytest.mark.parametrize("precision", [0, 1])
def test_packed_sizes_are_those_of_the_executors(precision):
    p = problem(mlp(3, 5, 37), 2, 1).to(torch.float32, requires_grad=False)
    shapes, words = [w.shape[1:] for w in p.weights], p.program.encode()

    def size(cuda):
        return [2, backend.extension().packed_size(shapes, precision == 1, cuda)]

    packed = torch.ops.dom2_fast.pack_weights(p.weights, words, precision)
    assert list(packed.shape) == size(False)
    emulated = simt()
    if not isinstance(emulated, str):
        assert list(emulated.pack_weights(p.weights, words, precision).shape) == size(True)


def test_fake_kernels_of_packed_weights():
    p = problem(mlp(3, 5, 37), 2, 1).to(torch.float32, requires_grad=False)
    pack = torch.ops.dom2_fast.pack_weights.default
    torch.library.opcheck(pack, (p.weights, p.program.encode(), 0))
    with torch._subclasses.FakeTensorMode() as mode:
        assert pack([], mode.from_tensor(p.program.encode()), 0).shape == (1, 0)


def denoised(save_path):
    p = problem(mlp(2, 4, 8), 2, 3, steps=2).to(torch.float32)
    return p, torch.ops.dom2_fast.denoise(
        p.x,
        p.cond,
        p.weights,
        p.table,
        p.program.encode(),
        solver_table(2),
        None,
        None,
        None,
        [3, 2],
        -1.0,
        1.0,
        save_path,
        0,
    )


def test_a_result_without_its_path_has_no_gradient():
    _, (out, _) = denoised(save_path=False)
    with pytest.raises(RuntimeError, match="save_path=False leaves nothing to differentiate"):
        out.sum().backward()
