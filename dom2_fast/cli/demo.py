"""`make demo`: the whole job once, small: collect, train DOM2 and rivals, evaluate, report.

Everything goes to runs/demo. A second demo replaces what the first one made, and nothing else; the
old results stay until the new ones are complete. For real work use `dom2-fast`, not this.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from dom2_fast.cli import tables
from dom2_fast.errors import Dom2Error, whole_number
from dom2_fast.files import atomic_write

TASK, QUALITY = "simple_spread", "medium"
# All learn the same number of updates of the same batch size, from the same weights. Settings that
# aren't defaults are those that docs/algorithms.md has for runs as short as this: TD3+BC's own are
# made for a million updates.
ALGOS: dict[str, dict] = {
    "bc": {},
    "td3_bc": {"lr": 1e-3, "critic_lr": 3e-3, "tau": 0.02, "normalise_reward": True},
    "omar": {},
    "dom2": {},
}
MADE = ("data", *ALGOS, "scores.json", "report.html")
MARKER = "made-by-demo.txt"
OLD = ".previous"


def demo(
    out: str | Path = "runs/demo",
    *,
    episodes: int = 4000,
    steps: int = 2000,
    eval_episodes: int = 1000,
    seed: int = 0,
    threads: int = 1,
) -> dict:
    """Run the demo; returns what is in `out/scores.json`.

    Args:
        out: a folder that is new, empty, or of an earlier demo.
        episodes: to collect. steps: updates of every algorithm. eval_episodes: per score.
        threads: CPU threads. One is enough for networks of this size, and takes the same time on a
            machine that others use, where threads that wait for each other take many times more.
    Raises:
        Dom2Error: `out` holds something that isn't a demo's.
    """
    import torch

    from dom2_fast import algos
    from dom2_fast.behaviours.collect import collect
    from dom2_fast.report import write_report
    from dom2_fast.runs import evaluation
    from dom2_fast.runs.scoring import evaluate_run
    from dom2_fast.runs.train import train

    torch.set_num_threads(whole_number("threads", threads))
    out = Path(out)
    clock = _Clock()
    with _replacing(out):
        clock.say(f"collecting {episodes:,} episodes of {TASK}, {QUALITY}")
        data = collect(TASK, QUALITY, episodes=episodes, seed=seed, out=out / "data")
        scores: dict = {"dataset_mean": _brief(evaluation.dataset_scores(data, TASK))}
        for name, settings in ALGOS.items():
            config = algos.algorithm(name).config_class(seed=seed, **settings)
            rows = f"{data.num_agents} x {config.batch_size} rows"
            changed = "".join(f", {key} {value}" for key, value in settings.items())
            clock.say(f"training {name}, {steps:,} updates of {rows}{changed}")
            result = train(
                config,
                out / "data",
                out / name,
                steps,
                progress=sys.stderr.isatty(),
                eval_every=max(1, steps // 8),
                eval_episodes=min(200, eval_episodes),
            )
            if result.interrupted:
                raise KeyboardInterrupt
            clock.say(f"evaluating {name}, {eval_episodes:,} episodes standard and speed-shifted")
            for shift in (None, "speed"):
                made = evaluate_run(out / name, episodes=eval_episodes, shift=shift)
            scores[name] = {key: _brief(value) for key, value in made["results"].items()}
        with atomic_write(out / "scores.json", "w") as file:
            json.dump(scores, file, indent=1)
            file.write("\n")
        write_report(
            [out / name for name in reversed(ALGOS)],
            out / "report.html",
            title=f"dom2-fast demo: {TASK}, {QUALITY} data",
            reference={"data set": scores["dataset_mean"]["mean"]},
            note=f"{episodes:,} collected episodes, {steps:,} updates each, one seed; made by "
            "make demo.",
        )
    print(f"\n{_table(scores)}\n")
    print(f"{steps:,} updates each, one seed: a demonstration, not a comparison of the methods")
    print(f"scores: {out / 'scores.json'}\nreport: {out / 'report.html'}")
    print(f"all done in {tables.duration(clock.elapsed())}", flush=True)
    return scores


def _brief(result: dict) -> dict:
    return {key: value for key, value in result.items() if key != "returns"}


def _table(scores: dict) -> str:
    shown = {"data set": {"standard": scores["dataset_mean"]}}
    return tables.scores(shown | {name: scores[name] for name in ALGOS})


class _Clock:
    def __init__(self) -> None:
        self.start = time.perf_counter()

    def elapsed(self) -> float:
        return time.perf_counter() - self.start

    def say(self, text: str) -> None:
        print(f"[{self.elapsed():6.1f} s] {text}", flush=True)


@contextlib.contextmanager
def _replacing(out: Path) -> Iterator[None]:
    """Put an earlier demo's results aside while a new one runs; back again if it doesn't finish."""
    if out.exists() and not out.is_dir():
        raise Dom2Error(f"{out} is a file, the demo needs a folder there: move it away")
    held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if held and MARKER not in held:
        raise Dom2Error(
            f"{out} holds {', '.join(held[:3])} and was not made by the demo: nothing was touched. "
            "Move it away, or give the demo another folder: "
            "python -m dom2_fast.cli.demo --out FOLDER"
        )
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / MARKER, "w") as file:
        file.write(
            "This folder was made by `make demo`. Another `make demo` replaces "
            f"{', '.join(MADE)}; other files here are left alone.\n"
        )
    old = out / OLD
    if old.exists():
        # The last demo was killed: what it left is unfinished, what it put aside isn't.
        _remove(out)
    else:
        old.mkdir()
        _move(out, old)
    try:
        yield
    except BaseException:
        _remove(out)
        _move(old, out)
        old.rmdir()
        raise
    shutil.rmtree(old)


def _remove(folder: Path) -> None:
    for name in MADE:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    for name in MADE:
        if (source / name).exists():
            (source / name).rename(target / name)


def main(argv: list[str] | None = None) -> int:
    """`python -m dom2_fast.cli.demo`, with options for a smaller or longer one."""
    from dom2_fast.cli.main import guard, parse
    from dom2_fast.config import option_parser

    argv = sys.argv[1:] if argv is None else argv

    def action() -> int:
        parser = option_parser(prog="python -m dom2_fast.cli.demo", description=__doc__)
        parser.add_function_arguments(demo, as_group=False)
        demo(**parse(parser, argv, parser.prog))
        return 0

    return guard(action)


if __name__ == "__main__":
    sys.exit(main())
