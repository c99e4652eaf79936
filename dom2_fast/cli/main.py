"""The command line: `dom2-fast collect | train | evaluate | export | report | doctor | bench`.

Options and error messages only; what a command does is in `commands`. A user's error is one line
and exit code 2 (DOM2_FAST_TRACEBACK=1 shows where it came from), Ctrl-C is exit code 130.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import warnings
from argparse import SUPPRESS, ArgumentError
from collections.abc import Callable

from dom2_fast import config as configs
from dom2_fast._version import __version__
from dom2_fast.errors import Dom2Error

PROG = "dom2-fast"

# Settings of an algorithm whose names mean something else here, or that have another name too.
OPTION_NAMES = {"steps": ("--denoising-steps",), "weights": ("--weights", "--reweight")}

_DESCRIPTION = """\
Train diffusion policies for offline multi-agent reinforcement learning (DOM2), on native kernels.
`dom2-fast COMMAND --help` shows a command's options."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]

    def action() -> int:
        options = build_parser(argv).parse_args(_dashes(argv))
        from dom2_fast.cli import commands

        return commands.run(options.command, options[options.command].as_dict()) or 0

    return guard(action, argv)


def guard(action: Callable[[], int], argv: list[str]) -> int:
    """Run `action`; a user's error or Ctrl-C becomes one line and an exit code."""
    warnings.showwarning = _show_warning
    try:
        return action()
    except BrokenPipeError:  # `dom2-fast ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _complain("stopped by Ctrl-C")
        return 130
    except ArgumentError as error:
        return _fail(_explain_option(error, argv), error)
    except Dom2Error as error:
        return _fail(str(error), error)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", error)


