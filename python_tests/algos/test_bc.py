"""Diffusion BC: DOM2 with eta = 0; it fits what it is shown, by the weights it is given."""

import numpy as np
import torch
from small_data import dataset

from dom2_fast.algos.bc import BC, BCConfig
from dom2_fast.algos.dom2 import DOM2, DOM2Config
from dom2_fast.data.trajectories import TrajectoryDataset

SMALL = {
    "weights": "uniform",
    "batch_size": 8,
    "hidden": 16,
    "depth": 2,
    "steps": 3,
    "time_scale": 1.0,
    "backend": "reference",
}


def test_bc_loss_goes_down_and_targets_follow():
    agents = BC(BCConfig(**{**SMALL, "batch_size": 64, "tau": 0.1}), dataset(trajectories=20))
    first = sum(agents.fit(1)["loss/bc"] for _ in range(5))
    agents.fit(150)
    assert sum(agents.fit(1)["loss/bc"] for _ in range(5)) < 0.8 * first
    for a, b in zip(agents.net.parameters(), agents.target_net.parameters(), strict=True):
        assert torch.allclose(a, b, atol=0.2)
        assert not torch.equal(a, b)


def test_one_update_equals_dom2_s_with_eta_zero():
    """The same code path: from the same state and draws, the same policies."""
    data = dataset(trajectories=6)
    bc = BC(BCConfig(**SMALL), data)
    dom2 = DOM2(DOM2Config(**SMALL, eta=0.0, critic_hidden=8), data)
    dom2.net.load_state_dict(bc.net.state_dict())
    batch = bc.sampler.sample()
    for agents in (bc, dom2):
        agents.generator.manual_seed(5)
        agents.descend(agents.bc_loss(batch))
    for a, b in zip(bc.net.parameters(), dom2.net.parameters(), strict=True):
        assert torch.equal(a, b)


def two_modes() -> TrajectoryDataset:
    """Half of the episodes act at -0.5 and earn 0, half at +0.5 and earn 1."""
    n = 200
    side = np.tile([0, 1], n // 2)
    act = np.zeros((2, n, 2), np.float32)
    act[..., 0] = np.where(side == 1, 0.5, -0.5)
    act += 0.05 * np.random.default_rng(0).normal(size=act.shape)
    obs = np.ones((2, n, 3), np.float32)
    reward = np.tile(side.astype(np.float32), (2, 1))
    return TrajectoryDataset.from_arrays(obs, act, reward, obs, episode_length=1)


def test_reweighting_moves_the_policy_to_the_better_episodes():
    shares = {}
    for weights in ("uniform", "thresholds:0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5"):
        more = {"weights": weights, "batch_size": 256, "hidden": 32, "steps": 10}
        config = BCConfig(**{**SMALL, **more, "lr": 3e-3, "tau": 0.05})
        agents = BC(config, two_modes())
        agents.fit(300)
        obs = [torch.ones(500, 3)] * 2
        act = agents.policies.act(obs, generator=torch.Generator().manual_seed(0))
        shares[weights[:7]] = float((act[..., 0] > 0).float().mean())
    assert 0.3 < shares["uniform"] < 0.7
    assert shares["thresho"] > 0.8  # 10 copies against 1: a share of 10 / 11
