"""SfBC against plain PyTorch, step for step with its planning pass, and what it promises."""

import copy

import numpy as np
import pytest
import torch
from plain_sfbc import PlainSfBC
from small_data import arrays, dataset
from tolerances import SAME_FORMULA_64, assert_as_good_as_torch

from dom2_fast import ops
from dom2_fast.algos import sfbc
from dom2_fast.algos.planned_returns import PlannedReturns, backward
from dom2_fast.algos.sfbc import SfBC, SfBCConfig
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend, philox

SMALL = {"batch_size": 16, "hidden": 12, "depth": 2, "steps": 3, "critic_hidden": 10}
LENGTHS = [4, 9, 1, 7, 6]
STEPS = 9


def small(**changes) -> SfBCConfig:
    quick = {"lr": 0.003, "critic_lr": 0.005, "tau": 0.1, "grad_clip": 0.5, "time_scale": 1.0}
    planning = {"plans": 2, "plan_every": 3, "plan_actions": 4, "plan_alpha": 2.0}
    return SfBCConfig(**{**SMALL, **quick, **planning, **changes})


def uneven(dtype) -> TrajectoryDataset:
    rows = arrays(trajectories=1, length=sum(LENGTHS), obs_dims=(5, 5), dtype=dtype)
    return TrajectoryDataset.from_arrays(**rows, lengths=LENGTHS, check_next_obs=False)


def plain_agents(agents, data, dtype) -> list:
    nets = [n.to(dtype) for n in agents.net.unstack()]
    critics = [n.to(dtype) for n in agents.critic.unstack()]
    return [
        PlainSfBC(
            nets[j],
            critics[j],
            agents.config,
            data.obs[j].to(dtype),
            data.reward[j].to(dtype),
            LENGTHS,
        )
        for j in range(len(nets))
    ]


def train(agents, twin, plains: list[list], steps: int):
    """Loss curves of `agents` and of each group of plain agents, from the same draws."""
    ours, theirs, c = [], [[] for _ in plains], agents.config
    for step in range(steps):
        generator = torch.Generator()
        generator.set_state(agents.generator.get_state())
        dtype, G = next(agents.net.parameters()).dtype, agents.num_agents
        if step % c.plan_every == 0 and 1 <= step // c.plan_every <= c.plans:
            shape = (G, sum(LENGTHS) * c.plan_actions, 2)
            rng = ops.make_rng(generator)
            x_T = philox.normals(rng, 0, shape[0] * shape[1], 2, dtype=dtype).view(shape)
            for group in plains:
                for j, agent in enumerate(group):
                    agent.plan(x_T[j].to(agent.reward.dtype))
        batch = twin.sampler.sample()
        t = torch.rand(batch.act.shape[:2], generator=generator, dtype=dtype)
        t = t * (1 - 1e-5) + 1e-5
        eps = torch.randn(batch.act.shape, generator=generator, dtype=dtype)
        ours.append({name: float(value) for name, value in agents.update().items()})
        for group, curve in zip(plains, theirs, strict=True):
            found = []
            for j, agent in enumerate(group):
                rows = (f[j].to(agent.reward.dtype) for f in (batch.obs, batch.act))
                own = (f[j].to(agent.reward.dtype) for f in (t, eps))
                found.append(agent.update(*rows, batch.index[j], *own))
            curve.append({k: sum(f[k] for f in found) / len(found) for k in found[0]})
    return ours, theirs


def parameters(agents, group) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of our stacked parameters and targets and the plain ones."""
    nets = [
        (agents.net, [a.net for a in group]),
        (agents.target_net, [a.net_bar for a in group]),
        (agents.critic, [a.q for a in group]),
    ]
    pairs = [(agents.returns.targets, torch.stack([a.target for a in group]))]
    for stacked, modules in nets:
        theirs = zip(*(m.parameters() for m in modules), strict=True)
        pairs += [
            (p.detach(), torch.stack(q).detach())
            for p, q in zip(stacked.parameters(), theirs, strict=True)
        ]
    return pairs


@pytest.mark.parametrize(("floor", "reset"), [("own", True), ("next", False)])
def test_updates_equal_the_plain_ones(floor, reset, in_float64):
    """Losses of every update and all parameters and targets after two passes, in float64."""
    data = uneven(np.float64)
    config = small(plan_floor=floor, reset_critic=reset, backend="reference")
    agents, twin = (SfBC(copy.copy(config), data) for _ in range(2))
    group = plain_agents(agents, data, torch.float64)
    ours, (theirs,) = train(agents, twin, [group], STEPS)
    planned = [one.pop("q/planned") for one in ours if "q/planned" in one]
    assert len(planned) == 2 and all(0.0 < share < 1.0 for share in planned)
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one == pytest.approx(other, rel=SAME_FORMULA_64["rtol"], abs=1e-10), step
    for p, q in parameters(agents, group):
        torch.testing.assert_close(p, q, **SAME_FORMULA_64)


@pytest.mark.skipif(not backend.available(), reason="no compiled extension")
def test_kernels_learn_what_plain_pytorch_learns():
    """In float32, as good as PyTorch's own float32 when both are compared with float64."""
    data = uneven(np.float32)
    agents, twin = (SfBC(small(backend="native"), data) for _ in range(2))
    plain32, plain64 = (plain_agents(agents, data, d) for d in (torch.float32, torch.float64))
    ours, (theirs, exact) = train(agents, twin, [plain32, plain64], STEPS)
    for name in theirs[0]:
        curves = [
            torch.tensor([row[name] for row in c], dtype=torch.float64)
            for c in (ours, theirs, exact)
        ]
        assert_as_good_as_torch(*curves, what=name)
    native, exact = zip(*parameters(agents, plain64), strict=True)
    _, torch32 = zip(*parameters(agents, plain32), strict=True)
    whole = [torch.cat([p.flatten() for p in ps]) for ps in (native, torch32, exact)]
    assert_as_good_as_torch(*whole, what="parameters")


