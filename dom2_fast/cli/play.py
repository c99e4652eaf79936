"""`dom2-fast play`: play a few episodes, print their returns, perhaps draw them as a GIF."""

from __future__ import annotations

from argparse import SUPPRESS

from dom2_fast.cli.options import add_env_options, env_options, search_here

ABOUT = "Play a few episodes: their returns, or a GIF."


def add_options(parser, argv: list[str]) -> None:
    add = parser.add_argument
    add("task", type=str, help="a registered environment, or module:function")
    add(
        "--policy",
        type=str,
        default=SUPPRESS,
        help="a run folder, an exported file, or the name of a pretrained policy (default: the "
        "task's own; an unknown name lists them)",
    )
    add("--checkpoint", type=str, default="last", help="of a run: last, or best")
    add("--shift", type=str, default=SUPPRESS, help="none (default), or one that the task has")
    add("--seed", type=int, default=0, help="of the first episode; the next has the next number")
    add("--steps", type=int, default=SUPPRESS, help="of each episode at most (default: all)")
    add(
        "--episodes",
        type=int,
        default=SUPPRESS,
        help="how many to play (default: 10, with --gif 1)",
    )
    add("--gif", type=str, default=SUPPRESS, help="file to draw them into, such as out.gif")
    add("--fps", type=float, default=SUPPRESS, help="frames per second of the GIF (default: 10)")
    add("--force", action="store_true", help="replace the GIF that is there")
    add_env_options(parser)


def run(
    task: str,
    policy: str | None = None,
    checkpoint: str = "last",
    shift: str | None = None,
    seed: int = 0,
    steps: int | None = None,
    episodes: int | None = None,
    gif: str | None = None,
    fps: float | None = None,
    force: bool = False,
    **given,
) -> int:
    from dom2_fast import envs
    from dom2_fast.errors import Dom2Error
    from dom2_fast.runs import film, playing

    search_here()
    spec = envs.resolve(task)
    shift = None if shift == "none" else shift
    options = env_options(given)
    spec.shift_options(shift, options)
    if gif is None and (force or fps is not None):
        raise Dom2Error(
            "--fps and --force are about the GIF: give --gif out.gif, or leave them out"
        )
    if gif is not None:
        film.check_file(gif, force)
    policies = playing.policies_for(task, policy, checkpoint)
    episodes = (10 if gif is None else 1) if episodes is None else episodes
    if gif is not None:
        fps = film.FPS if fps is None else fps
        film.check_size(episodes * (1 + _longest(spec, steps)), fps)
    played = playing.play(
        policies, spec, episodes, seed, shift, steps, record=gif is not None, **options
    )
    for episode in played:
        print(f"seed {episode.seed}: return {episode.score:.1f} in {episode.steps} steps")
    if len(played) > 1:
        print(f"mean of {len(played)}: {sum(e.score for e in played) / len(played):.1f}")
    if gif is not None:
        film.write_gif(gif, spec.name, played, fps=fps, force=force)
        frames = sum(len(episode.frames) for episode in played)
        print(f"written to {gif}: {frames} frames")
    return 0


def _longest(spec, steps: int | None) -> int:
    """Steps that an episode may have."""
    world = spec.make()
    longest = world.episode_length
    getattr(world, "close", lambda: None)()
    return longest if steps is None else min(steps, longest)
