"""Draws a state of a particle task as an image. Plain numpy, anti-aliased, needs no display.

Used by the PettingZoo face and by `dom2-fast play`; the window of `render_mode="human"` is in
`pettingzoo_env.py`.
"""

import numpy as np

from dom2_fast.envs.canvas import Canvas
from dom2_fast.envs.particle import tasks
from dom2_fast.errors import Dom2Error

# Okabe and Ito's palette, which stays distinguishable under the common colour-blindnesses; kinds
# differ in lightness and in shape (disc, ring, cross) too.
COLOURS: dict[str, tuple[int, int, int]] = {
    "agent": (0, 114, 178),
    "agent_1": (230, 159, 0),
    "agent_2": (0, 158, 115),
    "predator": (213, 94, 0),
    "prey": (86, 180, 233),
    "landmark": (60, 60, 60),
    "removed": (190, 190, 190),
    "obstacle": (90, 94, 102),
    "food": (240, 228, 66),
    "forest": (170, 205, 170),
}
_EXTENT = 1.4  # half the side of the drawn square; starts lie within 1


def draw_state(
    task: str,
    state: np.ndarray,
    size: int = 480,
    trail: np.ndarray | None = None,
    removed: tuple[int, ...] = (),
    extent: float | None = None,
) -> np.ndarray:
    """Draw one state as uint8 [size, size, 3].

    Args:
        task: name of the task, which gives kinds and sizes.
        state: [entities, 4] as from `env.state()[i]`.
        size: side of the image in pixels.
        trail: earlier states [T, entities, 4] of the same episode, drawn as fading paths.
        removed: landmarks without reward (shift "landmarks"), drawn pale.
        extent: half the side of the drawn square; None fits it to the state. An animation wants
            one value for all its frames.
    """
    spec = tasks.get(task)
    state = np.asarray(state, dtype=np.float64)
    if state.shape != (spec.entities, 4):
        raise Dom2Error(
            f"{task}: a state to draw has shape [{spec.entities}, 4], got {list(state.shape)}"
        )
    if not np.isfinite(state).all():
        raise Dom2Error(f"{task}: the state to draw holds NaN or infinite values")
    if size < 16:
        raise Dom2Error(f"an image needs a size of at least 16 pixels, got {size}")
    pos, n = state[:, :2], spec.agents
    if extent is None:
        extent = max(_EXTENT, float(np.abs(pos).max()) + 0.2)
    canvas = Canvas(size, extent)
    names = [_colour_name(spec, i, removed) for i in range(spec.entities)]
    # Large and flat things first, agents last, so that nothing small is hidden.
    order = ("forest", "obstacle", "landmark", "removed", "food")
    for i in sorted(range(n, spec.entities), key=lambda i: order.index(names[i])):
        _draw_landmark(canvas, names[i], pos[i], spec.sizes[i])
    if trail is not None and len(trail):
        path = np.concatenate([np.asarray(trail, np.float64)[:, :n, :2], pos[None, :n]])
        for k in range(1, len(path)):
            for i in range(n):
                fade = 0.5 * k / len(path)
                canvas.stroke(path[k - 1, i], path[k, i], 0.018, COLOURS[names[i]], fade)
    for i in range(n):
        canvas.disc(pos[i], spec.sizes[i], COLOURS[names[i]], opacity=0.88)
        # A pale bar from the centre shows where the agent is heading and how fast.
        end = pos[i] + spec.sizes[i] * 0.85 * np.tanh(state[i, 2:])
        canvas.stroke(pos[i], end, spec.sizes[i] * 0.28, (255, 255, 255), 0.9)
    return canvas.image.round().astype(np.uint8)


def frame(env, index: int = 0, size: int = 480) -> np.ndarray:
    """Draw the present state of copy `index` of a batched environment, uint8 [size, size, 3]."""
    if not 0 <= index < env.num_envs:
        raise Dom2Error(f"index must be from 0 to {env.num_envs - 1}, got {index}")
    state = env.state()[index].detach().cpu().double().numpy()
    return draw_state(env.task, state, size, removed=env.removed_landmarks)


def _colour_name(spec: tasks.Task, i: int, removed: tuple[int, ...]) -> str:
    kind = spec.kinds[i]
    if kind == "agent" and i > 0:
        return f"agent_{i}"
    if kind == "landmark" and i - spec.agents in removed:
        return "removed"
    return kind


def _draw_landmark(canvas: Canvas, name: str, at: np.ndarray, radius: float) -> None:
    colour = COLOURS[name]
    if name == "forest":
        canvas.disc(at, radius, colour, opacity=0.55, edge=False)
        canvas.ring(at, radius, (120, 165, 120), 0.012)
    elif name == "obstacle":
        canvas.disc(at, radius, colour)
    elif name == "food":
        canvas.disc(at, radius * 1.3, colour)  # a little larger than it is, to be seen at all
    else:
        canvas.ring(at, radius, colour, 0.02)
        canvas.cross(at, radius * 1.5, colour, 0.014)
