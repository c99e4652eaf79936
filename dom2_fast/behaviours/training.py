"""Trains the behaviours of a task with MATD3 and cuts out medium, replay and expert policies.

The method is `matd3.py`, what is shipped `shipped.py`. Run:
`python -m dom2_fast.behaviours.training --task simple_tag --out behaviour_simple_tag.npz`
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from dom2_fast import envs
from dom2_fast.behaviours.matd3 import MATD3, MATD3Config
from dom2_fast.behaviours.shipped import BehaviourPolicy, noisy, write
from dom2_fast.checkpoint import load, save
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write

METHOD = "matd3"  # what checkpoints say they are of
KEEP = 60  # seconds between two checkpoints at least: they hold the whole buffer
REPLAY = 6  # snapshots that stand for a replay buffer
SLACK = 0.045  # of the wanted mean: how far a medium policy may be from it


@dataclass(frozen=True)
class Wanted:
    """Mean returns (with behaviour noise) that the behaviours of a task are cut out at."""

    replay: float
    medium: float
    expert: float  # at least


# Means of OMAR's data sets, as OG-MARL's data card gives them.
CARD = {
    "simple_spread": Wanted(203.74, 273.39, 530.95),
    "simple_tag": Wanted(3.90, 116.36, 207.90),
    "simple_world": Wanted(1.23, 65.86, 85.21),
    "halfcheetah_2x3": Wanted(423.49, 1568.87, 3338.69),
}
# Where a task has no published data: the share of the way from random to the best policy of the
# run, the same as the card has for simple_spread from random (159.57) to expert.
SHARES = {"replay": 0.119, "medium": 0.306}
# How a task's run differs from `MATD3Config`'s own numbers; "every": steps between two snapshots;
# "episodes" and "again": how many a snapshot is scored on, the first and the second time; "half":
# written as float16.
EPISODES, AGAIN = 500, 4000
SETTINGS: dict[str, dict] = {
    "simple_tag": {
        "steps": 10_000,
        "stop_after": 10_000,
        "batch_size": 512,
        "every": 25,
        "reward_scale": 0.05,
    },
    "spread_6_landmarks": {"steps": 6000, "stop_after": 6000, "batch_size": 512, "every": 50},
    "simple_world": {
        "steps": 8000,
        "stop_after": 5000,
        "batch_size": 512,
        "critic_hidden": 64,
        "every": 25,
    },
    # 1.6 million environment steps, a quarter as many updates.
    "halfcheetah_2x3": {
        "num_envs": 16,
        "steps": 100_000,
        "stop_after": 100_000,
        "updates": 4,
        "warmup": 625,
        "batch_size": 256,
        "hidden": 128,
        "actor_lr": 5e-4,
        "gamma": 0.99,
        "tau": 0.005,
        "joint_policy_gradient": True,
        "critic_state": True,
        "every": 250,
        "episodes": 20,
        "again": 100,
        "half": True,
    },
}


@dataclass(frozen=True)
class Snapshot:
    """The policies of one moment of a run, and their mean return with behaviour noise."""

    step: int
    score: float
    policy: BehaviourPolicy


@torch.no_grad()
def noisy_return(
    policy: BehaviourPolicy, env: envs.Env, noise: float, generator: torch.Generator
) -> float:
    """Mean over `env`'s copies of one episode's score, with behaviour noise."""
    act = noisy(policy, noise)
    return env.score(envs.reward_sums(env, lambda obs: act(obs, generator))).mean().item()


def train(
    task: str,
    config: MATD3Config,
    every: int = 100,
    episodes: int = EPISODES,
    until: Callable[[list[Snapshot]], bool] = lambda history: False,
    checkpoint: Path | None = None,
) -> list[Snapshot]:
    """One run's snapshots, one every `every` steps, each scored on `episodes` episodes.

    It ends with the config's steps, or as soon as `until` says so of the snapshots so far. With
    `checkpoint`, a file, the state is kept there once a minute, at a snapshot, and training
    goes on from it where the file exists, with new episodes.
    """
    env = envs.make(task, config.num_envs, config.seed)
    scorer = envs.make(task, episodes, config.seed + 1)
    agent = MATD3(env, config)
    generator = torch.Generator().manual_seed(config.seed + 2)
    history: list[Snapshot] = []
    kept = [time.monotonic()]
    if checkpoint is not None and checkpoint.exists():
        saved = load(checkpoint, algo=METHOD, env=task)
        agent.load_state_dict(saved["agent"])
        history += [Snapshot(s, r, BehaviourPolicy(layers)) for s, r, layers in saved["history"]]

    def on_step(step: int) -> bool:
        if step % every or step < config.warmup:
            return False
        policy = agent.policy()
        score = noisy_return(policy, scorer, config.explore_noise, generator)
        history.append(Snapshot(step, score, policy))
        print(f"{task} step {step}: return {score:.1f}", file=sys.stderr, flush=True)
        if checkpoint is not None and time.monotonic() - kept[0] > KEEP:
            kept[0] = time.monotonic()
            snapshots = [(s.step, s.score, s.policy.layers) for s in history]
            content = {"algo": METHOD, "env": task, "agent": agent.state_dict()}
            save(checkpoint, content | {"history": snapshots})
        return until(history)

    agent.fit(on_step)
    return history


def wanted(task: str, history: Sequence[Snapshot], random: float) -> Wanted:
    """A task's means: of the card, or `SHARES` of the way from `random` to the best snapshot."""
    if task in CARD:
        return CARD[task]
    best = max(snapshot.score for snapshot in history)
    way = {kind: random + share * (best - random) for kind, share in SHARES.items()}
    return Wanted(expert=best, **way)


