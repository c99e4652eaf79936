"""The command line: one file per command, listed in `COMMANDS`; this one parses and guards.

A command is a module with `ABOUT`, `add_options(parser, argv)` and `run(**options) -> exit code`;
heavy imports wait until it runs. A user's error is one line and exit code 2 (DOM2_FAST_TRACEBACK=1
shows where it came from), Ctrl-C is exit code 130.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable

from dom2_fast import config as configs
from dom2_fast._version import __version__
from dom2_fast.cli import (
    bench,
    collect,
    data,
    diagnose,
    doctor,
    evaluate,
    export,
    play,
    report,
    study,
    train,
)
from dom2_fast.errors import Dom2Error

PROG = "dom2-fast"

COMMANDS = {
    "collect": collect,
    "data": data,
    "train": train,
    "evaluate": evaluate,
    "play": play,
    "diagnose": diagnose,
    "export": export,
    "report": report,
    "study": study,
    "doctor": doctor,
    "bench": bench,
}

_NO_MEMORY = "not enough memory for this: make the networks, the batch or the data set smaller"
# What PyTorch, whose error is a bare RuntimeError, says then: of CPUs, of GPUs, in its stable ABI.
_ALLOCATING = ("can't allocate memory", "out of memory", "aoti_torch_empty_strided(")

_DESCRIPTION = """\
Offline multi-agent reinforcement learning (DOM2 and others), on native kernels.
`dom2-fast COMMAND --help` shows a command's options."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]

    def action() -> int:
        program = " ".join(filter(None, (PROG, _command(argv))))
        options = parse(build_parser(argv), argv, program)
        return COMMANDS[options["command"]].run(**options[options["command"]])

    return guard(action)


def build_parser(argv: list[str]):
    """The parser of all commands; the one that `argv` asks for has its options."""
    parser = configs.option_parser(prog=PROG, description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    asked = _command(argv)
    for name, command in COMMANDS.items():
        sub = configs.option_parser(description=command.ABOUT)
        commands.add_subcommand(name, sub, help=command.ABOUT)
        sub.prog = f"{PROG} {name}"
        if name == asked:
            command.add_options(sub, argv)
    return parser


def _command(argv: list[str]) -> str | None:
    first = next((token for token in argv if not token.startswith("-")), None)
    return first if first in COMMANDS else None


def parse(parser, argv: list[str], program: str) -> dict:
    """The options in `argv`; `--batch_size` is accepted for `--batch-size`.

    Args:
        program: whose --help shows the options.
    Raises:
        Dom2Error: what the parser complains of, on one line; an unknown option gets its nearest
            neighbours.
    """
    known = configs.option_strings(parser)
    try:
        return parser.parse_args([_spelt(token, known) for token in argv]).as_dict()
    except ArgumentError as error:
        raise Dom2Error(_explain(error, known, program)) from error


def _spelt(token: str, known: list[str]) -> str:
    name, equals, value = token.partition("=")
    if not name.startswith("--") or name in known:
        return token
    return name.replace("_", "-") + equals + value


def guard(action: Callable[[], int]) -> int:
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
    except Dom2Error as error:
        return _fail(str(error), error)
    except MemoryError as error:
        return _fail(_NO_MEMORY, error)
    except RuntimeError as error:
        if not any(words in str(error) for words in _ALLOCATING):
            raise
        return _fail(_NO_MEMORY, error)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", error)


def _explain(error: ArgumentError, known: list[str], program: str) -> str:
    text = configs.plain_error(error)
    unknown = re.search(r"unrecognized arguments: (\S+)", text, re.IGNORECASE)
    if unknown is None:
        return f"{text} (`{program} --help` shows the options)"
    option = unknown.group(1).partition("=")[0]
    near = difflib.get_close_matches(option, known, n=3, cutoff=0.6)
    advice = f"did you mean {' or '.join(near)}?" if near else f"`{program} --help` shows all"
    return f"unknown option {option}; {advice}"


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
