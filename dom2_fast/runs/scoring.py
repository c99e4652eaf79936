"""A run's scores: its policies are evaluated, scores.json and rollout.npz are kept up to date."""

from __future__ import annotations

from pathlib import Path

from dom2_fast.errors import Dom2Error
from dom2_fast.runs import evaluation
from dom2_fast.runs.acting import policies_of
from dom2_fast.runs.folder import ROLLOUT, setting_name


def evaluate_run(
    run,
    *,
    env: str | None = None,
    episodes: int = 500,
    shift: str | None = None,
    num_envs: int | None = None,
    seed: int = evaluation.SEED,
    **options,
) -> dict:
    """Evaluates a run's latest checkpoint and writes its scores.json and rollout.npz.

    Results of other settings that are in scores.json already stay there. rollout.npz holds the
    first episode of the standard setting (of the shifted one if that was evaluated first).

    Args:
        run: a run folder.
        env: where the run doesn't say its environment: a registered name.
        episodes, shift, num_envs, seed: see `evaluation.evaluate`.
        options: of the environment and of its shift, such as `v_min` or `prey`.
    Returns: what is in scores.json then.
    Raises: Dom2Error: see `checkpoint.load` and `evaluation.evaluate`.
    """
    folder = Path(run)
    acting = policies_of(folder, env)
    env = env or acting.env
    if env is None:
        raise Dom2Error(f"the run in {folder} doesn't say its environment: give one (env=...)")
    if num_envs is not None:
        options["num_envs"] = num_envs
    result = evaluation.evaluate(
        acting.policies,
        env=env,
        episodes=episodes,
        shift=shift,
        seed=seed,
        record=True,
        **options,
    )
    rollout = result.pop("rollout", None)
    header = {"algo": acting.algo, "env": env, "data": acting.data, "step": acting.step}
    scores = evaluation.save_scores(folder, header, {setting_name(shift): result})
    if rollout is not None and (shift is None or not (folder / ROLLOUT).exists()):
        evaluation.save_rollout(folder, rollout)
    return scores
