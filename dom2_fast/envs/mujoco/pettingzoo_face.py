"""The MuJoCo tasks as PettingZoo's `ParallelEnv`: global state and frames."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box

from dom2_fast.envs import registry
from dom2_fast.envs.mujoco.render import Camera
from dom2_fast.envs.pettingzoo_face import ParallelFace
from dom2_fast.errors import Dom2Error

RENDER_MODES = ("rgb_array",)


class MujocoParallelEnv(ParallelFace):
    """One copy of a task; see `parallel_env`."""

    def __init__(self, name: str, render_mode: str | None, **options):
        if render_mode not in (None, *RENDER_MODES):
            raise Dom2Error(f"unknown render_mode {render_mode!r}; choose None or 'rgb_array'")
        super().__init__(name, registry.make(name, **options))
        self.metadata |= {"render_modes": list(RENDER_MODES), "render_fps": self._env.fps}
        self.render_mode = render_mode
        self._camera = None if render_mode is None else Camera(self._env.scenario)
        width = len(self._env.scenario.state)
        self.state_space = Box(-np.inf, np.inf, (width,), np.float32)

    def state(self) -> np.ndarray:
        """What gymnasium's single agent sees, float32: HalfCheetah's 17 numbers."""
        if self._obs is None:
            raise Dom2Error("call reset() before state()")
        return self._env.state()[0].numpy().astype(np.float32)

    def render(self) -> np.ndarray:
        """uint8 [480, 480, 3], seen from a camera that follows."""
        if self._camera is None:
            raise Dom2Error("made without a render_mode; pass 'rgb_array'")
        if self._obs is None:
            raise Dom2Error("call reset() before render()")
        return self._camera.frame(*self._env.motion(0))

    def close(self) -> None:
        """Free the threads and the GL context."""
        super().close()
        if self._camera is not None:
            self._camera.close()
            self._camera = None


def parallel_env(name: str, render_mode: str | None = None, **options) -> MujocoParallelEnv:
    """Make a PettingZoo `ParallelEnv` of a MuJoCo task.

    Args:
        name: halfcheetah_2x3, ant_2x4 or hopper_3x1.
        render_mode: None or "rgb_array"; the latter needs EGL or OSMesa.
        options: as in `dom2_fast.envs.make` (seed, shift, joint, threads, dtype).

    Raises:
        Dom2Error: no MuJoCo; an unknown option or render_mode; no GL.
    """
    return MujocoParallelEnv(name, render_mode, **options)
