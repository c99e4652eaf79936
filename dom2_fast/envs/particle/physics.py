"""Batched particle physics: E copies of one task stepped together, under OMAR's rules.

Everything is a torch op over [E, ...], differentiable in the actions, in any floating dtype
(float64 reproduces OMAR's own episodes to 1e-9). What the tasks are made of is `tasks.py`.
"""

import math

import numpy as np
import torch
from torch import Tensor

from dom2_fast.envs.particle import tasks
from dom2_fast.envs.particle.prey import PreyPolicy
from dom2_fast.envs.particle.settings import REMOVED, check
from dom2_fast.errors import Dom2Error

DT = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3


class ParticleEnv:
    """E environments of one task, an `envs.Env`. Made by `envs.make`, which checks names.

    Args:
        task: one of `tasks.TASKS`.
        num_envs: E.
        seed: of the environment's own generator; the same seed gives the same episodes.
        dtype: of the physics, observations and rewards.
        prey: who drives the prey of simple_tag and simple_world: "bundled" (our network), the path
            of a network in OMAR's format (`.pt` or `.npz`), or "external" (the caller, as the last
            agent). Tasks without a prey accept "bundled" and "external" alike.
        shift: None; "speed" (each agent's maximal speed ~ U(v_min, 1), drawn at each reset; a prey
            keeps its own); "stopped" (one agent stays where it starts); "landmarks"
            (spread_6_landmarks only: some landmarks stay visible but give no reward).
        v_min: for shift "speed", in (0, 1]; the task's default is in `tasks.py`.
        agent: for shift "stopped": who, counted among the agents without the prey; None: drawn
            for each copy at each reset.
        removed_landmarks: for shift "landmarks": their indices; by default `REMOVED`.
        device: where the tensors live. Starts are drawn on the CPU, so they don't depend on it.

    Raises:
        Dom2Error: unknown task or shift, a setting out of range, an unusable prey file.

    Attributes:
        num_agents: agents that the caller drives (the prey too when `prey="external"`).
        obs_dims: observation width of each of them.
        act_dim: 2, the force in x and y, each in [-1, 1].
        episode_length: 25.
        max_speed: [E, all agents], or None where nothing is capped; drawn anew at each reset
            under the shift "speed".
    """

    act_dim = 2
    episode_length = tasks.EPISODE_LENGTH

    def __init__(
        self,
        task: str,
        num_envs: int = 1,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        prey: str = "bundled",
        shift: str | None = None,
        v_min: float | None = None,
        agent: int | None = None,
        removed_landmarks: tuple[int, ...] | None = None,
        device: str | torch.device = "cpu",
    ):
        self.spec = tasks.get(task)
        check(self.spec, num_envs, dtype, shift, v_min, agent, removed_landmarks)
        self.task = task
        self.num_envs = num_envs
        self.dtype = dtype
        self.device = torch.device(device)
        self.shift = shift
        self.v_min = (
            (self.spec.v_min if v_min is None else float(v_min)) if shift == "speed" else None
        )
        self.agent = agent
        self.stopped = None  # [E, all agents], bool, under the shift "stopped"
        self.prey = PreyPolicy.open(self.spec, prey, dtype, self.device)
        self.num_agents = self.spec.agents - int(self.prey is not None)
        self.agent_names = self.spec.agent_names[: self.num_agents]
        self._generator = torch.Generator().manual_seed(int(seed))
        self._build(removed_landmarks)
        self.max_speed = self._cap.expand(num_envs, -1) if self._cap.isfinite().all() else None
        self._observe(*self._blank())
        self.obs_dims = [o.shape[-1] for o in self._driven()]
        self._pos = None
        self.steps = 0

    def _tensor(self, values) -> Tensor:
        return torch.as_tensor(values, dtype=self.dtype, device=self.device)

    def _build(self, removed: tuple[int, ...] | None) -> None:
        spec, n = self.spec, self.spec.agents
        size = self._tensor(spec.sizes)
        self._reach = size[:n, None] + size[None]  # [n, N]
        collides = self._tensor(spec.collides)
        strength = collides[:n, None] * collides[None] * CONTACT_FORCE  # [n, N]
        # Only the leading entities up to the last collider can push, so the rest is not computed.
        self._pushers = int(max(i for i, c in enumerate(spec.collides) if c)) + 1
        self._push = strength[:, : self._pushers] * CONTACT_MARGIN
        # An agent is infinitely far from itself: no contact, no reward, no division by zero.
        far = torch.finfo(self.dtype).max / 16
        self._self_pad = torch.eye(n, spec.entities, dtype=self.dtype, device=self.device) * far
        self._tiny = torch.finfo(self.dtype).tiny
        self._gain = self._tensor(spec.gain)[:, None]  # [n, 1]
        self._cap = self._tensor(spec.max_speed)
        index = torch.arange(n)
        self._others = torch.stack([index[index != i] for i in range(n)]).to(self.device)
        self._removed = None
        if self.shift == "landmarks":
            removed = REMOVED if removed is None else removed
            self._removed = torch.zeros(spec.landmarks, dtype=torch.bool, device=self.device)
            self._removed[list(removed)] = True
        self.removed_landmarks = () if self._removed is None else tuple(removed)

    def _blank(self) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(1, self.spec.entities, 2, dtype=self.dtype, device=self.device)
        return zeros, zeros[:, : self.spec.agents]

    def reset(self, seed: int | None = None, state: Tensor | None = None) -> Tensor | list[Tensor]:
        """Start E episodes.

        Args:
            seed: starts the environment's own generator anew; None: it goes on.
            state: [E, entities, 4] positions and velocities, agents then landmarks, or None to
                draw the start from the environment's own generator.

        Returns:
            observations [G, E, obs] of the driven agents; with `prey="external"`, whose width
            differs, a list of [E, obs_i].
        """
        spec, E = self.spec, self.num_envs
        if seed is not None:
            self._generator.manual_seed(int(seed))
        if state is None:
            pos = tasks.initial_positions(spec, E, self._generator).to(self.device, self.dtype)
            vel = pos.new_zeros(E, spec.agents, 2)
        else:
            state = torch.as_tensor(state)
            if tuple(state.shape) != (E, spec.entities, 4):
                raise Dom2Error(
                    f"{self.task}: a state has shape [{E}, {spec.entities}, 4] (environments, "
                    f"agents then landmarks, position and velocity), got {list(state.shape)}"
                )
            state = state.to(self.device, self.dtype)
            if not state.isfinite().all():
                raise Dom2Error(f"{self.task}: the given state holds NaN or infinite values")
            pos, vel = state[..., :2].clone(), state[:, : spec.agents, 2:].clone()
        if self.shift == "speed":
            self.max_speed = self._draw_speeds()
        if self.shift == "stopped":
            self.stopped = self._draw_stopped()
        self.steps = 0
        self._observe(pos, vel)
        return self._driven()

    def _draw_speeds(self) -> Tensor:
        """Shift "speed": U(v_min, 1) per agent; a prey keeps its speed, being part of the task."""
        shape = (self.num_envs, self.spec.agents)
        u = torch.rand(shape, generator=self._generator, dtype=torch.float64)
        speed = (self.v_min + (1 - self.v_min) * u).to(self.device, self.dtype)
        if self.spec.prey:
            speed[:, -1] = self._cap[-1]
        return speed

    def _draw_stopped(self) -> Tensor:
        """Shift "stopped": [E, agents], True for one agent of each copy, never for a prey."""
        n = self.spec.agents
        who = torch.full((self.num_envs,), -1 if self.agent is None else self.agent)
        if self.agent is None:
            choices = n - int(self.spec.prey)
            who = torch.randint(choices, (self.num_envs,), generator=self._generator)
        return (who[:, None] == torch.arange(n)).to(self.device)

    def step(self, actions: Tensor) -> tuple[Tensor | list[Tensor], Tensor, Tensor]:
        """Advance by one step of 0.1 time units.

        Args:
            actions: [G, E, 2] in [-1, 1], for the driven agents.

        Returns:
            obs: as of `reset`; reward: [G, E]; done: [E] bool, True from step 25 on (the time
            limit, never a terminal state: bootstrap from it).
        """
        act = self._check_actions(actions).transpose(0, 1).contiguous()  # [E, G, 2]
        if self.prey is not None:
            act = torch.cat([act, self.prey(self._prey_obs)[:, None]], dim=1)
        vel = self._vel * (1 - DAMPING) + (act * self._gain + self._contact()) * DT
        if self.max_speed is not None:
            speed = vel.square().sum(dim=-1).clamp(min=self._tiny).sqrt()
            vel = vel * (self.max_speed / speed).clamp(max=1)[..., None]
        if self.stopped is not None:
            vel = vel.masked_fill(self.stopped[..., None], 0.0)
        # OMAR moves with the new velocity; stock mpe2 moves first, which halves tag's returns.
        n = self.spec.agents
        pos = torch.cat([self._pos[:, :n] + vel * DT, self._pos[:, n:]], dim=1)
        self.steps += 1
        self._observe(pos, vel)
        reward = tasks.reward(self.spec, self._view).T[: self.num_agents]
        done = torch.full((self.num_envs,), self.steps >= self.episode_length, device=self.device)
        return self._driven(), reward, done

    def _check_actions(self, actions: Tensor) -> Tensor:
        if self._pos is None:
            raise Dom2Error(f"{self.task}: call reset() before step()")
        actions = torch.as_tensor(actions)
        expected = (self.num_agents, self.num_envs, self.act_dim)
        if tuple(actions.shape) != expected:
            raise Dom2Error(
                f"{self.task}: actions have shape {list(expected)} (driven agents, environments, "
                f"2), got {list(actions.shape)}"
            )
        act = actions.to(self.device, self.dtype)
        # NaN fails the comparison too, so one reduction covers NaN, infinity and range.
        largest = float(act.detach().abs().max())
        if not largest <= 1 + 1e-6:
            raise Dom2Error(
                f"{self.task}: actions must be finite and in [-1, 1], found "
                f"{'NaN' if math.isnan(largest) else f'magnitude {largest:g}'}; clip them first"
            )
        return act

    def _contact(self) -> Tensor:
        """Soft contact forces [E, n, 2]: 100 * log(1 + exp(-(d - d_min) / k)) * k, along d."""
        m = self._pushers
        dist, delta = self._view.dist[..., :m], self._view.delta[:, :, :m]
        z = (self._reach[:, :m] - dist) / CONTACT_MARGIN
        # softplus, stable on both sides; the linearised built-in one would cost accuracy
        penetration = z.clamp(min=0) + torch.log1p(torch.exp(-z.abs()))
        return -(delta * (self._push * penetration / dist)[..., None]).sum(dim=2)

    def _observe(self, pos: Tensor, vel: Tensor) -> None:
        self._pos, self._vel = pos, vel
        delta = pos[:, None] - pos[:, : self.spec.agents, None]  # [E, n, N, 2]
        square = delta.square().sum(dim=-1) + self._self_pad
        dist = square.clamp(min=self._tiny).sqrt()
        hit = dist < self._reach
        self._view = tasks.View(pos, vel, delta, dist, hit, self._others, self._removed)
        self._obs, self._prey_obs = tasks.observations(self.spec, self._view)

    def _driven(self) -> Tensor | list[Tensor]:
        if self._prey_obs is None or self.prey is not None:
            return self._obs
        return [*self._obs, self._prey_obs]

    def state(self) -> Tensor:
        """A copy of the present state, [E, entities, 4]: what `reset(state=...)` takes."""
        if self._pos is None:
            raise Dom2Error(f"{self.task}: call reset() before state()")
        vel = torch.zeros_like(self._pos)
        vel[:, : self.spec.agents] = self._vel
        return torch.cat([self._pos, vel], dim=-1)

    def score(self, reward_sums: Tensor) -> Tensor:
        """Scores [E] of episodes from summed rewards [G, E]; see `tasks.score`."""
        return tasks.score(self.spec, reward_sums)

    def solution(self) -> tuple[Tensor, Tensor]:
        """(which solution each copy is at now [E], whether it is one [E] bool); see `envs.Env`."""
        return tasks.solution(self.spec, self._view)

    def about(self) -> dict:
        """What a table of scores has to say besides: the prey and its strength, if there is one."""
        return {} if self.prey is None else self.prey.about()

    def recording(self) -> dict[str, np.ndarray]:
        """The present moment of the first copy: `states` [entities, 4], `sizes`, `kinds`."""
        return {
            "states": self.state()[0].double().cpu().numpy(),
            "sizes": np.array(self.spec.sizes),
            "kinds": np.array(self.spec.kinds),
        }
