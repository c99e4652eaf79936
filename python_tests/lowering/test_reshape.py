"""Reshapes within a row cost nothing; those that mix rows are refused. Action chunks."""

import pytest
import tolerances
import torch
from test_lowering import Net, check, rand
from torch import nn

import dom2_fast as d2
from dom2_fast import lowering, networks
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend
from dom2_fast.ops.program import Op
from dom2_fast.policies.frozen import load_policy

T, A, O = 4, 3, 10  # noqa: E741


class ChunkMLP(nn.Module):
    """The layout of DPPO's DiffusionMLP (Ren et al. 2024): chunk and state flattened, view back."""

    obs_dim, act_dim = O, T * A

    def __init__(self, hidden=16):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 8), nn.Mish(), nn.Linear(8, 8))
        self.body = nn.Sequential(
            nn.Linear(T * A + 8 + O, hidden), nn.Mish(), nn.Linear(hidden, T * A)
        )

    def forward(self, x, time, state):
        B, Ta, Da = x.shape
        x = x.view(B, -1)
        state = state.view(B, -1)
        time = time.view(B, 1)
        emb = self.time(time).view(B, 8)
        out = self.body(torch.cat([x, emb, state], dim=-1))
        return out.view(B, Ta, Da)


def regroup(how):
    class Regroup(Net):
        act_dim = 6

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6 + 5, 6), nn.Linear(6, 6)

        def forward(self, x, t, obs):
            h = self.first(torch.cat([x, obs], 1))
            return self.last(how(h)) * t[:, None]

    return Regroup


@pytest.mark.parametrize(
    "how",
    [
        lambda h: h.view(h.shape[0], 2, 3).flatten(1),
        lambda h: h.view(-1, 2, 3).reshape(h.size(0), -1),
        lambda h: torch.reshape(h, (h.shape[0], 3, 2)).view(-1, 6),
        lambda h: h.unflatten(1, (2, 3)).mul(0.5).tanh().flatten(-2),
        lambda h: torch.unflatten(h, -1, (3, -1)).flatten(1, 2),
        lambda h: torch.flatten(torch.relu(h.view(h.shape)), 1),
        lambda h: (h.view(-1, 2, 3) - 0.3 * h.reshape(-1, 2, 3)).flatten(start_dim=1),
        lambda h: h.unsqueeze(1).squeeze(1),
        lambda h: nn.functional.silu(h.unsqueeze(-1)).view(h.shape[0], h.shape[1]),
    ],
)
def test_regrouping_a_row(how):
    low = check(regroup(how))["table"]
    assert not any(i.op is Op.COPY for i in low.program.instrs)


def test_modules():
    class Modules(Net):
        act_dim = 6

        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(11, 6), nn.Unflatten(1, (2, 3)), nn.Tanh(), nn.Flatten(), nn.Linear(6, 6)
            )

        def forward(self, x, t, obs):
            return self.net(torch.cat([x, obs], 1)) + t[:, None]

    check(Modules)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda h: h.view(-1, 3), "rows of 6 columns to .3. mixes rows.*v.view.v.shape.0., -1"),
        (lambda h: h.view(-1), "rows of 6 columns to .. mixes rows"),
        (lambda h: h.reshape(2, -1), "to .2, -1. mixes rows"),
        (lambda h: h.view(h.shape[0] * 2, 3), "arithmetic with the number of rows"),
        (lambda h: h.flatten(), "along dimension 0 of 2 mixes rows.*flatten.1."),
        (lambda h: h.unflatten(0, (1, -1)), "along dimension 0 of 2 mixes rows"),
        (lambda h: h.unsqueeze(0), "along dimension 0 of 3 mixes rows"),
        (lambda h: h.view(h.shape[0], 2, 3) + 0.1 * h, "operands of 2 x 3 and 6 columns"),
        (lambda h: torch.cat([h.view(-1, 2, 3)] * 2, -1), r"last dimension of \[B, 2, 3\]"),
        (lambda h: h.view(-1, 2, 3), r"last dimension of \[B, 2, 3\].*flatten.1. comes first"),
        (lambda h: h.view(h.shape[0], 4, -1), r"to \[4, -1\] mixes rows"),
    ],
)
def test_what_is_refused(how, message):
    with pytest.raises(lowering.LoweringError, match=message):
        lowering.lower(regroup(how)())


