"""Collects offline data from any environment, with shipped behaviours or uniform actions.

Loading and cutting data is `data/trajectories.py`; training the behaviours is `training.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dom2_fast import envs
from dom2_fast._version import __version__
from dom2_fast.behaviours import scripted, shipped
from dom2_fast.data.formats import omar
from dom2_fast.data.trajectories import FIELDS as DRAWN
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.envs.particle.prey import ASSETS, PreyPolicy
from dom2_fast.errors import Dom2Error, whole_number
from dom2_fast.files import refuse_used

# Kinds that are made of two others, in this order, with their shares of the episodes: the first
# author's later code (OM2P) takes 90 % of one and 10 % of the other's public data.
MIXTURES = {
    "random-medium": (("random", 0.9), ("medium", 0.1)),
    "medium-expert": (("medium", 0.9), ("expert", 0.1)),
}
QUALITIES = ("random", "random-medium", "medium-replay", "medium", "medium-expert", "expert")
FIELDS = (*DRAWN, "truncation")
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
    policies evenly spaced in training up to then, the oldest first. The mixtures are DOM2's, in
    `MIXTURES`: "random-medium" is 90 % random episodes, then 10 % medium ones, "medium-expert" 90 %
    medium, then 10 % expert.

    Args:
        env: a name, "module:function" or a factory, as in `envs.resolve`. "random" is there for
            all of them, the other qualities where behaviours are shipped: the particle tasks. Of
            xor there is "expert", which is scripted.
        quality: one of `QUALITIES`.
        episodes: how many.
        seed: the same seed gives the same data on the same machine and torch version.
        out: folder to write (new or empty), or None to only return the data. With it, memory holds
            4,096 episodes at a time (32 of an environment that comes one copy at a time).
        prey: "bundled" or a path, as in `envs.make`, for tasks with one. The prey's own data is
            stored last, as in OMAR's files.
        options: of the environment, as in `envs.make`.

    Returns:
        The dataset, float32: mapped from `out`, or in memory without it. `done` is 1 where an
        episode ended in a terminal state, `truncation` where it ran into its time limit. `meta`
        says what made it: "parts" are the qualities in the order of the episodes, with how many
        there are of each.

    Raises:
        Dom2Error: an unknown environment, option or quality, no behaviour for the environment, a
            prey of another task, `out` holds something; all before anything is played or written.
    """
    spec = envs.resolve(env)
    if quality not in QUALITIES:
        raise Dom2Error(f"unknown quality {quality!r}; choose one of: {', '.join(QUALITIES)}")
    whole_number("episodes", episodes, 1)
    whole_number("seed", seed, 0)
    parts = _parts(quality, episodes)
    if out is not None:
        refuse_used(Path(out))
    hunted = _prey(spec, prey)
    if spec.name in envs.TASKS:
        options = options | {"prey": "external"}
    one = spec.make(**options)
    drivers = one.num_agents - int(hunted is not None)
    plan: list[tuple[Policy, int]] = []
    for part, count in parts:
        policies = _policies(spec.name, part, drivers, one.act_dim)
        bounds = [round(i * count / len(policies)) for i in range(len(policies) + 1)]
        plan += zip(policies, np.diff(bounds).tolist(), strict=True)
    if hunted is not None:
        plan = [(_with_prey(policy, hunted), count) for policy, count in plan]
    meta = {
        "task": spec.name,
        "quality": quality,
        "seed": seed,
        "episodes": episodes,
        "parts": [{"quality": part, "episodes": count} for part, count in parts],
        "behaviours_sha256": _behaviours_sha256(spec.name, parts),
        **({"prey": None} if hunted is None else hunted.about()),
        "prey_sha256": _prey_sha256(spec.name, prey) if hunted is not None else None,
        "made_by": f"dom2-fast {__version__} collect",
    }
    episodes_of = _episodes(spec, one, options, _batches(plan, seed, _most(spec)))
    if out is None:
        return _joined(list(episodes_of), meta)
    lengths = []
    with omar.writing(out, meta) as add:
        for data in episodes_of:
            add(data)
            lengths.append(data.lengths)
    return _mapped(Path(out), torch.cat(lengths))


