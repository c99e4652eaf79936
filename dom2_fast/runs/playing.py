"""Playing a few episodes to look at: their returns, and what a film needs of them.

Scores over many episodes are the business of `evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dom2_fast import envs
from dom2_fast.errors import Dom2Error, whole_number
from dom2_fast.policies import pretrained
from dom2_fast.policies.frozen import load_policy
from dom2_fast.runs.acting import policies_of
from dom2_fast.runs.evaluation import Policies, check_fits


@dataclass
class Episode:
    """One played episode.

    Attributes:
        seed: of its start and of the policies' noise.
        score: its return, by the environment's rule, over the steps that were played.
        steps: how many these were.
        frames: with `record`, the moments before, between and after them, as `Env.recording`
            gives them; running: the score up to each.
        removed: landmarks without reward, in the particle tasks' shift "landmarks".
    """

    seed: int
    score: float
    steps: int
    frames: list[dict] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    removed: tuple[int, ...] = ()


def policies_for(task: str, policy: str | None = None, checkpoint: str = "last") -> Policies:
    """What plays a task.

    Args:
        task: a registered environment's name, or "module:function".
        policy: a run folder or checkpoint, an exported file, or a name of `pretrained.names()`;
            None: the shipped policy of the task, "TASK/expert" where there are several.
        checkpoint: of a run, "last" or "best".
    Raises:
        Dom2Error: nothing is shipped for the task; `policy` is none of these, or was trained in
            another registered environment.
    """
    shipped = pretrained.names()
    listed = ", ".join(shipped) or "none"
    if policy is None:
        own = [name for name in shipped if name.rpartition("/")[0] == task]
        if not own:
            raise Dom2Error(
                f"no policy is shipped for {task} (there are: {listed}): give one, a run folder or "
                "an exported file"
            )
        best = f"{task}/expert"
        return pretrained.pretrained(best if best in own else own[0])
    path = Path(policy)
    if policy in shipped and not path.exists():
        chosen = pretrained.pretrained(policy)
    elif path.is_dir() or (path.is_file() and _is_checkpoint(path)):
        acting = policies_of(path, checkpoint)
        _check_task(task, acting.env, policy)
        return acting.policies
    elif path.is_file():
        chosen = load_policy(path)
    else:
        raise Dom2Error(
            f"{policy} is no run folder, no file and no pretrained policy; of these there are: "
            f"{listed}"
        )
    _check_task(task, chosen.notes.get("env"), policy)
    return chosen


def _is_checkpoint(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"  # torch.save makes a zip file


def _check_task(task: str, own: str | None, policy: str) -> None:
    if own in envs.names() and own != task:
        raise Dom2Error(
            f"{policy} was trained in {own!r}, {task!r} was asked for: give a policy of {task!r}, "
            f"or play {own}"
        )


@torch.no_grad()
def play(
    policies: Policies,
    env: str | Callable | envs.EnvSpec,
    episodes: int = 1,
    seed: int = 0,
    shift: str | None = None,
    steps: int | None = None,
    record: bool = False,
    **options,
) -> list[Episode]:
    """Plays episodes one after the other; episode k is that of `seed` + k.

    So episode k has the return of `evaluation.evaluate(..., episodes=1, seed=seed + k)`.

    Args:
        policies, env, shift, options: as of `evaluation.evaluate`.
        steps: at most so many of each episode; None: all.
        record: keep what a film needs.
    Raises:
        Dom2Error: as `evaluation.evaluate`; with `record`, an environment without `recording()`.
    """
    spec = envs.resolve(env)
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0)):
        whole_number(name, value, least)
    if steps is not None:
        whole_number("steps", steps, 1)
    world = spec.make(1, seed=seed, shift=shift, **options)
    try:
        check_fits(policies, world, spec.name)
        if record and not hasattr(world, "recording"):
            raise Dom2Error(
                f"{spec.name} can't be filmed: it has no recording() (see dom2_fast.envs.Env)"
            )
        return [_play_one(policies, world, seed + k, steps, record) for k in range(episodes)]
    finally:
        getattr(world, "close", lambda: None)()


def _play_one(policies: Policies, world, seed: int, steps: int | None, record: bool) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    choose = getattr(policies, "act", policies)
    sums = torch.zeros(world.num_agents, 1, dtype=torch.float64)
    episode = Episode(seed, 0.0, 0)

    def act(obs):
        if record and not episode.frames:
            episode.removed = tuple(getattr(world, "removed_landmarks", ()))
            keep()
        return choose(obs, generator=generator)

    def keep() -> None:
        episode.frames.append(world.recording())
        episode.running.append(float(world.score(sums)[0]))

    for step in envs.play(world, act, seed):
        sums += step.reward.to(sums)
        episode.steps += 1
        if record:
            keep()
        if episode.steps == steps:
            break
    episode.score = float(world.score(sums)[0])
    return episode
