"""Scores of policies: many episodes at once in any environment, and their statistics.

All policies meet the same starts (one fixed seed). Scores are raw returns as the environment
reports them and, where it is registered with constants, normalised ones,
100 (S - random) / (expert - random). This module doesn't know how policies are trained, and of an
environment only what `envs.Env` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from dom2_fast import envs
from dom2_fast.errors import Dom2Error, whole_number

SEED = 2_000_000_000  # far from the small seeds that data is collected with
BATCH = 16_384  # episodes played at once at most, where the caller doesn't say
RESAMPLES = 9_999

# Anything with .act(obs, generator=None), or a function of that signature: observations [G, E, O]
# (a list of [E, O_i] where the agents' widths differ) -> actions [G, E, A]
Policies = Callable[..., torch.Tensor]
random_policies = envs.random_policies


@torch.no_grad()
def evaluate(
    policies: Policies,
    env: str | Callable | envs.EnvSpec,
    episodes: int = 500,
    shift: str | None = None,
    seed: int = SEED,
    record: bool = False,
    num_envs: int | None = None,
    **options,
) -> dict:
    """Plays `episodes` episodes, at most `num_envs` at once, each to its end.

    The episodes are divided into chunks of one size: as few as `num_envs` allows, played one after
    the other, surplus episodes of the last dropped. Chunk k's starts and noise are those of
    seed + k. So scores don't depend on `num_envs` where one chunk holds all episodes; another
    number of chunks plays other starts, with the same distribution.

    Args:
        policies: called with the observations of the driven agents, `[G, E, O]` (a list of
            `[E, O_i]` where widths differ), and `generator=`, a `torch.Generator`; gives actions
            `[G, E, A]`. `agent.policies` of every algorithm is one, a `FrozenPolicy` too: an object
            with `act`, or a function.
        env: a name (`envs.names()`), "module:function", or a function that makes an `Env` or a
            PettingZoo `ParallelEnv`; see `envs.resolve`.
        shift: one of the environment's shifts, or None.
        seed: of the starts and of the policies' noise; keep the default to compare policies.
        record: also return the first episode, where the environment has a `recording()`.
        num_envs: None: what the environment was registered with (`most`), else `BATCH`, or
            `envs.ADAPTED` where it comes one copy at a time.
            The particle tasks take up to 4 kB per copy, so that BATCH of them take 60 MB, beside
            what the policies need.
        options: of the shift (such as `v_min`) and of the environment (such as `prey`).
    Returns:
        the statistics of `statistics`, plus `shift` and its options, `seed`, `num_envs` (episodes
        in a chunk), `options` (the environment's, where any was given), what the environment says
        about itself (the particle tasks: `prey` and `prey_strength`) and, with `record`,
        `rollout` (see `scoring.save_rollout`).
    Raises:
        Dom2Error: an unknown environment, shift or option; policies of other widths; all before
            anything is played. Actions of another shape than [G, E, A]; scores that aren't finite.
    """
    spec = envs.resolve(env)
    chunks, size = chunks_of(spec, episodes, seed, num_envs)
    world = spec.make(size, seed=seed, shift=shift, **options)
    try:
        check_fits(policies, world, spec.name)
        frames: list[dict] = []
        if not hasattr(world, "recording"):
            record = False
        scores = []
        for chunk in range(chunks):
            film = frames if record and chunk == 0 else None
            scores.append(_play_chunk(policies, world, seed + chunk, film))
    finally:
        getattr(world, "close", lambda: None)()
    result = statistics(torch.cat(scores)[:episodes], spec.name)
    result |= {"shift": shift, "seed": seed, "num_envs": size}
    of_shift = spec.shift_options(shift, options)
    result |= of_shift
    given = {k: v for k, v in options.items() if v is not None and k not in of_shift}
    if given:
        result["options"] = {k: _plain(v) for k, v in given.items()}
    result |= getattr(world, "about", dict)()
    if record:
        result["rollout"] = {
            **frames[0],
            "task": spec.name,
            "shift": shift or "",
            "states": np.stack([frame["states"] for frame in frames]),  # [T + 1, entities, 4]
            "return": float(result["returns"][0]),
        }
    return result


def chunks_of(
    spec: envs.EnvSpec, episodes: int, seed: int, num_envs: int | None
) -> tuple[int, int]:
    """(number of chunks, episodes in each) of `evaluate`, which has the arguments; checked."""
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0)):
        whole_number(name, value, least)
    if num_envs is None:
        num_envs = spec.most or (BATCH if spec.batched else envs.ADAPTED)
    whole_number("num_envs", num_envs, 1)
    chunks = math.ceil(episodes / num_envs)
    return chunks, math.ceil(episodes / chunks)


def _plain(value):
    """What JSON can hold, else the value's name."""
    return value if isinstance(value, bool | int | float | str | list | tuple) else str(value)


def _play_chunk(policies: Policies, world: envs.Env, seed: int, frames: list | None):
    """Scores [E] of one episode of every copy; with `frames`, the first copy's moments go there."""
    generator = torch.Generator().manual_seed(seed)
    choose = getattr(policies, "act", policies)

    def act(obs: envs.Obs) -> torch.Tensor:
        if frames == []:
            frames.append(_checked(world.recording()))
        return choose(obs, generator=generator)

    def film(step: envs.Step) -> None:
        if frames is not None and bool(step.alive[0]):
            frames.append(world.recording())

    return world.score(envs.reward_sums(world, act, seed, film))


def _checked(frame: dict) -> dict:
    lacks = [key for key in ("states", "sizes", "kinds") if key not in frame]
    if lacks:
        raise Dom2Error(
            f"recording() gave {', '.join(frame) or 'nothing'}; it must give states, sizes and "
            f"kinds (see dom2_fast.envs.Env), or not be there; it lacks {', '.join(lacks)}"
        )
    return frame


def check_fits(policies: Policies, world: envs.Env, name: str) -> None:
    """Refuses policies that say other widths than the environment has."""
    if not callable(getattr(policies, "act", policies)):
        raise Dom2Error(
            f"policies have act(obs, generator=None) or are a function of that signature, got "
            f"{type(policies).__name__}"
        )
    taken = getattr(policies, "obs_dims", None)
    if taken is None and getattr(policies, "groups", None) and hasattr(policies, "obs_dim"):
        taken = [policies.obs_dim] * policies.groups
    if taken is not None and list(taken) != list(world.obs_dims):
        raise Dom2Error(
            f"these policies take observations of widths {list(taken)}, {name} gives "
            f"{list(world.obs_dims)}: they were trained for another environment"
        )
    given = getattr(policies, "act_dim", None)
    if isinstance(given, int) and given != world.act_dim:
        raise Dom2Error(
            f"these policies give actions of width {given}, {name} takes {world.act_dim}: they "
            "were trained for another environment"
        )


def statistics(scores: torch.Tensor, env: str | None = None, seed: int = 0) -> dict:
    """Mean, its 95 % bootstrap interval, interquartile mean and standard deviation of scores [E].

    Args:
        scores: one score per episode.
        env: adds `normalised` and `normalised_ci95` where it is registered with constants.
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
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=True,
        batch=max(1, 2**21 // len(values)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half (Agarwal et al. 2021, arXiv 2108.13264)."""
    from scipy import stats

    return float(stats.trim_mean(values, 0.25))


def dataset_scores(data, env: str | None = None) -> dict:
    """The same statistics of a data set's own episodes: what its behaviour policy scored.

    Args:
        data: a `TrajectoryDataset`.
        env: whose rule of scoring counts; None: the data set's own. Where `env` isn't registered,
            an episode's score is the mean over the agents.
    """
    env = env or data.task
    if env is None:
        raise Dom2Error("this data set doesn't say its task: give env=...")
    known = env in envs.names() or ":" in env
    returns = data.returns  # [G, episodes]
    return statistics(envs.episode_score(returns, env) if known else returns.mean(dim=0), env)
