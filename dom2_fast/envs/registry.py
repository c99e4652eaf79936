"""Environments by name: what `envs.make` knows, with shifts and normalisation constants.

A name, an import path "module:function" and a factory become one thing here, an `EnvSpec`, whose
`make` checks the options and gives an `Env`. Knows no environment itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dom2_fast import known_tasks
from dom2_fast.envs.env import Env, missing_members
from dom2_fast.envs.factories import (
    Factory,
    Shifts,
    check_factory,
    check_normalisation,
    check_shifts,
    imported,
    parameters_of,
    takes,
)
from dom2_fast.errors import Dom2Error, whole_number

_NAME = re.compile(r"[A-Za-z0-9][\w./-]*")

ADAPTED = 32  # environments that come one copy at a time: how many are held at once by default

_specs: dict[str, EnvSpec] = {}
_adapter: Callable[..., Env]  # makes an Env of a factory of single copies; see `use_adapter`


@dataclass(frozen=True)
class EnvSpec:
    """An environment that can be made: see `register` for the attributes."""

    name: str
    factory: Factory
    normalisation: tuple[float, float, str] | None = None
    shifts: Shifts = field(default_factory=dict)
    parallel_env: Factory | None = None
    most: int | None = None

    @property
    def batched(self) -> bool:
        """The factory takes num_envs and gives an `Env`; else it gives one copy, to be adapted."""
        return "num_envs" in parameters_of(self.factory)

    def make(self, num_envs: int = 1, seed: int = 0, shift: str | None = None, **options) -> Env:
        """E copies of the environment; see `envs.make`."""
        whole_number("num_envs", num_envs, 1)
        whole_number("seed", seed, 0)
        options = self._checked(shift, options)
        if not self.batched:
            return _adapter(self.factory, num_envs, seed, name=self.name, **options)
        env = self.factory(num_envs=num_envs, seed=seed, **options)
        missing = missing_members(env)
        if missing:
            raise Dom2Error(
                f"{self.name} gave {type(env).__name__}, which is no environment: it lacks "
                f"{', '.join(missing)} (see dom2_fast.envs.Env)"
            )
        if env.num_envs != num_envs:
            raise Dom2Error(f"{self.name} gave {env.num_envs} copies, {num_envs} were asked for")
        return env

    def shift_options(self, shift: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options of a shift, as given or by default.

        Raises:
            Dom2Error: a shift that this environment doesn't have.
        """
        if shift is None:
            return {}
        if shift not in self.shifts:
            accepted = ", ".join(["None", *map(repr, self.shifts)])
            others = [s.name for s in _specs.values() if shift in s.shifts]
            hint = f"; {', '.join(others)} has it" if others else ""
            raise Dom2Error(
                f"{self.name} has no shift {shift!r}; accepted: {accepted}{hint}"
                + ("" if self.shifts else " (`envs.register` takes the shifts of an environment)")
            )
        given = {key: value for key, value in options.items() if value is not None}
        return {key: given.get(key, default) for key, (default, _) in self.shifts[shift].items()}

    def _checked(self, shift: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """The factory's keyword arguments; an option that is None has its default."""
        of_shift = self.shift_options(shift, options)
        given = {key: value for key, value in options.items() if value is not None}
        for key in given.keys() - of_shift.keys():
            owners = [name for name, own in self.shifts.items() if key in own]
            if owners:
                raise Dom2Error(
                    f"{self.name}: {key} belongs to shift={' or '.join(map(repr, owners))}, "
                    f"but shift is {shift!r}"
                )
            if not takes(self.factory, key) and not (key == "episode_length" and not self.batched):
                raise Dom2Error(
                    f"{self.name} has no option {key!r}; accepted: {self._accepted(shift)}"
                )
        return given | of_shift | ({} if shift is None else {"shift": shift})

    def _accepted(self, shift: str | None) -> str:
        of_shifts = {key for own in self.shifts.values() for key in own}
        plain = [
            key
            for key, p in parameters_of(self.factory).items()
            if key not in of_shifts | {"num_envs", "seed", "shift"} and p.kind != p.VAR_POSITIONAL
        ]
        own = [f"{key} (of shift {shift!r})" for key in self.shifts.get(shift, {})]
        return ", ".join(["num_envs", "seed", "shift", *own, *plain])


def use_adapter(adapter: Callable[..., Env]) -> None:
    """Set what makes an Env of a factory without num_envs, called like the factory of one."""
    global _adapter
    _adapter = adapter


def register(
    name: str,
    make: Factory,
    *,
    normalisation: tuple[float, float, str] | None = None,
    shifts: Shifts | None = None,
    episode_length: int | None = None,
    parallel_env: Factory | None = None,
    most: int | None = None,
) -> None:
    """Make an environment known by a name, to `envs.make`, `evaluate` and the command line.

    Args:
        name: letters, digits and `_ . / -`, such as "mine" or "me/spread-v1".
        make: `make(num_envs, seed, **options)` gives an `Env`; or a function without `num_envs`
            that gives one PettingZoo `ParallelEnv`.
        normalisation: (random, expert, source): the scores that 0 and 100 stand for, and where they
            are from. Without it there are only raw scores.
        shifts: the options of each shift with their defaults and what they mean, such as
            `{"windy": {"strength": (0.5, "force of the wind")}}`. `make` is given `shift="windy"`
            and all its options, and without a shift neither.
        episode_length: steps of every episode, where all have the same: data sets that name this
            environment and say no lengths are cut by it.
        parallel_env: gives the environment as PettingZoo's `ParallelEnv`, where the general one
            around `make` won't do.
        most: copies that evaluation and collection hold at once where the caller doesn't say; give
            it where a copy takes much memory.

    Raises:
        Dom2Error: a name that is taken or malformed, `make` with a signature that doesn't fit,
            malformed shifts or constants.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Dom2Error(f"an environment's name has letters, digits and _ . / - only, got {name!r}")
    if name in _specs:
        raise Dom2Error(f"an environment {name!r} is registered already: choose another name")
    shifts = {} if shifts is None else shifts
    check_shifts(name, shifts)
    check_factory(name, make, shifts)
    if normalisation is not None:
        normalisation = check_normalisation(name, normalisation)
    if most is not None:
        whole_number(f"copies of {name} at most", most, 1)
    if episode_length is not None:
        known_tasks.register(name, episode_length)
    _specs[name] = EnvSpec(name, make, normalisation, shifts, parallel_env, most)


def names() -> list[str]:
    """Names of all registered environments."""
    return list(_specs)


def spec(name: str) -> EnvSpec:
    """What is registered by a name; `Dom2Error` lists the names there are."""
    if name not in _specs:
        raise Dom2Error(
            f"unknown environment {name!r}; choose one of: {', '.join(_specs)}; or "
            "'module:function', a function that makes one (docs/envs.md)"
        )
    return _specs[name]


def resolve(env: str | EnvSpec | Factory) -> EnvSpec:
    """The environment that is meant by a registered name, "module:function" or a factory.

    A factory is as `make` of `register`. One that is registered brings its constants and shifts.

    Raises:
        Dom2Error: an unknown name, a module that can't be imported, something that isn't callable
            or doesn't take what a factory takes.
    """
    if isinstance(env, EnvSpec):
        return env
    if isinstance(env, str):
        if ":" not in env or env in _specs:
            return spec(env)
        factory, name = imported(env), env
    else:
        factory = env
        module, within = (getattr(env, key, None) for key in ("__module__", "__qualname__"))
        name = f"{module}:{within}" if within else "env"
    for known in _specs.values():
        if known.factory is factory:
            return known
    check_factory(name, factory, {})
    return EnvSpec(name, factory)


def make(
    name: str | Factory, num_envs: int = 1, seed: int = 0, shift: str | None = None, **options
) -> Env:
    """Make E copies of an environment, stepped together.

    Args:
        name: one of `names()`, "module:function" or a factory, see `resolve`.
        num_envs: E.
        seed: the same seed gives the same episodes.
        shift: one of the environment's shifts (`spec(name).shifts`), or None.
        options: of the shift (such as `v_min` of "speed") and of the environment (such as `prey`
            and `dtype` of the particle tasks); None stands for the default.

    Raises:
        Dom2Error: unknown name, shift or option (with those accepted); what the environment says
            about its own options.
    """
    return resolve(name).make(num_envs, seed, shift, **options)


def normalised_score(score: float | Tensor, name: str) -> float | Tensor | None:
    """100 * (score - random) / (expert - random); None for an environment without constants."""
    known = _specs.get(name)
    if known is None or known.normalisation is None:
        return None
    random, expert, _ = known.normalisation
    return 100 * (score - random) / (expert - random)
