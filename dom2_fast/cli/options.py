"""Options that several commands have, and what they do."""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS
from collections.abc import Iterable
from typing import Any

from dom2_fast import config as configs
from dom2_fast.errors import Dom2Error, whole_number


def add_threads(parser) -> None:
    parser.add_argument(
        "--threads",
        type=int,
        default=SUPPRESS,
        help="CPU threads (default: PyTorch's own choice)",
    )


def use_threads(threads: int | None) -> None:
    """Obey --threads where it was given."""
    if threads is not None:
        whole_number("--threads", threads)
        import torch

        torch.set_num_threads(threads)


def add_prey(parser) -> None:
    parser.add_argument(
        "--prey",
        type=str,
        default=SUPPRESS,
        help="of particle tasks that have one: bundled (default), or a network file in OMAR's "
        "format",
    )


def add_env_options(parser) -> None:
    """--v-min, --env-option and --prey, which `env_options` reads."""
    add = parser.add_argument
    add(
        "--v-min",
        type=float,
        default=SUPPRESS,
        help="with --shift speed: maximal speeds ~ U(V_MIN, 1); short for --env-option v_min=V_MIN",
    )
    add(
        "--env-option",
        action="append",
        type=str,
        default=SUPPRESS,
        metavar="KEY=VALUE",
        help="an option of the environment or of its shift; may be given several times",
    )
    add_prey(parser)


def env_options(given: dict[str, Any]) -> dict[str, Any]:
    """The environment's options in a command's, which they are taken out of."""
    options = pairs(given.pop("env_option", []), "--env-option")
    for key in ("v_min", "prey"):
        value = given.pop(key, None)
        if value is not None:
            if key in options:
                raise Dom2Error(f"--env-option {key} was given twice: give it once")
            options[key] = value
    return options


def search_here() -> None:
    """Let `module:function` find modules in the current folder, after the installed ones.

    A console script has its own folder on the path, not the user's.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def pairs(given: Iterable[str], option: str) -> dict[str, Any]:
    """`key=value` texts as a dict; values are read as YAML reads them (0.3, true, text).

    Raises:
        Dom2Error: a text without `=`, or a key that was given twice.
    """
    values: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise Dom2Error(f"{option} is {text!r}, it must be KEY=VALUE")
        if key in values:
            raise Dom2Error(f"{option} {key} was given twice: give it once")
        values[key] = configs.parse(value, f"{option} {key}")
    return values
