"""Networks: shapes, published layouts, and stacking."""

import copy

import pytest
import tolerances
import torch
from torch import nn

from dom2_fast import networks
from dom2_fast.errors import Dom2Error


def inputs(obs_dim=5, act_dim=2, batch=4, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, act_dim, generator=g, dtype=dtype),
        torch.rand(batch, generator=g, dtype=dtype),
        torch.randn(batch, obs_dim, generator=g, dtype=dtype),
    )


def test_mlp_noise_net_has_diffusion_qls_parameters():
    state = networks.MLPNoiseNet(11, 3).state_dict()
    shapes = {name: tuple(v.shape) for name, v in state.items()}
    assert shapes == {
        "time_mlp.1.weight": (32, 16),
        "time_mlp.1.bias": (32,),
        "time_mlp.3.weight": (16, 32),
        "time_mlp.3.bias": (16,),
        "mid_layer.0.weight": (256, 30),
        "mid_layer.0.bias": (256,),
        "mid_layer.2.weight": (256, 256),
        "mid_layer.2.bias": (256,),
        "mid_layer.4.weight": (256, 256),
        "mid_layer.4.bias": (256,),
        "final_layer.weight": (3, 256),
        "final_layer.bias": (3,),
    }


def test_mlp_noise_net_is_diffusion_qls_formula():
    net = networks.MLPNoiseNet(5, 2, hidden=8).double()
    x, t, obs = inputs(dtype=torch.float64)
    half = 8
    rate = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(1e4)) / (half - 1))).double()
    angle = t[:, None] * rate[None]
    s = net.state_dict()
    mish = nn.Mish()
    e = torch.cat([angle.sin(), angle.cos()], -1)
    e = mish(e @ s["time_mlp.1.weight"].T + s["time_mlp.1.bias"])
    e = e @ s["time_mlp.3.weight"].T + s["time_mlp.3.bias"]
    h = torch.cat([x, e, obs], 1)
    for k in (0, 2, 4):
        h = mish(h @ s[f"mid_layer.{k}.weight"].T + s[f"mid_layer.{k}.bias"])
    want = h @ s["final_layer.weight"].T + s["final_layer.bias"]
    # The frequencies were rounded to float32 when the network was made, in both.
    torch.testing.assert_close(net(x, t, obs), want, rtol=0.0, atol=tolerances.NETWORK32)


def test_time_scale_multiplies_t():
    plain, scaled = networks.SinusoidalTime(16), networks.SinusoidalTime(16, 4.0)
    t = torch.tensor([0.25, 0.5])
    torch.testing.assert_close(scaled(t), plain(4.0 * t))


def test_unet_has_the_published_widths():
    net = networks.UNetNoiseNet(18, 2)
    linears = {
        name: (m.in_features, m.out_features)
        for name, m in net.named_modules()
        if isinstance(m, nn.Linear)
    }
    assert linears["time.1"] == (32, 32) and linears["obs.0"] == (18, 32)
    assert linears["embed.0"] == (64, 128) and linears["embed.2"] == (128, 128)
    blocks = {n: linears[f"{n}.first.0"] for n in ("down1", "down2", "down3", "up3", "up2", "up1")}
    assert blocks == {
        "down1": (2, 512),
        "down2": (512, 256),
        "down3": (256, 128),
        "up3": (128, 128),
        "up2": (256, 256),
        "up1": (512, 512),
    }
    assert isinstance(net.up1.skip, nn.Identity) and linears["down1.skip"] == (2, 512)
    assert linears["final_layer"] == (1024, 2)
    assert all(m.p == 0.1 for m in net.modules() if isinstance(m, nn.Dropout))
    assert "time.0.freqs" in net.state_dict() and not net.time[0].freqs.requires_grad
    assert net(*inputs(18)).shape == (4, 2)


