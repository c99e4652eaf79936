"""A recorded episode, made ready for the page's animation: kinds to colours, numbers rounded."""

from __future__ import annotations

import numpy as np

from dom2_fast.errors import Dom2Error
from dom2_fast.report.load import Run

# Agents of one team are told apart by colour and number; the rest by what they are.
_AGENTS = ["--s3", "--s4", "--s5", "--s7", "--s0", "--s1"]
_KINDS = {
    "predator": "--s1",
    "prey": "--s2",
    "landmark": "--muted",
    "obstacle": "--muted",
    "food": "--s4",
    "forest": "--s2",
    "joint": "--s3",
}
_MOVING = ("agent", "predator", "prey")
_SOLID = ("obstacle", "food", "torso", "joint", "limb")


_ARRAYS = ("states", "sizes", "kinds")


def playable(run: Run) -> bool:
    """Whether the run recorded an episode as the particle tasks do; another's isn't played back."""
    return run.rollout is not None and all(key in run.rollout for key in _ARRAYS)


def scene(run: Run) -> dict:
    """What `rollout.js` draws: entities (kind, size, colour, label), positions per step, the reach.

    Raises:
        Dom2Error: the recorded episode lacks an array, or shapes don't fit each other.
    """
    rollout = run.rollout
    missing = [key for key in _ARRAYS if key not in rollout]
    if missing:
        raise Dom2Error(
            f"{run.path / 'rollout.npz'} lacks {', '.join(missing)}: run "
            f"`dom2-fast evaluate {run.path}` again"
        )
    states = np.asarray(rollout["states"], dtype=np.float64)
    if states.ndim == 4:  # several episodes: [episodes, T + 1, entities, 4]
        states = states[0]
    kinds = [str(kind) for kind in rollout["kinds"]]
    sizes = [float(size) for size in rollout["sizes"]]
    if states.ndim != 3 or states.shape[1:] != (len(kinds), 4) or len(sizes) != len(kinds):
        raise Dom2Error(
            f"{run.path / 'rollout.npz'}: states {states.shape}, {len(kinds)} kinds and "
            f"{len(sizes)} sizes don't fit; states must be [steps, entities, 4]"
        )
    if not np.isfinite(states).all():
        raise Dom2Error(f"{run.path / 'rollout.npz'}: a position isn't finite")
    entities = []
    for index, kind in enumerate(kinds):
        color = _AGENTS[index % len(_AGENTS)] if kind == "agent" else _KINDS.get(kind, "--s6")
        moves = kind in _MOVING
        entities.append(
            {
                "size": round(sizes[index], 4),
                "color": color,
                "moves": moves,
                "solid": kind in _SOLID,
                "label": _label(kinds, index) if moves else "",
            }
        )
    furthest = float(np.abs(states[..., :2]).max()) + max(sizes)
    return {
        "name": run.name,
        "caption": _legend(kinds),
        "reach": round(min(max(furthest, 1.1), 2.5), 3),
        "entities": entities,
        "links": _links(run, len(kinds)),
        "states": np.round(states[..., :2], 4).tolist(),
    }


def _links(run: Run, count: int) -> list[list[int]]:
    """Pairs of entities that a line joins, where the recording has any."""
    links = np.asarray(run.rollout.get("links", np.zeros((0, 2), dtype=np.int64)))
    fits = links.ndim == 2 and links.shape[1] == 2 and links.dtype.kind in "iu"
    if not fits or (links.size and not 0 <= links.min() <= links.max() < count):
        raise Dom2Error(
            f"{run.path / 'rollout.npz'}: links must be pairs [n, 2] of entities 0 to {count - 1}"
        )
    return links.tolist()


def _label(kinds: list[str], index: int) -> str:
    kind = kinds[index]
    if kind == "prey" and kinds.count("prey") == 1:
        return "prey"
    return str(kinds[: index + 1].count(kind))


def _legend(kinds: list[str]) -> str:
    """'3 agents, 3 landmarks': the kinds in order of appearance, counted."""
    counted = []
    for kind in dict.fromkeys(kinds):
        count = kinds.count(kind)
        plural = kind if count == 1 or kind in ("prey", "food") else f"{kind}s"
        counted.append(f"{count} {plural}")
    return ", ".join(counted)
