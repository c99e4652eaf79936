"""A data card as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

_STATISTICS = (
    ("mean", "mean"),
    ("sd", "sd"),
    ("min", "min"),
    ("max", "max"),
    ("mode", "mode"),
    ("median", "median"),
    ("range", "range"),
    ("iqr", "IQR"),
    ("skewness", "skewness"),
    ("kurtosis", "excess kurtosis"),
)
_WIDTH = 40  # characters of the histogram's longest bar


def markdown(card: Mapping) -> str:
    """The page of what `data.card` gives."""
    name = "/".join(str(card[key]) for key in ("task", "quality") if card[key])
    parts = [
        f"# {name or 'Data set'}",
        _facts(card),
        "## Returns",
        f"The score of an episode is: {card['returns']['rule']}. Returns are sums of rewards "
        "without a discount; skewness and kurtosis are of the plain moments, the mode is the "
        "middle of the fullest of 30 bins.",
        _returns(card["returns"], card["published"]),
        _published(card["published"]),
        _histogram(card["returns"]["score"]["histogram"]),
        "## Coverage",
        _coverage(card["coverage"]),
        "## How it was made",
        _made(card["meta"]),
        "## Hashes",
        _hashes(card["sha256"], card["fingerprint"]),
        "\n".join(f"Note: {note}." for note in card["notes"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(card: Mapping) -> str:
    low, high = card["length_min"], card["length_max"]
    rows = [
        ("trajectories", f"{card['trajectories']:,}"),
        ("transitions of each agent", f"{card['transitions']:,}"),
        ("steps per trajectory", f"{low:,}" if low == high else f"{low:,} to {high:,}"),
        ("agents", str(card["agents"])),
        ("numbers in an observation", ", ".join(map(str, card["obs_dims"]))),
        ("numbers in an action", str(card["act_dim"])),
        ("terminal states", _each(card["terminals"])),
        ("time limits", "not told" if card["truncations"] is None else _each(card["truncations"])),
        ("format", card["format"]),
    ]
    return _table(["", ""], rows)


def _returns(returns: Mapping, published: Mapping | None) -> str:
    columns = [("score", returns["score"])]
    columns += [(f"agent {i}", own) for i, own in enumerate(returns["agents"])]
    if published is not None:
        columns.append(("OMAR's score", published))
    rows = [
        (title, *(_number(values[key]) if key in values else "" for _, values in columns))
        for key, title in _STATISTICS
    ]
    return _table(["", *(title for title, _ in columns)], rows)


def _published(published: Mapping | None) -> str:
    if published is None:
        return ""
    return (
        f"OMAR's column: {published['source']}; {published['trajectories']:,} trajectories, "
        f"{published['transitions']:,} transitions. The mean here is "
        f"{published['difference_percent']:+.1f} % away from it."
    )


def _histogram(histogram: Mapping) -> str:
    edges, counts = histogram["edges"], histogram["counts"]
    most = max(counts)
    rows = [
        f"{edges[i]:10.1f} to {edges[i + 1]:10.1f} {count:8,} {'#' * round(_WIDTH * count / most)}"
        for i, count in enumerate(counts)
    ]
    return "\n".join(["Trajectories by score:", "", "```", *(row.rstrip() for row in rows), "```"])


def _coverage(coverage: Mapping) -> str:
    sizes = " and ".join(f"{size:g} of {name}" for name, size in coverage["grid"].items())
    what = next(iter(coverage["grid"]))
    rows = [("joint SACo", coverage["joint"]), (f"joint {what}", coverage["joint_states"])]
    rows += [(f"OACo of agent {i}", own) for i, own in enumerate(coverage["agents"])]
    rows += [(f"{what} of agent {i}", own) for i, own in enumerate(coverage["agent_states"])]
    shown = [(title, f"{own['cells']:,}", f"{own['share']:.6f}") for title, own in rows]
    return (
        f"Different cells of a grid of {sizes} ({coverage['columns']}), and their share of the "
        f"{coverage['rows']:,} rows. Joint: of all agents' numbers together.\n\n"
        + _table(["", "cells", "share of rows"], shown)
    )


def _made(meta: Mapping) -> str:
    if not meta:
        return "The source doesn't say."
    return _table(["", ""], [(key, _shown(value)) for key, value in meta.items()])


def _hashes(sha256: Mapping, fingerprint: str) -> str:
    said = f"Fingerprint of shapes and returns: `{fingerprint}`."
    if sha256["set"] is None:
        return f"The data are in no file, so there is no sha256. {said}"
    rows = [(name, f"`{digest}`") for name, digest in sha256["files"].items()]
    return (
        f"sha256 of the set: `{sha256['set']}` (of the lines of `sha256sum` for all its files but "
        f"meta.json, in the order of their names). {said}\n\n" + _table(["file", "sha256"], rows)
    )


def _table(head: list[str], rows: list[tuple]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _each(values: list[int]) -> str:
    return f"{values[0]:,}" if len(set(values)) == 1 else ", ".join(f"{v:,}" for v in values)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _shown(value) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(_shown, value))
    return "none" if value is None else str(value).replace("|", "\\|")