@pytest.mark.parametrize("act", ["relu", "mish", "silu", "gelu", "tanh", "softplus"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_critic(act, layer_norm):
    critic = networks.MLPCritic(5, 2, hidden=7, depth=3, act=act, layer_norm=layer_norm)
    x, _, obs = inputs()
    assert critic(x, obs).shape == (4, 1)
    kinds = [type(m) for m in critic.mid_layer]
    assert kinds.count(nn.Linear) == 3 and kinds.count(nn.LayerNorm) == 3 * layer_norm


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.MLPNoiseNet(0, 2), "obs_dim must be"),
        (lambda: networks.MLPNoiseNet(3, 2.0), "act_dim must be"),
        (lambda: networks.MLPNoiseNet(3, 2, time_dim=5), "pairs"),
        (lambda: networks.MLPNoiseNet(3, 2, depth=0), "depth must be"),
        (lambda: networks.UNetNoiseNet(3, 2, widths=(4, 4)), "three widths"),
        (lambda: networks.UNetNoiseNet(3, 2, dropout=1.0), "dropout in"),
        (lambda: networks.MLPCritic(3, 2, act="selu"), "unknown activation 'selu'.*mish"),
    ],
)
def test_bad_sizes(make, message):
    with pytest.raises(Dom2Error, match=message):
        make()


def test_a_stack_runs_each_group_with_its_own_parameters():
    nets = [networks.UNetNoiseNet(5, 2, widths=(8, 6, 4)).eval() for _ in range(3)]
    stacked = networks.stack(nets)
    x, t, obs = (v.expand(3, *v.shape) for v in inputs())
    got = stacked(x, t, obs)
    for g, net in enumerate(nets):
        torch.testing.assert_close(got[g], net(x[g], t[g], obs[g]))
    assert not torch.equal(got[0], got[1])


def test_stack_and_unstack_copy():
    nets = [networks.MLPCritic(5, 2, hidden=4) for _ in range(2)]
    stacked = networks.stack(nets)
    before = nets[0].final_layer.bias.clone()
    with torch.no_grad():
        for p in stacked.parameters():
            p.add_(1.0)
    assert torch.equal(nets[0].final_layer.bias, before)
    copies = stacked.unstack()
    assert torch.equal(copies[0].final_layer.bias, before + 1.0)
    assert copies[1].state_dict().keys() == nets[1].state_dict().keys()
    with torch.no_grad():
        copies[0].final_layer.bias.zero_()
    assert torch.equal(stacked.params()["final_layer.bias"][0], before + 1.0)


def test_a_stack_is_one_module_for_optimisers_and_state_dicts():
    stacked = networks.stack([networks.MLPCritic(5, 2, hidden=4) for _ in range(2)])
    names = set(stacked.params())
    assert "mid_layer.0.weight" in names
    assert stacked.params()["mid_layer.0.weight"].shape == (2, 4, 7)
    other = networks.stack([networks.MLPCritic(5, 2, hidden=4) for _ in range(2)])
    other.load_state_dict(stacked.state_dict())
    x, _, obs = (v.expand(2, *v.shape) for v in inputs())
    assert torch.equal(other(x, obs), stacked(x, obs))
    loss = stacked(x, obs).sum()
    torch.optim.Adam(stacked.parameters())
    loss.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in stacked.parameters())
    assert not copy.deepcopy(stacked).eval().template.training


def test_tied_parameters_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    stacked = networks.stack([Tied(), Tied()])
    assert stacked.template.a.weight is stacked.template.b.weight
    one = stacked.unstack()[1]
    assert one.a.weight is one.b.weight


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([], "one module or more"),
        ([nn.Linear(2, 2), nn.Linear(2, 3)], "module 1 is not built like"),
        ([nn.Linear(2, 2), nn.Bilinear(2, 2, 2)], "module 1 is not built like"),
        ([nn.Linear(2, 2), nn.Linear(2, 2).double()], "differs from module 0 in a shape, dtype"),
    ],
)
def test_stack_refuses(modules, message):
    with pytest.raises(Dom2Error, match=message):
        networks.stack(modules)


def test_a_stack_wants_a_leading_dimension():
    stacked = networks.stack([networks.MLPCritic(5, 2) for _ in range(3)])
    x, _, obs = inputs()
    with pytest.raises(Dom2Error, match=r"input 0 has shape \(4, 2\).*leading dimension of 3"):
        stacked(x, obs)