def test_returns_by_hand():
    """Two trajectories, of three rows and of one; gamma 0.5."""
    reward = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    starts, values = torch.tensor([0, 3, 4]), torch.tensor([[0.0, 9.0, 5.0, 7.0]])
    assert backward(reward, starts, 0.5).tolist() == [[3.0, 4.0, 4.0, 8.0]]
    own = backward(reward, starts, 0.5, values, "own")
    assert own.tolist() == [[5.5, 9.0, 5.0, 8.0]]
    following = backward(reward, starts, 0.5, values, "next")
    assert following.tolist() == [[5.5, 4.5, 4.0, 8.0]]


def test_targets_are_standardised_and_of_all_rows():
    data = dataset(trajectories=6)
    returns = PlannedReturns(data, 2, 0.9, torch.float32, "cpu")
    for j in range(2):
        steps = data.reward[j].view(6, 5).double()
        for t in reversed(range(4)):
            steps[:, t] += 0.9 * steps[:, t + 1]
        expected = (steps - steps.mean()) / steps.std(unbiased=False)
        torch.testing.assert_close(
            returns.targets[j].double(), expected.flatten(), rtol=1e-5, atol=1e-6
        )
    quiet = dataset(trajectories=6)
    quiet.reward[0][:] = 0.01
    flat = PlannedReturns(quiet, 1, 0.0, torch.float32, "cpu")
    assert float(flat.targets.abs().max()) < 1e-5
    assert float(flat.sd) == pytest.approx(0.1)


def test_values_of_the_data_do_not_depend_on_the_weights_nor_the_chunks(monkeypatch):
    data = dataset(trajectories=6)
    one, other = (SfBC(small(weights=w), data) for w in ("uniform", "thresholds:0"))
    assert torch.equal(one.values(), other.values())
    assert one.values().shape == (2, 30)
    monkeypatch.setattr(sfbc, "CHUNK", 7)
    assert one.values().shape == (2, 30)


def test_a_checkpoint_holds_targets_once_they_are_planned(tmp_path):
    data = dataset(trajectories=6)
    agents = SfBC(small(plans=1), data)
    agents.fit(3)
    assert agents.state_dict()["parts"]["returns"] == {"planned": False}
    agents.fit(1)
    agents.save(tmp_path / "a.pt")
    again = SfBC.load(tmp_path / "a.pt", data)
    assert torch.equal(again.returns.targets, agents.returns.targets)
    assert torch.equal(again.values(), agents.values())
    assert again.fit(4) == agents.fit(4)
    before = SfBC(small(), data)
    again.load_state_dict(before.state_dict())  # back to the returns of the log
    assert torch.equal(again.returns.targets, before.returns.targets)
    assert SfBC.load(tmp_path / "a.pt").returns is None


def test_the_critic_starts_anew_after_a_pass_unless_told_otherwise():
    data = dataset(trajectories=6)
    for reset in (True, False):
        agents = SfBC(small(reset_critic=reset), data)
        first = [p.detach().clone() for p in agents.critic.parameters()]
        agents.fit(2)
        agents.plan()
        now = list(agents.critic.parameters())
        assert all(torch.equal(a, b) for a, b in zip(first, now, strict=True)) == reset
        assert bool(agents.critic_optimiser.state) != reset
        agents.fit(1)  # the optimiser's parameters are still the critic's
        moved = zip(now, agents.critic.parameters(), strict=True)
        assert all(a is b for a, b in moved)


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


def test_the_choice_moves_actions_to_what_pays():
    """One sample is of either mode; among many the better one wins, more so with a larger alpha."""
    obs, shares = torch.ones(2, 400, 3), {}
    for candidates, alpha in ((1, 100.0), (16, 0.1), (16, 100.0)):
        config = small(
            plans=0, candidates=candidates, alpha=alpha, batch_size=64, hidden=32, critic_hidden=32
        )
        agents = SfBC(config, two_modes())
        agents.fit(250)
        act = agents.policies.act(obs, torch.Generator().manual_seed(0))
        shares[candidates, alpha] = (act[..., 0] > 0).float().mean(1)
    assert bool((shares[1, 100.0] < 0.75).all())
    assert bool((shares[16, 0.1] < 0.8).all())
    assert bool((shares[16, 100.0] > 0.95).all())


def test_agents_do_not_influence_each_other():
    made = []
    for factor in (1.0, 10.0):
        data = dataset(trajectories=6)
        for name in ("obs", "reward", "next_obs"):
            getattr(data, name)[1] = getattr(data, name)[1] * factor
        agents = SfBC(small(grad_clip=0.1), data)
        agents.fit(5)
        made.append(agents)
    for name in ("net", "critic"):
        nets = (getattr(agents, name).parameters() for agents in made)
        for a, b in zip(*nets, strict=True):
            assert torch.equal(a[0], b[0])
            assert not torch.equal(a[1], b[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.0}, "alpha must be > 0"),
        ({"plans": -1}, "plans must be >= 0"),
        ({"plan_every": 0}, "plan_every must be >= 1"),
        ({"plan_actions": 0}, "plan_actions must be >= 1"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\]"),
        ({"plan_floor": "both"}, "plan_floor must be one of own, next"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(Dom2Error, match=message):
        small(**change)
