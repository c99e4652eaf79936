"""OMAR's own settings for each of its data sets: what `faithful` stands for.

From its code (main.py, algorithms/maddpg.py): networks, learning rates, coefficients and the number
of updates. The network itself, with batch normalisation, is in `batch_norm.py`. Left out are a
density where its logarithm is meant (see `cql.py`), and that HalfCheetah's time limit counts as a
terminal state.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import NamedTuple

from dom2_fast.errors import Dom2Error

PARTICLES = {
    "hidden": 64,
    "depth": 2,
    "lr": 1e-2,
    "critic_hidden": 64,
    "critic_depth": 2,
    "critic_lr": 1e-2,
    "batch_size": 1024,
    "tau": 0.01,
    "gamma": 0.95,
    "grad_clip": 0.5,
    "action_penalty": 1e-3,
    "standardise_obs": False,
    "normalise_reward": False,
    "reward_scale": 1.0,
    "cql_actions": 10,
    "cql_policy_actions": 0,
    "cql_policy_noise": 0.2,
    "search_rounds": 3,
    "search_samples": 10,
    "search_sigma": 2.0,
    "elites": 0,
}
HALF_CHEETAH = PARTICLES | {
    "hidden": 256,
    "critic_hidden": 256,
    "lr": 3e-4,
    "critic_lr": 3e-4,
    "batch_size": 256,
    "tau": 0.005,
    "cql_policy_actions": 10,
    "search_rounds": 2,
    "search_samples": 20,
    "elites": 5,
}


class Task(NamedTuple):
    """What OMAR's code does on one task; `of` has (zeta, c, updates) of each kind of data."""

    settings: dict
    of: dict[str, tuple[float, float, int]]


TASKS = {
    "simple_spread": Task(
        PARTICLES,
        {
            "random": (0.5, 1.0, 6000),
            "medium-replay": (1.0, 1.0, 2000),
            "medium": (5.0, 1.0, 2000),
            "expert": (5.0, 1.0, 2000),
        },
    ),
    "simple_tag": Task(
        PARTICLES,
        {
            "random": (0.5, 0.9, 2000),
            "medium-replay": (0.5, 0.9, 1000),
            "medium": (5.0, 0.7, 2000),
            "expert": (5.0, 0.9, 2000),
        },
    ),
    "simple_world": Task(
        PARTICLES,
        {
            "random": (0.5, 1.0, 1000),
            "medium-replay": (1.0, 0.7, 1000),
            "medium": (0.5, 0.1, 1000),
            "expert": (5.0, 0.9, 1000),
        },
    ),
    "HalfCheetah-v2": Task(
        HALF_CHEETAH,
        {
            "random": (1.0, 1.0, 100_000),
            "medium-replay": (5.0, 0.9, 100_000),
            "medium": (1.0, 0.7, 100_000),
            "expert": (5.0, 0.5, 100_000),
        },
    ),
}


def updates(task: str, kind: str | None) -> int:
    """OMAR's number of updates for data of one of `TASKS`; of an unknown kind, as for medium."""
    of = TASKS[task].of
    return of.get(kind, of["medium"])[2]


def settle(config, task: str | None, kind: str | None):
    """`config` with OMAR's settings for the data set in place of those that weren't chosen.

    Args:
        config: settings with `faithful`, which know what was `given` to them.
        task, kind: of the data set, "simple_spread" and "medium", say.
    Raises:
        Dom2Error: a task that OMAR's code doesn't know; a kind of data for which it has no
            coefficients, and none are given; settings that contradict OMAR's.
    """
    if task not in TASKS:
        raise Dom2Error(
            f"faithful: OMAR's code has no settings for the task {task}, only for "
            f"{', '.join(TASKS)}: leave it out"
        )
    names = {field.name for field in fields(config)}
    found, given = TASKS[task], config.given
    wanted = {name: value for name, value in found.settings.items() if name in names}
    coefficients = [name for name in ("zeta", "coe") if name in names]
    if kind in found.of:
        both = dict(zip(("zeta", "coe"), found.of[kind][:2], strict=True))
        wanted |= {name: both[name] for name in coefficients}
    elif missing := [name for name in coefficients if name not in given]:
        raise Dom2Error(
            f"faithful: OMAR's code has no {' and '.join(missing)} for {task} data of kind {kind}, "
            f"only for {', '.join(found.of)}: give {' and '.join(missing)}"
        )
    if given == names:  # a copy, or a whole file of settings: who chose what isn't known
        if all(getattr(config, name) == value for name, value in wanted.items()):
            return config
        default = type(config)()
        given = {name for name in names if getattr(config, name) != getattr(default, name)}
    wrong = [
        f"{name} = {getattr(config, name)} (OMAR's: {value})"
        for name, value in wanted.items()
        if name in given and getattr(config, name) != value
    ]
    if wrong:
        raise Dom2Error(
            f"faithful means OMAR's own settings, which these contradict: {', '.join(wrong)}. "
            "Leave them out, or leave out faithful"
        )
    if "weights" not in given:
        wanted["weights"] = "uniform"
    return replace(config, **wanted)