class SecondScore:
    """Scores a snapshot on many other episodes than the run did; each once."""

    def __init__(self, task: str, noise: float, seed: int, episodes: int = AGAIN):
        self.env, self.noise, self.known = envs.make(task, episodes, seed), noise, {}

    def __call__(self, snapshot: Snapshot) -> float:
        if snapshot.step not in self.known:
            generator = torch.Generator().manual_seed(snapshot.step)
            score = noisy_return(snapshot.policy, self.env, self.noise, generator)
            self.known[snapshot.step] = score
        return self.known[snapshot.step]


def cut(
    history: Sequence[Snapshot],
    means: Wanted,
    again: Callable[[Snapshot], float] = lambda snapshot: snapshot.score,
) -> dict[str, Snapshot]:
    """Cut a run's behaviours out: medium, expert, replay_0, replay_1, ...

    Medium is the first snapshot within `SLACK` of its mean, expert the first one at its mean or
    above; both have to be so a second time, in the score that `again` gives, since one of many
    noisy scores is soon good enough. A run that never comes there has its best as expert.

    Replay is what a buffer holds that was filled from the start of the run up to some moment:
    `REPLAY` snapshots evenly spaced in time up to it, to be played in equal shares; the moment is
    the one at which their mean is nearest to the wanted one. What the run doesn't reach is not in
    the result.
    """
    found: dict[str, Snapshot] = {}

    def near(score: float) -> bool:
        return abs(score - means.medium) <= SLACK * abs(means.medium)

    for snapshot in history:
        if "medium" not in found and near(snapshot.score) and near(again(snapshot)):
            found["medium"] = snapshot
        if "expert" not in found and _at_least(means.expert, snapshot, again):
            found["expert"] = snapshot
    if history:
        found.setdefault("expert", max(history, key=lambda snapshot: snapshot.score))
    best = math.inf
    for count in range(REPLAY + 1, len(history) + 1):
        chosen = [history[(i + 1) * (count - 1) // REPLAY] for i in range(REPLAY)]
        off = abs(sum(snapshot.score for snapshot in chosen) / REPLAY - means.replay)
        if off < best:
            best = off
            found |= {f"replay_{i}": snapshot for i, snapshot in enumerate(chosen)}
    return found


def _at_least(mean: float, snapshot: Snapshot, again: Callable[[Snapshot], float]) -> bool:
    return snapshot.score >= mean and again(snapshot) >= mean


def random_score(task: str, episodes: int = 4000, seed: int = 0) -> float:
    """Mean score of uniform actions."""
    env = envs.make(task, episodes, seed)
    uniform = envs.random_policies(env.num_agents, env.act_dim)
    generator = torch.Generator().manual_seed(seed + 1)
    sums = envs.reward_sums(env, lambda obs: uniform(obs, generator))
    return env.score(sums).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dom2_fast.behaviours.training",
        description="Train the behaviour policies of a task and write them as one .npz.",
    )
    parser.add_argument("--task", default="simple_spread")
    parser.add_argument("--out", type=Path, required=True, help="file to write (.npz)")
    parser.add_argument("--every", type=int, help="steps between two snapshots")
    parser.add_argument("--episodes", type=int, help="that a snapshot is scored on")
    parser.add_argument("--again", type=int, help="that a chosen snapshot is scored on once more")
    parser.add_argument("--half", action="store_true", help="write float16: half the size")
    parser.add_argument(
        "--checkpoint", type=Path, help="file that keeps the training's state, to go on from"
    )
    parser.add_argument("--threads", type=int, default=1)
    task = parser.parse_known_args()[0].task if "--help" not in sys.argv else ""
    own = {"every": 100, "episodes": EPISODES, "again": AGAIN} | SETTINGS.get(task, {})
    for option in fields(MATD3Config):
        kind = type(option.default)
        flag = "--" + option.name.replace("_", "-")
        text = f"{option.metadata['source']} (default: {own.get(option.name, option.default)})"
        if kind is bool:
            parser.add_argument(flag, action="store_true", help=text)
        else:
            parser.add_argument(flag, type=kind, default=option.default, help=text)
    parser.set_defaults(**own)
    args = parser.parse_args()
    if args.out.suffix != ".npz":
        parser.error(f"--out {args.out} must end in .npz: a record goes beside it, as .json")
    record_path = args.out.with_suffix(".json")
    for path in (args.out, record_path):
        if path.exists():
            parser.error(f"{path} exists; move it away or choose another name")
    torch.set_num_threads(args.threads)
    try:
        config = MATD3Config(**{o.name: getattr(args, o.name) for o in fields(MATD3Config)})
        # The card's expert is known beforehand, so the run ends where it's reached.
        enough = CARD[args.task].expert if args.task in CARD else math.inf
        again = SecondScore(args.task, config.explore_noise, config.seed + 3, args.again)

        def reached(history: list[Snapshot]) -> bool:
            return _at_least(enough, history[-1], again)

        history = train(
            args.task, config, args.every, args.episodes, reached, checkpoint=args.checkpoint
        )
        random = 0.0 if args.task in CARD else random_score(args.task)
        means = wanted(args.task, history, random)
        found = cut(history, means, again if args.task in CARD else lambda s: s.score)
        missing = {"medium", "expert", "replay_0"} - found.keys()
        if missing:
            print(
                f"{args.task}: the run has no {', '.join(sorted(missing))} policy ({means} are the "
                "wanted means): train longer, or take a snapshot more often",
                file=sys.stderr,
            )
        if again(found["expert"]) < means.expert and args.task in CARD:
            print(
                f"{args.task}: the best policy of the run scores {again(found['expert']):.1f}, the "
                f"card's expert {means.expert}: train longer",
                file=sys.stderr,
            )
        policies = {name: snapshot.policy for name, snapshot in found.items()}
        write(args.out, policies, config.explore_noise, args.half)
    except Dom2Error as error:
        sys.exit(f"error: {error}")
    record = {
        "task": args.task,
        "config": asdict(config),
        "wanted": asdict(means),
        "cut": {name: [s.step, round(s.score, 2)] for name, s in sorted(found.items())},
        "curve": [(s.step, round(s.score, 2)) for s in history],
    }
    with atomic_write(record_path, "w") as file:
        file.write(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
