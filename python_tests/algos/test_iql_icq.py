"""Gaussian BC, IQL and ICQ against plain PyTorch, step for step, and what they promise."""

import math

import numpy as np
import pytest
import torch
from plain_iql import Gaussian, PlainGaussianBC, PlainICQ, PlainIQL
from small_data import dataset
from test_td3_bc import plain_net
from tolerances import SAME_FORMULA_64, SIGMAS, assert_as_good_as_torch

from dom2_fast import algos
from dom2_fast.algos.bc10 import FilteredBC, FilteredBCConfig
from dom2_fast.algos.bc_gauss import GaussianBC, GaussianBCConfig
from dom2_fast.algos.icq import ICQ, ICQConfig
from dom2_fast.algos.iql import IQL, IQLConfig
from dom2_fast.algos.values import expectile_loss
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend
from dom2_fast.policies.frozen import load_policy

STEPS = 10
RATES = {"lr": 0.003, "critic_lr": 0.005}
CASES = [
    ("bc_gauss", {"lr": 0.003}),
    ("iql", {**RATES, "value_lr": 0.004}),
    ("iql", {**RATES, "decay_steps": 6, "mask_done": True, "weight_clip": 2.0, "return_span": 3.0}),
    ("icq", RATES),
    ("icq", {**RATES, "mask_done": True, "alpha": 2.0, "beta": 0.3, "weight_decay": 0.1}),
]
SMALL = {"weights": "uniform", "batch_size": 16, "hidden": 12}


def config(name, **changes):
    cls = algos.algorithm(name).config_class
    return cls(**SMALL, **({} if name == "bc_gauss" else {"critic_hidden": 10}), **changes)


def plain_agents(agents, data, dtype) -> list:
    G, c, found = agents.num_agents, agents.config, []

    def nets(stacked, tanh=False):
        each = enumerate(stacked.unstack())
        return [plain_net(m, tanh, data, k % G, dtype) for k, m in each]

    log_std = [m.inner.log_std.detach().to(dtype) for m in agents.net.unstack()]
    actors = map(Gaussian, nets(agents.net, tanh=True), log_std)
    for j, actor in enumerate(actors):
        if agents.name == "bc_gauss":
            found.append(PlainGaussianBC(actor, c))
        elif agents.name == "icq":
            found.append(PlainICQ(actor, nets(agents.critic)[j], c))
        else:
            q, v = nets(agents.critics.net), nets(agents.value.net)
            returns = data.reward[j].double().reshape(-1, 5).sum(1)
            scale = c.return_span / float(returns.max() - returns.min())
            found.append(PlainIQL(actor, q[j], q[G + j], v[j], c, scale))
    return found


def learn(name, changes, which, np_dtype, dtypes):
    """Our agents after STEPS updates, plain ones of each dtype, curves; all from the same draws."""
    cls = algos.algorithm(name)
    data = dataset(trajectories=6, obs_dims=(5, 5, 5), dtype=np_dtype)
    for done in data.done:
        done[::3] = 1
    agents, twin = (cls(config(name, backend=which, **changes), data) for _ in range(2))
    groups = [plain_agents(agents, data, dtype) for dtype in dtypes]
    curves = [[] for _ in range(1 + len(groups))]
    for _ in range(STEPS):
        b = twin.sampler.sample()
        curves[0].append({k: float(v) for k, v in agents.update().items()})
        rows = [
            b.obs,
            b.act,
            b.reward,
            b.next_obs,
            b.done,
            b.act if b.next_act is None else b.next_act,
        ]
        for group, curve, dtype in zip(groups, curves[1:], dtypes, strict=True):
            losses = [
                agent.update(*(r[j].to(dtype) for r in rows)) for j, agent in enumerate(group)
            ]
            curve.append({k: sum(x[k] for x in losses) / 3 for k in losses[0]})
    return agents, groups, curves


