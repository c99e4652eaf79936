"""Collects offline data in OMAR's layout from the batched environments and shipped behaviours.

Loading and cutting data is `trajectories.py`; training the behaviours is `dom2_fast.algos.matd3`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dom2_fast import envs
from dom2_fast._version import __version__
from dom2_fast.behaviours import shipped as behaviours
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.envs.particle.prey import PreyPolicy
from dom2_fast.errors import Dom2Error

QUALITIES = ("random", "medium-replay", "medium", "expert")
_BATCH = 4096  # episodes stepped together; bounds the memory beside the result

Policy = Callable[[list[Tensor], torch.Generator], Tensor]


@torch.no_grad()
def collect(
    task: str,
    quality: str,
    episodes: int = 4000,
    seed: int = 0,
    out: str | Path | None = None,
    prey: str = "bundled",
) -> TrajectoryDataset:
    """Play `episodes` episodes of 25 steps and write them as a dataset.

    How the qualities are made follows OMAR (arXiv 2111.11188, appendix B): "random" draws uniform
    actions; "medium" and "expert" are one MATD3 policy each with Gaussian exploration noise (0.1);
    "medium-replay" is what a replay buffer holds when training reaches medium: equal shares of
    policies evenly spaced in training up to then, the oldest first.

    Args:
        task: one of `envs.TASKS`; behaviours other than "random" exist for simple_spread.
        quality: one of `QUALITIES`.
        episodes: how many.
        seed: the same seed gives the same data on the same machine and torch version.
        out: folder to write (new or empty), or None to only return the data.
        prey: "bundled" or a path, as in `envs.make`. The prey's own data is stored last, as in
            OMAR's files.

    Returns:
        The dataset, float32, in memory.

    Raises:
        Dom2Error: an unknown task or quality, no behaviour for the task, `out` holds something;
            all before anything is played or written.
    """
    spec = envs.tasks.get(task)
    if quality not in QUALITIES:
        raise Dom2Error(f"unknown quality {quality!r}; choose one of: {', '.join(QUALITIES)}")
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise Dom2Error(f"{name} must be a whole number of at least {least}, got {value!r}")
    if str(prey) == "external":
        raise Dom2Error("collect() drives the prey itself: prey is 'bundled' or a path")
    hunted = PreyPolicy.open(spec, prey, torch.float32, "cpu")
    policies = _policies(task, quality, spec.agents - int(spec.prey))
    if out is not None:
        _refuse_used(Path(out))

    arrays = None
    for first, count, policy, env_seed, action_seed in _batches(episodes, seed, policies):
        env = envs.make(task, count, env_seed, prey="external")
        if arrays is None:
            arrays = _allocate(env, episodes)
        generator = torch.Generator().manual_seed(action_seed)
        _play(env, policy, hunted, generator, arrays, slice(first, first + count))
    flat = {name: [a.reshape(-1, *a.shape[2:]) for a in per] for name, per in arrays.items()}
    data = TrajectoryDataset.from_arrays(
        **flat,
        episode_length=envs.EPISODE_LENGTH,
        meta={
            "task": task,
            "quality": quality,
            "seed": seed,
            "episodes": episodes,
            "prey": str(prey) if spec.prey else None,
            "made_by": f"dom2-fast {__version__} collect",
        },
    )
    if out is not None:
        data.write(out)
    return data


def _refuse_used(out: Path) -> None:
    # Writing refuses too, but only after everything was played.
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        raise Dom2Error(
            f"{out} already holds something, and a dataset is written to a new or empty folder; "
            "choose another one or move it away"
        )


def _policies(task: str, quality: str, agents: int) -> list[Policy]:
    """The policies that share the episodes equally, in order."""
    if quality == "random":
        return [lambda obs, g: torch.rand(len(obs[0]), agents, 2, generator=g) * 2 - 1]
    shipped, noise = behaviours.load(task)
    if quality == "medium-replay":
        names = sorted((n for n in shipped if n.startswith("replay_")), key=lambda n: int(n[7:]))
    else:
        names = [quality]
    return [_noisy(shipped[name], noise) for name in names]


def _noisy(policy: behaviours.BehaviourPolicy, noise: float) -> Policy:
    def act(obs: list[Tensor], generator: torch.Generator) -> Tensor:
        mean = policy(obs)
        return (mean + noise * torch.randn(mean.shape, generator=generator)).clamp(-1, 1)

    return act


def _batches(
    episodes: int, seed: int, policies: list[Policy]
) -> Iterator[tuple[int, int, Policy, int, int]]:
    """(first episode, count, policy, environment seed, action seed) of each batch."""
    # Seeds are spread by SeedSequence, so that starts don't repeat those of training or evaluation.
    source = np.random.SeedSequence([seed, 0xD032])
    bounds = [round(i * episodes / len(policies)) for i in range(len(policies) + 1)]
    for policy, low, high in zip(policies, bounds[:-1], bounds[1:], strict=True):
        for first in range(low, high, _BATCH):
            env_seed, action_seed = source.spawn(1)[0].generate_state(2)
            yield first, min(_BATCH, high - first), policy, int(env_seed), int(action_seed)


def _allocate(env: envs.ParticleEnv, episodes: int) -> dict[str, list[np.ndarray]]:
    shape = (episodes, env.episode_length)
    widths = {"obs": env.obs_dims, "act": [env.act_dim] * env.num_agents, "next_obs": env.obs_dims}
    arrays = {k: [np.empty((*shape, w), np.float32) for w in v] for k, v in widths.items()}
    arrays["reward"] = [np.empty(shape, np.float32) for _ in env.obs_dims]
    return arrays


def _play(env, policy, hunted, generator, arrays: dict[str, list[np.ndarray]], rows: slice) -> None:
    obs = env.reset()
    for t in range(env.episode_length):
        if hunted is None:
            act = policy(obs, generator)
        else:
            act = torch.cat([policy(obs[:-1], generator), hunted(obs[-1])[:, None]], dim=1)
        next_obs, reward, _ = env.step(act)
        for i in range(env.num_agents):
            arrays["obs"][i][rows, t] = obs[i].numpy()
            arrays["act"][i][rows, t] = act[:, i].numpy()
            arrays["reward"][i][rows, t] = reward[:, i].numpy()
            arrays["next_obs"][i][rows, t] = next_obs[i].numpy()
        obs = next_obs
