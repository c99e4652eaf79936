"""Diffusion-QL against plain PyTorch, step for step, and what it promises."""

import copy

import numpy as np
import plain_diffusion_ql as plain
import pytest
import torch
from small_data import dataset
from tolerances import SAME_FORMULA_64, assert_as_good_as_torch

from dom2_fast import ops
from dom2_fast.algos.diffusion_ql import DiffusionQL, DiffusionQLConfig
from dom2_fast.algos.dom2 import DOM2, DOM2Config
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend, philox

SMALL = {"batch_size": 16, "hidden": 12, "depth": 2, "steps": 4, "critic_hidden": 10}
STEPS = 10


def small(**changes) -> DiffusionQLConfig:
    quick = {"lr": 0.003, "critic_lr": 0.005, "tau": 0.1, "grad_clip": 0.5}
    averages = {"ema_start": 2, "ema_every": 3, "ema_rate": 0.2}
    return DiffusionQLConfig(**{**SMALL, **quick, **averages, **changes})


def chain_draws(generator, shape, steps: int, dtype):
    """What a sampling chain draws from the generator: x_T [G, B, A] and z [G, steps, B, A]."""
    rng, (G, B, A) = ops.make_rng(generator), shape
    x, *z = (philox.normals(rng, k, G * B, A, dtype=dtype).view(shape) for k in range(steps + 1))
    return x, torch.stack(z, 1)


def draws(agents, batch) -> dict:
    """All that the next update of `agents` will draw beside its batch, [G, ...] each."""
    c, shape, dtype = agents.config, batch.act.shape, batch.act.dtype
    generator = torch.Generator()
    generator.set_state(agents.generator.get_state())
    found = {}
    found["x_next"], found["z_next"] = chain_draws(generator, shape, c.steps, dtype)
    u = torch.rand(shape[:2], generator=generator, dtype=dtype)
    found["k"] = (u * c.steps).floor()
    found["eps"] = torch.randn(shape, generator=generator, dtype=dtype)
    found["coin"] = torch.rand(len(batch.act), generator=generator)
    found["x_now"], found["z_now"] = chain_draws(generator, shape, c.steps, dtype)
    return found


def plain_agents(agents, dtype) -> list:
    nets = [n.to(dtype) for n in agents.net.unstack()]
    q = [n.to(dtype) for n in agents.critics.net.unstack()]
    G = len(nets)
    return [plain.PlainDiffusionQL(nets[j], q[j], q[G + j], agents.config) for j in range(G)]


def train(agents, twin, plains: list[list], steps: int):
    """Loss curves of `agents` and of each group of plain agents, from the same draws."""
    ours, theirs, coins = [], [[] for _ in plains], []
    for _ in range(steps):
        batch = twin.sampler.sample()
        drawn = draws(agents, batch)
        coins.append(drawn["coin"] > 0.5)
        ours.append({name: float(value) for name, value in agents.update().items()})
        for group, curve in zip(plains, theirs, strict=True):
            found = []
            for j, agent in enumerate(group):
                dtype = next(agent.net.parameters()).dtype
                rows = [f[j].to(dtype) for f in (batch.obs, batch.act, batch.reward)]
                own = {name: d[j].to(dtype) for name, d in drawn.items()}
                found.append(agent.update(*rows, batch.next_obs[j].to(dtype), own))
            curve.append({k: sum(f[k] for f in found) / len(found) for k in found[0]})
    coins = torch.stack(coins)
    assert bool(coins.any(0).all()) and not bool(coins.all(0).any())  # both orders of each agent
    return ours, theirs


def parameters(agents, group) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of our stacked parameters and the plain ones."""
    critics = agents.critics
    nets = [
        (agents.net, [a.net for a in group]),
        (agents.target_net, [a.net_bar for a in group]),
        (critics.net, [a.q1 for a in group] + [a.q2 for a in group]),
        (critics.target_net, [a.q1_bar for a in group] + [a.q2_bar for a in group]),
    ]
    pairs = []
    for stacked, modules in nets:
        theirs = zip(*(m.parameters() for m in modules), strict=True)
        pairs += [
            (p.detach(), torch.stack(q).detach())
            for p, q in zip(stacked.parameters(), theirs, strict=True)
        ]
    return pairs


def made(config, dtype):
    data = dataset(trajectories=6, obs_dims=(5, 5, 5), dtype=dtype)
    return [DiffusionQL(copy.copy(config), data) for _ in range(2)]


def test_updates_equal_the_plain_ones(in_float64):
    """Losses of every update and all parameters after them, in float64."""
    config = small(normalise_reward=False, backend="reference")
    agents, twin = made(config, np.float64)
    group = plain_agents(agents, torch.float64)
    ours, (theirs,) = train(agents, twin, [group], STEPS)
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one == pytest.approx(other, rel=SAME_FORMULA_64["rtol"], abs=1e-10), step
    for p, q in parameters(agents, group):
        torch.testing.assert_close(p, q, **SAME_FORMULA_64)


@pytest.mark.skipif(not backend.available(), reason="no compiled extension")
def test_kernels_learn_what_plain_pytorch_learns():
    """In float32, as good as PyTorch's own float32 when both are compared with float64."""
    agents, twin = made(small(normalise_reward=False, backend="native"), np.float32)
    plain32, plain64 = (plain_agents(agents, d) for d in (torch.float32, torch.float64))
    ours, (theirs, exact) = train(agents, twin, [plain32, plain64], STEPS)
    for name in agents.metric_names:
        curves = [
            torch.tensor([row[name] for row in c], dtype=torch.float64)
            for c in (ours, theirs, exact)
        ]
        assert_as_good_as_torch(*curves, what=name)
    native, exact = zip(*parameters(agents, plain64), strict=True)
    _, torch32 = zip(*parameters(agents, plain32), strict=True)
    whole = [torch.cat([p.flatten() for p in ps]) for ps in (native, torch32, exact)]
    assert_as_good_as_torch(*whole, what="parameters")