def parameters(agents, group) -> tuple[torch.Tensor, torch.Tensor]:
    """All our parameters in one row, and the plain ones."""
    ours, theirs = [], []
    for part, plain in group[0].nets.items():
        stacked = agents._parts()[part]
        modules = [a.nets[part][k] for k in range(len(plain)) for a in group]
        named = [dict(_renamed(m)) for m in modules]
        for name, p in _renamed(stacked.template):
            ours.append(p.detach().flatten())
            theirs.append(torch.stack([n[name].detach() for n in named]).flatten())
    return torch.cat(ours), torch.cat(theirs)


def _renamed(module):
    """Parameters by (kind, number in order), which both sides have alike."""
    linears = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
    for k, m in enumerate(linears):
        yield ("weight", k), m.weight
        yield ("bias", k), m.bias
    for name, p in module.named_parameters():
        if name.endswith("log_std"):
            yield "log_std", p


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_updates_equal_the_plain_ones(name, changes, in_float64):
    """Losses of every update and all parameters after them, in float64."""
    made = learn(name, changes, "reference", np.float64, [torch.float64])
    agents, (group,), (ours, theirs) = made
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=SAME_FORMULA_64["rtol"], abs=1e-10)
    torch.testing.assert_close(*parameters(agents, group), **SAME_FORMULA_64)


@pytest.mark.skipif(not backend.available(), reason="no compiled extension")
@pytest.mark.parametrize(("name", "changes"), CASES)
def test_kernels_learn_what_plain_pytorch_learns(name, changes):
    dtypes = [torch.float32, torch.float64]
    agents, (plain32, plain64), curves = learn(name, changes, "native", np.float32, dtypes)
    for key in agents.metric_names:
        rows = [torch.tensor([row[key] for row in c], dtype=torch.float64) for c in curves]
        assert_as_good_as_torch(*rows, what=key)
    native, torch32 = parameters(agents, plain32)
    assert_as_good_as_torch(native, torch32, parameters(agents, plain64)[1], what="parameters")


@pytest.mark.parametrize("name", ["bc_gauss", "iql", "icq"])
def test_agents_do_not_influence_each_other(name):
    made = []
    for factor in (1.0, 10.0):
        data = dataset(trajectories=6)
        for field in ("obs", "reward", "next_obs"):
            getattr(data, field)[1] = getattr(data, field)[1] * factor
        agents = algos.algorithm(name)(config(name, grad_clip=0.1), data)
        agents.fit(4)
        made.append(agents.learnt())
    for key, net in made[0].items():
        for a, b in zip(net.parameters(), made[1][key].parameters(), strict=True):
            assert torch.equal(a[::2], b[::2])


@pytest.mark.parametrize("log_std", [-7.0, -1.0, 3.0])
@pytest.mark.parametrize("standardise", [True, False])
def test_the_weighted_loss_is_that_of_the_policy_s_density(log_std, standardise, in_float64):
    """And its gradients; beyond the bounds of log sigma that parameter has none."""
    data = dataset(trajectories=6, dtype=np.float64)
    settings = config("bc_gauss", backend="reference", standardise_obs=standardise)
    agents = GaussianBC(settings, data)
    torch.nn.init.constant_(dict(agents.learner.named_parameters())["template.log_std"], log_std)
    batch = agents._draw()
    weight = torch.rand(2, 16, generator=torch.Generator().manual_seed(0))
    loss = agents.weighted_loss(batch, weight)
    plain = -(weight * agents.policy.log_prob(batch.obs, batch.act)).mean(1)
    torch.testing.assert_close(loss, plain, **SAME_FORMULA_64)
    parameters = list(agents.net.parameters())
    one, other = (torch.autograd.grad(x.sum(), parameters) for x in (loss, plain))
    torch.testing.assert_close(one, other, **SAME_FORMULA_64)


def test_an_expectile_by_hand():
    u = torch.tensor([[-1.0, 2.0], [3.0, 0.0]])
    expected = [(0.3 * 1 + 0.7 * 4) / 2, 0.7 * 9 / 2]
    assert expectile_loss(u, 0.7).tolist() == pytest.approx(expected)
    flat = expectile_loss(u, 0.5)  # of 0.5 half a squared error
    torch.testing.assert_close(flat, u.square().mean(1) / 2)


