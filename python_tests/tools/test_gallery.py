"""tools/gallery.py: the episodes are those of the environment, the pictures those of the states."""

import gallery
import numpy as np
import pytest
import torch
from PIL import Image

from dom2_fast import envs


class Random:
    def act(self, obs, generator):
        return torch.rand(3, obs[0].shape[0], 2, generator=generator) * 2 - 1


@pytest.fixture
def policies():
    return Random()


def test_shifts_start_where_the_standard_setting_does(policies):
    plain, removed = gallery.rollout(policies, "spread_6_landmarks", None)
    stopped, _ = gallery.rollout(policies, "spread_6_landmarks", "stopped")
    assert plain.shape == (26, 9, 4) and removed == ()
    np.testing.assert_array_equal(plain[0, :, :2], stopped[0, :, :2])
    gone = gallery.rollout(policies, "spread_6_landmarks", "landmarks")[1]
    assert gone == envs.make("spread_6_landmarks", 1, shift="landmarks").removed_landmarks != ()


def test_every_shift_of_every_task_is_shown():
    for task, shifts in gallery.SHIFTS.items():
        assert list(shifts) == list(envs.spec(task).shifts)


def test_panels_become_one_animation(policies, tmp_path):
    states, removed = gallery.rollout(policies, "simple_spread", None)
    shown = gallery.frames("simple_spread", states, removed, 1.5)
    assert len(shown) == 26 and shown[0].shape == (gallery.SIDE, gallery.SIDE, 3)
    gallery.animate([("left", shown), ("right", shown[::-1])], tmp_path / "two.gif")
    with Image.open(tmp_path / "two.gif") as film:
        # Frames that look alike may be joined, their times added.
        times = []
        for k in range(film.n_frames):
            film.seek(k)
            times.append(film.info["duration"])
        assert film.width == 2 * gallery.SIDE + 6 and film.info["loop"] == 0
    assert sum(times) == 25 * gallery.MILLISECONDS + gallery.LAST
