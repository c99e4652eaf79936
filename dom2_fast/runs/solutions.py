"""Whether policies keep several solutions: the same starts again and again with other noise.

Some tasks can be solved in several ways, such as which 3 of 6 landmarks the agents take. A policy
that keeps only one way to go from a start may fail where that way is closed (Li, Pan and Huang
2023, arXiv 2307.01472, figure 1). What a solution is the environment says, by `solution()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dom2_fast import envs
from dom2_fast.errors import Dom2Error, whole_number
from dom2_fast.runs.evaluation import SEED, Policies, check_fits, chunks_of


@torch.no_grad()
def solutions(
    policies: Policies,
    env: str | Callable | envs.EnvSpec,
    repeats: int,
    starts: int = 500,
    shift: str | None = None,
    seed: int = SEED,
    num_envs: int | None = None,
    **options,
) -> dict:
    """Plays each of `starts` starts `repeats` times and counts where the agents end.

    The starts are those of `evaluate` with the same arguments (and what a shift draws with them:
    speeds, the agent that is stopped), so all policies meet the same; each repeat has noise of its
    own. Random policies end in many ways, too: `solved_ways` counts only those that solve the task.

    Args:
        repeats: K >= 2, of each start.
        starts: how many; the rest is as in `evaluation.evaluate`.
    Returns:
        `repeats`, `starts`, and means over the starts: `ways`, how many different ones of the K
        episodes end, from 1 to K; `entropy`, of their frequencies, in nats, from 0 to log K,
        as found, so below that of the policy where K is small; `solved`, the share of episodes that
        end in a solution; `solved_ways`, how many different solutions are among them, from 0 to K.
        Policies that draw nothing have 1 way and entropy 0.
    Raises:
        Dom2Error: K below 2; an environment without `solution()`, or one that says it has none;
            else as of `evaluate`. All before anything is played.
    """
    spec = envs.resolve(env)
    whole_number("solutions", repeats, 2)
    chunks, size = chunks_of(spec, starts, seed, num_envs)
    world = spec.make(size, seed=seed, shift=shift, **options)
    try:
        check_fits(policies, world, spec.name)
        if not hasattr(world, "solution"):
            raise Dom2Error(
                f"{spec.name} doesn't say what a solution is, so none can be counted: its Env "
                "needs solution(), see dom2_fast.envs.Env; spread_6_landmarks and xor have it"
            )
        world.reset(seed=seed)
        world.solution()
        played = [_ends(policies, world, seed + chunk, repeats) for chunk in range(chunks)]
    finally:
        getattr(world, "close", lambda: None)()
    labels, solved = (torch.cat(parts, dim=1)[:, :starts] for parts in zip(*played, strict=True))
    return {"repeats": repeats, "starts": starts, **_counts(labels, solved)}


def _ends(policies: Policies, world: envs.Env, seed: int, repeats: int) -> tuple[Tensor, Tensor]:
    """(label, solved), both [K, E], of where each repeat of one chunk's starts ended."""
    choose = getattr(policies, "act", policies)
    ends = []
    for child in np.random.SeedSequence(seed).spawn(repeats):
        generator = torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0] >> 1))
        kept = None
        for step in envs.play(world, lambda obs, g=generator: choose(obs, generator=g), seed):
            now = world.solution()
            # A copy's end is the step that ended it; what it shows after that counts for nothing.
            kept = now if kept is None else _where(step.alive, now, kept)
        ends.append(kept)
    labels, solved = zip(*ends, strict=True)
    return torch.stack(labels), torch.stack(solved)


def _where(alive: Tensor, now: tuple[Tensor, Tensor], before: tuple[Tensor, Tensor]):
    return tuple(torch.where(alive, new, old) for new, old in zip(now, before, strict=True))


def _counts(labels: Tensor, solved: Tensor) -> dict[str, float]:
    """The four means of `solutions` from labels and solved, both [K, E]."""
    ways, entropies, solved_ways = [], [], []
    for own, good in zip(labels.T.cpu(), solved.T.cpu(), strict=True):
        counts = own.unique(return_counts=True)[1].double()
        shares = counts / len(own)
        ways.append(len(counts))
        entropies.append(abs(float(-(shares * shares.log()).sum())))  # abs: no -0.0
        solved_ways.append(len(own[good].unique()))
    means = {"ways": ways, "entropy": entropies, "solved_ways": solved_ways}
    result = {name: math.fsum(values) / len(values) for name, values in means.items()}
    return result | {"solved": float(solved.double().mean())}
