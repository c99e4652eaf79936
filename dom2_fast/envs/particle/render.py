"""Draws a state of a particle task as an image. Plain numpy, anti-aliased, needs no display.

Used by the PettingZoo face and by reports; the window of `render_mode="human"` is in
`pettingzoo_env.py`.
"""

import numpy as np

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
BACKGROUND = (250, 250, 248)
_GRID = (228, 228, 224)
_EDGE = (40, 40, 44)
_EXTENT = 1.4  # half the side of the drawn square; starts lie within 1


class _Canvas:
    """Discs, rings and crosses blended by their signed distance, so that edges are smooth."""

    def __init__(self, size: int, extent: float):
        self.image = np.empty((size, size, 3), np.float32)
        self.image[:] = BACKGROUND
        self.size, self.extent, self.pixel = size, extent, 2 * extent / size
        self.axis = (np.arange(size, dtype=np.float32) + 0.5) * self.pixel - extent
        for at in (-1.0, 0.0, 1.0):
            k = round((at + extent) / self.pixel)
            self.image[:, k] = self.image[size - 1 - k] = _GRID

    def _window(self, low, high):
        """Rows, columns and coordinates of the pixels in a box, so that small things are cheap."""
        lo = np.floor((np.asarray(low) + self.extent) / self.pixel).astype(int) - 2
        hi = np.ceil((np.asarray(high) + self.extent) / self.pixel).astype(int) + 2
        (x0, y0), (x1, y1) = np.clip(lo, 0, self.size), np.clip(hi, 0, self.size)
        box = slice(self.size - y1, self.size - y0), slice(x0, x1)  # y grows upwards
        return box, self.axis[x0:x1][None, :], self.axis[y0:y1][::-1][:, None]

    def _blend(self, box, gap: np.ndarray, colour, opacity: float = 1.0) -> None:
        cover = np.clip(0.5 - gap / self.pixel, 0, 1)[..., None] * opacity
        self.image[box] += cover * (np.asarray(colour, np.float32) - self.image[box])

    def disc(self, at, radius: float, colour, opacity: float = 1.0, edge: bool = True) -> None:
        box, x, y = self._window(at - radius, at + radius)
        gap = np.hypot(x - at[0], y - at[1]) - radius
        self._blend(box, gap, colour, opacity)
        if edge:
            self._blend(box, np.abs(gap) - self.pixel * 0.75, _EDGE, 0.9)

    def ring(self, at, radius: float, colour, width: float) -> None:
        box, x, y = self._window(at - radius - width, at + radius + width)
        gap = np.abs(np.hypot(x - at[0], y - at[1]) - radius) - width / 2
        self._blend(box, gap, colour)

    def cross(self, at, radius: float, colour, width: float) -> None:
        box, x, y = self._window(at - radius, at + radius)
        x, y = np.abs(x - at[0]), np.abs(y - at[1])
        arms = np.maximum(x - radius, y - width / 2), np.maximum(y - radius, x - width / 2)
        self._blend(box, np.minimum(*arms), colour)

    def stroke(self, start, end, width: float, colour, opacity: float = 1.0) -> None:
        box, x, y = self._window(np.minimum(start, end) - width, np.maximum(start, end) + width)
        d = end - start
        along = ((x - start[0]) * d[0] + (y - start[1]) * d[1]) / max(d @ d, 1e-12)
        t = np.clip(along, 0, 1)
        gap = np.hypot(x - start[0] - t * d[0], y - start[1] - t * d[1]) - width / 2
        self._blend(box, gap, colour, opacity)


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
    canvas = _Canvas(size, extent)
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


def _draw_landmark(canvas: _Canvas, name: str, at: np.ndarray, radius: float) -> None:
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
