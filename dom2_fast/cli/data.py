"""`dom2-fast data inspect | card | convert`: what a data set holds, and it in another format."""

from __future__ import annotations

from argparse import SUPPRESS
from json import dumps
from pathlib import Path
from typing import Any

from dom2_fast import config as configs
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write

ABOUT = "Look at a data set, make its card, or write it in another format."

_INSPECT = "Check a data set and print what it holds."
_CARD = "Statistics of its returns, coverage, how it was made and hashes, as a page or as JSON."
_CONVERT = "Write a data set in another format; the old one stays."


def add_options(parser, argv: list[str]) -> None:
    from dom2_fast.data import formats

    names = ", ".join(formats.names())
    actions = parser.add_subcommands(required=True, dest="action", metavar="ACTION")
    for name, about in (("inspect", _INSPECT), ("card", _CARD), ("convert", _CONVERT)):
        sub = configs.option_parser(description=about)
        add = sub.add_argument
        add("path", type=str, help="of the data set, or what its format calls it, as minari:ID")
        if name == "convert":
            add("--to", type=str, required=True, help=f"format to write: {names}")
            add("--out", type=str, required=True, help="where to write it; nothing may be there")
        if name == "card":
            add("--out", type=str, default=SUPPRESS, help="new file; without it, it is printed")
            add("--format", type=str, default="md", help="of the card: md or json")
        add(
            "--source-format" if name == "card" else "--format",
            type=str,
            default=SUPPRESS,
            help=f"of PATH, where it isn't clear: {names}",
        )
        add(
            "--episode-length",
            type=int,
            default=SUPPRESS,
            help="steps per episode, where the data doesn't say it",
        )
        if name == "inspect":
            add("--json", action="store_true", help="print everything as JSON")
        actions.add_subcommand(name, sub, help=about)
        sub.prog = f"dom2-fast data {name}"


def run(action: str, **options) -> int:
    return {"inspect": inspect, "card": card, "convert": convert}[action](**options[action])


def inspect(
    path: str, json: bool, format: str | None = None, episode_length: int | None = None
) -> int:
    from dom2_fast.data import tools

    facts = tools.inspect(path, episode_length=episode_length, format=format)
    if json:
        print(dumps(facts, indent=2))
        return 0
    notes = facts.pop("notes")
    lines = {name.replace("_", " "): _shown(value) for name, value in facts.items()}
    width = max(len(name) for name in lines)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in lines.items()))
    for note in notes:
        print(f"note: {note}")
    return 0


def card(
    path: str,
    format: str,
    out: str | None = None,
    source_format: str | None = None,
    episode_length: int | None = None,
) -> int:
    from dom2_fast import data
    from dom2_fast.data import card_page

    if format not in ("md", "json"):
        raise Dom2Error(f"--format of a card is md or json, not {format!r}")
    if out is not None and Path(out).exists():
        raise Dom2Error(f"{out} exists; nothing was overwritten: choose another name")
    made = data.card(path, episode_length, source_format)
    text = card_page.markdown(made) if format == "md" else dumps(made, indent=2) + "\n"
    if out is None:
        print(text, end="")
        return 0
    with atomic_write(out, "w") as file:
        file.write(text)
    print(f"written to {out}")
    return 0


def convert(
    path: str, to: str, out: str, format: str | None = None, episode_length: int | None = None
) -> int:
    from dom2_fast.data import tools

    written = tools.convert(path, to, out, episode_length=episode_length, source_format=format)
    print(f"written to {written}\nnext: dom2-fast data inspect {written}")
    return 0


def _shown(value: Any) -> str:
    """Numbers with six digits; of a list, one for each agent; of a mapping, its parts."""
    if value is None:
        return "not known"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) or "nothing"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
