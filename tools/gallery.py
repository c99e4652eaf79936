"""Draws rollouts of trained DOM2 policies: docs/gallery.md's animations, and README's.

    python tools/gallery.py --work build/gallery           (ten minutes on one core, the first time)
    python tools/gallery.py --work build/gallery simple_tag

For each task: collects 4,000 expert episodes, trains DOM2 for 2,000 updates (seed 0, one thread),
then plays one episode as trained and one under each of the task's shifts, from the same start. What
is in --work already is used again. Needs Pillow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from dom2_fast import algos, envs
from dom2_fast.behaviours.collect import collect
from dom2_fast.envs.particle.render import draw_state
from dom2_fast.files import atomic_write
from dom2_fast.runs.acting import policies_of
from dom2_fast.runs.train import train

REPO = Path(__file__).resolve().parents[1]
SHIFTS = {
    "simple_spread": ("speed", "stopped"),
    "simple_tag": ("speed", "stopped"),
    "simple_world": ("speed", "stopped"),
    "spread_6_landmarks": ("speed", "stopped", "landmarks"),
}
TITLES = {
    None: "as trained", "speed": "speeds drawn anew", "stopped": "one agent stopped",
    "landmarks": "half the landmarks gone",
}  # fmt: skip
# Of the starts shown: from there the agents' ways are long, and nobody leaves the picture.
SEEDS = {"simple_spread": 21, "simple_tag": 11, "simple_world": 38, "spread_6_landmarks": 21}
SIDE, MILLISECONDS, LAST = 220, 120, 1200
BACKGROUND = (250, 250, 248)  # of draw_state's pictures


def trained(task: str, work: Path):
    """The policies of the task's run in `work`, which is made where it isn't there."""
    data, run = work / "data" / task, work / "runs" / task
    if not run.exists():
        if not data.exists():
            collect(task, "expert", episodes=4000, seed=0, out=data)
        torch.set_num_threads(1)
        train(algos.algorithm("dom2").config_class(seed=0), data, run, 2000, progress=False)
    return policies_of(run).policies


def rollout(policies, task: str, shift: str | None) -> tuple[np.ndarray, tuple]:
    """States [T + 1, entities, 4] of one episode, and the landmarks without reward in it."""
    seed = SEEDS[task]
    env = envs.make(task, num_envs=1, seed=seed, shift=shift)
    generator = torch.Generator().manual_seed(seed)
    obs, states = env.reset(), []
    for _ in range(env.episode_length):
        states.append(env.state()[0].numpy().copy())
        obs, _, _ = env.step(policies.act(obs, generator=generator))
    states.append(env.state()[0].numpy().copy())
    return np.stack(states), env.removed_landmarks


def frames(task: str, states: np.ndarray, removed: tuple, extent: float) -> list[np.ndarray]:
    """A picture [SIDE, SIDE, 3] of each state, with the agents' ways so far."""
    return [
        draw_state(task, state, SIDE, trail=states[:t], removed=removed, extent=extent)
        for t, state in enumerate(states)
    ]


def animate(panels: list[tuple[str, list[np.ndarray]]], path: Path) -> None:
    """Writes the panels side by side, each under its title, as one GIF of few colours."""
    from PIL import Image, ImageDraw

    pictures, gap, head = [], 6, 22
    width = len(panels) * (SIDE + gap) - gap
    for moment in zip(*(shown for _, shown in panels), strict=True):
        sheet = Image.new("RGB", (width, SIDE + head), BACKGROUND)
        draw = ImageDraw.Draw(sheet)
        for k, (title, _) in enumerate(panels):
            left = k * (SIDE + gap)
            draw.text((left + SIDE // 2, head // 2), title, (40, 40, 44), anchor="mm", font_size=13)
            sheet.paste(Image.fromarray(moment[k]), (left, head))
            if k:
                draw.rectangle((left - gap, 0, left - 1, SIDE + head), (255, 255, 255))
        pictures.append(sheet)
    # One palette for all frames, of the first, middle and last: smaller, and colours don't flicker.
    height = SIDE + head
    some = Image.new("RGB", (width, 3 * height))
    for k, picture in enumerate((pictures[0], pictures[len(pictures) // 2], pictures[-1])):
        some.paste(picture, (0, k * height))
    palette = some.quantize(64, dither=Image.Dither.NONE)
    still = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    times = [MILLISECONDS] * (len(still) - 1) + [LAST]
    with atomic_write(path, "wb") as file:
        still[0].save(
            file,
            "GIF",
            save_all=True,
            append_images=still[1:],
            duration=times,
            loop=0,
            optimize=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(SHIFTS)}; default: all")
    parser.add_argument("--work", type=Path, required=True, help="folder of data sets and runs")
    parser.add_argument("--out", type=Path, default=REPO / "docs" / "images")
    args = parser.parse_args()
    for task in args.tasks or SHIFTS:
        if task not in SHIFTS:
            parser.error(f"unknown task {task!r}; choose from {', '.join(SHIFTS)}")
        policies = trained(task, args.work)
        played = [(shift, *rollout(policies, task, shift)) for shift in (None, *SHIFTS[task])]
        extent = max(1.2, *(float(np.abs(s[..., :2]).max()) + 0.15 for _, s, _ in played))
        panels = [
            (TITLES[shift], frames(task, states, removed, extent))
            for shift, states, removed in played
        ]
        path = args.out / f"{task}.gif"
        animate(panels, path)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
