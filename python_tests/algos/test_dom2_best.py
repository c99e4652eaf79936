"""DOM2's `best`: the policy imitates the best of sampled actions; and what is left out."""

import numpy as np
import plain_dom2 as plain
import pytest
import torch
from small_data import dataset
from small_dom2 import small
from tolerances import SAME_FORMULA_64

from dom2_fast.algos.dom2 import DOM2, DOM2Config
from dom2_fast.algos.dom2_settings import RECIPES
from dom2_fast.algos.updates import means
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error


def test_targets_take_the_best_of_several_samples(in_float64):
    data = dataset(trajectories=6, obs_dims=(5, 5, 5), dtype=np.float64)
    agents = DOM2(small(target_candidates=5, gamma=0.9, normalise_reward=False), data)
    with torch.no_grad():  # targets that differ from the critics, and one twin from the other
        for p in agents.critics.target_net.parameters():
            p.add_(torch.randn(p.shape))
    batch = agents.sampler.sample()
    agents.generator.manual_seed(3)
    obs = batch.next_obs.repeat_interleave(5, 1)
    pool = agents.target_policy.sample(obs, generator=agents.generator).view(3, 8, 5, 2)
    agents.generator.manual_seed(3)
    target = agents.td_target(batch)
    targets = agents.critics.target_net.unstack()
    for j in range(3):
        act = plain.best_of(targets[j], batch.next_obs[j], pool[j])
        pair = (targets[j], targets[3 + j])
        y = plain.td_target(batch.reward[j], batch.next_obs[j], act, pair, 0.9)
        torch.testing.assert_close(target[j], y.detach(), **SAME_FORMULA_64)


def test_policy_denoises_the_best_action_beside_the_data_s(in_float64):
    data = dataset(trajectories=6, obs_dims=(5, 5, 5), dtype=np.float64)
    agents = DOM2(small(q_action="best", search_actions=3, eta=0.7, zeta=0.0), data)
    batch, pool = agents.sampler.sample(), torch.rand(3, 8, 3, 2) * 2 - 1
    agents.policy.sample = lambda obs, generator: pool.flatten(1, 2)
    denoised, losses = [], []
    agents.bc_loss = lambda b: (denoised.append(b.act), b.act.square().mean((1, 2)))[1]
    agents.descend = losses.append
    metrics = means(agents._policy_step(batch, None))
    critics = agents.critics.net.unstack()
    best = torch.stack(
        [
            plain.best_of(critics[j], batch.obs[j], torch.cat([batch.act[j, :, None], pool[j]], 1))
            for j in range(3)
        ]
    )
    assert torch.equal(denoised[0], batch.act)
    assert torch.equal(denoised[1], best)
    assert 0 < (best == batch.act).all(2).sum() < 24  # the data's own action is one of them
    value = batch.act.square().mean((1, 2)) + 0.7 * best.square().mean((1, 2))
    torch.testing.assert_close(losses[0], value, **SAME_FORMULA_64)
    spread = pool.std(2, unbiased=False).mean()
    torch.testing.assert_close(metrics["policy/spread"], spread, **SAME_FORMULA_64)


TOP = torch.tensor([0.5, -0.3])


def hill(seed=0) -> TrajectoryDataset:
    """One observation, uniform actions, reward -|a - TOP|^2."""
    act = np.random.default_rng(seed).uniform(-1, 1, (2, 2000, 2)).astype(np.float32)
    obs = np.ones((2, 2000, 3), np.float32)
    reward = -((act - TOP.numpy()) ** 2).sum(2)
    return TrajectoryDataset.from_arrays(obs, act, reward, obs, episode_length=1)


def test_imitating_the_best_action_gathers_samples_around_it():
    near = {}
    for eta in (0.0, 1.0):
        config = {"batch_size": 64, "gamma": 0.0, "hidden": 32, "lr": 3e-3, "critic_lr": 1e-2}
        config |= {"clip_x0": True, "steps": 5, "backend": "auto"}
        agents = DOM2(small(q_action="best", zeta=0.0, eta=eta, **config), hill())
        agents.fit(400)
        act = agents.policies.act(
            torch.ones(2, 1000, 3), generator=torch.Generator().manual_seed(0)
        )
        near[eta] = ((act - TOP).norm(dim=2) < 0.3).float().mean(1)
    # Of uniform actions 7 % are that near; imitation adds as many again of the best as of all.
    assert (near[0.0] < 0.15).all(), near
    assert (near[1.0] > 0.3).all(), near


@pytest.mark.parametrize(
    "kind, rule, zeta, others",
    [
        ("random", "best", 0.0, {}),
        ("medium-replay", "best", 0.05, {}),
        ("random-medium", "best", 0.2, {}),
        ("medium", "best", 0.2, {}),
        ("medium-expert", "best", 0.2, {}),
        ("expert", "chain", 0.2, {"eta": 0.1, "candidates": 16}),
        (None, "best", 0.2, {}),
    ],
)
def test_what_is_left_out_goes_by_the_kind_of_data(kind, rule, zeta, others):
    data = dataset(trajectories=6, meta={"quality": kind})
    config = DOM2(DOM2Config(weights="uniform", hidden=8), data).config
    assert (config.q_action, config.zeta) == (rule, zeta)
    for name, value in (RECIPES[rule] | others).items():
        assert getattr(config, name) == value
    chosen = {"zeta": 0.7, "eta": 0.0, "candidates": 2, "q_action": "one_step", "clip_x0": True}
    config = DOM2(DOM2Config(weights="uniform", hidden=8, **chosen), data).config
    assert {name: getattr(config, name) for name in chosen} == chosen
    assert config.actor_every == RECIPES["chain"]["actor_every"]
    other = "best" if rule == "chain" else "chain"  # another rule than the kind's: its recipe alone
    config = DOM2(DOM2Config(weights="uniform", hidden=8, q_action=other), data).config
    assert all(getattr(config, name) == value for name, value in RECIPES[other].items())
    assert config.zeta == zeta


def test_settings_that_are_given_are_checked_whatever_is_left_out():
    for wrong in (
        {"candidates": 0},
        {"zeta": -1.0},
        {"eta": -1.0},
        {"q_action": "greedy"},
        {"gamma": 2.0},
    ):
        with pytest.raises(Dom2Error, match=next(iter(wrong))):
            DOM2Config(**wrong)
