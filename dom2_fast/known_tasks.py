"""What the task's name alone says: steps per episode. Data and environments both read it here.

Neither room needs to know the other: an environment is entered when it is registered, and a data
set that names its task is cut into episodes by it.
"""

from __future__ import annotations

from dom2_fast.errors import Dom2Error, whole_number

# OMAR's public data sets (Pan et al. 2022, arXiv 2111.11188): 25 steps in the particle tasks, 1,000
# in two-agent HalfCheetah. A user's environment can't change these.
_PUBLIC = {
    "simple_spread": 25,
    "simple_tag": 25,
    "simple_world": 25,
    "spread_6_landmarks": 25,
    "HalfCheetah-v2": 1000,
}
_registered: dict[str, int] = {}


def episode_length(task: str | None) -> int | None:
    """Steps per episode of a task, or None where its name says nothing."""
    return _PUBLIC.get(task, _registered.get(task)) if isinstance(task, str) else None


def register(task: str, steps: int) -> None:
    """Enters a task whose episodes all have `steps` steps (>= 1); a later entry replaces its own.

    Raises:
        Dom2Error: `steps` is no integer >= 1, or a public task has another length.
    """
    whole_number(f"steps per episode of {task}", steps)
    if _PUBLIC.get(task, steps) != steps:
        raise Dom2Error(
            f"episodes of {task} have {_PUBLIC[task]} steps in the public data, not {steps}: "
            "register the environment under another name"
        )
    _registered[task] = steps