def test_with_its_switches_the_critics_learn_as_dom2_s():
    """CQL, weights and DPM-Solver-1: from the same state and draws, the same critics."""
    shared = {**SMALL, "weights": "thresholds:0", "zeta": 0.5, "cql_actions": 4, "tau": 0.1}
    shared |= {"solver": "dpm1", "time_scale": 100.0, "clip_x0": False}
    data = dataset(trajectories=6)
    ql = DiffusionQL(
        small(**shared, schedule="vp-continuous", critic_act="relu", critic_depth=2), data
    )
    dom2 = DOM2(DOM2Config(**shared, critic_lr=0.005, grad_clip=0.5, target_candidates=1), data)
    dom2.critics.net.load_state_dict(ql.critics.net.state_dict())
    dom2.critics.target_net.load_state_dict(ql.critics.net.state_dict())
    dom2.target_net.load_state_dict(ql.target_net.state_dict())
    batches = []
    for agents in (ql, dom2):
        batch = agents.sampler.sample()
        batches.append(batch.index)
        y = agents.td_target(batch)
        if agents is ql:
            agents._critic_step(batch, y)
        else:
            loss = agents.critic_loss(batch, y, agents._proposed(batch)).loss
            agents.critics.descend(loss, 0.5)
    assert torch.equal(*batches)
    for a, b in zip(ql.critics.net.parameters(), dom2.critics.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_slow_average_waits_and_then_follows_every_few_updates():
    agents = DiffusionQL(small(ema_start=4, ema_every=3, ema_rate=0.5), dataset(trajectories=6))
    moved, last = [], [p.clone() for p in agents.target_net.parameters()]
    for step in range(11):
        agents.update()
        now = [p.clone() for p in agents.target_net.parameters()]
        if any(not torch.equal(a, b) for a, b in zip(now, last, strict=True)):
            moved.append(step)
        last = now
    assert moved == [6, 9]


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


def test_the_q_term_and_the_choice_move_actions_to_what_pays():
    """BC keeps both modes; the Q term leaves them, and so does a choice among many of BC's."""
    obs, shares = torch.ones(2, 400, 3), {}
    for eta, candidates in ((0.0, 1), (1.0, 1), (0.0, 20)):
        config = small(
            eta=eta,
            candidates=candidates,
            temperature=0.1,
            gamma=0.0,
            batch_size=64,
            hidden=32,
            critic_hidden=32,
        )
        agents = DiffusionQL(config, two_modes())
        agents.fit(300)
        act = agents.policies.act(obs, torch.Generator().manual_seed(0))
        shares[eta, candidates] = (act[..., 0] > 0).float().mean(1)
    assert bool((shares[0.0, 1] < 0.75).all())
    assert bool((shares[1.0, 1] > 0.9).all())
    assert bool((shares[0.0, 20] > 0.9).all())


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_acting_chooses_by_the_lower_target_critic(temperature):
    agents = DiffusionQL(small(candidates=6, temperature=temperature), dataset(trajectories=6))
    agents.fit(3)
    obs = torch.randn(2, 300, 3)
    act = agents.policies.act(obs, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    many = agents.acting_policy.sample(obs.repeat_interleave(6, 1), generator=generator)
    targets = agents.critics.target_net.unstack()
    for j in range(2):
        rows = obs[j].repeat_interleave(6, 0)
        q = torch.minimum(*(targets[k](many[j], rows) for k in (j, 2 + j))).view(300, 6)
        same = (many[j].view(300, 6, 2) - act[j].unsqueeze(1)).abs().amax(2) < 1e-5
        assert bool(same.any(1).all())
        if temperature == 0.0:
            index = q.argmax(1, keepdim=True)
            assert float(same.gather(1, index).float().mean()) > 0.98  # but for ties of rounding
        else:
            expected = torch.softmax(q / temperature, 1)
            drawn = (same.float() / same.sum(1, keepdim=True)).mean(0)
            assert torch.allclose(drawn, expected.mean(0), atol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eta": -1.0}, "eta must be >= 0"),
        ({"temperature": -1.0}, "temperature must be >= 0"),
        ({"ema_rate": 2.0}, r"ema_rate must be in \[0, 1\]"),
        ({"ema_every": 0}, "ema_every must be >= 1"),
        ({"candidates": 0}, "candidates must be >= 1"),
        ({"schedule": "cosine"}, "schedule must be one of vp, vp-continuous"),
        ({"critic_act": "tanh"}, "critic_act must be one of mish, relu"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(Dom2Error, match=message):
        small(**change)
