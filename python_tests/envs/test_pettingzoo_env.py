"""PettingZoo's face: PettingZoo's own tests, and equality with the batched physics."""

import warnings

import numpy as np
import pytest
import torch
from pettingzoo.test import parallel_api_test, parallel_seed_test

from dom2_fast import envs
from dom2_fast.envs import parallel_env
from dom2_fast.errors import Dom2Error

NAMES = {
    "simple_spread": ["agent_0", "agent_1", "agent_2"],
    "spread_6_landmarks": ["agent_0", "agent_1", "agent_2"],
    "simple_tag": ["adversary_0", "adversary_1", "adversary_2", "agent_0"],
    "simple_world": ["adversary_0", "adversary_1", "adversary_2", "agent_0"],
}


@pytest.mark.parametrize("task", envs.TASKS)
def test_pettingzoos_own_tests_pass_without_a_warning(task):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        parallel_api_test(parallel_env(task), num_cycles=60)
        parallel_seed_test(lambda: parallel_env(task))


@pytest.mark.parametrize("task", envs.TASKS)
def test_one_physics_two_faces(task):
    face = parallel_env(task)
    batched = envs.make(task, 1, seed=7, dtype=torch.float64, prey="external")
    seen, _ = face.reset(seed=7)
    expected = batched.reset()
    rng = np.random.default_rng(0)
    assert face.agents == NAMES[task]
    for t in range(25):
        assert list(seen) == NAMES[task]
        for name, o in zip(NAMES[task], expected, strict=True):
            assert seen[name].dtype == np.float32
            assert face.observation_space(name).contains(seen[name])
            np.testing.assert_array_equal(seen[name], o[0].numpy().astype(np.float32))
        assert face.state().shape == face.state_space.shape
        act = rng.uniform(-1, 1, (len(NAMES[task]), 2))
        seen, rewards, terminated, truncated, _ = face.step(
            dict(zip(NAMES[task], act, strict=True))
        )
        expected, reward, _ = batched.step(torch.from_numpy(act)[:, None])
        assert list(rewards.values()) == reward[:, 0].tolist()
        assert not any(terminated.values())
        assert set(truncated.values()) == {t == 24}
    assert face.agents == []


def test_given_start_bundled_prey_and_shift():
    state = np.random.default_rng(0).uniform(-1, 1, (6, 4))
    face = parallel_env("simple_tag", prey="bundled", shift="speed", v_min=0.9)
    seen, _ = face.reset(seed=1, options={"state": state})
    assert list(seen) == NAMES["simple_tag"][:3]
    np.testing.assert_allclose(seen["adversary_1"][2:4], state[1, :2].astype(np.float32))


def test_frames_and_window(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    face = parallel_env("simple_world", render_mode="rgb_array")
    face.reset(seed=0)
    first = face.render()
    assert first.shape == (480, 480, 3) and first.dtype == np.uint8
    face.step({name: np.ones(2) for name in face.agents})
    assert not np.array_equal(first, face.render())
    window = parallel_env("simple_world", render_mode="human")
    window.reset(seed=0)
    import pygame

    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    np.testing.assert_array_equal(shown, first)
    window.step({name: np.ones(2) for name in window.agents})
    window.close()
    window.close()  # twice does no harm
    assert not pygame.display.get_init()


def test_wrong_calls_are_explained():
    with pytest.raises(Dom2Error, match="rgb_array"):
        parallel_env("simple_spread", render_mode="ansi")
    face = parallel_env("simple_spread")
    with pytest.raises(Dom2Error, match="reset"):
        face.step({})
    with pytest.raises(Dom2Error, match="reset"):
        face.state()
    face.reset(seed=0)
    with pytest.raises(Dom2Error, match="render_mode"):
        face.render()
    with pytest.raises(Dom2Error, match="agent_2"):
        face.step({"agent_0": np.zeros(2)})
    with pytest.raises(Dom2Error, match=r"\(2,\)"):
        face.step({name: np.zeros(3) for name in face.agents})
    with pytest.raises(Dom2Error, match="NaN"):
        face.step({name: np.full(2, np.nan) for name in face.agents})
