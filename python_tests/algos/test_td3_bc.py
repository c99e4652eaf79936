"""TD3+BC and deterministic BC against plain PyTorch, step for step, and what they promise."""

import copy

import numpy as np
import pytest
import torch
from plain_td3_bc import Net, PlainBC, PlainTD3BC
from small_data import dataset
from tolerances import SAME_FORMULA_64, assert_as_good_as_torch

from dom2_fast import algos
from dom2_fast.algos.bc_det import DeterministicBC, DeterministicBCConfig
from dom2_fast.algos.td3_bc import TD3BC, TD3BCConfig
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend

SMALL = {"weights": "uniform", "batch_size": 16, "hidden": 12, "depth": 2}
STEPS = 12


def td3_config(**changes) -> TD3BCConfig:
    return TD3BCConfig(**{**SMALL, "critic_hidden": 10, "lr": 0.003, "critic_lr": 0.005, **changes})


def plain_net(module, tanh: bool, data, j: int, dtype) -> Net:
    """The tests' own network with the weights of one of ours."""
    linears = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
    obs = data.obs[j].double()
    mean, sd = obs.mean(0), obs.std(0, unbiased=False) + 1e-3
    sizes = [linears[0].in_features, *(m.out_features for m in linears)]
    net = Net(sizes, mean.to(dtype), sd.to(dtype), tanh).to(dtype)
    ours = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
    for one, other in zip(ours, linears, strict=True):
        one.weight.data.copy_(other.weight.data)
        one.bias.data.copy_(other.bias.data)
    return net


def plain_agents(agents, data, dtype) -> list:
    actors = [plain_net(m, True, data, j, dtype) for j, m in enumerate(agents.net.unstack())]
    if isinstance(agents, DeterministicBC):
        return [PlainBC(actor, agents.config) for actor in actors]
    G = len(actors)
    q = [
        plain_net(m, False, data, k % G, dtype) for k, m in enumerate(agents.critics.net.unstack())
    ]
    return [PlainTD3BC(actors[j], q[j], q[G + j], agents.config) for j in range(G)]


def train(agents, twin, plains: list[list], steps: int):
    """Loss curves of `agents` and of each group of plain agents, from the same draws.

    twin: agents of the same data and seed, whose sampler draws what `agents` will draw.
    """
    ours, theirs = [], [[] for _ in plains]
    for _ in range(steps):
        batch = twin.sampler.sample()
        generator = torch.Generator()
        generator.set_state(agents.generator.get_state())
        noise = torch.randn(batch.act.shape, generator=generator, dtype=batch.act.dtype)
        ours.append({name: float(value) for name, value in agents.update().items()})
        for group, curve in zip(plains, theirs, strict=True):
            found = []
            for j, agent in enumerate(group):
                rows = [batch.obs[j], batch.act[j]]
                if isinstance(agent, PlainTD3BC):
                    rows += [batch.reward[j], batch.next_obs[j], noise[j]]
                dtype = next(agent.actor.parameters()).dtype
                found.append(agent.update(*(r.to(dtype) for r in rows)))
            curve.append({k: sum(f[k] for f in found) / len(found) for k in found[0]})
    return ours, theirs


def parameters(agents, group) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of our stacked parameters and the plain ones."""
    nets = [(agents.net, [a.actor for a in group])]
    if isinstance(agents, TD3BC):
        nets += [
            (agents.target_net, [a.actor_bar for a in group]),
            (agents.critics.net, [a.q1 for a in group] + [a.q2 for a in group]),
            (agents.critics.target_net, [a.q1_bar for a in group] + [a.q2_bar for a in group]),
        ]
    pairs = []
    for stacked, modules in nets:
        theirs = zip(*(m.parameters() for m in modules), strict=True)
        pairs += [
            (p.detach(), torch.stack(q).detach())
            for p, q in zip(stacked.parameters(), theirs, strict=True)
        ]
    return pairs


def made(cls, config, obs_dims, dtype):
    data = dataset(trajectories=6, obs_dims=obs_dims, dtype=dtype)
    return cls(config, data), cls(copy.copy(config), data), data


CASES = [(TD3BC, td3_config), (DeterministicBC, lambda **c: DeterministicBCConfig(**SMALL, **c))]


@pytest.mark.parametrize(("cls", "config"), CASES)
def test_updates_equal_the_plain_ones(cls, config, in_float64):
    """Losses of every update and all parameters after them, in float64."""
    agents, twin, data = made(cls, config(backend="reference"), (5, 5, 5), np.float64)
    group = plain_agents(agents, data, torch.float64)
    ours, (theirs,) = train(agents, twin, [group], STEPS)
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one == pytest.approx(other, rel=SAME_FORMULA_64["rtol"], abs=1e-10), step
    for p, q in parameters(agents, group):
        torch.testing.assert_close(p, q, **SAME_FORMULA_64)


@pytest.mark.skipif(not backend.available(), reason="no compiled extension")
@pytest.mark.parametrize(("cls", "config"), CASES)
def test_kernels_learn_what_plain_pytorch_learns(cls, config):
    """In float32, as good as PyTorch's own float32 when both are compared with float64."""
    agents, twin, data = made(cls, config(backend="native"), (5, 5, 5), np.float32)
    plain32, plain64 = (plain_agents(agents, data, d) for d in (torch.float32, torch.float64))
    ours, (theirs, exact) = train(agents, twin, [plain32, plain64], STEPS)
    for name in agents.metric_names:
        curves = [
            torch.tensor([row[name] for row in c if name in row], dtype=torch.float64)
            for c in (ours, theirs, exact)
        ]
        assert_as_good_as_torch(*curves, what=name)
    native, exact = zip(*parameters(agents, plain64), strict=True)
    _, torch32 = zip(*parameters(agents, plain32), strict=True)
    whole = [torch.cat([p.flatten() for p in ps]) for ps in (native, torch32, exact)]
    assert_as_good_as_torch(*whole, what="parameters")


