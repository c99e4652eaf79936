"""What `run.py --quick` prints: its rows, whatever of them there is. Without torch, for tests."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from table import number, time_text

OURS = "ours"
COLUMNS = {
    "floor": "plain C",
    "eager": "PyTorch",
    "batched": "PyTorch, batched",
    "compile": "torch.compile",
    "aoti": "AOTInductor",
    "jax": "JAX",
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
}
PEERS = [kind for kind in COLUMNS if kind != "floor"]  # plain C is a yardstick, nobody's library


@dataclass
class Result:
    """One row: seconds of a call in each round by contender, and why others are missing."""

    name: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    operations: float = 0.0  # floating-point operations of one call, those that the work needs
    bf16: bool = False
    # kind -> ratios of rounds of another race, where it was timed later than the others
    later: dict[str, list[float]] = field(default_factory=dict)

    def ratios(self, kind: str) -> list[float]:
        """Time of a contender over ours, round by round."""
        if kind in self.later:
            return self.later[kind]
        ours, theirs = self.seconds.get(OURS, []), self.seconds.get(kind, [])
        return [b / a for a, b in zip(ours, theirs, strict=False)]

    def ratio(self, kind: str) -> float | None:
        found = self.ratios(kind)
        return statistics.median(found) if found else None


def cell(result: Result, kind: str) -> str:
    ratio = result.ratio(kind)
    if ratio is None:
        return "-"
    seconds = statistics.median(result.seconds[kind])
    return f"{time_text(seconds)} ({number(ratio)})"


def best_peer(result: Result) -> str:
    found = {k: r for k in PEERS if (r := result.ratio(k)) is not None}
    if not found:
        return "-"
    kind = min(found, key=found.get)
    return f"{COLUMNS[kind]}, **{number(found[kind])}**"


def of_peak(result: Result, peaks: dict[bool, float]) -> str:
    """Share of the best rate of fused multiply-adds, in the operands' own format."""
    peak = peaks.get(result.bf16)
    if not peak or not result.operations or not result.seconds.get(OURS):
        return "-"
    rate = result.operations / statistics.median(result.seconds[OURS])
    return f"{rate / peak:.0%}"


def lines(results: list[Result], peaks: dict[bool, float]) -> list[str]:
    """The table, then who is missing where and why."""
    seen = {kind for r in results for kind in (*r.seconds, *r.absent)}
    kinds = [kind for kind in COLUMNS if kind in seen]
    head = ["work", "ours", "of FMA peak", *(COLUMNS[k] for k in kinds), "best peer"]
    out = [row(head), row(["---"] * len(head))]
    for r in results:
        if OURS not in r.seconds:
            continue
        ours = time_text(statistics.median(r.seconds[OURS]))
        cells = [cell(r, kind) for kind in kinds]
        out.append(row([r.name, ours, of_peak(r, peaks), *cells, best_peer(r)]))
    reasons: dict[tuple[str, str], list[str]] = {}
    for r in results:
        for kind, why in r.absent.items():
            reasons.setdefault((COLUMNS.get(kind, kind), why), []).append(r.name)
    if reasons:
        out.append("")
    for (kind, why), names in reasons.items():
        every = len(names) == len(results) and len(results) > 1
        out.append(f"left out: {kind}, {'everywhere' if every else '; '.join(names)}: {why}")
    return out


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
