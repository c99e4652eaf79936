"""`dom2-fast train`: its options are those of `RunConfig` and of the algorithm asked for."""

from __future__ import annotations

import argparse
import time
from argparse import SUPPRESS

from dom2_fast import config as configs
from dom2_fast.cli.options import add_threads, search_here, use_threads
from dom2_fast.errors import Dom2Error

ABOUT = "Train an algorithm on a data set, into a run folder."
USAGE = "dom2-fast train --data DATA --out OUT [options]"  # all options would fill a screen

# Settings of algorithms whose names mean something else here, or that have another name too.
OPTION_NAMES = {"steps": ("--denoising-steps",), "weights": ("--weights", "--reweight")}


def add_options(parser, argv: list[str]) -> None:
    from dom2_fast import algos
    from dom2_fast.runs.run_config import OWN, RunConfig

    parser.usage = USAGE
    configs.add_options(parser, RunConfig)
    add = parser.add_argument
    add("--out", type=str, required=True, help="new folder for the run, or with --resume the run's")
    add("--resume", action="store_true", help="go on with the run in --out, as if never stopped")
    add(
        "--config",
        type=str,
        default=SUPPRESS,
        help="YAML file of options, such as a run's config.yaml",
    )
    add_threads(parser)
    add("--quiet", action="store_true", help="no progress bar")
    name = algorithm_of(argv)
    group = parser.add_argument_group(f"settings of {name} (in YAML under `{OWN}:`)")
    configs.add_options(group, algos.algorithm(name).config_class, OPTION_NAMES)


def algorithm_of(argv: list[str]) -> str:
    """The algorithm that a command line is about: by --algo, its YAML file, or its run.

    Which options there are depends on it, so it is looked up before the rest is parsed.
    """
    from dom2_fast.runs.run_config import RunConfig

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in ("--algo", "--config", "--out"):
        first.add_argument(option, nargs="?")  # the real parser says that a value is missing
    first.add_argument("--resume", action="store_true")
    given, _ = first.parse_known_args(argv)
    if given.algo is not None:
        return given.algo
    return _told(given.config, given.resume, given.out)[0].get("algo", RunConfig.algo)


def run(
    out: str,
    resume: bool,
    quiet: bool,
    config: str | None = None,
    threads: int | None = None,
    **given,
) -> int:
    from dom2_fast import algos
    from dom2_fast.cli import tables
    from dom2_fast.runs.run_config import RunConfig, names
    from dom2_fast.runs.train import train

    use_threads(threads)
    options = {name: given.pop(name) for name in names() if name in given}
    renamed = {strings[0][2:].replace("-", "_"): name for name, strings in OPTION_NAMES.items()}
    given = {renamed.get(name, name): value for name, value in given.items()}
    told, settings = _told(config, resume, out)
    if "algo" in options and told.get("algo", options["algo"]) != options["algo"]:
        raise Dom2Error(
            f"--algo {options['algo']} was given, but {config or out} is of {told['algo']}: "
            f"leave out one of the two"
        )
    options = told | options
    if "data" not in options and not resume:
        raise Dom2Error("--data is missing: give a folder that `dom2-fast collect` made")
    search_here()
    # A resumed run keeps its own settings; its checkpoint has them even without a config.yaml.
    chosen = None
    if settings or given or not resume:
        cls = algos.algorithm(options.get("algo", RunConfig.algo)).config_class
        chosen = configs.from_dict(cls, settings | given, config or "the settings")
    start = time.perf_counter()
    result = train(chosen, None, out, resume=resume, progress=not quiet, **options)
    took = tables.duration(time.perf_counter() - start)
    if result.interrupted:
        print(
            f"stopped at step {result.step} of {result.steps} after {took}; the checkpoint is in "
            f"{out}\n"
            f"go on: dom2-fast train --resume --out {out}"
        )
        return 130
    print(
        f"{result.agents.name}: {result.step} steps done, {took}; checkpoint and logs are in "
        f"{out}\n"
        f"next: dom2-fast evaluate {out}   (curves: tensorboard --logdir {out}/tb)"
    )
    return 0


def _told(config: str | None, resume: bool, out: str | None) -> tuple[dict, dict]:
    """(options, the algorithm's settings) of --config, or else of the run that is resumed."""
    from dom2_fast.runs import run_config

    if config is not None:
        return run_config.read(config)
    return run_config.of_folder(out) if resume and out is not None else ({}, {})