@pytest.mark.parametrize(("cls", "config"), CASES)
def test_agents_do_not_influence_each_other(cls, config):
    made = []
    for factor in (1.0, 10.0):
        data = dataset(trajectories=6)
        for name in ("obs", "reward", "next_obs"):
            getattr(data, name)[1] = getattr(data, name)[1] * factor
        agents = cls(config(grad_clip=0.1), data)
        agents.fit(4)
        made.append(agents.learnt())
    for key, net in made[0].items():
        for a, b in zip(net.parameters(), made[1][key].parameters(), strict=True):
            assert torch.equal(a[::2], b[::2])
            assert not torch.equal(a[1::2], b[1::2])


def two_modes() -> TrajectoryDataset:
    """Half of the episodes act at -0.5 and earn 0, half at +0.5 and earn 1."""
    n = 400
    side = np.tile([0, 1], n // 2)
    act = np.zeros((2, n, 2), np.float32)
    act[..., 0] = np.where(side == 1, 0.5, -0.5)
    act += 0.05 * np.random.default_rng(0).normal(size=act.shape).astype(np.float32)
    obs = np.ones((2, n, 3), np.float32)
    reward = np.tile(side.astype(np.float32), (2, 1))
    return TrajectoryDataset.from_arrays(obs, act, reward, obs, episode_length=1)


def test_the_q_term_moves_the_actor_to_what_pays():
    """BC alone settles at the mean of the modes, 0; with Q the better one wins."""
    means = []
    for alpha in (0.0, 2.5):
        config = td3_config(alpha=alpha, batch_size=128, gamma=0.0)
        agents = TD3BC(config, two_modes())
        agents.fit(400)
        means.append(agents.policies.act(torch.ones(2, 1, 3))[..., 0])
    assert float(means[0].abs().max()) < 0.15
    assert float(means[1].min()) > 0.3


def test_reweighting_moves_the_clone_to_the_better_episodes():
    found = []
    for weights in ("uniform", "thresholds:0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5"):
        config = DeterministicBCConfig(**{**SMALL, "weights": weights, "batch_size": 256}, lr=3e-3)
        agents = DeterministicBC(config, two_modes())
        agents.fit(300)
        found.append(float(agents.policies.act(torch.ones(2, 1, 3))[..., 0].mean()))
    # The least squares fit is the mean: 0, and (10 - 1) / 11 of 0.5 where 10 copies meet one.
    assert found[0] == pytest.approx(0.0, abs=0.05)
    assert found[1] == pytest.approx(0.5 * 9 / 11, abs=0.05)


def test_standardisation_is_the_data_s_and_part_of_the_networks():
    data = dataset(trajectories=6)
    for j in range(2):
        data.obs[j][:] = data.obs[j] * 7 + 40
    agents = TD3BC(td3_config(), data)
    agents.fit(2)
    norm = agents.net.template
    for j in range(2):
        obs = data.obs[j].double()
        torch.testing.assert_close(norm.mean[j].double(), obs.mean(0), rtol=1e-6, atol=1e-6)
        sd = obs.std(0, unbiased=False) + 1e-3
        torch.testing.assert_close(norm.sd[j].double(), sd, rtol=1e-6, atol=1e-6)
    loaded = TD3BC.acting(agents.state_dict())
    obs = torch.stack([o[:4] for o in data.obs])
    assert torch.equal(loaded.act(obs), agents.policies.act(obs))
    assert torch.equal(loaded.policy.net.template.mean, norm.mean)
    own = torch.stack([net(o) for net, o in zip(agents.net.unstack(), obs, strict=True)])
    torch.testing.assert_close(loaded.act(obs), own)
    plain = TD3BC(td3_config(standardise_obs=False), data)
    assert plain.learner is plain.net
    plain.fit(2)


def test_an_algorithm_shows_only_its_own_settings():
    own = {name: set(vars(algos.algorithm(name).config_class())) for name in algos.ALGORITHMS}
    diffusion, critic = (
        {"network", "solver", "steps", "clip_x0", "time_scale"},
        {"gamma", "critic_lr"},
    )
    assert diffusion & own["td3_bc"] == diffusion & own["bc_det"] == set()
    assert critic & own["bc"] == critic & own["bc_det"] == set()
    assert "tau" not in own["bc_det"]
    assert critic | {"alpha", "policy_noise", "noise_clip"} <= own["td3_bc"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": -1.0}, "alpha must be >= 0"),
        ({"actor_every": 0}, "actor_every must be >= 1"),
        ({"tau": 2.0}, r"tau must be in \[0, 1\]"),
        ({"critic_lr": 0.0}, "critic_lr must be > 0"),
        ({"depth": 0}, "depth must be >= 1"),
        ({"weights": "best"}, "accepted: preset"),
        ({"backend": "tpu"}, "backend must be one of"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(Dom2Error, match=message):
        td3_config(**change)
