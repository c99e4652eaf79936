"""Lowered networks against the modules themselves, in float64, and the errors for the rest."""

import copy
import itertools
import math
import operator

import pytest
import tolerances
import torch
import torch.nn.functional as F
from test_backend import needs_extension
from torch import nn

from dom2_fast import lowering, networks, ops
from dom2_fast.ops import backend, philox, reference
from dom2_fast.ops.program import Op

G, B, S = 3, 5, 4
RNG = torch.tensor([7, 0])


class Net(nn.Module):
    """Base of the test networks: eps(x, t, obs) with sizes that fit nothing else."""

    obs_dim, act_dim = 5, 3


def rand(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def stacked(make):
    torch.manual_seed(0)
    return networks.stack([make().double() for _ in range(G)])


def check(make, modes=("table", "row"), tol=tolerances.NETWORK64, train=False, native=True):
    """Lowers a stack of G networks and compares every mode with the stack itself, in float64; then
    the kernels with that."""
    stack = stacked(make).train(train)
    inner = stack.template
    x, obs = rand(G, B, inner.act_dim, seed=1), rand(G, B, inner.obs_dim, seed=2)
    lows = {}
    for mode in modes:
        low = lows[mode] = lowering.lower(stack, mode)
        got = run(stack, low, x, obs, reference)
        want = plain(stack, mode, x, obs)
        torch.testing.assert_close(got, want, rtol=tol, atol=tol)
        if native and backend.available():
            single = copy.deepcopy(stack).float()
            args = x.float(), obs.float()
            torch32 = run(single, low, *args, reference)
            exact = run(copy.deepcopy(single).double(), low, *(v.double() for v in args), reference)
            with torch.no_grad():
                result = run(single, low, *args, ops)
            tolerances.assert_as_good_as_torch(result, torch32, exact, f"{mode}")
    return lows


def times(mode, like):
    """t [S] of the steps, or t [G, B] of the rows."""
    g = torch.Generator().manual_seed(3)
    shape = (S,) if mode == "table" else (G, B)
    return (0.02 + 0.96 * torch.rand(shape, generator=g)).to(like)


def run(stack, low, x, obs, executor):
    """The lowered network: [S, G, B, out], with S = 1 but for mode "table"."""
    params = lowering.grouped_params(stack)
    if low.mode == "table":
        weights, table = low.hoist(params, times("table", x), x)
        assert table.shape == (S, G, low.program.table_width)
        steps = [table[s : s + 1] for s in range(S)]
        return torch.stack([executor.run_program(x, obs, weights, r, low.program) for r in steps])
    weights, table = low.hoist(params, None, x)
    x = x if low.program.x_width else x[..., :0]
    rows = low.cond(params, obs, times("row", x) if low.mode == "row" else None)
    return executor.run_program(x, rows, weights, table, low.program)[None]


def plain(stack, mode, x, obs):
    """The same by the stack itself."""
    if mode == "table":
        return torch.stack([stack(x, t.expand(G, B), obs) for t in times("table", x)])
    if mode == "act":
        return stack(obs)[None]
    return (stack(x, times("row", x), obs) if mode else stack(x, obs))[None]


def kinds(low):
    return [i.op for i in low.program.instrs]


# ---- the networks of the package -----------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_mlp_noise_net(depth):
    lows = check(lambda: networks.MLPNoiseNet(7, 3, hidden=13, depth=depth, time_dim=6))
    table = lows["table"]
    assert kinds(table) == [Op.LINEAR] * (depth + 2)
    # obs is multiplied once per row, x in every step; time is in the table.
    assert [i.once for i in table.program.instrs] == [True] + [False] * (depth + 1)
    assert (13, 7) in table.program.weights and (13, 3) in table.program.weights


def test_unet_noise_net():
    lows = check(lambda: networks.UNetNoiseNet(7, 3, widths=(12, 9, 5), embed=4))
    for low in lows.values():
        assert Op.MUL not in kinds(low) and kinds(low).count(Op.COPY) == 4


@pytest.mark.parametrize("act", ["relu", "mish", "silu", "gelu", "tanh", "softplus"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_critic(act, layer_norm):
    make = lambda: networks.MLPCritic(7, 3, hidden=9, act=act, layer_norm=layer_norm)  # noqa: E731
    low = check(make, modes=(None,))[None]
    assert low.program.instrs[0].once
    assert low.program.out.width == 1


@pytest.mark.parametrize("state_dependent", [False, True])
def test_actors_have_no_x(state_dependent):
    make = lambda: networks.MLPGaussianActor(7, 3, 9, state_dependent=state_dependent)  # noqa: E731
    program = check(make, modes=("act",))["act"].program
    assert program.x_width == 0 and program.out.width == 6
    mean = check(lambda: networks.MLPActor(7, 3, 9), modes=("act",))["act"].program
    assert all(i.once for i in mean.instrs) and mean.weights == ((9, 7), (9, 9), (3, 9))
    # Of a Gaussian's first columns, its mean, that is all that is left.
    cut = lowering.lower(stacked(make), "act", out_dim=3).program
    assert cut.weights == mean.weights and cut.out == mean.out and cut.instrs == mean.instrs
    for columns in (0, 7):
        with pytest.raises(lowering.LoweringError, match=f"6 columns, and {columns} of them"):
            lowering.lower(stacked(make), "act", out_dim=columns)


# ---- structures ----------------------------------------------------------------------------------


def test_a_very_deep_network():
    class Deep(Net):
        def __init__(self):
            super().__init__()
            sizes = [11] + [3 + k % 4 for k in range(300)] + [3]
            self.layers = nn.ModuleList(nn.Linear(*s) for s in itertools.pairwise(sizes))

        def forward(self, x, t, obs):
            h = torch.cat([x, torch.stack([t, t * t, t.sin()], 1), obs], 1)
            for layer in self.layers:
                h = torch.tanh(layer(h))
            return h

    low = check(Deep, tol=1e-10)["table"]
    assert len(low.program.instrs) == 302


def test_functional_forms_and_methods():
    class Functional(Net):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(rand(8, 11))
            self.b = nn.Parameter(rand(8))
            self.v = nn.Parameter(rand(3, 8))
            self.gain = nn.Parameter(rand(8))
            self.register_buffer("shift", rand(8))

        def forward(self, x, t, obs):
            h = torch.cat((x, t.unsqueeze(-1).expand(-1, 3).sin(), obs), dim=-1)
            h = F.linear(h, self.w, self.b)
            h = F.gelu(h, approximate="tanh") + F.gelu(h) - F.softplus(h) * 0.5
            h = h.mul(self.gain).add(self.shift) / 2.0 + 1.5
            h = F.layer_norm(h, (8,), self.gain, self.shift, 1e-3).relu()
            h = operator.iadd(h, -F.silu(h).tanh())
            return F.linear(F.mish(h) + F.dropout(h, 0.5, self.training), self.v)

    check(Functional)


def test_residuals_are_fused_into_linears():
    class Residual(Net):
        def __init__(self):
            super().__init__()
            self.inp = nn.Linear(8, 6)
            self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
            self.time = nn.Linear(1, 6)
            self.out = nn.Linear(6, 3)

        def forward(self, x, t, obs):
            h = self.inp(torch.cat([x, obs], -1))
            e = self.time(t[:, None])
            for block in self.blocks:
                h = h + F.silu(block(h) + e)
            return self.out(h) + x

    low = check(Residual)["table"]
    assert kinds(low) == [Op.LINEAR] * 6  # obs once, x, three blocks, out


def test_slices_chunks_and_splits_cost_nothing():
    class Slicing(Net):
        def __init__(self):
            super().__init__()
            self.inp = nn.Linear(8, 12)
            self.film = nn.Linear(5, 12)
            self.out = nn.Linear(12, 6)

        def forward(self, x, t, obs):
            h = self.inp(torch.cat([obs[:, 1:], x, obs[..., :1]], 1))
            scale, shift = self.film(obs).chunk(2, dim=-1)
            a, b, c = torch.split(h, [3, 6, 3], dim=1)
            h = torch.cat([c, b * scale + shift, a.narrow(1, 0, 3)], 1)
            first, second = self.out(torch.tanh(h)).split(3, -1)
            return first * t[:, None] + second

    low = check(Slicing)["table"]
    assert Op.COPY not in kinds(low)


def test_layer_norm_over_a_cat_of_everything():
    class Norms(Net):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(10)
            self.plain = nn.LayerNorm(10, elementwise_affine=False)
            self.tail = nn.LayerNorm(10, bias=False)
            self.const = nn.Parameter(rand(1, 1))
            self.out = nn.Linear(10, 3)

        def forward(self, x, t, obs):
            h = torch.cat([x, t[:, None], obs, self.const.expand(x.shape[0], 1)], 1)
            return self.out(self.tail(torch.tanh(self.plain(self.norm(h)))))

    low = check(Norms)["table"]
    assert kinds(low).count(Op.LAYER_NORM) == 3


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap, on a GRU
def test_time_may_be_transformed_in_any_way():
    class Odd(Net):
        def __init__(self):
            super().__init__()
            self.register_buffer("freqs", rand(4))
            self.gru = nn.GRUCell(8, 6)
            self.bilinear = nn.Bilinear(6, 6, 4)
            self.out = nn.Linear(12, 3)

        def forward(self, x, t, obs):
            half = 2
            rate = torch.exp(torch.arange(half, device=x.device, dtype=x.dtype) * -1.5)
            angle = t.view(-1, 1) * rate
            e = torch.cat([angle.sin(), angle.cos(), (t[:, None] * self.freqs * math.pi).sin()], 1)
            h = self.gru(e)
            h = self.bilinear(h, h.flip(-1))
            alpha = torch.exp(-t)[:, None]
            h = torch.where(t[:, None] > 0.5, h, h * 2.0)
            return self.out(torch.cat([x * alpha, h, obs], 1)) * alpha + x * (1 - alpha).sqrt()

    check(Odd)


def test_time_mlp_runs_in_the_program_for_training():
    low = check(lambda: networks.MLPNoiseNet(5, 3, hidden=8))["row"]
    assert low.feature_width == 16  # sines and cosines only; both Linears are the program's
    assert low.program.cond_width == 5 + 16


def test_time_that_ends_in_something_else_stays_in_pytorch():
    class SineAfterLinear(Net):
        def __init__(self):
            super().__init__()
            self.time = nn.Linear(1, 4)
            self.out = nn.Linear(12, 3)

        def forward(self, x, t, obs):
            return self.out(torch.cat([x, torch.sin(self.time(t[:, None])), obs], 1))

    assert check(SineAfterLinear)["row"].feature_width == 4


def test_time_and_obs_mix():
    class Mixed(Net):
        def __init__(self):
            super().__init__()
            self.embed = nn.Sequential(nn.Linear(6, 7), nn.SiLU(), nn.Linear(7, 7), nn.Mish())
            self.inp, self.out = nn.Linear(3, 7), nn.Linear(7, 3)

        def forward(self, x, t, obs):
            return self.out(F.relu(self.inp(x) * self.embed(torch.cat([obs, t[:, None]], 1))))

    check(Mixed)


def test_shared_layers_and_unused_ones():
    class Shared(Net):
        def __init__(self):
            super().__init__()
            self.inp, self.both = nn.Linear(9, 6), nn.Linear(6, 6)
            self.unused, self.out = nn.Linear(4, 4), nn.Linear(6, 3, bias=False)

        def forward(self, x, t, obs):
            h = self.inp(torch.cat([x, obs, t[:, None]], 1))
            return self.out(self.both(torch.tanh(self.both(h)) + self.both(F.relu(h))))

    check(Shared)


def test_degenerate_networks():
    class OnlyX(Net):
        def forward(self, x, t, obs):
            return x * 0.5

    class OnlyTime(Net):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(1, 3)

        def forward(self, x, t, obs):
            return self.out(t[:, None])

    class OnlyObs(Net):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(5, 3)

        def forward(self, x, t, obs):
            return self.out(obs)

    class OnlyBias(Net):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(rand(1, 3))

        def forward(self, x, t, obs):
            return self.bias.expand(x.size(0), -1)

    for make in (OnlyX, OnlyTime, OnlyObs, OnlyBias):
        check(make)


def test_without_parameters():
    class Analytic(Net):
        def forward(self, x, t, obs):
            return x * t[:, None] - obs[:, :3]

    low = lowering.lower(Analytic(), "table")
    x, obs, t = rand(1, B, 3), rand(1, B, 5), torch.tensor([0.5]).double()
    weights, table = low.hoist({}, t, x)
    got = reference.run_program(x, obs, weights, table, low.program)
    torch.testing.assert_close(got, x * 0.5 - obs[..., :3])


def test_odd_widths():
    class Odd(Net):
        obs_dim, act_dim = 1, 1

        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(3, 17),
                nn.GELU(),
                nn.Linear(17, 1),
                nn.Identity(),
                nn.Linear(1, 129),
                nn.GELU(approximate="tanh"),
                nn.LayerNorm(129),
                nn.Linear(129, 1),
            )

        def forward(self, x, t, obs):
            return self.layers(torch.cat([x, t.unsqueeze(1), obs], 1))

    check(Odd)


# ---- training mode -------------------------------------------------------------------------------


class Dropping(Net):
    """Dropout on a value of x, on one of obs, on one of t, and a functional one."""

    def __init__(self):
        super().__init__()
        self.x, self.obs, self.t = nn.Linear(3, 6), nn.Linear(5, 6), nn.Linear(1, 6)
        self.d1, self.d2, self.d3 = nn.Dropout(0.5), nn.Dropout(0.25), nn.Dropout(0.1)
        self.out = nn.Linear(6, 3)

    def forward(self, x, t, obs):
        h = F.silu(self.d1(self.x(x))) + self.d2(self.obs(obs)) + self.d3(self.t(t[:, None]))
        return self.out(F.dropout(h, 0.5, training=self.training))


@pytest.mark.parametrize("mode", ["table", "row"])
def test_dropout_masks_are_philoxs(mode):
    net = Dropping().double()
    low = lowering.lower(net, mode)
    assert low.program.sites == 4
    x, obs, t = rand(1, B, 3), rand(1, B, 5), torch.full((1, B), 0.3, dtype=torch.float64)
    params = lowering.grouped_params(net)
    weights, table = low.hoist(params, t[0, :1] if mode == "table" else None)
    rows = low.cond(params, obs, t if mode == "row" else None)
    got = reference.run_program(x, rows, weights, table, low.program, RNG)

    drops = [i for i in low.program.instrs if i.op is Op.DROPOUT]
    masks = {
        i.value: philox.keep_mask(RNG, philox.DROPOUT + i.site, B, 6, i.value) / (1 - i.value)
        for i in drops[:-1]
    }
    assert sorted(masks) == [0.1, 0.25, 0.5] and drops[-1].value == 0.5
    last = philox.keep_mask(RNG, philox.DROPOUT + drops[-1].site, B, 6, 0.5) / 0.5
    h = F.silu(masks[0.5] * net.x(x[0])) + masks[0.25] * net.obs(obs[0])
    want = net.out((h + masks[0.1] * net.t(t[0][:, None])) * last)
    torch.testing.assert_close(got[0], want, rtol=0.0, atol=tolerances.NETWORK32)


def test_dropout_is_off_in_eval():
    for low in check(Dropping, train=False).values():
        assert low.program.sites == 0


def test_lowering_leaves_torchs_generator_and_the_module_alone():
    net = networks.UNetNoiseNet(4, 2, widths=(4, 4, 4))
    state, before = torch.get_rng_state(), [m.training for m in net.modules()]
    lowering.lower(net, "row")
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in net.modules()] == before


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["table", "row"])
def test_gradients_reach_every_parameter(mode):
    stack = stacked(lambda: networks.MLPNoiseNet(4, 2, hidden=5, time_dim=4))
    low = lowering.lower(stack, mode)
    x, obs, t = rand(G, B, 2), rand(G, B, 4), torch.full((G, B), 0.4, dtype=torch.float64)
    params = lowering.grouped_params(stack)
    weights, table = low.hoist(params, t[0, :1] if mode == "table" else None)
    rows = low.cond(params, obs, t if mode == "row" else None)
    target = rand(G, B, 2, seed=9)
    got = reference.run_program(x, rows, weights, table, low.program)
    leaves = list(stack.parameters())
    grads = torch.autograd.grad(((got - target) ** 2).sum(), leaves)
    wants = torch.autograd.grad(((stack(x, t, obs) - target) ** 2).sum(), leaves)
    for g, w in zip(grads, wants, strict=True):
        torch.testing.assert_close(g, w)


