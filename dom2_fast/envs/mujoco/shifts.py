"""Shifts of the MuJoCo tasks: power, torso density and friction scaled, or a joint without power.

`random` and `extreme` are those of Packer et al. 2018 (arXiv 1810.12282, sunblaze-ucb's
rl-generalization), taken as ratios to the defaults; `offline` is a harder one. XML isn't touched:
HalfCheetah's total mass is set when it is compiled, so that a density there would change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dom2_fast.envs.mujoco import models
from dom2_fast.envs.mujoco.scenarios import SCENARIOS, Scenario
from dom2_fast.errors import Dom2Error

# factor: (extreme from, random from, random to, extreme to). "random" is uniform on the inner
# interval, "extreme" on what the outer one has beyond it; all three are drawn independently.
RANGES = {
    "power": (0.5 / 0.9, 0.7 / 0.9, 1.1 / 0.9, 1.3 / 0.9),
    "density": (0.5, 0.75, 1.25, 1.5),
    "friction": (0.2 / 0.8, 0.5 / 0.8, 1.1 / 0.8, 1.4 / 0.8),
}
DRAWN = "drawn"  # the joint of "offline": another one in each copy and episode
SHIFTS = {
    "random": {},
    "extreme": {},
    "offline": {"joint": (DRAWN, "the joint without power; drawn: any, anew in each episode")},
}
_TORSO = 1  # the torso's body in all models; what is fixed to it, the head, belongs to it


@dataclass(frozen=True)
class Factors:
    """What a model's defaults are multiplied by: power of each actuator [nu], density, friction."""

    power: np.ndarray
    density: float = 1.0
    friction: float = 1.0


def check(scenario: Scenario, shift: str | None, joint: str) -> None:
    """Refuse a shift or a joint that the task doesn't have, before anything is made."""
    if shift not in (None, *SHIFTS):
        raise Dom2Error(f"{scenario.name} has no shift {shift!r}; accepted: {', '.join(SHIFTS)}")
    if joint not in (DRAWN, *scenario.joints):
        raise Dom2Error(
            f"{scenario.name} has no joint {joint!r}; accepted: {DRAWN}, "
            f"{', '.join(scenario.joints)}"
        )


def draw(
    scenario: Scenario, shift: str, random: np.random.Generator, joint: str = DRAWN
) -> Factors:
    """Factors of one copy for one episode.

    Args:
        joint: for "offline": its name, or "drawn".

    Raises:
        Dom2Error: an unknown shift or joint.
    """
    check(scenario, shift, joint)
    power = np.ones(len(scenario.joints))
    if shift == "offline":
        drawn = random.integers(len(power))
        power[drawn if joint == DRAWN else scenario.joints.index(joint)] = 0.0
        return Factors(power)
    of = {}
    for name, (outer_low, low, high, outer_high) in RANGES.items():
        if shift == "random":
            of[name] = random.uniform(low, high)
        else:
            of[name] = low
            while low <= of[name] <= high:
                of[name] = random.uniform(outer_low, outer_high)
    return Factors(power * of["power"], of["density"], of["friction"])


class Scaler:
    """Scales the fields of a task's models, always from the defaults: nothing compounds.

    Works on any `MjModel` of the task, such as gymnasium's `env.unwrapped.model`. A density is
    mass and inertia of the torso; friction is the sliding friction of all geoms, since MuJoCo takes
    the greater one of two that touch; power is the gear, so the cost of control stays.
    """

    def __init__(self, name: str):
        self._mujoco = models.need_mujoco(name)
        self.scenario = SCENARIOS[name]
        model = models.load(self.scenario)
        self._defaults = self._fields(model)
        self._name = name

    @staticmethod
    def _fields(model) -> dict[str, np.ndarray]:
        fields = ("actuator_gear", "geom_friction", "body_mass", "body_inertia")
        return {field: getattr(model, field).copy() for field in fields}

    def check(self, model) -> None:
        """Refuse a model that isn't the task's, or whose fields were scaled before.

        Raises:
            Dom2Error: as said.
        """
        for field, default in self._defaults.items():
            found = getattr(model, field)
            if found.shape != default.shape:
                raise Dom2Error(
                    f"this is no model of {self._name}: {field} has shape {list(found.shape)}, "
                    f"not {list(default.shape)}; give one of {self.scenario.xml}"
                )
            if not np.allclose(found, default, rtol=1e-9, atol=0):
                raise Dom2Error(
                    f"the model's {field} was scaled already (it isn't that of "
                    f"{self.scenario.xml}), and scaling it again would compound: restore() it "
                    "first, or load the model anew"
                )

    def scale(self, model, factors: Factors) -> None:
        """Set the model's fields to the defaults times the factors.

        Raises:
            Dom2Error: a model that isn't the task's, or that has been scaled.
        """
        self.check(model)
        self._set(model, factors)

    def restore(self, model) -> None:
        """Set the model's fields to the defaults."""
        self._set(model, Factors(np.ones(len(self.scenario.joints))))

    def _set(self, model, factors: Factors) -> None:
        for field, default in self._defaults.items():
            getattr(model, field)[:] = default
        model.actuator_gear[:, 0] *= factors.power
        model.geom_friction[:, 0] *= factors.friction
        model.body_mass[_TORSO] *= factors.density
        model.body_inertia[_TORSO] *= factors.density
        # Else what MuJoCo derives from masses, such as body_invweight0, would be the old one.
        self._mujoco.mj_setConst(model, self._mujoco.MjData(model))
