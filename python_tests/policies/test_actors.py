"""Policies of one pass against their networks in plain PyTorch: actions, losses, gradients."""

import copy
import math
import pickle

import pytest
import torch
from policy_problems import OBS, A, G, generator, rand
from tolerances import NETWORK64, assert_as_good_as_torch
from torch import nn

from dom2_fast import networks
from dom2_fast.errors import Dom2Error
from dom2_fast.lowering import FusedModule, LoweringError
from dom2_fast.ops import backend
from dom2_fast.policies.actors import DeterministicPolicy, GaussianPolicy

needs_extension = pytest.mark.skipif(
    not backend.available(), reason=f"no compiled extension: {backend.reason()}"
)
KINDS = ["deterministic", "gaussian", "gaussian of obs"]


def net(kind="deterministic", seed=0):
    torch.manual_seed(seed)
    if kind == "deterministic":
        return networks.MLPActor(OBS, A, hidden=19, act="mish")
    actor = networks.MLPGaussianActor(OBS, A, hidden=19, state_dependent=kind.endswith("obs"))
    if kind == "gaussian":
        nn.init.normal_(actor.log_std, -1.0)
    return actor


def stack(kind="deterministic"):
    return networks.stack([net(kind, seed) for seed in range(G)])


def policy(module, kind="deterministic", **kwargs):
    return (DeterministicPolicy if kind == "deterministic" else GaussianPolicy)(module, **kwargs)


def critic():
    torch.manual_seed(9)
    return networks.stack([networks.MLPCritic(OBS, A, hidden=11, act="silu") for _ in range(G)])


def three_ways(kind, run, **kwargs):
    """run(policy, dtype) by the kernels, by the net in float32, by the net in float64."""
    base = stack(kind)
    results = []
    for how, dtype in (("native", torch.float32), (None, torch.float32), (None, torch.float64)):
        module = copy.deepcopy(base).to(dtype)
        p = policy(module, kind, backend=how or "reference", **kwargs)
        if how is None:
            p._programs.get = lambda mode: None  # its own forward
        results.append(run(p, dtype))
    for values in zip(*results, strict=True):
        assert_as_good_as_torch(*values)


def gradients(p, loss):
    """[G] -> the gradients of a weighted sum of it."""
    share = torch.arange(1, G + 1).to(loss)
    return torch.autograd.grad((loss * share).sum(), list(p.parameters()))


# ---- a deterministic actor -----------------------------------------------------------------------


@needs_extension
@pytest.mark.parametrize("batch", [0, 1, 7, 129])
def test_deterministic_actions_and_losses_are_those_of_the_network(batch, isa):
    def run(p, dtype):
        obs = rand(G, batch, OBS, dtype=dtype)
        act = rand(G, batch, A, seed=1, dtype=dtype)
        out = p.sample(obs)
        if batch == 0:
            return [out]
        loss = p.bc_loss(obs, act, reduction="group")
        return [
            out,
            p.act(obs),
            loss,
            *gradients(p, loss),
            *gradients(p, out.square().mean((1, 2))),
        ]

    three_ways("deterministic", run)


@needs_extension
@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-0.1, 0.15)])
@pytest.mark.parametrize("batch", [1, 65])
def test_the_value_of_deterministic_actions_has_the_policy_gradient(batch, bounds, isa):
    """Also where actions leave the bounds: there the gradient is zero."""

    def run(p, dtype):
        obs = rand(G, batch, OBS, dtype=dtype)
        q = FusedModule(critic().to(dtype), backend=p.backend)
        mean, values, act = p.chain_value(obs, q)
        assert not values.requires_grad and not act.requires_grad
        torch.testing.assert_close(act, p.net(obs).clamp(*bounds).detach())
        plain = q.module(p.net(obs).clamp(*bounds), obs)
        return [mean, values, plain, *gradients(p, mean)]

    three_ways("deterministic", run, act_low=bounds[0], act_high=bounds[1])


def test_one_update_of_a_single_actor_by_hand():
    """Two columns of one linear: E (W o - a)^2 and its gradient 2 / (B A) sum (W o - a) o^T."""

    class Linear(nn.Linear):
        obs_dim, act_dim = OBS, A

    module = Linear(OBS, A, bias=False).double()
    p = DeterministicPolicy(module, backend="reference", act_low=-9.0, act_high=9.0)
    obs, act = rand(4, OBS), rand(4, A, seed=1)
    loss = p.bc_loss(obs, act)
    loss.backward()
    d = obs @ p.net.weight.detach().T - act
    assert loss.item() == pytest.approx(d.square().mean().item(), rel=NETWORK64)
    torch.testing.assert_close(p.net.weight.grad, 2 / (4 * A) * d.T @ obs)
    assert p.act(obs[0]).shape == (A,) and p.sample(obs).shape == (4, A)


# ---- a Gaussian actor ----------------------------------------------------------------------------


@needs_extension
@pytest.mark.parametrize("kind", KINDS[1:])
def test_gaussian_actions_and_losses_are_those_of_the_distribution(kind, isa):
    def run(p, dtype):
        obs, act, noise = (rand(G, 33, n, seed=n, dtype=dtype) for n in (OBS, A, A))
        mean, log_std = p.distribution(obs)
        normal = torch.distributions.Normal(mean, log_std.exp())
        log_prob = p.log_prob(obs, act)
        bc = p.bc_loss(obs, act, reduction="group")
        value, q, _ = p.chain_value(obs, FusedModule(critic().to(dtype), backend=p.backend), noise)
        want = [normal.log_prob(act).sum(-1), (mean + log_std.exp() * noise).clamp(-1.0, 1.0)]
        for got, expected in zip((log_prob, p.sample(obs, noise)), want, strict=True):
            assert_as_good_as_torch(got, expected, expected.double())
        return [log_prob, bc, value, q, p.act(obs), *gradients(p, bc), *gradients(p, value)]

    three_ways(kind, run)


