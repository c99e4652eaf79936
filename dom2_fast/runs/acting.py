"""The policies of a run, to act with: what evaluation and export have in common."""

from __future__ import annotations

from typing import Any, NamedTuple

from dom2_fast import algos, checkpoint


class Acting(NamedTuple):
    """A checkpoint's `policies`, and what it says of them."""

    policies: Any
    algo: str
    env: str | None
    data: str | None
    step: int


def policies_of(run, which: str = "last") -> Acting:
    """The policies that a run's checkpoint acts with; no optimiser is built for it.

    Args:
        run: a run folder, or a checkpoint file.
        which: "last", or "best": the one with the highest return of the evaluations on the way.
    Raises:
        Dom2Error: see `checkpoint.of_run`, `checkpoint.load` and the algorithm's `acting`.
    """
    state = checkpoint.load(checkpoint.of_run(run, which))
    policies = algos.algorithm(state["algo"]).acting(state)
    data = state.get("run", {}).get("data_path")
    return Acting(policies, state["algo"], state["env"], data, state["step"])
