"""Small pieces of HTML that the report's sections are made of. Arguments are escaped here."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from dom2_fast.report import figures


def section(title: str, content: str, note: str = "") -> str:
    note = f"<p class='note'>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{note}{content}</section>"


def plot(svg: str) -> str:
    return f"<div class='scroll plot'>{svg}</div>"


def key(index: int) -> str:
    """The run's marker in its colour, as in the plots."""
    color = f"var(--s{index % 8})"
    shapes = {
        "o": "<circle cx='8' cy='8' r='5.5'/>",
        "s": "<rect x='3' y='3' width='10' height='10'/>",
        "D": "<path d='M8 1.5 14.5 8 8 14.5 1.5 8z'/>",
        "^": "<path d='M8 2 14.5 13.5h-13z'/>",
        "v": "<path d='M8 14 1.5 2.5h13z'/>",
        "P": "<path d='M6 2h4v4h4v4h-4v4H6v-4H2V6h4z'/>",
        "X": "<path d='m4 1.5 4 4 4-4L14.5 4l-4 4 4 4-2.5 2.5-4-4-4 4L1.5 12l4-4-4-4z'/>",
        "*": "<path d='m8 1 2 5h5l-4 3.5 1.5 5.5L8 12l-4.5 3L5 9.5 1 6h5z'/>",
    }
    shape = shapes[figures.style(index)[1]]
    return f"<svg class='key' viewBox='0 0 16 16' fill='{color}' aria-hidden='true'>{shape}</svg>"


def swatch(index: int) -> str:
    return (
        f"<svg class='key' viewBox='0 0 16 16' fill='var(--s{index % 8})' aria-hidden='true'>"
        f"<rect x='2' y='2' width='12' height='12' rx='2'/></svg>"
    )


def number(value, digits: int = 1) -> str:
    if value is None:
        return "&ndash;"
    return f"{value:,.{digits}f}".replace("-", "&minus;")


def interval(bounds) -> str:
    return f"{number(bounds[0])} to {number(bounds[1])}"


def small(bounds) -> str:
    return f" <span class='note'>({interval(bounds)})</span>" if bounds else ""


def flatten(values: Mapping, prefix: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