def build_parser(argv: list[str]):
    """The parser of all commands; an algorithm's options are there when `argv` is a `train`."""
    parser = configs.option_parser(prog=PROG, description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    for name, (about, add) in COMMANDS.items():
        sub = configs.option_parser(description=about)
        if name == "train":
            add(sub, argv if "train" in argv else None)
        else:
            add(sub)
        commands.add_subcommand(name, sub, help=about)
        sub.prog = f"{PROG} {name}"
        if name == "train":
            sub.usage = f"{sub.prog} --data DATA --out OUT [options]"  # all of them fill a screen
    return parser


def _collect(parser) -> None:
    add = parser.add_argument
    add("--env", type=str, required=True, help="task, such as simple_spread")
    add("--quality", type=str, required=True, help="random, medium-replay, medium or expert")
    add("--episodes", type=int, default=4000, help="how many to play")
    add("--seed", type=int, default=0, help="the same seed gives the same data")
    add(
        "--out",
        type=str,
        default=SUPPRESS,
        help="new folder; without it datasets/ENV/QUALITY/seed_SEED_data",
    )
    add("--prey", type=str, default="bundled", help="bundled, or a network file in OMAR's format")


def _train(parser, argv: list[str] | None) -> None:
    add = parser.add_argument
    add(
        "--algo",
        type=str,
        default=SUPPRESS,
        help="dom2 or bc (default: dom2); --help shows its options",
    )
    add("--data", type=str, default=SUPPRESS, help="folder in OMAR's layout, as `collect` writes")
    add("--out", type=str, required=True, help="new folder for the run, or with --resume the run's")
    add("--steps", type=int, default=SUPPRESS, help="updates in all (default: 2000)")
    add("--resume", action="store_true", help="go on with the run in --out, as if never stopped")
    add(
        "--config",
        type=str,
        default=SUPPRESS,
        help="YAML file of settings, such as a run's config.yaml",
    )
    add(
        "--env",
        type=str,
        default=SUPPRESS,
        help="task of the policies, where the data doesn't say it",
    )
    add(
        "--episode-length",
        type=int,
        default=SUPPRESS,
        help="steps per episode, where the data doesn't say it",
    )
    add("--log-every", type=int, default=SUPPRESS, help="updates between log lines (default: 50)")
    add(
        "--save-every",
        type=int,
        default=SUPPRESS,
        help="updates between checkpoints (default: 500)",
    )
    add(
        "--eval-every",
        type=int,
        default=SUPPRESS,
        help="updates between evaluations; 0: none (default)",
    )
    add(
        "--eval-episodes",
        type=int,
        default=SUPPRESS,
        help="episodes of such an evaluation (default: 100)",
    )
    add("--threads", type=int, default=SUPPRESS, help="CPU threads (default: PyTorch's own choice)")
    add("--quiet", action="store_true", help="no progress bar")
    if argv is not None:
        add_algorithm_options(parser, algorithm_of(argv))


def _evaluate(parser) -> None:
    add = parser.add_argument
    add("run", type=str, help="folder of a trained run")
    add("--episodes", type=int, default=500, help="how many to play")
    add("--shift", type=str, default=SUPPRESS, help="none, speed or landmarks")
    add(
        "--v-min",
        type=float,
        default=SUPPRESS,
        help="with --shift speed: maximal speeds ~ U(V_MIN, 1)",
    )
    add("--env", type=str, default=SUPPRESS, help="task, where the run doesn't say it")
    add("--prey", type=str, default="bundled", help="bundled, or a network file in OMAR's format")
    add("--seed", type=int, default=SUPPRESS, help="of starts and noise; keep it to compare runs")
    add("--threads", type=int, default=SUPPRESS, help="CPU threads (default: PyTorch's own choice)")


def _export(parser) -> None:
    add = parser.add_argument
    add("run", type=str, help="folder of a trained run")
    add("--out", type=str, required=True, help="file to write, such as policy.safetensors")


def _report(parser) -> None:
    add = parser.add_argument
    add("runs", type=str, nargs="+", help="folders of runs")
    add("--out", type=str, default="report", help="folder (for report.html) or .html file")
    add("--title", type=str, default="dom2-fast report", help="heading of the page")


def _doctor(parser) -> None:
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _bench(parser) -> None:
    add = parser.add_argument
    add(
        "--filter",
        type=str,
        default=SUPPRESS,
        help="only benchmarks whose name matches (pytest -k)",
    )
    add("--json", type=str, default=SUPPRESS, help="also write the results to this file")
    add("--threads", type=int, default=1, help="CPU threads of both sides")


COMMANDS = {
    "collect": ("Play a behaviour policy and write its episodes as a data set.", _collect),
    "train": ("Train on a data set: DOM2, or diffusion behaviour cloning (bc).", _train),
    "evaluate": ("Score a run's policies, on the standard or a shifted task.", _evaluate),
    "export": ("Write a run's policies to one file that acts without this package.", _export),
    "report": ("Write one HTML page about one or more runs.", _report),
    "doctor": ("Tell what runs where on this machine, and check that it is right.", _doctor),
    "bench": ("Time the native ops against the eager reference (needs a checkout).", _bench),
}


def algorithm_of(argv: list[str]) -> str:
    """The algorithm that a `train` command line asks for: by --algo, its YAML file, or its run."""
    asked = _peek(argv, "--algo")
    if asked is not None:
        return asked
    file = _peek(argv, "--config")
    if file is None and "--resume" in argv and (out := _peek(argv, "--out")) is not None:
        file = os.path.join(out, "config.yaml")
        if not os.path.isfile(file):
            return "dom2"  # the command itself says that there is no run
    return str(configs.load(file).get("algo", "dom2")) if file is not None else "dom2"


def add_algorithm_options(parser, name: str) -> None:
    """One option for each setting of the algorithm, in a group of its own."""
    from dom2_fast import algos

    cls = algos.algorithm(name).config_class
    group = parser.add_argument_group(f"settings of {name} (in YAML under `config:`)")
    configs.add_options(group, cls, OPTION_NAMES)


def _peek(argv: list[str], option: str) -> str | None:
    for index, token in enumerate(argv):
        if token == option and index + 1 < len(argv):
            return argv[index + 1]
        if token.startswith(option + "="):
            return token.partition("=")[2]
    return None


def _dashes(argv: list[str]) -> list[str]:
    """`--batch_size` is accepted for `--batch-size`."""
    return [
        re.sub(r"^--[^=]*", lambda name: name.group().replace("_", "-"), token)
        if token.startswith("--")
        else token
        for token in argv
    ]


def _explain_option(error: ArgumentError, argv: list[str]) -> str:
    """The parser's complaint on one line; an unknown option gets its nearest neighbours."""
    text = configs.plain_error(error)
    unknown = re.search(r"unrecognized arguments: (\S+)", text, re.IGNORECASE)
    if unknown is None:
        return f"{text} (`{_help_command(argv)}` shows the options)"
    option = unknown.group(1).partition("=")[0]
    near = difflib.get_close_matches(option, sorted(_option_strings(argv)), n=3, cutoff=0.6)
    advice = f"did you mean {' or '.join(near)}?" if near else f"`{_help_command(argv)}` shows all"
    return f"unknown option {option}; {advice}"


def _option_strings(argv: list[str]) -> set[str]:
    from dom2_fast.config import option_parser

    command = next((token for token in argv if token in COMMANDS), None)
    if command is None:
        return {"--help", "--version"}
    parser = option_parser()
    add = COMMANDS[command][1]
    add(parser, argv) if command == "train" else add(parser)
    return {name for action in parser._actions for name in action.option_strings}


def _help_command(argv: list[str]) -> str:
    command = next((token for token in argv if token in COMMANDS), None)
    return f"{PROG} {command} --help" if command else f"{PROG} --help"


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    _complain(f"warning: {' '.join(str(message).split())}")


def _fail(text: str, error: BaseException) -> int:
    if os.environ.get("DOM2_FAST_TRACEBACK") == "1":
        raise error
    _complain(f"error: {' '.join(text.split())}")
    return 2


def _complain(text: str) -> None:
    print(f"{PROG}: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