def two_modes() -> TrajectoryDataset:
    """Half of the episodes act at -0.5 and earn 0, half at +0.5 and earn 1, in both steps."""
    n = 200
    side = np.tile([0, 0, 1, 1], n // 2)
    act = np.zeros((2, 2 * n, 2), np.float32)
    act[..., 0] = np.where(side == 1, 0.5, -0.5)
    act += 0.05 * np.random.default_rng(0).normal(size=act.shape).astype(np.float32)
    obs = np.ones((2, 2 * n, 3), np.float32)
    reward = np.tile(side.astype(np.float32), (2, 1))
    return TrajectoryDataset.from_arrays(obs, act, reward, obs, episode_length=2)


@pytest.mark.parametrize(
    ("name", "how"),
    [("bc_gauss", {}), ("iql", {"value_lr": 0.01, "gamma": 0.0}), ("icq", {"beta": 0.1})],
)
def test_weights_move_the_actor_to_what_pays(name, how):
    """BC alone settles at the mean of the modes, 0; with advantages the better one wins."""
    rates = {} if name == "bc_gauss" else {"critic_lr": 0.01}
    agents = algos.algorithm(name)(config(name, lr=0.01, **rates, **how), two_modes())
    agents.fit(400)
    means = agents.policies.act(torch.ones(2, 1, 3))[..., 0]
    if name == "bc_gauss":
        assert float(means.abs().max()) < 0.15
        sd = agents.net.template.inner.log_std.detach().exp()
        assert sd[:, 0].tolist() == pytest.approx([0.5, 0.5], abs=0.1)  # of -0.5 and 0.5
        assert float(sd[:, 1].max()) < 0.3  # on its way to 0.05
    else:
        assert float(means.min()) > 0.3


def test_acting_by_samples_has_the_learnt_mean_and_deviation(tmp_path):
    """Live, frozen and exported policies draw the same actions; each agent's own ones do, too."""
    agents = GaussianBC(config("bc_gauss", act_by="sample", lr=0.01), two_modes())
    agents.fit(300)
    obs, n = torch.ones(2, 1, 3), 20_000
    many = obs.expand(2, n, 3).contiguous()
    policies = agents.policies
    policies.export(tmp_path / "p.safetensors")
    loaded = load_policy(tmp_path / "p.safetensors")
    again = GaussianBC.acting(agents.state_dict())
    act = policies.act(many, torch.Generator().manual_seed(0))
    for other in (policies.frozen(), loaded, again):
        assert torch.equal(other.act(many, torch.Generator().manual_seed(0)), act)
    mean, log_std = agents.make_policy(agents.config, agents.net).distribution(obs)
    mean, sd = mean.detach()[:, 0], log_std.detach().exp()[:, 0]
    inside = sd < 0.3  # more than three deviations from the bounds: nothing is clipped
    assert bool(inside.any())
    error = (act.mean(1) - mean).abs()[inside] / (sd / math.sqrt(n))[inside]
    assert float(error.max()) < SIGMAS
    error = (act.std(1) / sd - 1).abs()[inside] * math.sqrt(2 * n)
    assert float(error.max()) < SIGMAS
    assert float(act.abs().max()) <= 1.0
    alone = policies[1].act(many[1], generator=torch.Generator().manual_seed(1))
    error = (alone.mean(0) - mean[1]).abs()[inside[1]] / (sd[1] / math.sqrt(n))[inside[1]]
    assert float(error.max()) < SIGMAS
    by_mean = GaussianBC(config("bc_gauss", lr=0.01), two_modes())
    by_mean.load_state_dict(agents.state_dict())
    act = by_mean.policies.act(obs)
    torch.testing.assert_close(act[:, 0], mean)


def test_the_actor_s_learning_rate_follows_a_cosine_and_a_resumed_run_goes_on_with_it(tmp_path):
    data = dataset(trajectories=6)
    agents = IQL(config("iql", lr=0.1, decay_steps=4), data)
    rates = []
    for _ in range(6):
        agents.fit(1)
        rates.append(agents.actor_optimiser.param_groups[0]["lr"])
        agents = IQL.from_state(agents.state_dict(), data)
    half = math.cos(math.pi / 4) / 2
    assert rates == pytest.approx([0.1, 0.1 * (0.5 + half), 0.05, 0.1 * (0.5 - half), 0.0, 0.0])
    agents = IQL(config("iql", lr=0.1), data)
    agents.fit(2)
    assert agents.actor_optimiser.param_groups[0]["lr"] == 0.1


def test_orthogonal_beginnings():
    for orthogonal in (True, False):
        agents = IQL(config("iql", orthogonal_init=orthogonal), dataset(trajectories=6))
        for net in agents.learnt().values():
            layers = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
            for w in (w for m in layers for w in m.weight.detach()):
                w = w if w.size(0) <= w.size(1) else w.T
                square = torch.allclose(w @ w.T, 2 * torch.eye(len(w)), atol=1e-5)
                assert square == orthogonal
            assert all(bool((m.bias == 0).all()) == orthogonal for m in layers)


def test_rewards_are_scaled_by_each_agent_s_spread_of_returns():
    data = dataset(trajectories=6)
    agents = IQL(config("iql", return_span=10.0), data)
    returns = torch.stack([r.double().reshape(-1, 5).sum(1) for r in data.reward])
    spans = returns.amax(1) - returns.amin(1)
    torch.testing.assert_close(
        agents.critics.reward.sd[:, 0].double(), spans / 10.0, rtol=1e-6, atol=0
    )
    raw = IQL(config("iql", return_span=0.0), data)
    assert raw.critics.reward.sd.tolist() == [[1.0], [1.0]]
    for r in data.reward:
        r.zero_()
    data = TrajectoryDataset(data.obs, data.act, data.reward, data.next_obs, data.done, data.starts)
    with pytest.raises(Dom2Error, match="agent 0 are all 0: set return_span to 0"):
        IQL(config("iql"), data)


def test_filtered_bc_is_diffusion_bc_on_the_best_tenth():
    data = dataset(trajectories=40)
    assert FilteredBCConfig().weights == "top_k:0.1"
    own = {**vars(FilteredBCConfig()), "weights": ""}
    assert own == {**vars(algos.algorithm("bc").config_class()), "weights": ""}
    agents = FilteredBC(FilteredBCConfig(batch_size=200, hidden=8), data)
    index = agents.sampler.sample().index
    for j in range(2):
        best = set(data.returns[j].topk(4).indices.tolist())
        assert set((index[j] // 5).tolist()) == best
    assert issubclass(FilteredBC, algos.algorithm("bc"))


def test_icq_draws_no_last_row():
    agents = ICQ(config("icq"), dataset(trajectories=6))
    index = torch.cat([agents.sampler.sample().index for _ in range(20)], 1)
    assert set((index % 5).flatten().tolist()) == {0, 1, 2, 3}
    with pytest.raises(Dom2Error, match="give longer episodes"):
        ICQ(config("icq"), dataset(length=1))


@pytest.mark.parametrize(
    ("cls", "change", "message"),
    [
        (GaussianBCConfig, {"act_by": "mode"}, "act_by must be one of mean, sample"),
        (IQLConfig, {"expectile": 1.0}, "expectile must be less than 1"),
        (IQLConfig, {"expectile": 0.0}, "expectile must be > 0"),
        (IQLConfig, {"temperature": -1.0}, "temperature must be >= 0"),
        (IQLConfig, {"decay_steps": -1}, "decay_steps must be >= 0"),
        (
            IQLConfig,
            {"normalise_reward": True},
            "set normalise_reward to false",
        ),
        (ICQConfig, {"alpha": 0.0}, "alpha must be > 0"),
        (ICQConfig, {"beta": 0.0}, "beta must be > 0"),
        (ICQConfig, {"tau": 2.0}, r"tau must be in \[0, 1\]"),
    ],
)
def test_bad_settings(cls, change, message):
    with pytest.raises(Dom2Error, match=message):
        cls(**change)
