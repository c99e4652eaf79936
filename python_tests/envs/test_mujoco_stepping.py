"""Copies stepped by the extension move as those stepped by Python, to the last bit."""

import pytest
import torch

from dom2_fast import envs
from dom2_fast.envs.mujoco import stepping
from dom2_fast.ops import backend

mujoco = pytest.importorskip("mujoco", reason="needs the extra mujoco")
pytestmark = pytest.mark.skipif(not backend.available(), reason="no compiled extension")


def played(name: str, threads: int, steps: int, shift: str | None = None) -> list[torch.Tensor]:
    """Observations, rewards and ends of five copies under the same random actions."""
    env = envs.make(name, 5, seed=2, threads=threads, shift=shift, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    seen = [env.reset()]
    for _ in range(steps):
        shape = env.num_agents, env.num_envs, env.act_dim
        act = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
        seen += env.step(act)
    env.close()
    return seen


@pytest.mark.parametrize(
    ("name", "steps", "shift"),
    [
        ("halfcheetah_2x3", 60, None),
        ("halfcheetah_2x3", 60, "extreme"),
        ("ant_2x4", 30, None),
        ("hopper_3x1", 80, None),  # copies fall, and stand still then
    ],
)
def test_extension_and_python_give_the_same_bits(name, steps, shift, monkeypatch):
    quick = [played(name, threads, steps, shift) for threads in (1, 2, 7)]
    with monkeypatch.context() as patch:
        patch.setattr(backend, "available", lambda: False)
        slow = played(name, 2, steps, shift)
    for found in quick:
        assert all(torch.equal(a, b) for a, b in zip(found, slow, strict=True))
    if name == "hopper_3x1":
        assert slow[-1].any()


def test_the_extension_is_what_steps_here(monkeypatch):
    """Or the test above would compare Python with itself."""
    assert stepping._addresses(mujoco) is not None
    called = []
    step_copies = backend.extension().step_copies
    monkeypatch.setattr(
        backend.extension(), "step_copies", lambda *a: called.append(len(a[2])) or step_copies(*a)
    )
    played("halfcheetah_2x3", 2, 1)
    assert sorted(called) == [2, 3]


def test_without_addresses_python_steps(monkeypatch):
    monkeypatch.setattr(stepping, "_addresses", lambda module: None)
    monkeypatch.setattr(backend.extension(), "step_copies", None)
    assert len(played("halfcheetah_2x3", 2, 1)) == 4


def test_a_copy_without_a_model_is_refused():
    with pytest.raises(ValueError, match="lacks its model"):
        backend.extension().step_copies(0, 0, [], [], 1)
