"""A run's scores: its policies are evaluated, scores.json and rollout.npz are kept up to date."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dom2_fast import checkpoint as checkpoints
from dom2_fast import envs
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write, held
from dom2_fast.runs import evaluation
from dom2_fast.runs import solutions as repeated
from dom2_fast.runs.acting import policies_of
from dom2_fast.runs.folder import LOCK, ROLLOUT, SCORES, STANDARD, setting_name


def evaluate_run(
    run,
    *,
    env: str | Callable | None = None,
    episodes: int = 500,
    shift: str | None = None,
    checkpoint: str = "last",
    candidates: int | None = None,
    num_envs: int | None = None,
    seed: int = evaluation.SEED,
    solutions: int | None = None,
    **options,
) -> dict:
    """Evaluates a run's last or best checkpoint and writes its scores.json and rollout.npz.

    Results of other settings that are in scores.json already stay there; each says which
    checkpoint it is of, and of which step. rollout.npz holds the first episode of the standard
    setting (of what was evaluated first, until then), where the environment has a recording.

    Args:
        run: a run folder.
        env: a registered name, "module:function" or a function, see `evaluation.evaluate`; None:
            the run's own. A run of a registered environment isn't evaluated in another one.
        checkpoint: "last", or "best": of all evaluations on the way, the one with the highest
            return. It was chosen by the first episodes of the default seed's, so that another
            `seed` gives what it scores on starts that had no part in the choice.
        candidates: act with the best of that many samples, whatever the run's settings say; the
            result has a name of its own, such as standard_candidates_1.
        episodes, shift, num_envs, seed: see `evaluation.evaluate`.
        solutions: K: also play each start K times with other noise and count the ways in which
            the episodes end; the result has them as `solutions`, see `solutions.solutions`.
        options: of the environment and of its shift, such as `prey` and `v_min`.
    Returns: what is in scores.json then.
    Raises: Dom2Error: no environment is known, or it is another than the run's; the run keeps
        no best checkpoint; see `checkpoint.load`, `evaluation.evaluate` and `solutions.solutions`.
    """
    folder = Path(run)
    acting = policies_of(folder, checkpoint, candidates)
    spec = envs.resolve(_environment(folder, acting.env, env))
    played = {"shift": shift, "seed": seed, "num_envs": num_envs, **options}
    ways = None
    if solutions is not None:
        ways = repeated.solutions(acting.policies, spec, solutions, episodes, **played)
    result = evaluation.evaluate(acting.policies, spec, episodes, record=True, **played)
    if ways is not None:
        result["solutions"] = ways
    rollout = result.pop("rollout", None)
    name = setting_name(shift, checkpoint, candidates)
    result |= {"checkpoint": checkpoint, "step": acting.step}
    if candidates is not None:
        result["candidates"] = candidates
    last = acting.step if checkpoint == "last" else checkpoints.load(folder)["step"]
    header = {"algo": acting.algo, "env": spec.name, "data": acting.data, "step": last}
    scores = save_scores(folder, header, {name: result})
    if rollout is not None and (name == STANDARD or not (folder / ROLLOUT).exists()):
        save_rollout(folder, rollout)
    return scores


def _environment(folder: Path, own: str | None, asked: str | Callable | None):
    if asked is None:
        if own is None:
            raise Dom2Error(f"the run in {folder} doesn't say its environment: give one (env=...)")
        return own
    if own in envs.names() and asked in envs.names() and asked != own:
        raise Dom2Error(
            f"the run in {folder} is of environment {own!r}, {asked!r} was asked for: give a run "
            f"of {asked!r}, or leave the environment out"
        )
    return asked


def save_scores(folder, header: dict, results: dict[str, dict]) -> dict:
    """Merges results into the folder's scores.json, atomically; gives what is in it then.

    Args:
        header: `algo`, `env`, `data`, `step` of the run. Results of another step, data set or
            environment that are in the file already are dropped: they are of other policies. So
            are those of the same `checkpoint` at another step.
        results: setting name -> statistics.
    Raises:
        Dom2Error: the file there can't be read; no space is left.
    """
    path = Path(folder) / SCORES
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path.with_name(LOCK)):  # else one of two processes would forget the other's results
        scores = {"format": 1, **header, "results": _merged(path, header, results)}
        with atomic_write(path, "w") as file:
            json.dump(scores, file, indent=1)
            file.write("\n")
    return scores


def _merged(path: Path, header: dict, results: dict[str, dict]) -> dict[str, dict]:
    """What is to stay of the results in the file, and the new ones."""
    kept = {}
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            if all(before.get(key) == value for key, value in header.items()):
                kept = {k: r for k, r in before["results"].items() if not _outdated(r, results)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Dom2Error(f"{path} can't be read ({error}): move it away") from error
    clean = {name: {k: v for k, v in r.items() if k != "rollout"} for name, r in results.items()}
    return {**kept, **clean}


def _outdated(old: dict, results: dict[str, dict]) -> bool:
    return any(
        old.get("checkpoint") == new.get("checkpoint") and old.get("step") != new.get("step")
        for new in results.values()
    )


def save_rollout(folder, rollout: dict) -> None:
    """Writes rollout.npz: `states [T + 1, entities, 4]` (position, velocity; agents then
    landmarks), `sizes [entities]`, `kinds [entities]`, `task`, `shift`, `return`."""
    with atomic_write(Path(folder) / ROLLOUT) as file:
        np.savez_compressed(file, **rollout)
