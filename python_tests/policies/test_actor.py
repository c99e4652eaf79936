"""The short way to act on a few rows: the same bits as the op, and out of the way when it can't."""

import pytest
import torch

from dom2_fast import networks
from dom2_fast.ops import backend
from dom2_fast.policies.diffusion import DiffusionPolicy

pytestmark = pytest.mark.skipif(
    not backend.available(), reason=f"no compiled extension: {backend.reason()}"
)


def policy(groups=None, **kw):
    torch.manual_seed(0)
    nets = [networks.MLPNoiseNet(5, 2, hidden=24) for _ in range(groups or 1)]
    p = DiffusionPolicy(networks.stack(nets) if groups else nets[0], backend="native", **kw)
    return warm(p)


@torch.no_grad()
def warm(p):
    """A second call with the same parameters is what lays them out."""
    obs = torch.zeros(*([p.groups] if p.groups else []), 1, 5)
    for _ in range(3):
        p.sample(obs)
    assert p._kept.actor is not None
    return p


@torch.no_grad()
def quick(p, obs, x_T=None, seed=1):
    return p._kept.actor.sample(obs, x_T, torch.Generator().manual_seed(seed))


@torch.no_grad()
def ordinary(p, obs, x_T=None, seed=1):
    actor, p._kept.actor = p._kept.actor, None
    try:
        return p.sample(obs, x_T=x_T, generator=torch.Generator().manual_seed(seed))
    finally:
        p._kept.actor = actor


@pytest.mark.parametrize("solver", ["dpm1", "ddpm", "dpm++2m"])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (4, 5)])
def test_same_bits_as_the_op(solver, shape):
    p = policy(solver=solver)
    obs = torch.randn(shape)
    assert torch.equal(quick(p, obs), ordinary(p, obs))
    x_T = torch.randn(*shape[:-1], 2)
    assert torch.equal(quick(p, obs, x_T), ordinary(p, obs, x_T))


@pytest.mark.parametrize("batch", [1, 3])
def test_same_bits_for_a_stack(batch):
    p = policy(groups=3)
    obs = torch.randn(3, batch, 5)
    out = quick(p, obs)
    assert out.shape == (3, batch, 2) and torch.equal(out, ordinary(p, obs))


def test_dropout_masks_are_drawn():
    torch.manual_seed(0)
    p = DiffusionPolicy(networks.UNetNoiseNet(5, 2, widths=(24, 16, 8)), backend="native")
    p.train()
    with torch.no_grad():
        for _ in range(3):
            p.sample(torch.zeros(1, 5))
    obs, x_T = torch.randn(1, 5), torch.randn(1, 2)
    assert torch.equal(quick(p, obs, x_T), ordinary(p, obs, x_T))


def test_sample_takes_it_and_draws_as_torch_is_seeded():
    p, obs = policy(), torch.randn(2, 5)
    with torch.no_grad():
        torch.manual_seed(7)
        first = p.sample(obs)
        torch.manual_seed(7)
        assert torch.equal(p.sample(obs), first)
        assert not torch.equal(p.sample(obs), first)
    assert torch.equal(first, ordinary(p, obs, seed=7))  # one stream of numbers, whoever draws


@pytest.mark.parametrize(
    "obs",
    [
        torch.zeros(2, 4),
        torch.zeros(1, 1, 5),
        torch.zeros(0, 5),
        torch.zeros(2, 5).double(),
        torch.zeros(5, 2).t(),
        torch.nn.Parameter(torch.zeros(1, 5)),
    ],
)
def test_it_leaves_other_observations_to_the_op(obs):
    assert quick(policy(), obs) is None


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_with_one_thread_it_takes_many_rows(threads):
    p, obs = policy(), torch.randn(2_000, 5)
    threads(1)
    assert torch.equal(quick(p, obs), ordinary(p, obs))
    assert quick(p, torch.zeros(100_000, 5)) is None  # the way to the op is no part of that time
    threads(2)
    assert quick(p, obs) is None  # work for both
    assert torch.equal(quick(p, obs[:4]), ordinary(p, obs[:4]))


@pytest.mark.parametrize("x_T", [torch.zeros(2, 2), torch.zeros(1, 2).double(), torch.zeros(2)])
def test_it_leaves_other_starts_to_the_op(x_T):
    assert quick(policy(), torch.zeros(1, 5), x_T) is None


CHANGES = {
    "a parameter": lambda p: next(p.parameters()).data.fill_(0.25),
    "in place": lambda p: next(p.parameters()).detach().add_(1.0),
    "other storage": lambda p: setattr(
        next(p.parameters()), "data", next(p.parameters()).data.clone()
    ),
    "another parameter": lambda p: setattr(
        p.net.final_layer if hasattr(p.net, "final_layer") else list(p.net.modules())[-1],
        "bias",
        torch.nn.Parameter(torch.ones(2)),
    ),
    "another net": lambda p: setattr(p, "net", networks.MLPNoiseNet(5, 2, hidden=24)),
    "bounds": lambda p: setattr(p, "act_high", 0.01),
    "the solver": lambda p: p.set_solver("ddim", 3),
    "train mode": lambda p: p.train(not p.training),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_notices_a_change_of(change):
    p, obs, x_T = policy(), torch.randn(1, 5), torch.randn(1, 2)
    actor = p._kept.actor
    with torch.no_grad():
        CHANGES[change](p)
        assert actor.sample(obs, x_T, None) is None or p._kept.actor is not actor
        fresh = DiffusionPolicy(
            p.net, p.schedule, p.solver, p.steps, "native", p.act_low, p.act_high
        )
        assert torch.equal(p.sample(obs, x_T=x_T), fresh.sample(obs, x_T=x_T))


def test_a_missing_entry_counts_as_a_change():
    p = policy()
    layer = [m for m in p.net.modules() if isinstance(m, torch.nn.Linear)][-1]
    del layer.bias
    assert quick(p, torch.zeros(1, 5)) is None


def test_gradients_take_the_ordinary_way():
    p = policy(act_low=-1e6, act_high=1e6)
    obs = torch.randn(1, 5, requires_grad=True)
    p.sample(obs).sum().backward()
    assert obs.grad is not None and obs.grad.abs().sum() > 0
