"""Critics as fused modules, against the modules themselves."""

import pickle
import warnings

import pytest
import tolerances
import torch
from policy_problems import OBS, A, B, G, rand

from dom2_fast import lowering, networks
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend
from dom2_fast.policies.diffusion import FusedModule


def test_fused_critics():
    critics = networks.stack([networks.MLPCritic(OBS, A, hidden=6).double() for _ in range(G)])
    fused = FusedModule(critics, "reference")
    assert next(n for n, _ in fused.named_parameters()).startswith("module.template.")
    x, obs = rand(G, 6, A).requires_grad_(), rand(G, 2, OBS, seed=1).requires_grad_()
    got = fused(x, obs)
    want = critics(x, obs.repeat_interleave(3, 1))
    torch.testing.assert_close(got, want, **tolerances.SAME_FORMULA_64)
    leaves = [x, obs, *critics.parameters()]
    for g, w in zip(
        torch.autograd.grad(got.square().sum(), leaves),
        torch.autograd.grad(want.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(g, w, **tolerances.SAME_FORMULA_64)


def test_fused_plain_module_takes_both_shapes():
    critic = networks.MLPCritic(OBS, A, hidden=6).double()
    fused = FusedModule(critic, "reference")
    x, obs = rand(B, A), rand(B, OBS)
    torch.testing.assert_close(fused(x, obs), critic(x, obs))
    assert fused(x[None], obs[None]).shape == (1, B, 1)
    copied = pickle.loads(pickle.dumps(fused))
    assert torch.equal(copied(x, obs), fused(x, obs))


@pytest.mark.parametrize(
    ("x", "obs", "message"),
    [
        ((G, B, A + 1), (G, B, OBS), r"x has shape \[3, 4, 3\]; \[3, rows, 2\]"),
        ((G, B, A), (2, B, OBS), r"obs has shape \[2, 4, 5\]; \[3, rows, 5\]"),
        ((G, B, A), (G, 3, OBS), "4 rows of x need 4 rows of obs, or a divisor: 3"),
        ((B, A), (B, OBS), "x has shape"),
    ],
)
def test_fused_module_checks_shapes(x, obs, message):
    critics = networks.stack([networks.MLPCritic(OBS, A, hidden=6).double() for _ in range(G)])
    with pytest.raises(Dom2Error, match=message):
        FusedModule(critics, "reference")(rand(*x), rand(*obs))


def test_fused_module_falls_back_once():
    class Odd(networks.MLPCritic):
        def forward(self, act, obs):
            return torch.erf(super().forward(act, obs))

    critics = networks.stack([Odd(OBS, A, hidden=6).double() for _ in range(G)])
    with pytest.warns(RuntimeWarning, match="step by step.*erf"):
        fused = FusedModule(critics)
    x, obs = rand(G, 6, A), rand(G, 2, OBS, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = fused(x, obs)
    torch.testing.assert_close(got, critics(x, obs.repeat_interleave(3, 1)))
    if backend.available():
        with pytest.raises(lowering.LoweringError, match="erf"):
            FusedModule(critics, "native")
