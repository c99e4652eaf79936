"""What may be registered as an environment: factories, their options, import paths. Checks only."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from dom2_fast.envs.env import missing_members
from dom2_fast.errors import Dom2Error

Factory = Callable[..., Any]
Shifts = Mapping[str, Mapping[str, tuple[Any, str]]]

# An option of a shift can't be called like an argument of `make` and `evaluate`, or like an entry
# of a result, which lists the options, too.
_ARGUMENTS = {
    "name",
    "env",
    "num_envs",
    "seed",
    "shift",
    "policies",
    "episodes",
    "record",
    "solutions",
}
_RESULTS = {"mean", "ci95", "iqm", "std", "returns", "options", "rollout"}
_TAKEN = _ARGUMENTS | _RESULTS | {"normalised", "normalised_ci95"}


def parameters_of(factory: Factory) -> Mapping[str, inspect.Parameter]:
    """The parameters of a factory by name."""
    return inspect.signature(factory).parameters


def takes(factory: Factory, key: str) -> bool:
    """Whether a factory accepts `key` as a keyword."""
    found = parameters_of(factory)
    return any(p.kind == p.VAR_KEYWORD for p in found.values()) or (
        key in found and found[key].kind != inspect.Parameter.POSITIONAL_ONLY
    )


def check_factory(name: str, factory, shifts: Shifts) -> None:
    """Dom2Error unless the factory can make an environment and takes its shifts' options."""
    wanted = (
        "give a function make(num_envs, seed, **options) that makes an Env, or one without "
        "num_envs that makes a PettingZoo ParallelEnv"
    )
    if not callable(factory):
        made = not missing_members(factory) or hasattr(factory, "possible_agents")
        what = "an environment that is made already" if made else f"{type(factory).__name__}"
        raise Dom2Error(f"{name}: {what} can't be made several times; {wanted}")
    try:
        parameters = parameters_of(factory)
    except (TypeError, ValueError) as error:
        raise Dom2Error(
            f"{name}: {factory!r} has no readable signature ({error}); {wanted}"
        ) from None
    batched = "num_envs" in parameters
    own = {"num_envs", "seed"} if batched else set()
    shifted = (
        {"shift", *(key for options in shifts.values() for key in options)} if shifts else set()
    )
    lacks = [key for key in sorted(own | shifted) if not takes(factory, key)]
    if lacks:
        raise Dom2Error(f"{name}: its factory takes no {', '.join(lacks)}; {wanted}")
    needs = [
        key
        for key, p in parameters.items()
        if key not in own
        and p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needs:
        raise Dom2Error(
            f"{name}: its factory needs {', '.join(needs)}, for which nothing is known; give them "
            f"defaults: {wanted}"
        )


def check_shifts(name: str, shifts) -> None:
    """Dom2Error unless the shifts are name -> {option: (default, meaning)}."""
    wanted = "{'windy': {'strength': (0.5, 'force of the wind')}}: option, (default, meaning)"
    if not isinstance(shifts, Mapping):
        raise Dom2Error(f"{name}: shifts are a mapping such as {wanted}, got {shifts!r}")
    for shift, options in shifts.items():
        fits = isinstance(shift, str) and shift.isidentifier() and shift != "none"
        if not fits or not isinstance(options, Mapping):
            raise Dom2Error(f"{name}: shifts are a mapping such as {wanted}, got {shift!r}")
        for key, value in options.items():
            if not isinstance(key, str) or not key.isidentifier() or key in _TAKEN:
                raise Dom2Error(
                    f"{name}: {key!r} can't be an option of shift {shift!r}; it must be an "
                    f"identifier and none of {', '.join(sorted(_TAKEN))}"
                )
            if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str)):
                raise Dom2Error(f"{name}: option {key!r} is {value!r}; shifts are {wanted}")


def check_normalisation(name: str, given) -> tuple[float, float, str]:
    """(random score, expert score, source) as floats and text; Dom2Error for others."""
    try:
        random, expert, source = given
        random, expert = float(random), float(expert)
        fits = isinstance(source, str) and abs(expert - random) not in (0.0, float("inf"))
        if not fits or random != random or expert != expert:
            raise ValueError
    except (TypeError, ValueError):
        raise Dom2Error(
            f"{name}: normalisation is (random, expert, source): two different finite scores and "
            f"where they are from, got {given!r}"
        ) from None
    return random, expert, source


def imported(path: str) -> Factory:
    """The function that "module:function" names, sought in the current folder, too."""
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise Dom2Error(
            f"{path!r} is no import path; it has the form module:function, such as "
            "my_package.my_module:make_env"
        )
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` does; a console script doesn't
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise Dom2Error(
                f"{path}: there is no module {missing!r} in the current folder, in PYTHONPATH or "
                "among the installed packages"
            ) from None
        raise Dom2Error(f"{path}: importing {module_name} needs {missing!r}: install it") from error
    except Exception as error:
        raise Dom2Error(
            f"{path}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            there = getattr(found, "__dict__", {}).items()
            functions = [key for key, it in there if callable(it) and not key.startswith("_")]
            raise Dom2Error(
                f"{path}: {module_name} has no {attribute!r}; it has: "
                f"{', '.join(functions) or 'nothing that can be called'}"
            )
        found = getattr(found, part)
    return found