def test_gaussian_acts_by_its_mean_or_draws():
    p = GaussianPolicy(net("gaussian").double(), backend="reference")
    obs = rand(5, OBS)
    assert torch.equal(p.act(obs), p.distribution(obs)[0])
    drawn = p.act(obs, generator(3), deterministic=False)
    assert torch.equal(drawn, p.sample(obs, generator=generator(3)))
    noise = torch.randn(1, 5, A, generator=generator(3), dtype=torch.float64)[0]
    assert torch.equal(drawn, p.sample(obs, noise))
    assert not torch.equal(drawn, p.act(obs))
    torch.testing.assert_close(p.bc_loss(obs, drawn), -p.log_prob(obs, drawn).mean())


def test_log_deviations_are_clipped():
    actor = net("gaussian")
    with torch.no_grad():
        actor.log_std.copy_(torch.tensor([-90.0, 90.0]))
    p = GaussianPolicy(actor, log_std_low=-3.0, log_std_high=1.0)
    assert p.distribution(torch.zeros(OBS))[1].tolist() == [-3.0, 1.0]
    assert torch.isfinite(p.log_prob(torch.zeros(2, OBS), torch.ones(2, A))).all()


# ---- what both have in common --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_is_its_networks_one_by_one(kind):
    s = stack(kind).double()
    p, obs = policy(s, kind, backend="reference"), rand(G, 6, OBS)
    for g, one in enumerate(s.unstack()):
        alone = policy(one, kind, backend="reference")
        torch.testing.assert_close(p.act(obs)[g], alone.act(obs[g]))


class Unlowerable(nn.Module):
    obs_dim, act_dim = OBS, A

    def __init__(self, width=A):
        super().__init__()
        self.linear = nn.Linear(OBS, width)

    def forward(self, obs):
        return torch.sin(self.linear(obs))


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_network_that_cant_be_lowered_runs_in_pytorch_or_is_refused_with_its_node(kind):
    module = Unlowerable(A if kind == "deterministic" else 2 * A).double()
    with pytest.warns(RuntimeWarning, match="in PyTorch.*sin"):
        p = policy(module, kind)
    obs, act = rand(4, OBS), rand(4, A, seed=1)
    torch.testing.assert_close(p.act(obs), module(obs)[:, :A].clamp(-1.0, 1.0))
    p.bc_loss(obs, act).backward()
    assert module.linear.weight.grad.abs().sum() > 0
    q = FusedModule(networks.MLPCritic(OBS, A, hidden=4).double(), backend="reference")
    mean, values, _ = p.chain_value(obs, q)
    assert mean.shape == (1,) and values.shape == (1, 4)
    if backend.available():
        with pytest.raises(LoweringError, match="node 'sin'"):
            policy(module, kind, backend="native")


def test_dropout_is_drawn_in_training_only():
    actor = nn.Sequential(nn.Linear(OBS, 16), nn.Dropout(0.5), nn.Linear(16, A))
    p = DeterministicPolicy(actor, obs_dim=OBS, act_dim=A, act_low=-9.0, act_high=9.0)
    obs = torch.ones(64, OBS)
    one, two = p.act(obs, generator(1)), p.act(obs, generator(2))
    assert not torch.equal(one, two) and torch.equal(one, p.act(obs, generator(1)))
    torch.testing.assert_close(p.eval().act(obs), actor(obs))


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_pickles_act_alike(kind):
    p, obs = policy(net(kind), kind), torch.ones(2, OBS)
    for other in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert torch.equal(other.act(obs), p.act(obs))


def test_bad_arguments_are_named():
    for make, words in (
        (lambda: DeterministicPolicy(net("gaussian")), "returns 2 columns.*MLPGaussianActor.*4"),
        (lambda: GaussianPolicy(net()), "returns 4 columns for actions of 2; MLPActor returns 2"),
        (lambda: GaussianPolicy(net("gaussian"), log_std_low=2.0), "log_std_low < log_std_high"),
        (lambda: DeterministicPolicy(net(), act_low=math.inf), "act_low < act_high"),
        (lambda: DeterministicPolicy(net(), "fast"), "unknown backend 'fast'"),
        (lambda: DeterministicPolicy(net(), precision="fp8"), "precision is 'fp8'"),
        (lambda: DeterministicPolicy(nn.Linear(3, 2)), "no attribute obs_dim"),
    ):
        with pytest.raises(Dom2Error, match=words):
            make()
    with pytest.warns(RuntimeWarning, match="no value"):
        DeterministicPolicy(networks.MLPNoiseNet(OBS, A))
    p = DeterministicPolicy(net())
    for call, words in (
        (lambda: p.act(torch.zeros(2, 3, OBS)), r"obs has shape \[2, 3, 5\]; \[B, 5\] is needed"),
        (lambda: p.act(torch.zeros(2, OBS).double()), "obs is torch.float64"),
        (lambda: p.bc_loss(torch.zeros(2, OBS), torch.zeros(3, A)), r"act has shape \[3, 2\]"),
        (lambda: p.bc_loss(torch.zeros(2, OBS), torch.zeros(2, A), reduction="sum"), "reduction"),
        (lambda: GaussianPolicy(net("gaussian")).sample(torch.zeros(2, OBS), 1.0), "noise has"),
    ):
        with pytest.raises(Dom2Error, match=words):
            call()
