"""Training a prey, and what the bundled preys are worth."""

import numpy as np
import pytest
import torch

from dom2_fast.behaviours import prey_training
from dom2_fast.envs import make
from dom2_fast.envs.particle.prey import PreyPolicy
from dom2_fast.errors import Dom2Error

TASKS = ("simple_tag", "simple_world")


@pytest.mark.parametrize("task", TASKS)
def test_bundled_prey_is_caught_far_less_than_a_random_one(task):
    for kind in ("greedy", "lead"):
        mean, error = prey_training.caught(task, "bundled", kind, episodes=300)
        uniform, uniform_error = prey_training.caught(task, "uniform", kind, episodes=300)
        assert mean + 3 * error < 0.8 * (uniform - 3 * uniform_error), kind


def test_chasers_run_at_the_prey():
    env = make("simple_tag", 4, seed=0)
    env.reset()
    state, generator = env.state(), torch.Generator().manual_seed(0)
    act = prey_training.chase(env, "greedy", generator).transpose(0, 1)  # [E, 3, 2]
    gap = state[:, 3:, :2][:, :1] - state[:, :3, :2]
    assert act.abs().amax(-1).allclose(torch.ones(4, 3))
    cosine = torch.cosine_similarity(act, gap, dim=-1)
    assert cosine.allclose(torch.ones(4, 3))
    # At rest there is nothing to lead.
    assert torch.equal(prey_training.chase(env, "lead", generator), act.transpose(0, 1))


def test_a_few_iterations_give_a_file_that_plays(tmp_path):
    arrays = prey_training.train("simple_world", iterations=2, num_envs=4, log_every=1)
    path = tmp_path / "prey.npz"
    np.savez(path, **arrays)
    env = make("simple_world", 3, prey=path)
    assert isinstance(env.prey, PreyPolicy)
    again = prey_training.train("simple_world", iterations=2, num_envs=4, log_every=1)
    assert all(np.array_equal(arrays[k], again[k]) for k in arrays)


def test_a_task_without_prey_is_refused():
    with pytest.raises(Dom2Error, match="simple_tag or simple_world"):
        prey_training.train("simple_spread", iterations=1)
    with pytest.raises(Dom2Error, match="no prey file"):
        prey_training.caught("simple_tag", "absent.npz", "greedy", episodes=2)
    with pytest.raises(Dom2Error, match="unknown environment"):
        prey_training.train("tag", iterations=1)
