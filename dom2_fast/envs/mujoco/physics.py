"""MuJoCo tasks, many copies stepped together: one `MjData` per copy, on threads.

Each copy does what gymnasium's environment does, bit by bit: the solver's warm start stays with the
copy, which is why this isn't `mujoco.rollout`. Copies are shared out over threads (`stepping.py`).
What agents see, rewards and ends are computed for all copies at once.
"""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from dom2_fast.envs.mujoco import models, shifts, side_view
from dom2_fast.envs.mujoco.scenarios import EPISODE_LENGTH, SCENARIOS
from dom2_fast.envs.mujoco.stepping import stepper
from dom2_fast.errors import Dom2Error, whole_number

_SHIFT = 0x5417  # sets the draws of shifts apart from those of starts


class MujocoEnv:
    """E copies of a task under the protocol `envs.Env`; all agents share the reward.

    Args:
        name: one of `SCENARIOS`.
        num_envs: E.
        seed: the first copy's starts are those of gymnasium's environment with this seed.
        threads: that step copies, by default as many as PyTorch uses; results don't depend on it.
        dtype: of observations and rewards, float32 or float64; physics is float64.
        shift: None, "random", "extreme" or "offline" (with `joint`), see `shifts.py`: drawn for
            each copy at each reset. The starts are the same with and without it.

    Raises:
        Dom2Error: no MuJoCo or an unsupported version; an unknown dtype, shift or joint.
    """

    episode_length = EPISODE_LENGTH

    def __init__(
        self,
        name: str,
        num_envs: int = 1,
        seed: int = 0,
        threads: int | None = None,
        dtype: torch.dtype = torch.float32,
        shift: str | None = None,
        joint: str = shifts.DRAWN,
    ):
        if dtype not in (torch.float32, torch.float64):
            raise Dom2Error(f"dtype must be torch.float32 or torch.float64, got {dtype!r}")
        threads = torch.get_num_threads() if threads is None else threads
        whole_number("threads", threads, 1)
        self.scenario = scenario = SCENARIOS[name]
        shifts.check(scenario, shift, joint)
        self.model = models.load(scenario)
        self.shift, self.joint = shift, joint
        self._scaler = None if shift is None else shifts.Scaler(name)
        # Shifted copies differ, so each has a model of its own.
        self._models = [
            self.model if shift is None else copy.copy(self.model) for _ in range(num_envs)
        ]
        self._mujoco = models.need_mujoco(name)
        self.num_envs, self.dtype = num_envs, dtype
        self.num_agents = len(scenario.actuators)
        self.obs_dims = [len(columns) for columns in scenario.columns]
        self.act_dim = len(scenario.actuators[0])
        self._data = [self._mujoco.MjData(self.model) for _ in range(num_envs)]
        self._qpos = [data.qpos for data in self._data]  # views
        self._qvel = [data.qvel for data in self._data]
        self._ctrl = [data.ctrl for data in self._data]
        self._start = (self._qpos[0].copy(), self._qvel[0].copy())
        nq, nv, nbody = self.model.nq, self.model.nv, self.model.nbody
        self._rows = np.zeros((num_envs, nq + nv + (6 * nbody if scenario.contacts else 0)))
        self._x = np.zeros(num_envs)  # where the torso is
        self._dt = self.model.opt.timestep * scenario.frame_skip
        self._columns = np.array(scenario.columns)  # [G, O]
        self._order = np.argsort(np.concatenate(scenario.actuators))  # joint actions -> actuators
        self._advance = stepper(self._mujoco, scenario.frame_skip, scenario.contacts)
        self._threads = min(threads, num_envs)
        # The thread that calls steps a part itself.
        self._pool = ThreadPoolExecutor(self._threads - 1) if self._threads > 1 else None
        self._seed(seed)
        self._begin()

    def _seed(self, seed: int) -> None:
        """Starts of their own for each copy; the first copy's are gymnasium's for this seed."""
        root = np.random.SeedSequence(seed)
        sources = [root, *root.spawn(self.num_envs - 1)]
        self._random = [np.random.Generator(np.random.PCG64(source)) for source in sources]
        drawn = [np.random.SeedSequence([seed, i, _SHIFT]) for i in range(self.num_envs)]
        self._drawing = [np.random.Generator(np.random.PCG64(source)) for source in drawn]

    def _begin(self) -> None:
        self._steps = 0
        self.done = np.zeros(self.num_envs, dtype=bool)
        self.terminated = np.zeros(self.num_envs, dtype=bool)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start episodes: observations [G, E, O]. Positions and velocities are at rest plus noise.

        Args:
            seed: starts are those of this seed; None: the next ones.
        """
        if seed is not None:
            self._seed(seed)
        self._begin()
        scenario, noise = self.scenario, self.scenario.reset_noise
        for i, (data, random) in enumerate(zip(self._data, self._random, strict=True)):
            model = self._models[i]
            if self._scaler is not None:
                self._scaler.restore(model)
                drawn = shifts.draw(scenario, self.shift, self._drawing[i], self.joint)
                self._scaler.scale(model, drawn)
            self._mujoco.mj_resetData(model, data)
            data.qpos[:] = self._start[0] + random.uniform(-noise, noise, model.nq)
            if scenario.normal_qvel:
                data.qvel[:] = self._start[1] + noise * random.standard_normal(model.nv)
            else:
                data.qvel[:] = self._start[1] + random.uniform(-noise, noise, model.nv)
            self._mujoco.mj_forward(model, data)
            self._read(i)
        return self._seen()

    def step(self, act: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Advance by one step: observations [G, E, O], reward [G, E], done [E].

        A copy that is done stands still until `reset`.

        Args:
            act: [G, E, A] in [-1, 1].
        """
        joint = act.detach().cpu().numpy().astype(np.float64).transpose(1, 0, 2)
        joint = joint.reshape(self.num_envs, -1)[:, self._order]  # [E, actuators]
        before = self._x.copy()
        moving = np.flatnonzero(~self.done)
        for i in moving:
            self._ctrl[i][:] = joint[i]
        self._side_by_side(moving)
        for i in moving:
            self._read(i)
        reward = (self._x - before) / self._dt - self.scenario.control_cost * (joint**2).sum(axis=1)
        self._steps += 1
        if self.scenario.healthy is not None:
            healthy = self.scenario.healthy(*self._motion())
            reward += healthy
            self.terminated |= ~healthy
        if self.scenario.contacts:
            forces = self._rows[:, self.model.nq + self.model.nv :]
            reward -= self.scenario.contact_cost * (forces**2).sum(axis=1)
        self.done = self.terminated | (self._steps >= self.episode_length)
        shared = torch.from_numpy(reward).to(self.dtype).expand(self.num_agents, -1)
        return self._seen(), shared, torch.from_numpy(self.done.copy())

    def _side_by_side(self, moving: np.ndarray) -> None:
        """Physics of the copies given, a part of them on each thread."""
        parts = [
            ([self._models[i] for i in part], [self._data[i] for i in part])
            for part in np.array_split(moving, self._threads)
        ]
        waiting = [self._pool.submit(self._advance, *part) for part in parts[1:] if part[0]]
        self._advance(*parts[0])
        for one in waiting:
            one.result()

    def _read(self, i: int) -> None:
        row, nq, nv = self._rows[i], self.model.nq, self.model.nv
        row[:nq] = self._qpos[i]
        row[nq : nq + nv] = self._qvel[i]
        if self.scenario.contacts:
            row[nq + nv :] = self._data[i].cfrc_ext.clip(-1, 1).ravel()
            self._x[i] = self._data[i].xpos[1, 0]  # gymnasium's: one physics step behind qpos
        else:
            self._x[i] = row[0]

    def _motion(self) -> tuple[np.ndarray, np.ndarray]:
        nq, nv = self.model.nq, self.model.nv
        return self._rows[:, :nq], self._rows[:, nq : nq + nv]

    def _visible(self) -> np.ndarray:
        """The rows with qvel clipped."""
        rows = self._rows.copy()
        nq, nv, clip = self.model.nq, self.model.nv, self.scenario.qvel_clip
        rows[:, nq : nq + nv] = rows[:, nq : nq + nv].clip(-clip, clip)
        return rows

    def _seen(self) -> Tensor:
        rows = self._visible()[:, self._columns]  # [E, G, O]
        return torch.from_numpy(rows).to(self.dtype).transpose(0, 1).contiguous()

    def state(self) -> Tensor:
        """The global state [E, S]: what gymnasium's single agent sees, the torso included."""
        return torch.from_numpy(self._visible()[:, self.scenario.state]).to(self.dtype)

    @property
    def terminal(self) -> Tensor:
        """[E]: which copies fell; a time limit is no terminal state."""
        return torch.from_numpy(self.terminated.copy())

    def score(self, reward_sums: Tensor) -> Tensor:
        """Return [E] of the team from each agent's summed rewards [G, E], all the same."""
        return reward_sums.mean(dim=0)

    @property
    def fps(self) -> int:
        """Steps per simulated second."""
        return round(1 / self._dt)

    def motion(self, copy: int) -> tuple[np.ndarray, np.ndarray]:
        """A copy's positions [nq] and velocities [nv]."""
        qpos, qvel = self._motion()
        return qpos[copy].copy(), qvel[copy].copy()

    def about(self) -> dict:
        """The version of MuJoCo: motion differs between versions."""
        return {"mujoco": self._mujoco.__version__}

    def recording(self) -> dict[str, np.ndarray]:
        """The first copy from the side, as a stick figure around its torso; see `side_view`."""
        return side_view.recording(self._models[0], self._data[0])

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