def _parts(quality: str, episodes: int) -> list[tuple[str, int]]:
    """What a data set is made of, in order: (quality, episodes)."""
    if quality not in MIXTURES:
        return [(quality, episodes)]
    (first, share), (second, _) = MIXTURES[quality]
    count = round(share * episodes)
    if count == episodes:
        raise Dom2Error(
            f"{episodes} episodes of {quality} would hold none of {second}, which is a tenth of "
            "it: ask for 10 or more"
        )
    return [(first, count), (second, episodes - count)]


def _behaviours_sha256(name: str, parts: list[tuple[str, int]]) -> str | None:
    if name in scripted.POLICIES or all(part == "random" for part, _ in parts):
        return None
    return hashlib.sha256(shipped.asset(name).read_bytes()).hexdigest()


def _prey_sha256(name: str, prey: str) -> str:
    path = ASSETS / f"prey_{name}.npz" if str(prey) == "bundled" else Path(prey)
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    """The policies that share the episodes of one quality equally, in order."""
    if quality == "random":
        return [envs.random_policies(agents, act_dim)]
    if name in scripted.POLICIES:
        known = scripted.POLICIES[name]
        if quality not in known:
            raise Dom2Error(
                f"the behaviours of {name} are scripted, and none is {quality!r}: choose one of "
                f"random, {', '.join(known)}"
            )
        return [known[quality]]
    policies, noise = shipped.load(name)
    if quality == "medium-replay":
        names = sorted((n for n in policies if n.startswith("replay_")), key=lambda n: int(n[7:]))
    else:
        names = [quality] if quality in policies else []
    if not names:
        raise Dom2Error(
            f"the behaviours shipped for {name} have no {quality} policy, only "
            f"{', '.join(policies)}; quality 'random' needs none"
        )
    return [shipped.noisy(policies[name], noise) for name in names]


def _with_prey(policy: Policy, hunted: PreyPolicy) -> Policy:
    def act(obs: list[Tensor], generator: torch.Generator) -> Tensor:
        chasers = policy(torch.stack(obs[:-1]), generator=generator)
        return torch.cat([chasers, hunted(obs[-1])[None]])

    return act


def _most(spec: envs.EnvSpec) -> int:
    return spec.most or (_BATCH if spec.batched else envs.ADAPTED)


def _batches(
    plan: list[tuple[Policy, int]], seed: int, most: int
) -> Iterator[tuple[int, Policy, int, int]]:
    """(count, policy, environment seed, action seed) of each batch of at most `most` episodes."""
    # Seeds are spread by SeedSequence, so that starts don't repeat those of training or evaluation.
    source = np.random.SeedSequence([seed, 0xD032])
    for policy, episodes in plan:
        for first in range(0, episodes, most):
            env_seed, action_seed = source.spawn(1)[0].generate_state(2)
            yield min(most, episodes - first), policy, int(env_seed), int(action_seed)


@torch.no_grad()
def _episodes(spec, world, options: dict, batches) -> Iterator[TrajectoryDataset]:
    """The episodes of each batch, checked."""
    try:
        for count, policy, env_seed, action_seed in batches:
            if world.num_envs != count:
                _close(world)
                world = spec.make(count, **options)
            generator = torch.Generator().manual_seed(action_seed)
            arrays, lengths = _play(world, policy, generator, env_seed)
            yield TrajectoryDataset.from_arrays(**arrays, lengths=lengths)
    finally:
        _close(world)


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


def _joined(parts: list[TrajectoryDataset], meta: dict) -> TrajectoryDataset:
    """The batches one after the other; each is let go of as its arrays are copied."""
    lengths = torch.cat([part.lengths for part in parts])
    fields: dict[str, list[Tensor]] = {}
    for name in FIELDS:
        own = [getattr(part, name) for part in parts]
        fields[name] = [torch.cat([arrays.pop(0) for arrays in own]) for _ in range(len(own[0]))]
    return TrajectoryDataset(**fields, starts=_starts(lengths), meta=meta)


def _mapped(folder: Path, lengths: Tensor) -> TrajectoryDataset:
    """What was just written, and checked before, without reading all of it once more."""
    contents = omar.open(folder)
    fields = {name: [torch.from_numpy(a) for a in own] for name, own in contents.fields.items()}
    return TrajectoryDataset(**fields, starts=_starts(lengths), meta=contents.meta, path=folder)


def _starts(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _close(env: envs.Env) -> None:
    getattr(env, "close", lambda: None)()
