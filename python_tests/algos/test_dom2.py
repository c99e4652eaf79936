"""What DOM2 promises as a method; its formulas are checked in test_dom2_plain.py.

Agents must not influence each other, the CQL term must push down actions outside the data, the Q
term must pull the policy to better actions.
"""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from small_data import dataset
from small_dom2 import small

from dom2_fast import config as configs
from dom2_fast import networks
from dom2_fast.algos.dom2 import DOM2, DOM2Config
from dom2_fast.algos.updates import frozen_view
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error


def test_importance_corrected_logsumexp_by_hand():
    """Q = 0 everywhere: log sum over M actions of exp(0) / 0.5^A = log M + A log 2."""
    agents = DOM2(small(zeta=1.0, normalise_reward=False), dataset())
    with torch.no_grad():
        for p in agents.critics.net.parameters():
            p.zero_()
    batch = agents.sampler.sample()
    target = torch.zeros(2, 8)
    critic = agents.critic_loss(batch, target, torch.rand(2, 8, 4, 2))
    expected = math.log(4) + 2 * math.log(2)
    assert critic.cql.tolist() == pytest.approx([expected] * 4, rel=1e-6)
    assert critic.loss.tolist() == pytest.approx([expected] * 4, rel=1e-6)


def test_agents_do_not_influence_each_other():
    one, two = dataset(trajectories=6), dataset(trajectories=6)
    for name in ("obs", "act", "reward", "next_obs"):
        field = getattr(two, name)
        field[1] = (field[1] * (0.5 if name == "act" else 10.0)).clone()
    first, second = DOM2(small(grad_clip=0.1), one), DOM2(small(grad_clip=0.1), two)
    first.fit(4)
    second.fit(4)
    for part in ("net", "target_net"):
        for a, b in pairs(first, second, part):
            assert torch.equal(a[0], b[0])
    for part in ("critic", "target_critic"):
        for a, b in pairs(first, second, part):
            assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert any(not torch.equal(a[1], b[1]) for a, b in pairs(first, second, "net"))
    assert any(not torch.equal(a[[1, 3]], b[[1, 3]]) for a, b in pairs(first, second, "critic"))


def pairs(first, second, part):
    first, second = (agents._parts()[part].parameters() for agents in (first, second))
    return zip(first, second, strict=True)


def bandit(seed=0) -> TrajectoryDataset:
    """One observation; actions around -0.5 or +0.5 in the first coordinate; + pays 1, - pays 0."""
    rng = np.random.default_rng(seed)
    n = 400
    side = rng.integers(0, 2, (2, n))
    act = np.zeros((2, n, 2), np.float32)
    act[..., 0] = np.where(side == 1, 0.5, -0.5) + 0.05 * rng.normal(size=(2, n))
    act[..., 1] = 0.05 * rng.normal(size=(2, n))
    obs = np.ones((2, n, 3), np.float32)
    return TrajectoryDataset.from_arrays(obs, act, side.astype(np.float32), obs, episode_length=1)


def test_q_term_prefers_the_paying_mode_and_bc_alone_does_not():
    obs = [torch.ones(500, 3)] * 2
    shares = {}
    for eta in (0.0, 1.0):
        agents = DOM2(
            small(
                eta=eta,
                hidden=32,
                critic_hidden=32,
                batch_size=64,
                gamma=0.0,
                lr=3e-3,
                critic_lr=3e-3,
                zeta=0.1,
                tau=0.05,
            ),
            bandit(),
        )
        agents.fit(300)
        act = agents.policies.act(obs, generator=torch.Generator().manual_seed(0))
        shares[eta] = (act[..., 0] > 0).float().mean(1)
    assert bool((shares[0.0] < 0.75).all())
    assert bool((shares[1.0] > 0.9).all())


def test_cql_lowers_actions_outside_the_data():
    gaps = []
    for zeta in (1e-6, 2.0):  # with 0 the critics say nothing of uniform actions
        agents = DOM2(small(zeta=zeta, batch_size=64, gamma=0.0, critic_lr=3e-3, eta=0.0), bandit())
        metrics = agents.fit(200)
        gaps.append(metrics["q/data"] - metrics["q/uniform"])
    assert gaps[1] > gaps[0] + 0.5


def test_normalised_rewards_and_no_terminal_masking():
    data = dataset(trajectories=6)
    data.done[0][:], data.done[1][:] = 1.0, 1.0
    agents = DOM2(small(), data)
    plain_agents = DOM2(small(normalise_reward=False), data)
    masked = DOM2(small(normalise_reward=False, mask_done=True, reward_scale=2.0), data)
    batch = agents.sampler.sample()
    for j in range(2):
        reward = data.reward[j].double()
        shift, scale = agents.critics.reward.shift[j], agents.critics.reward.sd[j]
        assert float(shift) == pytest.approx(float(reward.mean()), abs=1e-6)
        sd = float(reward.std(unbiased=False))
        assert float(scale) == pytest.approx(sd, rel=1e-5)
    torch.testing.assert_close(masked.td_target(batch), 2.0 * batch.reward)
    assert not torch.allclose(plain_agents.td_target(batch), batch.reward)


