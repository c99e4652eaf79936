"""The package's docstrings as reStructuredText, which Sphinx's autodoc expects.

They are written as Markdown is: `x` is code, `*` and `|` are just characters, a list or a formula
is an indented block after a colon and an empty line, and "Returns: what" stands on one line.
"""

import re

SECTION = re.compile(r"^(\s*)(Args|Returns|Raises|Attributes|Yields|Example): +(\S.*)$")
CODE = re.compile(r"(`[^`]+`)")


def to_rest(lines: list[str]) -> list[str]:
    """The lines of a docstring as lines of reStructuredText (Google's sections stay)."""
    done, prose = [], []
    formula = None  # indentation of the text that a formula or listing hangs from
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if formula is not None and line.strip() and indent <= formula:
            formula = None
        if formula is not None:
            done.append(line)
            continue
        if line.strip() and _follows_colon(prose, indent):
            done += _escaped(prose[:-2])
            done += [_escaped(prose[-2:-1])[0] + ":", "", line]
            formula, prose = len(prose[-2]) - len(prose[-2].lstrip()), []
            continue
        section = SECTION.match(line)
        if section:
            prose += [f"{section[1]}{section[2]}:", f"{section[1]}    {section[3]}"]
        else:
            prose.append(line)
    return done + _escaped(prose)


def _follows_colon(before: list[str], indent: int) -> bool:
    """Whether a line of this indentation begins a block after a "text:" and an empty line."""
    if len(before) < 2 or before[-1].strip() or not before[-2].rstrip().endswith(":"):
        return False
    return indent > len(before[-2]) - len(before[-2].lstrip())


def _escaped(lines: list[str]) -> list[str]:
    """The same text with no meaning in `*`, `|` and a trailing `_`, but for bullets and code."""
    parts = CODE.split("\n".join(lines))
    for i in range(0, len(parts), 2):
        text = parts[i].split("\n")
        parts[i] = "\n".join(_escaped_line(line, not i or k > 0) for k, line in enumerate(text))
    return "".join(parts).split("\n") if lines else []


def _escaped_line(line: str, whole: bool) -> str:
    bullet = re.match(r"\s*\* ", line) if whole else None
    start = bullet.end() if bullet else 0
    return line[:start] + re.sub(r"\*|\||(?<=\w)_(?!\w)", r"\\\g<0>", line[start:])


def setup(app) -> None:
    """Sphinx calls this; napoleon reads what is left here, so it comes first (400 < 500)."""

    def rewrite(app, what, name, obj, options, lines):
        lines[:] = to_rest(lines)

    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", rewrite, priority=400)