@pytest.mark.parametrize("state_dependent", [False, True])
def test_actors_give_actions_and_deviations(state_dependent):
    obs = inputs()[2]
    actor = networks.MLPActor(5, 2, hidden=8)
    hidden = torch.relu(actor.mid_layer[2](torch.relu(actor.mid_layer[0](obs))))
    torch.testing.assert_close(actor(obs), torch.tanh(actor.final_layer(hidden)))
    gaussian = networks.MLPGaussianActor(5, 2, hidden=8, state_dependent=state_dependent)
    gaussian.load_state_dict(actor.state_dict(), strict=False)
    mean, log_std = gaussian(obs).split(2, -1)
    torch.testing.assert_close(mean, actor(obs))
    if state_dependent:
        torch.testing.assert_close(log_std, gaussian.log_std_layer(hidden))
    else:
        assert torch.equal(log_std, torch.zeros(4, 2))
    with pytest.raises(Dom2Error, match="hidden must be a whole number"):
        networks.MLPActor(5, 2, hidden=0)


def test_a_value_is_one_number_per_observation():
    obs = inputs()[2]
    net = networks.MLPValue(5, hidden=8)
    hidden = torch.relu(net.mid_layer[2](torch.relu(net.mid_layer[0](obs))))
    torch.testing.assert_close(net(obs), net.final_layer(hidden))
    assert (net(obs).shape, net.obs_dim) == ((4, 1), 5)
    with pytest.raises(Dom2Error, match="depth must be a whole number"):
        networks.MLPValue(5, depth=0)


def test_a_standardised_actor_holds_mean_and_sd():
    torch.manual_seed(0)
    inner = networks.MLPActor(5, 2, hidden=8)
    mean, sd = torch.randn(5), torch.rand(5) + 0.5
    net = networks.Standardised(inner, mean, sd)
    _, _, obs = inputs()
    torch.testing.assert_close(net(obs), inner((obs - mean) / sd))
    assert (net.obs_dim, net.act_dim) == (5, 2)
    assert {"mean", "sd"} < set(net.state_dict())
    assert list(net.parameters()) == list(inner.parameters())
    other = networks.Standardised(copy.deepcopy(inner), 2 * mean, 3 * sd)
    stacked = networks.stack([net, other])
    both = torch.stack([obs, obs])
    torch.testing.assert_close(stacked(both), torch.stack([net(obs), other(obs)]))


def test_scaled_learns_the_scale_and_shift_of_its_observations():
    inner = networks.MLPActor(5, 2, hidden=8)
    net = networks.Scaled(inner)
    _, _, obs = inputs()
    assert torch.equal(net(obs), inner(obs))
    with torch.no_grad():
        net.scale.copy_(torch.randn(5))
        net.shift.copy_(torch.randn(5))
    torch.testing.assert_close(net(obs), inner(obs * net.scale + net.shift))
    assert (net.obs_dim, net.act_dim) == (5, 2)
    net(obs).sum().backward()
    assert net.scale.grad.abs().sum() > 0


def test_a_scaled_critic_is_one_of_scaled_inputs():
    net = networks.ScaledCritic(5, 2, hidden=8)
    act, _, obs = inputs()
    act = act[:, :2]
    plain = networks.MLPCritic(5, 2, hidden=8)
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if k[:2] not in ("sc", "sh")})
    assert torch.equal(net(act, obs), plain(act, obs))
    with torch.no_grad():
        net.scale.copy_(torch.randn(7))
        net.shift.copy_(torch.randn(7))
    rows = torch.cat([act, obs], 1) * net.scale + net.shift
    torch.testing.assert_close(net(act, obs), plain(rows[:, :2], rows[:, 2:]))


def test_the_quick_walks_find_what_torch_finds():
    net = networks.stack([networks.UNetNoiseNet(3, 2) for _ in range(2)])
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    for module in (net, tied, nn.ReLU()):
        found, expected = networks.parameters_of(module), list(module.parameters())
        assert sorted(map(id, found)) == sorted(map(id, expected))
        first = networks.first_parameter(module)
        assert any(first is p for p in expected) if expected else first is None
    assert networks.first_parameter(nn.ReLU(), "none") == "none"
    names = dict(networks.named_tensors(net.template))
    held = (*net.template.named_parameters(), *net.template.named_buffers())
    assert names.keys() == dict(held).keys()
    copied = copy.deepcopy(net)  # in the same order, for targets
    shapes = [[p.shape for p in networks.parameters_of(m)] for m in (net, copied)]
    assert shapes[0] == shapes[1]
