"""The policy's caches, copies, backends and checks of its input."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from policy_problems import (
    OBS,
    A,
    B,
    G,
    NearTarget,
    generator,
    net,
    plain,
    policy,
    rand,
    stack,
)
from torch import nn

from dom2_fast import lowering, networks
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend
from dom2_fast.policies import schedules
from dom2_fast.policies.diffusion import DiffusionPolicy

# ---- caches --------------------------------------------------------------------------------------


def update_in_place(p):
    for q in p.net.parameters():
        q.mul_(0.5)


def update_data(p):
    for q in p.net.parameters():
        q.data.mul_(0.5)


def replace_data(p):
    for q in p.net.parameters():
        q.data = q.data * 0.5


def replace_parameters(p):
    for module in p.net.modules():
        for name, q in list(module._parameters.items()):
            if q is not None:
                setattr(module, name, nn.Parameter(q * 0.5))


def replace_module(p):
    p.net.final_layer = copy.deepcopy(p.net.final_layer)
    p.net.final_layer.weight.mul_(0.5)


def load_state(p):
    p.load_state_dict({k: v * 0.5 for k, v in p.state_dict().items()})


def change_buffer(p):
    p.net.time_mlp[0].freqs.mul_(3.0)


def other_solver(p):
    p.set_solver(steps=3)


CHANGES = [
    update_in_place,
    update_data,
    replace_data,
    replace_parameters,
    replace_module,
    load_state,
    change_buffer,
    other_solver,
]


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("how", ["reference", "auto"])
def test_act_sees_every_change(change, how):
    if how == "auto" and not backend.available():
        pytest.skip("the compiled extension is not built")
    dtype = torch.float64 if how == "reference" else torch.float32
    p = policy(net(dtype), backend=how, act_low=-1e3, act_high=1e3)
    obs = rand(B, OBS, dtype=dtype)
    before = [p.act(obs, generator=generator()) for _ in range(3)][-1]
    kept = p._kept._frozen
    p.act(obs)
    assert p._kept._frozen is kept and (kept is None) == (how == "reference")
    change(p)
    after = p.act(obs, generator=generator())
    fresh = copy.deepcopy(p).act(obs, generator=generator())
    assert torch.equal(after, fresh) and not torch.equal(after, before)


@torch.no_grad()
def test_what_was_kept_in_vain_is_not_kept_so_soon_again():
    if not backend.available():
        pytest.skip("the compiled extension is not built")
    p, obs = policy(net(torch.float32), backend="auto"), rand(B, OBS, dtype=torch.float32)

    def kept(calls: int) -> bool:
        for param in p.net.parameters():
            param.mul_(1.01)
        for _ in range(calls):
            p.act(obs)
        return p._kept._frozen is not None

    assert kept(2)  # and never used
    assert not kept(2) and kept(4)  # used
    assert kept(2)


def test_nothing_is_kept_with_grad():
    p, obs = policy(net(torch.float32), backend="auto"), rand(B, OBS, dtype=torch.float32)
    for _ in range(3):
        p.sample(obs)
    assert p._kept._frozen is None


def test_inference_mode():
    p = policy()
    obs = rand(B, OBS)
    want = p.act(obs, generator=generator())
    with torch.inference_mode():
        for _ in range(3):
            assert torch.equal(p.act(obs, generator=generator()), want)
    p.sample(obs).sum().backward()


def test_a_network_made_in_inference_mode():
    with torch.inference_mode():
        p = policy(act_low=-1e3, act_high=1e3)
        obs = rand(B, OBS)
        want = p.act(obs, generator=generator())
        for q in p.net.parameters():
            q.mul_(0.5)
        after = [p.act(obs, generator=generator()) for _ in range(3)]
    assert p._kept._frozen is None and not any(torch.equal(a, want) for a in after)


def test_copies_and_pickles_are_whole():
    p = policy(stack(), schedule="cosine", solver="ddim")
    obs = rand(G, B, OBS)
    want = p.act(obs, generator=generator())
    p.act(obs, 2, networks.stack([networks.MLPCritic(OBS, A).double() for _ in range(G)]))
    for q in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert torch.equal(q.act(obs, generator=generator()), want)
        assert q.net is not p.net and q._programs._module is q.net
        with torch.no_grad():
            next(q.parameters()).add_(1.0)
        assert torch.equal(p.act(obs, generator=generator()), want)


def test_the_critic_is_no_part_of_the_policy():
    p = policy()
    names = set(p.state_dict())
    p.act(rand(B, OBS), 2, networks.MLPCritic(OBS, A).double())
    assert set(p.state_dict()) == names and all(n.startswith("net.") for n in names)


# ---- backends ------------------------------------------------------------------------------------


class Unlowerable(networks.MLPNoiseNet):
    def forward(self, x, t, obs):
        return torch.atan(super().forward(x, t, obs))


def test_auto_falls_back_once_and_says_why():
    with pytest.warns(RuntimeWarning, match="step by step.*atan"):
        p = policy(Unlowerable(OBS, A, hidden=6).double(), backend="auto")
    obs, x_T = rand(B, OBS), rand(B, A, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = p.sample(obs, x_T)
        p.bc_loss(obs, x_T).backward()
        p.act(obs)
    torch.testing.assert_close(got, plain(p, obs, x_T, None))


def test_reference_does_not_warn_about_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p = policy(Unlowerable(OBS, A, hidden=6).double())
        p.sample(rand(B, OBS))


def test_native_refuses_what_it_cannot_run():
    if not backend.available():
        with pytest.raises(Dom2Error, match="needs the compiled kernels"):
            policy(net(), backend="native")
        return
    with pytest.raises(lowering.LoweringError, match="atan"):
        policy(Unlowerable(OBS, A), backend="native")
    with pytest.raises(Dom2Error, match=r"compiled kernels take torch.float32 on cpu, not torch"):
        policy(net(), backend="native").sample(rand(B, OBS))


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: policy(backend="cuda"), "unknown backend 'cuda'"),
        (lambda: policy(solver="heun"), "unknown solver"),
        (lambda: policy(schedule="sigmoid"), "unknown schedule"),
        (lambda: policy(steps=0), "from 1 to 1000, got 0"),
        (lambda: policy(schedule=schedules.vp(5), steps=6), "6 steps asked"),
        (lambda: policy(act_low=1.0), "act_low < act_high"),
        (lambda: policy(act_high=math.inf), "both finite"),
        (lambda: policy(predict="v"), "'eps' or 'x0'"),
        (lambda: DiffusionPolicy(nn.Identity()), "no attribute obs_dim"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(Dom2Error, match=message):
        make()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.sample(rand(B, OBS + 1)), r"obs has shape \[4, 6\]; \[B, 5\] is needed"),
        (lambda p: p.sample(rand(2, B, OBS)), r"\[B, 5\] is needed"),
        (
            lambda p: p.sample(rand(B, OBS).float()),
            "obs is torch.float32 on cpu, the network torch",
        ),
        (lambda p: p.sample([1.0] * OBS), "must be a tensor, got list"),
        (lambda p: p.sample(rand(B, OBS), rand(B, A + 1)), r"x_T has shape \[4, 3\]; \[4, 2\]"),
        (lambda p: p.sample(rand(B, OBS), noise=rand(4, B, A)), r"\[5, 4, 2\] is needed"),
        (lambda p: p.sample(rand(B, OBS), rand(B, A).float()), "x_T is torch.float32"),
        (lambda p: p.bc_loss(rand(B, OBS), rand(B + 1, A)), "act has shape"),
        (lambda p: p.bc_loss(rand(B, OBS), rand(B, A), reduction="sum"), "'mean' or 'group'"),
        (lambda p: p.act(rand(B, OBS), candidates=0), "candidates must be a whole number"),
        (lambda p: p.act(rand(B, OBS), candidates=2.0), "candidates must be a whole number"),
        (lambda p: p.act(rand(B, OBS), candidates=3), "a critic has to choose"),
        (lambda p: p.act(rand(B, OBS), 3, NearTarget(), temperature=0.0), "temperature is"),
        (lambda p: p.act(rand(B, OBS), 3, lambda a, o: a), "the critic returns"),
    ],
)
def test_bad_inputs(call, message):
    with pytest.raises(Dom2Error, match=message):
        call(policy())


def test_a_stack_names_its_groups():
    with pytest.raises(Dom2Error, match=r"\[3, B, 5\] is needed"):
        policy(stack()).sample(rand(B, OBS))
