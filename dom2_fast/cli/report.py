"""`dom2-fast report`: one HTML page about one or more runs."""

from __future__ import annotations

ABOUT = "Write one HTML page about one or more runs."


def add_options(parser, argv: list[str]) -> None:
    add = parser.add_argument
    add("runs", type=str, nargs="+", help="folders of runs")
    add("--out", type=str, default="report", help="folder (for report.html) or .html file")
    add("--title", type=str, default="dom2-fast report", help="heading of the page")


def run(runs: list[str], out: str, title: str) -> int:
    from dom2_fast.report import write_report

    path = write_report(runs, out, title=title)
    print(f"written to {path} ({path.stat().st_size / 1e3:.0f} kB, one file, no network needed)")
    return 0
