"""What the task's name alone says: steps per episode, what counts as its score, where an agent's
observation has its position. Data and environments both read it here.

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
# All predators are paid the same; the prey belongs to the task and is scored by nobody.
_CHASES = ("simple_tag", "simple_world")
_PARTICLES = ("simple_spread", "spread_6_landmarks", *_CHASES)
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


def score_rule(task: str | None) -> str:
    """What `score` gives, in words."""
    return "predator 0's return" if task in _CHASES else "mean return of the agents"


def score(task: str | None, returns):
    """Scores [n] of episodes from each agent's returns [agents, n], as OMAR's paper reports them.

    Takes any array or tensor. A registered environment may have another rule (`Env.score`), which
    its name alone doesn't say.
    """
    return returns[0] if task in _CHASES else returns.mean(0)


def position_columns(task: str | None) -> tuple[int, int] | None:
    """(first, end) of an agent's own position in its observation; None where it isn't known."""
    return (2, 4) if task in _PARTICLES else None
