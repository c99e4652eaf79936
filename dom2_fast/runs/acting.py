"""The policies of a run, to act with: what evaluation and export have in common."""

from __future__ import annotations

from typing import Any, NamedTuple

from dom2_fast import algos, checkpoint
from dom2_fast.errors import Dom2Error, whole_number


class Acting(NamedTuple):
    """A checkpoint's `policies`, and what it says of them."""

    policies: Any
    algo: str
    env: str | None
    data: str | None
    step: int


def policies_of(run, which: str = "last", candidates: int | None = None) -> Acting:
    """The policies that a run's checkpoint acts with; no optimiser is built for it.

    Args:
        run: a run folder, or a checkpoint file.
        which: "last", or "best": the one with the highest return of the evaluations on the way.
        candidates: how many sampled actions the critic chooses among; None: as the run's settings
            say. 1 is what an exported file does.
    Raises:
        Dom2Error: candidates below 1, or of an algorithm that samples none;
            see `checkpoint.of_run`, `checkpoint.load` and the algorithm's `acting`.
    """
    file = checkpoint.of_run(run, which)
    state = checkpoint.load(file)
    with checkpoint.fitting(file):
        if candidates is not None:
            _choose_among(candidates, state)
        policies = algos.algorithm(state["algo"]).acting(state)
        data, step = state.get("run", {}).get("data_path"), whole_number("step", state["step"], 0)
        return Acting(policies, state["algo"], state["env"], data, step)


def _choose_among(candidates: int, state: dict) -> None:
    whole_number("candidates", candidates, 1)
    if "candidates" not in state["config"]:
        raise Dom2Error(
            f"{state['algo']} doesn't choose among candidates: leave them out, or give a run "
            "of dom2, sfbc or diffusion_ql"
        )
    state["config"]["candidates"] = candidates
