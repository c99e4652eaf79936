"""What each MuJoCo task is made of: model, agents, what they see, reward, when an episode ends.

The tasks are gymnasium's (version 5), divided among agents as gymnasium-robotics' `mamujoco_v1`
does (after Peng et al. 2021, FACMAC, arXiv 2003.06709). Stepping is `physics.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

EPISODE_LENGTH = 1000

_OMAR = "mean returns of OMAR's random and expert HalfCheetah data (MuJoCo 2.0), second-hand"


@dataclass(frozen=True)
class Scenario:
    """One task and its division among agents.

    What is seen are columns of one row per copy: qpos, qvel and, with `contacts`, the external
    force on each body (6 numbers, clipped to [-1, 1]).

    Attributes:
        xml: model file among gymnasium's.
        frame_skip: physics steps per environment step.
        actuators: of each agent, in the order of its actions.
        columns: what each agent sees.
        state: the columns of the global state.
        joints: names, one per actuator, in the actuators' order.
        reset_noise: qpos starts uniformly within it.
        normal_qvel: qvel starts normal with that deviation, else uniform like qpos.
        qvel_clip: what is seen of qvel is clipped to it.
        control_cost: of the squared actions.
        contacts: forces are seen and cost `contact_cost` of their squares.
        healthy: (qpos [E, nq], qvel [E, nv]) -> [E] bool; an episode ends where it is False, and
            each healthy step pays 1. None: no episode ends before the time limit.
        normalisation: as in `envs.register`.
    """

    name: str
    xml: str
    frame_skip: int
    actuators: tuple[tuple[int, ...], ...]
    columns: tuple[tuple[int, ...], ...]
    state: tuple[int, ...]
    joints: tuple[str, ...]
    reset_noise: float
    control_cost: float
    normal_qvel: bool = True
    qvel_clip: float = np.inf
    contacts: bool = False
    contact_cost: float = 0.0
    healthy: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    normalisation: tuple[float, float, str] | None = None


def _ant_healthy(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    finite = np.isfinite(qpos).all(axis=1) & np.isfinite(qvel).all(axis=1)
    return finite & (qpos[:, 2] >= 0.2) & (qpos[:, 2] <= 1.0)


def _hopper_healthy(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    small = (np.abs(qpos[:, 2:]) < 100).all(axis=1) & (np.abs(qvel) < 100).all(axis=1)
    return small & (qpos[:, 1] > 0.7) & (np.abs(qpos[:, 2]) < 0.2)


def _halfcheetah() -> Scenario:
    # Each agent sees position and velocity of its own three joints, nothing of the torso: foot,
    # shin, thigh (the public data's order, by name), while it acts on thigh, shin, foot.
    columns = tuple(
        tuple(c for joint in joints for c in (joint, 9 + joint))
        for joints in ((5, 4, 3), (8, 7, 6))
    )
    return Scenario(
        name="halfcheetah_2x3",
        xml="half_cheetah.xml",
        frame_skip=5,
        actuators=((0, 1, 2), (3, 4, 5)),
        columns=columns,
        state=tuple(range(1, 18)),
        joints=("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"),
        reset_noise=0.1,
        control_cost=0.1,
        normalisation=(-284.0, 3568.8, _OMAR),
    )


def _hopper() -> Scenario:
    torso = (1, 2, 6, 7, 8)
    return Scenario(
        name="hopper_3x1",
        xml="hopper.xml",
        frame_skip=4,
        actuators=((0,), (1,), (2,)),
        columns=tuple((joint, 6 + joint, *torso) for joint in (3, 4, 5)),
        state=tuple(range(1, 12)),
        joints=("thigh", "leg", "foot"),
        reset_noise=5e-3,
        control_cost=1e-3,
        normal_qvel=False,
        qvel_clip=10.0,
        healthy=_hopper_healthy,
    )


def _ant() -> Scenario:
    def force(body: int) -> tuple[int, ...]:
        return tuple(range(29 + 6 * body, 35 + 6 * body))

    def view(first: int, bodies: tuple[int, ...]) -> tuple[int, ...]:
        """Two legs with joints hip, ankle, hip, ankle from `first` on: the ankles before the hips,
        each with qpos, qvel and the forces on the bodies it moves, then the torso."""
        ankles = [(first + 1, bodies[:3]), (first + 3, bodies[3:])]
        hips = [(first, (1,)), (first + 2, ())]
        own = [(7 + j, 21 + j, *(c for b in moved for c in force(b))) for j, moved in ankles + hips]
        return (*(c for joint in own for c in joint), *range(2, 7), *range(15, 21))

    # The front legs belong to one agent, the back legs to the other; the model's actuators begin
    # with the right back leg.
    columns = (view(0, (2, 3, 4, 5, 6, 7)), view(4, (8, 9, 10, 11, 12, 13)))
    return Scenario(
        name="ant_2x4",
        xml="ant.xml",
        frame_skip=5,
        actuators=((2, 3, 4, 5), (6, 7, 0, 1)),
        columns=columns,
        state=(*range(2, 29), *range(35, 113)),
        joints=("hip_4", "ankle_4", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3"),
        reset_noise=0.1,
        control_cost=0.5,
        contacts=True,
        contact_cost=5e-4,
        healthy=_ant_healthy,
    )


SCENARIOS = {s.name: s for s in (_halfcheetah(), _ant(), _hopper())}