def test_frozen_view_shares_memory_and_follows_updates():
    stacked = networks.stack([networks.MLPCritic(3, 2, hidden=4) for _ in range(4)])
    view = frozen_view(stacked, 2)
    act, obs = torch.rand(2, 5, 2), torch.rand(2, 5, 3)
    before = view(act, obs)
    torch.testing.assert_close(
        before, torch.stack([m(act[g], obs[g]) for g, m in enumerate(stacked.unstack()[:2])])
    )
    with torch.no_grad():
        stacked.template.final_layer.bias += 1.0
    torch.testing.assert_close(view(act, obs), before + 1.0)
    assert not any(p.requires_grad for p in view.parameters())


def test_acting_without_target_leaves_dropout_out_and_follows_updates():
    agents = DOM2(small(network="unet", act_with_target=False), dataset())
    policies = agents.policies
    # Of many rows, because an untrained net puts most actions on their bounds.
    obs = [torch.randn(1000, agents.obs_dim) for _ in range(agents.num_agents)]

    def act():
        return policies.act(torch.stack(obs), torch.Generator().manual_seed(1))

    agents.net.eval()
    want = agents.policy.act(torch.stack(obs), generator=torch.Generator().manual_seed(1))
    agents.net.train()
    assert torch.equal(act(), want)
    assert agents.net.training
    agents.update()
    assert not torch.equal(act(), want)


def test_policy_actions_in_the_cql_term_and_rare_policy_updates():
    agents = DOM2(small(cql_policy_actions=2, actor_every=2), dataset())
    batch = agents.sampler.sample()
    proposed = agents._proposed(batch)
    assert proposed.shape == (2, 8, 6, 2)
    assert float(proposed.abs().max()) <= 1.0
    assert "loss/bc" in agents.update()
    assert "loss/bc" not in agents.update()


def test_save_and_load_give_the_same_agents(tmp_path):
    data = dataset(trajectories=6)
    agents = DOM2(small(), data)
    agents.fit(3)
    agents.save(tmp_path / "a.pt")
    acting = DOM2.load(tmp_path / "a.pt")
    obs = [torch.rand(7, 3) for _ in range(2)]
    ours, theirs = (
        a.policies.act(obs, generator=torch.Generator().manual_seed(1)) for a in (agents, acting)
    )
    assert torch.equal(ours, theirs)
    assert ours.shape == (2, 7, 2)
    assert float(ours.abs().max()) <= 1.0
    with pytest.raises(Dom2Error, match="without data"):
        acting.fit(1)
    going_on = DOM2.load(tmp_path / "a.pt", data)
    assert going_on.fit(2) == agents.fit(2)
    for a, b in pairs(agents, going_on, "net"):
        assert torch.equal(a, b)
    with pytest.raises(Dom2Error, match="checkpoint is of"):
        DOM2.load(tmp_path / "a.pt", dataset(obs_dims=(4, 4)))


def test_one_agent_s_policy_can_be_taken_out():
    agents = DOM2(small(), dataset())
    agents.fit(1)
    policies = agents.policies
    assert len(policies) == 2
    obs, x_T = torch.rand(2, 6, 3), torch.randn(2, 6, 2)
    together = agents.target_policy.sample(obs, x_T=x_T)
    for j in range(2):
        alone = policies[j].sample(obs[j], x_T=x_T[j])
        torch.testing.assert_close(alone, together[j])


def test_best_of_several_candidates_by_the_agent_s_own_critic():
    data = dataset()
    one, many = DOM2(small(), data), DOM2(small(candidates=20), data)
    obs = [torch.rand(50, 3) for _ in range(2)]
    q = []
    for agents in (one, many):
        act = agents.policies.act(obs, generator=torch.Generator().manual_seed(0))
        q.append(one.critics.q1(act, torch.stack(obs)).mean((1, 2)))
    assert bool((q[1] > q[0]).all())


def test_prey_is_left_out_and_widths_must_agree():
    data = dataset(obs_dims=(4, 4, 3))
    with pytest.warns(UserWarning, match=r"widths \[4, 4, 3\]: the first 2, which share one"):
        assert DOM2(small(), data).num_agents == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert DOM2(small(agents=2), data).num_agents == 2
    assert DOM2(small(agents=1), data).num_agents == 1
    with pytest.raises(Dom2Error, match=r"widths \[4, 4, 3\]"):
        DOM2(small(agents=3), data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eta": -1.0}, "eta must be >= 0"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\]"),
        ({"lr": 0.0}, "lr must be > 0"),
        ({"lr": float("nan")}, "lr must be > 0"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"network": "transformer"}, "network must be one of mlp, unet"),
        ({"backend": "tpu"}, "backend must be one of"),
        ({"weights": "best"}, "accepted: preset"),
        ({"solver": "euler"}, "euler"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(Dom2Error, match=message):
        DOM2(small(**change), dataset())


def test_every_setting_says_what_it_is_and_where_it_comes_from():
    for field in dataclasses.fields(DOM2Config):
        assert field.metadata["help"], field.name
        assert "source" in field.metadata, field.name
    again = configs.from_dict(DOM2Config, configs.to_dict(small(eta=3.0)))
    assert again == small(eta=3.0)
