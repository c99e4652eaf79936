"""`run.py --quick --save NAME`: its rows as benchmarks/results/NAME.json, as table.py keeps some.

    {"machine": facts, "groups": {row: {kind: {seconds, quartiles, rounds, ratio}}},
     "quick": {"peaks": FLOP/s by precision, "absent": {row: {kind: why}}, "notes": [...]}}

The kind "native" is ours. Ratios are of the rounds in which both were timed.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
from pathlib import Path

from quick_table import OURS, Result

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "jax", "onnxruntime", "openvino")


def versions() -> dict[str, str | None]:
    """Of torch and the peers; None for one that isn't installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def processor() -> str:
    """Its name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or "unknown processor"
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "unknown processor")


def facts(isa: str, clock: str) -> dict:
    """The machine, as table.py has it; `time` orders what is kept."""
    peers = versions()
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "processor": processor(), "cores": os.cpu_count(), "isa": isa, "torch": peers.pop("torch"),
        "python": platform.python_version(), "peers": peers, "clock": clock,
        "date": now.date().isoformat(), "time": now.isoformat(timespec="seconds"),
    }  # fmt: skip


def of_row(result: Result) -> dict:
    """kind -> its median, quartiles and median of the ratio, number of rounds, ratio."""
    found = {}
    for kind, seconds in result.seconds.items():
        ratios = result.ratios(kind)
        if not seconds or not ratios:
            continue
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        found["native" if kind == OURS else kind] = {
            "seconds": statistics.median(seconds), "quartiles": [round(q, 4) for q in quartiles],
            "rounds": len(seconds), "ratio": round(statistics.median(ratios), 4),
        }  # fmt: skip
    return found


def keep(name, machine, results: list[Result], peaks, notes, folder: Path = RESULTS) -> Path:
    """Writes the rows that have a time of ours, in place of an older file of that name."""
    rows = [r for r in results if r.seconds.get(OURS)]
    rates = {"bf16" if bf16 else "fp32": rate for bf16, rate in peaks.items()}
    more = {"peaks": rates, "absent": {r.name: r.absent for r in rows if r.absent}, "notes": notes}
    kept = {"machine": machine, "groups": {r.name: of_row(r) for r in rows}, "quick": more}
    folder.mkdir(parents=True, exist_ok=True)
    path, new = folder / f"{name}.json", folder / f".{name}.json.tmp"
    new.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(path)
    return path
