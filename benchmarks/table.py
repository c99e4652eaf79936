"""Prints a results file of pytest-benchmark as a Markdown table, one row per problem.

pytest benchmarks --benchmark-only --threads 1,2 --benchmark-json bench.json
python benchmarks/table.py bench.json
"""

import json
import sys
from collections import defaultdict


def time_text(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def main(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        results = json.load(file)
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for b in results["benchmarks"]:
        groups[b["group"]][b["params"]["kind"]] = b["stats"]["median"]
    machine = results["machine_info"]
    print(
        f"{machine['cpu'].get('brand_raw', 'unknown processor')}, {machine['isa']}, torch "
        f"{machine['torch']}, Python {machine['python']}, {results['datetime'][:10]}; medians.\n"
    )
    print("| work | PyTorch | native | ratio |\n| --- | --- | --- | --- |")
    for name, times in groups.items():
        plain = next(v for k, v in times.items() if k != "native")
        ours = times["native"]
        print(f"| {name} | {time_text(plain)} | {time_text(ours)} | {plain / ours:.1f} |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/table.py RESULTS.json (see its first lines)")
    main(sys.argv[1])
