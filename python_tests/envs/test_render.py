"""Pictures of states: size, what is drawn where, and colours that can be told apart."""

import numpy as np
import pytest
import torch

from dom2_fast import envs
from dom2_fast.envs import canvas
from dom2_fast.envs.particle import render
from dom2_fast.errors import Dom2Error


@pytest.mark.parametrize("task", envs.TASKS)
def test_every_entity_shows_its_colour_where_it_is(task):
    spec = envs.tasks.get(task)
    n = spec.entities
    state = np.zeros((n, 4))
    # Spread over a circle of radius 1.1, so that nothing overlaps.
    angle = np.arange(n) * 2 * np.pi / n
    state[:, 0], state[:, 1] = 1.1 * np.cos(angle), 1.1 * np.sin(angle)
    image = render.draw_state(task, state, size=400, extent=1.5).astype(int)
    assert image.shape == (400, 400, 3)
    for i, kind in enumerate(spec.kinds):
        radius = spec.sizes[i] * (0.6 if kind != "landmark" else 0.0)
        x, y = state[i, 0] - radius, state[i, 1]
        row, col = round((1.5 - y) / 3 * 400), round((x + 1.5) / 3 * 400)
        colour = render.COLOURS[f"agent_{i}" if kind == "agent" and i else kind]
        # Opacity is at least 0.5, so a drawn pixel is nearer to its colour than to the background.
        pixel = image[row, col]
        assert np.abs(pixel - colour).sum() < np.abs(pixel - canvas.BACKGROUND).sum(), kind


def test_colours_differ_in_lightness_for_the_colour_blind():
    def lightness(name):
        return np.dot(render.COLOURS[name], (0.299, 0.587, 0.114))

    assert abs(lightness("predator") - lightness("prey")) > 35
    assert abs(lightness("agent") - lightness("agent_1")) > 35
    assert abs(lightness("landmark") - lightness("removed")) > 35


def test_frame_draws_the_copy_asked_for():
    env = envs.make("spread_6_landmarks", 3, seed=0, shift="landmarks")
    env.reset()
    first, second = render.frame(env, 0), render.frame(env, 1)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(
        first,
        render.draw_state(
            env.task, env.state()[0].numpy().astype(np.float64), removed=env.removed_landmarks
        ),
    )


def test_trail_and_far_away_entities():
    env = envs.make("simple_spread", 1, seed=0)
    env.reset()
    states = []
    for _ in range(6):
        states.append(env.state()[0].numpy())
        env.step(torch.full((3, 1, 2), 0.5))
    now = env.state()[0].numpy()
    plain = render.draw_state("simple_spread", now)
    trail = render.draw_state("simple_spread", now, trail=np.stack(states))
    assert not np.array_equal(plain, trail)
    far = now.copy()
    far[0, :2] = (9.0, -9.0)
    image = render.draw_state("simple_spread", far, size=200)
    assert (image != np.uint8(canvas.BACKGROUND)).any(axis=-1)[-30:, -30:].any()


def test_wrong_states_are_explained():
    with pytest.raises(Dom2Error, match=r"\[6, 4\]"):
        render.draw_state("simple_spread", np.zeros((5, 4)))
    with pytest.raises(Dom2Error, match="NaN"):
        render.draw_state("simple_spread", np.full((6, 4), np.nan))
    with pytest.raises(Dom2Error, match="16 pixels"):
        render.draw_state("simple_spread", np.zeros((6, 4)), size=2)
    env = envs.make("simple_spread", 2)
    env.reset()
    with pytest.raises(Dom2Error, match="0 to 1"):
        render.frame(env, 2)