class Scaled(nn.Module):
    """A table that depends on t and a buffer."""

    act_dim, obs_dim = 3, 5

    def __init__(self):
        super().__init__()
        self.register_buffer("freqs", torch.tensor([1.0, 2.0, 3.0, 4.0]))
        self.lin = nn.Linear(4 + 3 + 5, 3)

    def forward(self, x, t, obs):
        return self.lin(torch.cat([torch.sin(t[:, None] * self.freqs), x, obs], -1))


@needs_extension
def test_what_depends_on_times_and_buffers_alone_is_computed_once(monkeypatch):
    net, t = Scaled(), torch.tensor([0.2, 0.9])
    low, params = lowering.lower(net, "table"), lowering.grouped_params(net)
    made = []
    monkeypatch.setattr(low, "_fixed", None)

    def table():
        found = low.hoist(params, t)[1]
        made.append(low._fixed)
        low_again = lowering.lower(net, "table")  # that has kept nothing
        torch.testing.assert_close(found, low_again.hoist(params, t)[1], rtol=0.0, atol=0.0)
        return found

    before = table()
    assert torch.equal(table(), before) and made[0] is made[1] and made[0].values
    with torch.no_grad():
        params["lin.weight"].mul_(2.0)
    table()
    assert made[2] is made[0]  # a parameter's change costs nothing
    params["freqs"].add_(1.0)
    table()
    net.freqs.data[0] += 1.0
    table()
    t.mul_(0.5)
    table()
    params["freqs"] = params["freqs"] + 1.0
    net.freqs = params["freqs"][0]
    table()
    with torch.inference_mode():
        kept = low._fixed
        low.hoist(params, t.clone())
        assert low._fixed is kept  # its tensors could take no part in training
    assert len({id(m) for m in made}) == 5


def test_a_matrix_read_in_parts_has_one_gradient():
    """The parts of one cut: their gradients are joined, not each one filled up with zeros."""
    net = Scaled()
    weights, table = lowering.lower(net, "table").hoist(
        lowering.grouped_params(net), torch.tensor([0.2, 0.9])
    )
    todo, names = [w.grad_fn for w in weights] + [table.grad_fn], set()
    while todo:
        node = todo.pop()
        names.add(node.name())
        todo += [n for n, _ in node.next_functions if n is not None]
    assert "SplitWithSizesBackward0" in names and "SliceBackward0" not in names


def test_weights_are_views():
    stack = stacked(lambda: networks.MLPCritic(5, 3, hidden=4))
    weights, _ = lowering.lower(stack, None).hoist(lowering.grouped_params(stack))
    stored = {p.untyped_storage().data_ptr() for p in stack.parameters()}
    assert {w.untyped_storage().data_ptr() for w in weights} <= stored


def test_extra_arguments_with_defaults_are_kept():
    class Extra(Net):
        def forward(self, x, t, obs, scale=2.0):
            return x * scale

    check(Extra)
