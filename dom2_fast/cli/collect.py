"""`dom2-fast collect`: play a behaviour policy and write its episodes as a data set."""

from __future__ import annotations

import time
from argparse import SUPPRESS

from dom2_fast.cli.options import add_prey

ABOUT = "Play a behaviour policy and write its episodes as a data set."


def add_options(parser, argv: list[str]) -> None:
    add = parser.add_argument
    add("--env", type=str, required=True, help="task, such as simple_spread")
    add(
        "--quality",
        type=str,
        required=True,
        help="random, random-medium, medium-replay, medium, medium-expert or expert",
    )
    add("--episodes", type=int, default=4000, help="how many to play")
    add("--seed", type=int, default=0, help="the same seed gives the same data")
    add(
        "--out",
        type=str,
        default=SUPPRESS,
        help="new folder; without it datasets/ENV/QUALITY/seed_SEED_data",
    )
    add_prey(parser)


def run(env: str, quality: str, episodes: int, seed: int, out: str | None = None, **options) -> int:
    from dom2_fast.behaviours.collect import collect
    from dom2_fast.runs import evaluation
    from dom2_fast.runs.run_config import RunConfig

    out = out or f"datasets/{env}/{quality}/seed_{seed}_data"
    start = time.perf_counter()
    data = collect(env, quality, episodes=episodes, seed=seed, out=out, **options)
    scores = evaluation.dataset_scores(data, env)
    low, high = scores["ci95"]
    print(
        f"{episodes:,} episodes of {env}, {quality}, in {time.perf_counter() - start:.1f} s: mean "
        f"return {scores['mean']:.1f} (95 % interval {low:.1f} to {high:.1f})\n"
        f"written to {out}\n"
        f"next: dom2-fast train --algo {RunConfig.algo} --data {out} --out runs/a "
        f"--steps {RunConfig.steps}"
    )
    return 0
