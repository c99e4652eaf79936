"""Trains the behaviours of a task with MATD3 and cuts out medium, replay and expert policies.

The method is `matd3.py`, what is shipped `shipped.py`. Run:
`python -m dom2_fast.behaviours.training --task simple_spread --out behaviour_simple_spread.npz`
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import torch

from dom2_fast import envs
from dom2_fast.behaviours.matd3 import MATD3, MATD3Config
from dom2_fast.behaviours.shipped import BehaviourPolicy, noisy, write
from dom2_fast.errors import Dom2Error


@torch.no_grad()
def noisy_return(
    policy: BehaviourPolicy, env: envs.Env, noise: float, generator: torch.Generator
) -> float:
    """Mean over `env`'s copies and agents of one episode's return, with behaviour noise."""
    act = noisy(policy, noise)
    return envs.reward_sums(env, lambda obs: act(obs, generator)).mean().item()


def train_behaviours(
    task: str,
    config: MATD3Config,
    medium: tuple[float, float] = (265.0, 281.0),
    snapshots: int = 6,
    every: int = 100,
    episodes: int = 500,
    on_cut: Callable[[dict[str, BehaviourPolicy]], None] = lambda policies: None,
) -> tuple[dict[str, BehaviourPolicy], dict]:
    """Train once and cut out the behaviours: replay_0.., medium and expert.

    Snapshots are scored every `every` steps with behaviour noise. Medium is the first one inside
    `medium` (OMAR's medium data average 273.39); the replay snapshots are spread evenly in time
    from the start up to it, as a replay buffer at that moment would hold them; expert is the best
    one of the run. Once medium is there, `on_cut` gets all policies after each change.

    Returns:
        policies by name, and a record: config, and the curve of (step, return).
    """
    env = envs.make(task, config.num_envs, config.seed)
    scorer = envs.make(task, episodes, config.seed + 1)
    agent = MATD3(env, config)
    generator = torch.Generator().manual_seed(config.seed + 2)
    curve: list[tuple[int, float]] = []
    history: list[BehaviourPolicy] = []
    cut: dict[str, BehaviourPolicy] = {}
    best = -math.inf

    def on_step(step: int) -> None:
        nonlocal best
        if step % every or step < config.warmup:
            return
        policy = agent.policy()
        score = noisy_return(policy, scorer, config.explore_noise, generator)
        curve.append((step, round(score, 2)))
        print(f"{task} step {step}: return {score:.1f}", file=sys.stderr, flush=True)
        if "medium" not in cut:
            history.append(policy)
            if medium[0] <= score <= medium[1]:
                cut["medium"] = policy
                for i in range(snapshots):
                    cut[f"replay_{i}"] = history[(i + 1) * (len(history) - 1) // snapshots]
        if score > best:
            best, cut["expert"] = score, policy
            if "medium" in cut:
                on_cut(cut)

    agent.fit(on_step)
    if "medium" not in cut:
        raise Dom2Error(
            f"no snapshot scored within {medium}: train longer, or score more often (now {every})"
        )
    return cut, {"task": task, "config": asdict(config), "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dom2_fast.behaviours.training",
        description="Train the behaviour policies of a task and write them as one .npz.",
    )
    parser.add_argument("--task", default="simple_spread")
    parser.add_argument("--out", type=Path, required=True, help="file to write (.npz)")
    parser.add_argument("--threads", type=int, default=1)
    for option in fields(MATD3Config):
        kind = type(option.default)
        flag = "--" + option.name.replace("_", "-")
        text = f"{option.metadata['source']} (default: {option.default})"
        if kind is bool:
            parser.add_argument(flag, action="store_true", help=text)
        else:
            parser.add_argument(flag, type=kind, default=option.default, help=text)
    args = parser.parse_args()
    record_path = args.out.with_suffix(".json")
    for path in (args.out, record_path):
        if path.exists():
            parser.error(f"{path} exists; move it away or choose another name")
    torch.set_num_threads(args.threads)
    try:
        config = MATD3Config(**{o.name: getattr(args, o.name) for o in fields(MATD3Config)})
        # Written as soon as there is a medium policy: an interrupted run leaves what it has.
        _, record = train_behaviours(
            args.task, config, on_cut=lambda cut: write(args.out, cut, config.explore_noise)
        )
    except Dom2Error as error:
        sys.exit(f"error: {error}")
    record_path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
