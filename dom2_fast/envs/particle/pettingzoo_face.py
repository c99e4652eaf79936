"""The particle tasks as PettingZoo's `ParallelEnv`: given starts, pictures and a window."""

from __future__ import annotations

import os

import numpy as np
import torch

from dom2_fast.envs import registry
from dom2_fast.envs.particle import render
from dom2_fast.envs.pettingzoo_face import ParallelFace
from dom2_fast.errors import Dom2Error

RENDER_MODES = ("rgb_array", "human")
_SIZE = 480  # pixels, of frames and of the window


class ParticleParallelEnv(ParallelFace):
    """One copy of a task in float64; see `parallel_env`."""

    def __init__(self, task: str, render_mode: str | None, **options):
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise Dom2Error(
                f"unknown render_mode {render_mode!r}; choose None, 'rgb_array' or 'human'"
            )
        super().__init__(task, registry.make(task, dtype=torch.float64, **options))
        self.metadata |= {"render_modes": list(RENDER_MODES), "render_fps": 10}
        self.render_mode = render_mode
        self._window = None

    def reset(self, seed: int | None = None, options: dict | None = None):
        """Start an episode; `options={"state": [entities, 4]}` gives the start."""
        seen = super().reset(seed, options)
        if self.render_mode == "human":
            self.render()
        return seen

    def _start(self, seed: int | None, options: dict):
        state = options.get("state")
        if state is not None:
            state = torch.as_tensor(state, dtype=torch.float64)[None]
        return self._env.reset(seed=seed, state=state)

    def step(self, actions: dict[str, np.ndarray]):
        """Advance by one step; every agent is truncated after the 25th, none ever terminates."""
        seen = super().step(actions)
        if self.render_mode == "human":
            self.render()
        return seen

    def render(self) -> np.ndarray | None:
        """uint8 [480, 480, 3] for "rgb_array"; "human" shows it in a window instead."""
        if self.render_mode is None:
            raise Dom2Error("made without a render_mode; pass 'rgb_array' or 'human'")
        if self._obs is None:
            raise Dom2Error("call reset() before render()")
        image = render.frame(self._env, 0, _SIZE)
        if self.render_mode == "rgb_array":
            return image
        self._show(image)
        return None

    def _show(self, image: np.ndarray) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame

        if self._window is None:
            pygame.display.init()
            self._window = pygame.display.set_mode((_SIZE, _SIZE))
            pygame.display.set_caption(self._env.task)
            self._clock = pygame.time.Clock()
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                self.close()
                return
        pygame.surfarray.blit_array(self._window, image.swapaxes(0, 1))
        pygame.display.flip()
        self._clock.tick(self.metadata["render_fps"])

    def close(self) -> None:
        """Close the window, if one is open."""
        if self._window is not None:
            import pygame

            pygame.display.quit()
            self._window = None


def parallel_env(
    task: str, render_mode: str | None = None, prey: str = "external", **options
) -> ParticleParallelEnv:
    """Make a PettingZoo `ParallelEnv` of a task.

    Actions are `Box(-1, 1, (2,))`, observations float32; episodes are truncated at 25 steps. Agents
    are named as in mpe2: `adversary_0..2` and `agent_0` (the prey) in tag and world, else
    `agent_0..2`.

    Args:
        task: one of `dom2_fast.envs.TASKS`.
        render_mode: None, "rgb_array" or "human".
        prey: "external" makes the prey an agent of this environment; "bundled" or a path lets a
            network drive it.
        options: as in `dom2_fast.envs.make` (seed, shift, v_min, removed_landmarks).
    """
    return ParticleParallelEnv(task, render_mode, prey=prey, **options)
