"""Collects offline data from any environment, with shipped behaviours or uniform actions.

Loading and cutting data is `data/trajectories.py`; training the behaviours is `training.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dom2_fast import envs
from dom2_fast._version import __version__
from dom2_fast.behaviours import shipped
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.envs.particle.prey import PreyPolicy
from dom2_fast.errors import Dom2Error, whole_number
from dom2_fast.files import refuse_used

QUALITIES = ("random", "medium-replay", "medium", "expert")
FIELDS = ("obs", "act", "reward", "next_obs", "done", "truncation")
_BATCH = 4096  # episodes stepped together; bounds the memory beside the result

Policy = Callable[..., Tensor]  # (obs, generator=) -> act [G, E, A]


@torch.no_grad()
def collect(
    env: str | Callable | envs.EnvSpec,
    quality: str,
    episodes: int = 4000,
    seed: int = 0,
    out: str | Path | None = None,
    prey: str = "bundled",
    **options,
) -> TrajectoryDataset:
    """Play `episodes` whole episodes and write them as a dataset.

    How the qualities are made follows OMAR (arXiv 2111.11188, appendix B): "random" draws uniform
    actions; "medium" and "expert" are one MATD3 policy each with Gaussian exploration noise (0.1);
    "medium-replay" is what a replay buffer holds when training reaches medium: equal shares of
    policies evenly spaced in training up to then, the oldest first.

    Args:
        env: a name, "module:function" or a factory, as in `envs.resolve`. "random" is there for
            all of them, the other qualities where behaviours are shipped: the particle tasks.
        quality: one of `QUALITIES`.
        episodes: how many.
        seed: the same seed gives the same data on the same machine and torch version.
        out: folder to write (new or empty), or None to only return the data.
        prey: "bundled" or a path, as in `envs.make`, for tasks with one. The prey's own data is
            stored last, as in OMAR's files.
        options: of the environment, as in `envs.make`.

    Returns:
        The dataset, float32, in memory. `done` is 1 where an episode ended in a terminal state,
        `truncation` where it ran into its time limit.

    Raises:
        Dom2Error: an unknown environment, option or quality, no behaviour for the environment,
            `out` holds something; all before anything is played or written.
    """
    spec = envs.resolve(env)
    if quality not in QUALITIES:
        raise Dom2Error(f"unknown quality {quality!r}; choose one of: {', '.join(QUALITIES)}")
    whole_number("episodes", episodes, 1)
    whole_number("seed", seed, 0)
    task = envs.tasks.TASKS.get(spec.name)
    hunted = _prey(spec, prey)
    if task is not None:
        options = options | {"prey": "external"}
    one = spec.make(**options)
    policies = _policies(spec.name, quality, one.num_agents - int(hunted is not None), one.act_dim)
    if hunted is not None:
        policies = [_with_prey(policy, hunted) for policy in policies]
    if out is not None:
        refuse_used(Path(out))  # writing refuses, too, but only after everything was played

    parts: dict[str, list[list[np.ndarray]]] = {name: [] for name in FIELDS}
    lengths, world = [], one
    most = _BATCH if spec.batched else envs.ADAPTED
    try:
        for count, policy, env_seed, action_seed in _batches(episodes, seed, policies, most):
            if world.num_envs != count:
                _close(world)
                world = spec.make(count, **options)
            generator = torch.Generator().manual_seed(action_seed)
            arrays, steps = _play(world, policy, generator, env_seed)
            lengths.append(steps)
            for name in FIELDS:
                parts[name].append(arrays[name])
    finally:
        _close(world)
    lengths = np.concatenate(lengths)
    same = int(lengths[0]) if (lengths == lengths[0]).all() else None
    data = TrajectoryDataset.from_arrays(
        **{name: _joined(parts.pop(name)) for name in FIELDS},
        **({"lengths": lengths} if same is None else {"episode_length": same}),
        meta={
            "task": spec.name,
            "quality": quality,
            "seed": seed,
            "episodes": episodes,
            **({"prey": None} if hunted is None else hunted.about()),
            "made_by": f"dom2-fast {__version__} collect",
        },
    )
    if out is not None:
        data.write(out)
    return data


def _prey(spec: envs.EnvSpec, prey: str) -> PreyPolicy | None:
    """The network that drives the prey of a particle task; None where there is no prey."""
    if str(prey) == "external":
        raise Dom2Error("collect() drives the prey itself: prey is 'bundled' or a path")
    task = envs.tasks.TASKS.get(spec.name)
    if task is not None:
        return PreyPolicy.open(task, prey, torch.float32, "cpu")
    if str(prey) != "bundled":
        raise Dom2Error(f"{spec.name} has no prey, so it can't use prey={str(prey)!r}")
    return None


def _policies(name: str, quality: str, agents: int, act_dim: int) -> list[Policy]:
    """The policies that share the episodes equally, in order."""
    if quality == "random":
        return [envs.random_policies(agents, act_dim)]
    policies, noise = shipped.load(name)
    if quality == "medium-replay":
        names = sorted((n for n in policies if n.startswith("replay_")), key=lambda n: int(n[7:]))
    else:
        names = [quality]
    return [shipped.noisy(policies[name], noise) for name in names]


def _with_prey(policy: Policy, hunted: PreyPolicy) -> Policy:
    def act(obs: list[Tensor], generator: torch.Generator) -> Tensor:
        chasers = policy(torch.stack(obs[:-1]), generator=generator)
        return torch.cat([chasers, hunted(obs[-1])[None]])

    return act


def _batches(
    episodes: int, seed: int, policies: list[Policy], most: int
) -> Iterator[tuple[int, Policy, int, int]]:
    """(count, policy, environment seed, action seed) of each batch of at most `most` episodes."""
    # Seeds are spread by SeedSequence, so that starts don't repeat those of training or evaluation.
    source = np.random.SeedSequence([seed, 0xD032])
    bounds = [round(i * episodes / len(policies)) for i in range(len(policies) + 1)]
    for policy, low, high in zip(policies, bounds[:-1], bounds[1:], strict=True):
        for first in range(low, high, most):
            env_seed, action_seed = source.spawn(1)[0].generate_state(2)
            yield min(most, high - first), policy, int(env_seed), int(action_seed)


def _play(
    env: envs.Env, policy: Policy, generator: torch.Generator, seed: int
) -> tuple[dict[str, list[np.ndarray]], np.ndarray]:
    """One episode of every copy: rows of each agent, episode after episode, and their lengths."""
    steps, terminal, cut = [], [], []
    for step in envs.play(env, lambda obs: policy(obs, generator=generator), seed):
        steps.append(step)
        terminal.append(envs.terminal(env, step))
        cut.append(step.done & ~terminal[-1])
    # Where `episode_length` ends an episode that isn't done, it was cut off all the same.
    cut[-1] = cut[-1] | ~step.done
    alive = torch.stack([step.alive for step in steps], dim=1)  # [E, T]

    def chosen(values: list[Tensor]) -> np.ndarray:
        return torch.stack(values, dim=1)[alive].float().cpu().numpy()

    arrays: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
    for i in range(env.num_agents):
        for name in ("obs", "act", "reward", "next_obs"):
            arrays[name].append(chosen([getattr(step, name)[i] for step in steps]))
        arrays["done"].append(chosen(terminal))
        arrays["truncation"].append(chosen(cut))
    return arrays, alive.sum(dim=1).cpu().numpy()


def _joined(parts: list[list[np.ndarray]]) -> list[np.ndarray]:
    """The batches' arrays [batch][agent], one after the other, of each agent."""
    return [np.concatenate(of_agent) for of_agent in zip(*parts, strict=True)]


def _close(env: envs.Env) -> None:
    getattr(env, "close", lambda: None)()
