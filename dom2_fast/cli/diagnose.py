"""`dom2-fast diagnose`: what a run's critics promise against what its policies earn."""

from __future__ import annotations

from argparse import SUPPRESS

from dom2_fast.cli.options import add_prey, add_threads, use_threads

ABOUT = "Hold a run's critics against played episodes, agent by agent."

_ROWS = {
    "q": "Q1 of the first action",
    "return": "discounted return of the episode",
    "correlation": "correlation of both",
    "td_data": "TD error on the data (rms)",
    "td_played": "TD error on the played steps (rms)",
    "spread": "spread of sampled actions",
    "edge": "share of actions at a bound",
    "alone": "raw return among uniform agents",
}


def add_options(parser, argv: list[str]) -> None:
    add = parser.add_argument
    add("run", type=str, help="folder of a trained run")
    add("--episodes", type=int, default=500, help="how many to play")
    add("--data", type=str, default=SUPPRESS, help="the run's data set, if it was moved")
    add("--seed", type=int, default=SUPPRESS, help="of starts and noise")
    add_prey(parser)
    add_threads(parser)


def run(run: str, threads: int | None = None, **arguments) -> int:
    from dom2_fast.cli import tables
    from dom2_fast.runs.diagnosis import diagnose_run

    use_threads(threads)
    found = diagnose_run(run, **arguments)
    agents = len(found["q"])
    rows = [[title, *(f"{v:.2f}" for v in found[name])] for name, title in _ROWS.items()]
    print(tables.table(["", *(f"agent {i}" for i in range(agents))], rows))
    print(f"raw score of all together: {found['together']:.1f} ({found['episodes']} episodes)")
    if "greedy" in found:
        print(f"raw score of the best actions on a grid, by Q1: {found['greedy']:.1f}")
    if "hits" in found:
        print(f"pairs of agents in contact per step: {found['hits']:.2f}")
    return 0
