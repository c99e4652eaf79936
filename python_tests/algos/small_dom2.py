"""DOM2 small enough for tests, with nothing left out."""

from dom2_fast.algos.dom2 import DOM2Config

SMALL = {
    "weights": "uniform",
    "batch_size": 8,
    "hidden": 16,
    "depth": 2,
    "critic_hidden": 16,
    "steps": 3,
    "time_scale": 1.0,
    "clip_x0": False,
    "cql_actions": 4,
    "q_warmup": 0,
    "backend": "reference",
    "zeta": 0.2,
    "q_action": "chain",
    "actor_every": 1,
    "candidates": 1,
    "target_candidates": 1,
}


def small(**changes) -> DOM2Config:
    return DOM2Config(**{**SMALL, **changes})
