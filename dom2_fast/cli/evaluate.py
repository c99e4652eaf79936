"""`dom2-fast evaluate`: score a run's policies, on its environment or a shifted one."""

from __future__ import annotations

from argparse import SUPPRESS
from pathlib import Path

from dom2_fast.cli.options import (
    add_env_options,
    add_threads,
    env_options,
    search_here,
    use_threads,
)

ABOUT = "Score a run's policies, on its environment or a shifted one."


def add_options(parser, argv: list[str]) -> None:
    add = parser.add_argument
    add("run", type=str, help="folder of a trained run")
    add("--episodes", type=int, default=500, help="how many to play")
    add(
        "--checkpoint",
        type=str,
        default="last",
        help="last, or best: the highest return of the evaluations on the way (--eval-every)",
    )
    add(
        "--num-envs",
        type=int,
        default=SUPPRESS,
        help="how many of them to play side by side (default: what the environment says)",
    )
    add(
        "--candidates",
        type=int,
        default=SUPPRESS,
        help="act with the best of that many samples, not of the run's own number; 1 is what an "
        "exported policy does",
    )
    add("--shift", type=str, default=SUPPRESS, help="none (default), or one that the task has")
    add(
        "--env",
        type=str,
        default=SUPPRESS,
        help="where the run doesn't say it: a registered environment, or module:function, a "
        "function in the current folder's module that makes a PettingZoo ParallelEnv",
    )
    add_env_options(parser)
    add(
        "--solutions",
        type=int,
        default=SUPPRESS,
        metavar="K",
        help="also play each start K times with other noise, and count the ways in which they end "
        "(spread_6_landmarks, xor)",
    )
    add("--seed", type=int, default=SUPPRESS, help="of starts and noise; keep it to compare runs")
    add_threads(parser)


def run(
    run: str,
    shift: str | None = None,
    threads: int | None = None,
    **arguments,
) -> int:
    from dom2_fast.cli import tables
    from dom2_fast.runs.scoring import evaluate_run

    use_threads(threads)
    search_here()
    options = env_options(arguments)
    shift = None if shift == "none" else shift
    scores = evaluate_run(run, shift=shift, **arguments, **options)
    best = {r["step"] for r in scores["results"].values() if r.get("checkpoint") == "best"}
    told = "".join(f"; the best checkpoint is of step {step}" for step in best)
    print(f"{scores['algo']} on {scores['env']}, trained {scores['step']} steps{told}")
    print(tables.scores({scores["algo"]: scores["results"]}))
    if note := tables.prey(scores["results"]):
        print(note)
    print(f"written to {Path(run) / 'scores.json'}; next: dom2-fast report {run} --out report/")
    return 0
