"""PettingZoo's `ParallelEnv` face of the batched particle physics: one copy of the same physics.

For programs that speak PettingZoo. Training and evaluation use `dom2_fast.envs.make`, which steps
thousands of copies at once.
"""

import os

import numpy as np
import torch
from gymnasium.spaces import Box
from pettingzoo import ParallelEnv

from dom2_fast.envs import make
from dom2_fast.envs.particle import render
from dom2_fast.errors import Dom2Error

RENDER_MODES = ("rgb_array", "human")
_SIZE = 480  # pixels, of frames and of the window


class ParticleParallelEnv(ParallelEnv):
    """One copy of a task behind PettingZoo's interface; see `parallel_env`."""

    def __init__(self, task: str, render_mode: str | None, prey: str, shift: str | None, **kwargs):
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise Dom2Error(
                f"unknown render_mode {render_mode!r}; choose None, 'rgb_array' or 'human'"
            )
        self._settings = dict(task=task, prey=prey, shift=shift, dtype=torch.float64, **kwargs)
        self._env = make(**self._settings)
        self.metadata = {
            "name": task,
            "render_modes": list(RENDER_MODES),
            "is_parallelizable": True,
            "render_fps": 10,
        }
        self.render_mode = render_mode
        self.possible_agents = list(self._env.agent_names)
        self.agents: list[str] = []
        self.observation_spaces = {
            name: Box(-np.inf, np.inf, (dim,), np.float32)
            for name, dim in zip(self.possible_agents, self._env.obs_dims, strict=True)
        }
        self.action_spaces = {
            name: Box(-1.0, 1.0, (2,), np.float32) for name in self.possible_agents
        }
        self.state_space = Box(-np.inf, np.inf, (sum(self._env.obs_dims),), np.float32)
        self._window = None
        self._obs = None

    def observation_space(self, agent: str) -> Box:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Box:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict | None = None):
        """Start an episode; `options={"state": [entities, 4]}` gives the start."""
        if seed is not None:
            self._env = make(**(self._settings | {"seed": seed}))
        state = (options or {}).get("state")
        if state is not None:
            state = torch.as_tensor(state, dtype=torch.float64)[None]
        self._obs = self._env.reset(state)
        self.agents = list(self.possible_agents)
        if self.render_mode == "human":
            self.render()
        return self._by_agent(self._obs), {name: {} for name in self.agents}

    def _by_agent(self, obs: list[torch.Tensor]) -> dict[str, np.ndarray]:
        rows = (o[0].numpy().astype(np.float32) for o in obs)
        return dict(zip(self.agents, rows, strict=True))

    def step(self, actions: dict[str, np.ndarray]):
        """Advance by one step; every agent is truncated after the 25th, none ever terminates."""
        if not self.agents:
            raise Dom2Error("the episode is over; call reset() before step()")
        if set(actions) != set(self.agents):
            raise Dom2Error(
                f"step() needs one action for each of {self.agents}, got {sorted(actions)}"
            )
        rows = [np.asarray(actions[name], dtype=np.float64) for name in self.agents]
        wrong = [(n, r.shape) for n, r in zip(self.agents, rows, strict=True) if r.shape != (2,)]
        if wrong:
            raise Dom2Error(f"an action has shape (2,), got {dict(wrong)}")
        self._obs, reward, done = self._env.step(torch.from_numpy(np.stack(rows))[None])
        names, over = self.agents, bool(done[0])
        obs = self._by_agent(self._obs)
        rewards = dict(zip(names, reward[0].tolist(), strict=True))
        if over:
            self.agents = []
        if self.render_mode == "human":
            self.render()
        return (
            obs,
            rewards,
            dict.fromkeys(names, False),
            dict.fromkeys(names, over),
            {name: {} for name in names},
        )

    def state(self) -> np.ndarray:
        """All agents' observations one after the other, as mpe2's `state`."""
        if self._obs is None:
            raise Dom2Error("call reset() before state()")
        return torch.cat([o[0] for o in self._obs]).numpy().astype(np.float32)

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
    task: str,
    render_mode: str | None = None,
    prey: str = "external",
    shift: str | None = None,
    **kwargs,
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
        shift, kwargs: as in `dom2_fast.envs.make` (seed, v_min, removed_landmarks).
    """
    return ParticleParallelEnv(task, render_mode, prey, shift, **kwargs)
