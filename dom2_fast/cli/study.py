"""`dom2-fast study run | status | report | cell`: a grid of runs from one YAML file."""

from __future__ import annotations

from argparse import SUPPRESS

from dom2_fast import config as configs
from dom2_fast.cli.options import add_threads, use_threads

ABOUT = "Run a grid of runs from one YAML file, and make one table of them."

_ACTIONS = {
    "run": "Do what is left of a study; what is done already stays.",
    "status": "Say how many cells are done, running, waiting and failed.",
    "report": "Write a study's page and tables, of the cells that are done.",
    "cell": "Do one cell: what a study's workers run.",
}


def add_options(parser, argv: list[str]) -> None:
    actions = parser.add_subcommands(required=True, dest="action", metavar="ACTION")
    for name, about in _ACTIONS.items():
        sub = configs.option_parser(description=about)
        add = sub.add_argument
        if name == "run":
            add("file", type=str, help="the study's YAML file, see docs/studies.md")
            add("--out", type=str, required=True, help="its folder: new, or one to go on with")
            add("--jobs", type=int, default=SUPPRESS, help="workers (default: one per core)")
            add(
                "--ray",
                type=str,
                nargs="?",
                const="local",
                default=SUPPRESS,
                metavar="ADDRESS",
                help="do the cells on a Ray cluster: HOST:PORT, ray://HOST:PORT or auto; without "
                "an address on one that is started here, with --jobs CPUs. With an address Ray "
                "knows how many there are, and --jobs is refused",
            )
            add("--quiet", action="store_true", help="no progress bar")
        else:
            add("out", type=str, help="the study's folder")
        if name == "report":
            add("--markdown", type=str, help="page whose part between the study's markers is made")
            add(
                "--with",
                type=str,
                dest="others",
                action="append",
                default=[],
                metavar="RESULTS",
                help="results.csv of another folder of this study, for cells not done here; again "
                "for more",
            )
        if name == "cell":
            add("name", type=str, help="of the cell, as its folder is called")
            add(
                "--until-input-ends",
                action="store_true",
                help="stop, with a checkpoint, when standard input ends",
            )
            add_threads(sub)
        actions.add_subcommand(name, sub, help=about)
        sub.prog = f"dom2-fast study {name}"


def run(action: str, **options) -> int:
    actions = {"run": run_study, "status": status, "report": report, "cell": cell}
    return actions[action](**options[action])


def run_study(
    file: str, out: str, quiet: bool, jobs: int | None = None, ray: str | None = None
) -> int:
    from dom2_fast.studies import run

    found, finished = run.run_study(file, out, jobs=jobs, ray=ray, progress=not quiet)
    print(_told(found))
    if not finished:
        print(f"stopped; go on: dom2-fast study run {file} --out {out}")
        return 130
    print(f"the table is in {out}/results.csv")
    return 1 if found.failed else 0


def status(out: str) -> int:
    from dom2_fast.studies import run

    study, found = run.status(out)
    print(f"{study.name}: {len(study.cells)} cells\n{_told(found)}")
    return 0


def report(out: str, others: list[str], markdown: str | None = None) -> int:
    from dom2_fast.studies.report import PAGE, write_report

    print(f"wrote {write_report(out, markdown, others) / PAGE}")
    return 0


def _told(found) -> str:
    from dom2_fast.cli import tables

    lines = [", ".join(f"{count} {word}" for word, count in found.counts.items())]
    if found.counts["running"] or found.counts["waiting"]:
        left = "not known yet" if found.left is None else f"about {tables.duration(found.left)}"
        lines.append(f"time left: {left}")
    lines += [f"failed: {name}: {reason}" for name, reason in found.failed.items()]
    return "\n".join(lines)


def cell(out: str, name: str, until_input_ends: bool, threads: int | None = None) -> int:
    from dom2_fast.studies import work
    from dom2_fast.studies.folder import StudyFolder

    use_threads(threads)
    if until_input_ends:
        _stop_at_end_of_input()
    home = StudyFolder(out)
    study = home.study()
    return 0 if work.do(home, study, study.cell(name)) else 130


def _stop_at_end_of_input() -> None:
    import os
    import signal
    import threading

    def watch() -> None:
        # Not through sys.stdin: its lock, held by a thread, aborts the interpreter at its end.
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