def test_a_sum_of_a_parameter_per_column_asks_for_flat_rows():
    class Bias(regroup(lambda h: h)):
        def forward(self, x, t, obs):
            h = self.first(torch.cat([x, obs], 1)).view(-1, 1, 6) + self.last.bias
            return h.flatten(1) * t[:, None]

    with pytest.raises(lowering.LoweringError, match=r"flatten\(1\) comes first"):
        lowering.lower(Bias())


# ---- policies ------------------------------------------------------------------------------------


def chunks(dtype=torch.float32, backend_="auto", **how):
    torch.manual_seed(0)
    return d2.DiffusionPolicy(
        ChunkMLP().to(dtype), steps=3, act_shape=(T, A), backend=backend_, **how
    )


def test_a_policy_of_chunks_samples_and_learns_them():
    p = chunks(torch.float64, "reference")
    obs, x_T = rand(5, O), rand(5, T, A, seed=1)
    got = p.sample(obs, x_T)
    assert got.shape == (5, T, A) and p.sample(obs[0]).shape == (T, A)
    x, table = x_T, p._plan.table
    for k, time in enumerate(p._plan.times):
        x0 = table[k, 0] * x - table[k, 1] * p.net.net(x, time.expand(5), obs)
        x = table[k, 2] * x + table[k, 3] * x0
    torch.testing.assert_close(got, x.clamp(-1, 1), **tolerances.SAME_FORMULA_64)
    act = got.detach()
    loss, x0 = p.bc_terms(obs, act, torch.Generator().manual_seed(0))
    assert x0.shape == act.shape
    again = p.bc_loss(obs, act, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, again)
    best = p.act(obs, candidates=3, critic=lambda act, obs: act.sum(-1, keepdim=True))
    assert best.shape == (5, T, A)
    assert p.sample(obs, act, start=2).shape == (5, T, A)


@pytest.mark.skipif(not backend.available(), reason="the compiled extension is not built")
def test_the_kernel_and_the_file(tmp_path):
    p, exact = chunks(backend_="native"), chunks(torch.float64, "reference")
    exact.net.load_state_dict({k: v.double() for k, v in p.net.state_dict().items()})
    obs, x_T = rand(5, O).float(), rand(5, T, A, seed=1).float()
    want = exact.sample(obs.double(), x_T.double())
    p.export(tmp_path / "p.safetensors")
    with torch.no_grad():
        for one in (p, p.frozen(), load_policy(tmp_path / "p.safetensors"), p.frozen()[0]):
            got = one.sample(obs, x_T)
            assert got.shape == want.shape
            assert tolerances.relative_error(got, want) <= tolerances.DPM1_32
            assert one.sample(obs, generator=torch.Generator()).shape == (5, T, A)


def test_a_stack_of_chunk_networks():
    nets = networks.stack([networks.Chunked(ChunkMLP(), (T, A)) for _ in range(2)])
    p = d2.DiffusionPolicy(nets, steps=3)
    assert p.act_shape == (T, A) and p.act_dim == T * A
    obs, x_T = rand(2, 5, O).float(), rand(2, 5, T, A).float()
    got = p.sample(obs, x_T)
    for j, n in enumerate(nets.unstack()):
        want = d2.DiffusionPolicy(n, steps=3).sample(obs[j], x_T[j])
        torch.testing.assert_close(got[j], want)


def test_bad_chunks():
    p = chunks()
    with pytest.raises(Dom2Error, match=r"x_T has shape \[5, 12\]; \[..., 4, 3\] is needed"):
        p.sample(rand(5, O).float(), rand(5, T * A).float())
    with pytest.raises(Dom2Error, match=r"act_shape is a tuple.*\(4, 0\)"):
        d2.DiffusionPolicy(ChunkMLP(), act_shape=(4, 0))
    with pytest.raises(Dom2Error, match=r"act_shape \(4, 2\) has 8 numbers.*act_dim is 12"):
        d2.DiffusionPolicy(ChunkMLP(), act_shape=(4, 2))
    stack = networks.stack([ChunkMLP() for _ in range(2)])
    with pytest.raises(Dom2Error, match=r"networks.Chunked"):
        d2.DiffusionPolicy(stack, act_shape=(T, A))
