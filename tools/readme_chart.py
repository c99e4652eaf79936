"""Draws README's chart: microseconds per action beside PyTorch and other engines.

    python tools/readme_chart.py                    writes docs/images/latency.svg
    python tools/readme_chart.py --results FILE     from another file that benchmarks/table.py saved

The numbers, versions and date are those of benchmarks/results/cpu.json; nothing is timed here. The
colours are given for light and for dark pages, each on a ground of its own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from xml.sax.saxutils import escape

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results" / "cpu.json"
CHART = REPO / "docs" / "images" / "latency.svg"
PROBLEM = "sample, mlp, 1 x 1 rows, 1 threads"
NAMES = {
    "bf16": "dom2-fast, bf16", "native": "dom2-fast", "jax": "JAX", "onnx": "ONNX Runtime",
    "openvino": "OpenVINO", "compile": "torch.compile", "eager": "PyTorch",
}  # fmt: skip
OURS = ("bf16", "native")
PEERS = ("jax", "onnxruntime", "openvino")
WIDTH, LEFT, RIGHT, TOP, ROW = 520, 138, 120, 62, 28

STYLE = """
  .ground { fill: #ffffff; stroke: #d0d7de; } text { font: 14px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; font-size: 15px; } .small { font-size: 12px; fill: #59636e; }
  .ours { fill: #0072b2; } .peer { fill: #9a9fa6; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #151b23; stroke: #3d444d; } text { fill: #e6edf3; } .small { fill: #9198a1; }
    .ours { fill: #56b4e9; } .peer { fill: #656c76; }
  }
"""  # noqa: E501


def bars(results: dict) -> list[tuple[str, str, float, float]]:
    """(kind, name, microseconds, times ours) of every engine that was timed, quickest first."""
    found = results["groups"][PROBLEM]
    rows = [(k, NAMES[k], v["seconds"] * 1e6, v["ratio"]) for k, v in found.items() if k in NAMES]
    return sorted(rows, key=lambda row: row[2])


def source(machine: dict) -> list[str]:
    """Processor and instruction set; versions and date: a line each."""
    peers = [f"{k} {v}" for k, v in machine["peers"].items() if v and k in PEERS]
    return [
        f"{machine['processor']}, {machine['isa']}, {machine['date']}",
        ", ".join([f"torch {machine['torch']}", *peers]),
    ]


def svg(results: dict) -> str:
    """The chart as an SVG document; the text alternative has every number."""
    rows = bars(results)
    most = max(row[2] for row in rows)
    height = TOP + ROW * len(rows) + 52
    said = "; ".join(f"{name} {us:.0f} µs" for _, name, us, _ in rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>Microseconds per action: {escape(said)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        '<text class="title" x="20" y="28">Microseconds per action</text>',
        '<text class="small" x="20" y="47">one observation, 5 denoising steps, MLP of 3 x 256, '
        "one core</text>",
    ]
    for i, (kind, name, us, ratio) in enumerate(rows):
        y = TOP + ROW * i
        wide = us / most * (WIDTH - LEFT - RIGHT)
        times = "" if kind in OURS else f", {ratio:.1f} x"
        cls = "ours" if kind in OURS else "peer"
        lines += [
            f'<text x="{LEFT - 10}" y="{y + 18}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{cls}" x="{LEFT}" y="{y + 4}" width="{wide:.1f}" height="{ROW - 10}"/>',
            f'<text x="{LEFT + wide + 8:.1f}" y="{y + 18}">{us:.0f} µs{times}</text>',
        ]
    lines += [
        f'<text class="small" x="20" y="{height - 30 + 16 * k}">{escape(line)}</text>'
        for k, line in enumerate(source(results["machine"]))
    ]
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=CHART)
    args = parser.parse_args()
    args.out.write_text(svg(json.loads(args.results.read_text("utf-8"))), encoding="utf-8")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
