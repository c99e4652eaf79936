"""Played episodes as a GIF: drawn by numpy, written by Pillow, no display and no GL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dom2_fast import envs
from dom2_fast.envs import canvas
from dom2_fast.envs.particle import render
from dom2_fast.errors import Dom2Error, whole_number
from dom2_fast.files import atomic_write
from dom2_fast.runs.playing import Episode

MAX_FRAMES = 2000  # some 6 MB; browsers hold every frame of a GIF in memory
SIZE = 320  # pixels, without the line of text
_LINE = 20  # pixels of the line of text
_TRAIL = 8  # earlier moments drawn as a path
_HOLD = 8  # how many times longer an episode's last frame stays
FPS = 10


def check_file(path, force: bool = False) -> Path:
    """`path`, where a GIF may be written.

    Raises:
        Dom2Error: it doesn't end in .gif, is a folder, or is there already and `force` isn't set.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise Dom2Error(f"{path}: only GIFs are written, give a name that ends in .gif")
    if path.is_dir():
        raise Dom2Error(f"{path} is a folder: give the name of a file")
    if path.exists() and not force:
        raise Dom2Error(
            f"{path} is there already; nothing was overwritten: choose another name, or add --force"
        )
    return path


def check_size(frames: int, fps: float) -> None:
    """Dom2Error for more frames than `MAX_FRAMES`, or for fps outside of [1, 50]."""
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 1 <= fps <= 50:
        raise Dom2Error(f"fps is from 1 to 50, got {fps!r}")
    if frames > MAX_FRAMES:
        raise Dom2Error(
            f"a GIF of {frames:,} frames was asked for, at most {MAX_FRAMES:,} are written: play "
            "fewer steps or fewer episodes"
        )


def write_gif(
    path, task: str, episodes: list[Episode], *, fps: float = FPS, force: bool = False
) -> None:
    """Writes the recorded episodes, one after the other, as a GIF that plays for ever.

    Args:
        path: the file, which ends in .gif.
        task: the environment's name; particle tasks are drawn with their colours and paths.
        episodes: played with `record=True`.
        fps: frames per second, from 1 to 50 (a GIF counts in hundredths, browsers slow down more).
        force: replace a file that is there.
    Raises:
        Dom2Error: see `check_file` and `check_size`; episodes that weren't recorded; no space is
            left.
    """
    path = check_file(path, force)
    whole_number("recorded frames", min((len(e.frames) for e in episodes), default=0), 1)
    check_size(sum(len(e.frames) for e in episodes), fps)
    from PIL import Image

    lasts = np.cumsum([len(e.frames) for e in episodes]) - 1
    durations = [round(1000 / fps)] * (int(lasts[-1]) + 1)
    for last in lasts:
        durations[last] *= _HOLD
    # A generator: all frames at once would take 300 kB each.
    drawn = map(Image.fromarray, _drawn(task, episodes))
    first = next(drawn).quantize(128)
    pictures = (picture.quantize(palette=first, dither=Image.Dither.NONE) for picture in drawn)
    with atomic_write(path) as file:
        first.save(file, "GIF", save_all=True, append_images=pictures, duration=durations, loop=0)


def frames_of(task: str, episode: Episode, extent: float | None = None) -> Iterator[np.ndarray]:
    """The pictures of a recorded episode, uint8 [SIZE, SIZE, 3] each.

    extent: half the side of the drawn square; None fits it to the episode.
    """
    extent = _extent([episode]) if extent is None else extent
    states = [np.asarray(frame["states"], np.float64) for frame in episode.frames]
    for k, frame in enumerate(episode.frames):
        if task in envs.TASKS:
            trail = np.stack(states[max(0, k - _TRAIL) : k + 1])[:-1]
            how = {"trail": trail, "removed": episode.removed, "extent": extent}
            yield render.draw_state(task, states[k], SIZE, **how)
        else:
            yield canvas.draw_recording(frame, SIZE, extent)


def _drawn(task: str, episodes: list[Episode]) -> Iterator[np.ndarray]:
    """All pictures with a line of text below: uint8 [SIZE + _LINE, SIZE, 3]."""
    from PIL import Image, ImageDraw

    extent = _extent(episodes)
    for episode in episodes:
        for k, picture in enumerate(frames_of(task, episode, extent)):
            image = Image.new("RGB", (SIZE, SIZE + _LINE), canvas.BACKGROUND)
            image.paste(Image.fromarray(picture))
            told = f"{task}  seed {episode.seed}  step {k}  return {episode.running[k]:.1f}"
            ImageDraw.Draw(image).text((6, SIZE + 4), told, fill=canvas.EDGE)
            yield np.asarray(image)


def _extent(episodes: list[Episode]) -> float:
    reach = max(
        canvas.reach(np.asarray(frame["states"], np.float64)[:, :2], np.asarray(frame["sizes"]))
        for episode in episodes
        for frame in episode.frames
    )
    return max(reach, 1.1)
