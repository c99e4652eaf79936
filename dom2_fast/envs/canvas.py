"""Pictures without a display or GL: plain numpy, anti-aliased; any `Env.recording` is drawn.

The particle tasks draw more of theirs, see `particle/render.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dom2_fast.errors import Dom2Error

BACKGROUND = (250, 250, 248)
GRID = (228, 228, 224)
EDGE = (40, 40, 44)
_LINK = (120, 124, 132)

# Okabe and Ito's palette, by the order in which kinds appear.
_PALETTE = [(213, 94, 0), (0, 114, 178), (0, 158, 115), (230, 159, 0), (86, 180, 233)]


class Canvas:
    """A square picture of the plane, [-extent, extent] both ways, y upwards; `image` is float32
    [size, size, 3]. Shapes are blended by their signed distance, so that edges are smooth.
    """

    def __init__(self, size: int, extent: float):
        self.image = np.empty((size, size, 3), np.float32)
        self.image[:] = BACKGROUND
        self.size, self.extent, self.pixel = size, extent, 2 * extent / size
        self.axis = (np.arange(size, dtype=np.float32) + 0.5) * self.pixel - extent
        for at in (-1.0, 0.0, 1.0):
            k = min(round((at + extent) / self.pixel), size - 1)
            self.image[:, k] = self.image[size - 1 - k] = GRID

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
        """A filled circle; with a dark edge, if wanted."""
        box, x, y = self._window(at - radius, at + radius)
        gap = np.hypot(x - at[0], y - at[1]) - radius
        self._blend(box, gap, colour, opacity)
        if edge:
            self._blend(box, np.abs(gap) - self.pixel * 0.75, EDGE, 0.9)

    def ring(self, at, radius: float, colour, width: float) -> None:
        """A circle's line."""
        box, x, y = self._window(at - radius - width, at + radius + width)
        gap = np.abs(np.hypot(x - at[0], y - at[1]) - radius) - width / 2
        self._blend(box, gap, colour)

    def cross(self, at, radius: float, colour, width: float) -> None:
        """A plus sign of that half length."""
        box, x, y = self._window(at - radius, at + radius)
        x, y = np.abs(x - at[0]), np.abs(y - at[1])
        arms = np.maximum(x - radius, y - width / 2), np.maximum(y - radius, x - width / 2)
        self._blend(box, np.minimum(*arms), colour)

    def stroke(self, start, end, width: float, colour, opacity: float = 1.0) -> None:
        """A straight line with round ends."""
        box, x, y = self._window(np.minimum(start, end) - width, np.maximum(start, end) + width)
        d = end - start
        along = ((x - start[0]) * d[0] + (y - start[1]) * d[1]) / max(d @ d, 1e-12)
        t = np.clip(along, 0, 1)
        gap = np.hypot(x - start[0] - t * d[0], y - start[1] - t * d[1]) - width / 2
        self._blend(box, gap, colour, opacity)


def draw_recording(
    frame: Mapping[str, np.ndarray], size: int = 480, extent: float | None = None
) -> np.ndarray:
    """Draws what `Env.recording` gives, uint8 [size, size, 3]: a disc for each entity, and links.

    Args:
        frame: `states` [entities, 4], `sizes` [entities], `kinds` [entities]; perhaps `links`.
        size: side of the image in pixels.
        extent: half the side of the drawn square; None fits it. An animation wants one for all.
    Raises:
        Dom2Error: shapes that don't fit each other, a position that isn't finite, size below 16.
    """
    states = np.asarray(frame["states"], dtype=np.float64)
    sizes, kinds = np.asarray(frame["sizes"], dtype=np.float64), [str(k) for k in frame["kinds"]]
    if states.shape != (len(kinds), 4) or sizes.shape != (len(kinds),):
        raise Dom2Error(
            f"a recording has states [entities, 4], sizes and kinds [entities], got "
            f"{list(states.shape)}, {list(sizes.shape)} and {len(kinds)} kinds"
        )
    if not np.isfinite(states).all():
        raise Dom2Error("the recording to draw holds NaN or infinite positions")
    if size < 16:
        raise Dom2Error(f"an image needs a size of at least 16 pixels, got {size}")
    at = states[:, :2]
    canvas = Canvas(size, reach(at, sizes) if extent is None else extent)
    for one, other in np.asarray(frame.get("links", np.zeros((0, 2)))).astype(int):
        canvas.stroke(at[one], at[other], 0.06, _LINK)
    order = list(dict.fromkeys(kinds))
    for position, radius, kind in zip(at, sizes, kinds, strict=True):
        canvas.disc(position, radius, _PALETTE[order.index(kind) % len(_PALETTE)], 0.9)
    return canvas.image.round().astype(np.uint8)


def reach(positions: np.ndarray, sizes: np.ndarray) -> float:
    """Half the side of a square around 0 that holds entities at positions [..., entities, 2]."""
    return float((np.abs(positions).max(-1) + sizes).max()) * 1.1
