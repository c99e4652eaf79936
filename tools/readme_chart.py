"""Draws README's chart: microseconds per action beside PyTorch and other engines, by ISA.

    python tools/readme_chart.py                  writes docs/images/latency.svg
    python tools/readme_chart.py --results DIR    from another folder than benchmarks/results

The numbers, versions and date are those of the newest files that `benchmarks/run.py --quick --save
NAME` kept on AVX-512 and on AVX2; nothing is timed here. The colours are given for light and for
dark pages, each on a ground of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from xml.sax.saxutils import escape

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results"
CHART = REPO / "docs" / "images" / "latency.svg"
PROBLEM = "sample, mlp, 1 x 1 row"
HALF = f"{PROBLEM}, bf16"
ISAS = {"AVX-512": ("avx512_bf16", "avx512"), "AVX2": ("avx2",)}
NAMES = {
    "bf16": "dom2-fast, bf16", "native": "dom2-fast", "jax": "JAX", "onnx": "ONNX Runtime",
    "openvino": "OpenVINO", "compile": "torch.compile", "aoti": "AOTInductor", "eager": "PyTorch",
}  # fmt: skip
OURS = ("bf16", "native")
PEERS = ("jax", "onnxruntime", "openvino")
WIDTH, LEFT, RIGHT, TOP, ROW, HEAD = 520, 138, 120, 56, 26, 30

STYLE = """
  .ground { fill: #ffffff; stroke: #d0d7de; } text { font: 14px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; font-size: 15px; } .small { font-size: 12px; fill: #59636e; }
  .ours { fill: #0072b2; } .peer { fill: #9a9fa6; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #151b23; stroke: #3d444d; } text { fill: #e6edf3; } .small { fill: #9198a1; }
    .ours { fill: #56b4e9; } .peer { fill: #656c76; }
  }
"""  # noqa: E501


def newest(folder: Path) -> dict[str, dict]:
    """What was kept last on AVX-512 and on AVX2, by these names.

    Raises SystemExit, naming the command, where one of them is missing.
    """
    kept = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    kept = [k for k in kept if "quick" in k and "native" in k["groups"].get(PROBLEM, {})]
    found = {}
    for name, isas in ISAS.items():
        mine = [k for k in kept if k["machine"]["isa"] in isas]
        if not mine:
            sys.exit(
                f"{folder} holds no timings of {name}. On an idle machine that has it:\n"
                f"DOM2_FAST_ISA={isas[0]} python benchmarks/run.py --quick --save quick-"
                f"{name.lower().replace('-', '')} --rows '{PROBLEM}'"
            )
        found[name] = max(mine, key=lambda k: k["machine"]["time"])
    return found


def bars(results: dict) -> list[tuple[str, str, float, float]]:
    """(kind, name, microseconds, times ours) of every engine that was timed, quickest first."""
    found = {**results["groups"][PROBLEM]}
    if half := results["groups"].get(HALF, {}).get("native"):
        found["bf16"] = half
    rows = [(k, NAMES[k], v["seconds"] * 1e6, v["ratio"]) for k, v in found.items() if k in NAMES]
    return sorted(rows, key=lambda row: row[2])


def source(kept: dict[str, dict]) -> list[str]:
    """Processor and dates; versions: a line each."""
    machines = [results["machine"] for results in kept.values()]
    where = dict.fromkeys(f"{m['processor']}, {m['date']}" for m in machines)
    peers = [[f"{k} {m['peers'][k]}" for k in PEERS if m["peers"].get(k)] for m in machines]
    versions = dict.fromkeys(
        ", ".join([f"torch {m['torch']}", *theirs])
        for m, theirs in zip(machines, peers, strict=True)
    )
    return ["; ".join(where), "; ".join(versions)]


def said(kept: dict[str, dict]) -> str:
    """Every number, for the text alternative."""
    return "; ".join(
        f"{isa}: " + ", ".join(f"{name} {us:.0f}" for _, name, us, _ in bars(results))
        for isa, results in kept.items()
    )


def svg(kept: dict[str, dict]) -> str:
    """The chart as an SVG document; the text alternative has every number."""
    rows = {isa: bars(results) for isa, results in kept.items()}
    most = max(row[2] for found in rows.values() for row in found)
    height = TOP + sum(HEAD + ROW * len(found) for found in rows.values()) + 56
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>Microseconds per action. {escape(said(kept))}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        '<text class="title" x="20" y="28">Microseconds per action</text>',
        '<text class="small" x="20" y="47">one observation, 5 denoising steps, MLP of 3 x 256, '
        "one core</text>",
    ]
    y = TOP
    for isa, found in rows.items():
        lines.append(f'<text class="title" x="20" y="{y + 20}">{escape(isa)}</text>')
        y += HEAD
        for kind, name, us, ratio in found:
            wide = us / most * (WIDTH - LEFT - RIGHT)
            times = "" if kind in OURS else f", {ratio:.1f} x"
            cls = "ours" if kind in OURS else "peer"
            lines += [
                f'<text x="{LEFT - 10}" y="{y + 16}" text-anchor="end">{escape(name)}</text>',
                f'<rect class="{cls}" x="{LEFT}" y="{y + 3}" width="{wide:.1f}" '
                f'height="{ROW - 9}"/>',
                f'<text x="{LEFT + wide + 8:.1f}" y="{y + 16}">{us:.0f} µs{times}</text>',
            ]
            y += ROW
    lines += [
        f'<text class="small" x="20" y="{height - 30 + 16 * k}">{escape(line)}</text>'
        for k, line in enumerate(source(kept))
    ]
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=CHART)
    args = parser.parse_args()
    kept = newest(args.results)
    args.out.write_text(svg(kept), encoding="utf-8")
    print(f"written to {args.out}; README's text alternative: {said(kept)}")


if __name__ == "__main__":
    main()
