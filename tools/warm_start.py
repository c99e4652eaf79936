"""What a warm start costs in return: `python tools/warm_start.py RUN...`, a Markdown table.

Every action but an episode's first is sampled from the one before, noised to the level of step k
(`DiffusionPolicy.sample(obs, x_T=last, start=k)`), so that steps - k calls of the network remain.
All columns play the same starts, one sample an action (no choice by a critic); the run's own way of
acting may do better. Rounds of each column's time are taken in turns, one row of each agent.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from dom2_fast.runs import evaluation
from dom2_fast.runs.acting import policies_of

ROUNDS, CALLS = 15, 200


class Warm:
    """Acts for one batch of episodes that begin together; start None: always the whole walk."""

    def __init__(self, policy, start: int | None) -> None:
        self.policy, self.start, self.last = policy, start, None

    @torch.no_grad()
    def act(self, obs: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        warm = {} if None in (self.start, self.last) else {"x_T": self.last, "start": self.start}
        self.last = self.policy.sample(obs, generator=generator, **warm)
        return self.last


def microseconds(policy, starts: list[int | None]) -> list[float]:
    """Of one action of every agent, for each start: medians over rounds in turns."""
    obs = torch.zeros(policy.groups, 1, policy.obs_dim)
    acting = [Warm(policy, start) for start in starts]
    rounds: list[list[float]] = [[] for _ in starts]
    for _ in range(ROUNDS):
        for one, taken in zip(acting, rounds, strict=True):
            begin = time.perf_counter()
            for _ in range(CALLS):
                one.act(obs)
            taken.append((time.perf_counter() - begin) / CALLS * 1e6)
    return [statistics.median(taken) for taken in rounds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of a diffusion policy")
    parser.add_argument("--episodes", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for run in options.runs:
        acting = policies_of(run, "last", None)
        policy = acting.policies.policy
        starts = [None, *range(policy.steps)]
        names = ["cold", *map(str, starts[1:])]
        print(f"| {acting.env}, start | {' | '.join(names)} |")
        print("| --- |" + " --- |" * len(starts))
        scores = []
        for start in starts:
            warm = Warm(policy, start)
            found = evaluation.evaluate(
                warm, acting.env, options.episodes, num_envs=options.episodes
            )
            scores.append(f"{found['normalised']:.1f}")
        print(f"| normalised return | {' | '.join(scores)} |")
        times = [f"{t:.0f}" for t in microseconds(policy, starts)]
        print(f"| µs an action of all agents | {' | '.join(times)} |\n", flush=True)


if __name__ == "__main__":
    main()
