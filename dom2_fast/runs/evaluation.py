"""Scores of policies: many episodes at once in the batched environment, and their statistics.

All policies meet the same starts (one fixed seed). Scores are raw returns as OMAR reports them, and
normalised ones, 100 (S - random) / (expert - random), with the published constants. This module
doesn't know how policies are trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dom2_fast import envs
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write

SEED = 2_000_000_000  # far from the small seeds that data is collected with
RESAMPLES = 9_999
SCORES, ROLLOUT = "scores.json", "rollout.npz"

Policies = Callable[..., torch.Tensor]  # (list of obs [E, obs_i], generator) -> act [E, G, A]


@torch.no_grad()
def evaluate(
    policies: Policies,
    env: str,
    episodes: int = 500,
    shift: str | None = None,
    seed: int = SEED,
    v_min: float | None = None,
    prey: str = "bundled",
    record: bool = False,
) -> dict:
    """Plays `episodes` episodes at once.

    Args:
        policies: called with the list of observations `[episodes, obs_i]` of the driven agents and
            a `torch.Generator`, gives actions `[episodes, agents, act_dim]`. `agent.policies` of
            every algorithm is one.
        env: a task of `envs.TASKS`.
        shift, v_min, prey: see `envs.make`.
        seed: of the starts and of the policies' noise; keep the default to compare policies.
        record: also return the first episode's states.
    Returns:
        the statistics of `statistics`, plus `shift`, `v_min` (if any), `seed` and, with `record`,
        `rollout` (see `save_rollout`).
    Raises:
        Dom2Error: an unknown task or shift; a policy of other observation widths.
    """
    if not isinstance(episodes, int) or episodes < 1:
        raise Dom2Error(f"episodes must be an integer >= 1, not {episodes!r}")
    world = envs.make(env, num_envs=episodes, seed=seed, shift=shift, v_min=v_min, prey=prey)
    expected = getattr(policies, "obs_dims", None)
    if expected is not None and list(expected) != list(world.obs_dims):
        raise Dom2Error(
            f"these policies take observations of widths {list(expected)}, {env} gives "
            f"{list(world.obs_dims)}: they were trained for another environment"
        )
    generator = torch.Generator().manual_seed(seed)
    obs = world.reset()
    sums = torch.zeros(episodes, world.num_agents, dtype=torch.float64)
    states = [world.state()[0]]
    for _ in range(world.episode_length):
        if hasattr(policies, "act"):
            act = policies.act(obs, generator=generator).transpose(0, 1)
        else:
            act = policies(obs, generator=generator)
        obs, reward, _done = world.step(act)
        sums += reward
        if record:
            states.append(world.state()[0])
    result = statistics(envs.episode_score(sums, env), env)
    result |= {"shift": shift, "seed": seed}
    if world.v_min is not None:
        result["v_min"] = world.v_min
    if record:
        result["rollout"] = {
            "task": env,
            "shift": shift or "",
            "states": torch.stack(states).double().numpy(),  # [T + 1, entities, 4]
            "sizes": np.array(world.spec.sizes),
            "kinds": np.array(world.spec.kinds),
            "return": float(result["returns"][0]),
        }
    return result


def statistics(scores: torch.Tensor, env: str | None = None, seed: int = 0) -> dict:
    """Mean, its 95 % bootstrap interval, interquartile mean and standard deviation of scores [E].

    Args:
        scores: one score per episode.
        env: adds `normalised` and `normalised_ci95` where the task has published constants.
        seed: of the bootstrap.
    """
    values = torch.as_tensor(scores, dtype=torch.float64).numpy()
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise Dom2Error("scores must be a list of finite numbers, at least one")
    low, high = bootstrap_interval(values, seed)
    result = {
        "mean": float(values.mean()),
        "ci95": [low, high],
        "iqm": interquartile_mean(values),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "episodes": len(values),
        "returns": [round(float(v), 4) for v in values],
    }
    if env is not None and envs.normalised_score(0.0, env) is not None:
        result["normalised"] = float(envs.normalised_score(result["mean"], env))
        result["normalised_ci95"] = [float(envs.normalised_score(v, env)) for v in (low, high)]
    return result


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean (scipy.stats.bootstrap)."""
    if len(values) == 1 or np.ptp(values) == 0.0:
        return float(values.mean()), float(values.mean())
    from scipy import stats

    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", vectorized=True,
        batch=max(1, 2**21 // len(values)), rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(interval.low), float(interval.high)


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half (Agarwal et al. 2021, arXiv 2108.13264)."""
    from scipy import stats

    return float(stats.trim_mean(values, 0.25))


def dataset_scores(data, env: str | None = None) -> dict:
    """The same statistics of a data set's own episodes: what its behaviour policy scored."""
    env = env or data.task
    if env is None:
        raise Dom2Error("this data set doesn't say its task: give env=...")
    return statistics(envs.episode_score(data.returns.T, env), env)


def random_policies(agents: int, act_dim: int = 2) -> Policies:
    """Uniform actions in [-1, 1]: the "random" of the normalised score."""

    def act(obs: list[torch.Tensor], generator: torch.Generator | None = None) -> torch.Tensor:
        return 2 * torch.rand(len(obs[0]), agents, act_dim, generator=generator) - 1

    return act


def setting_name(shift: str | None) -> str:
    """Key of a result in scores.json: "standard", "shift_speed", "shift_landmarks"."""
    return "standard" if shift is None else f"shift_{shift}"


def save_scores(folder, header: dict, results: dict[str, dict]) -> dict:
    """Merges results into the folder's scores.json, atomically; gives what is in it then.

    Args:
        header: `algo`, `env`, `data`, `step` of the evaluated run. Results of another step, data
            set or environment that are in the file already are dropped: they are of other policies.
        results: setting name -> statistics.
    Raises:
        Dom2Error: the file there can't be read; no space is left.
    """
    path = Path(folder) / SCORES
    kept = {}
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            if all(before.get(key) == value for key, value in header.items()):
                kept = dict(before["results"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Dom2Error(f"{path} can't be read ({error}): move it away") from error
    clean = {name: {k: v for k, v in r.items() if k != "rollout"} for name, r in results.items()}
    scores = {"format": 1, **header, "results": {**kept, **clean}}
    with atomic_write(path, "w") as file:
        json.dump(scores, file, indent=1)
        file.write("\n")
    return scores


def save_rollout(folder, rollout: dict) -> None:
    """Writes rollout.npz: `states [T + 1, entities, 4]` (position, velocity; agents then
    landmarks), `sizes [entities]`, `kinds [entities]`, `task`, `shift`, `return`."""
    with atomic_write(Path(folder) / ROLLOUT) as file:
        np.savez_compressed(file, **rollout)
