"""Prints results of pytest-benchmark as Markdown tables, a row per problem; keeps and draws them.

    pytest benchmarks --benchmark-only --threads 1 --benchmark-json bench.json
    python benchmarks/table.py bench.json [more.json] --save cpu

Ratios are how many times longer the peer takes than we do, the median over rounds in which both
were timed. --save NAME writes benchmarks/results/NAME.json, NAME-sample.svg and NAME-ratios.svg.
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

OURS = "native"
NAMES = {
    "aoti": "AOTInductor",
    "bf16": "ours, bf16", "autocast": "PyTorch, bf16",
    "batched": "PyTorch, batched", "compile": "torch.compile", "cpprb": "cpprb", "eager": "PyTorch",
    "jax": "JAX", "loop": "PyTorch, agent by agent", "mpe2": "mpe2 loop",
    "multinomial": "multinomial", "numpy": "numpy",
    "onnx": "ONNX Runtime", "original": "original", "pettingzoo": "our PettingZoo loop",
    "reference": "our reference", "searchsorted": "searchsorted", "torchrl": "TorchRL",
}  # fmt: skip
PACKAGES = {
    "cpprb": "cpprb", "jax": "jax", "mpe2": "mpe2", "onnx": "onnxruntime", "torchrl": "torchrl"
}  # fmt: skip
# Ours on the reference path, or with other rounding than ours: shown, but no peer.
NO_PEER = {"reference", "pettingzoo", "bf16", "autocast"}


def time_text(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def number(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}"


def load(paths: list[str]) -> dict:
    """{"machine": facts, "groups": {problem: {kind: {seconds, ratio, quartiles, scaled}}}}"""
    groups: dict = defaultdict(dict)
    for path in paths:
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
        for b in results["benchmarks"]:
            ratio, extra = b["extra_info"].get("ratio"), b["extra_info"]
            groups[b["group"]][b["params"]["kind"]] = {
                "seconds": b["stats"]["median"], "quartiles": ratio, "rounds": b["stats"]["rounds"],
                **({"scaled": extra["scaled"]} if "scaled" in extra else {}),
            }  # fmt: skip
    for kinds in groups.values():
        ours = kinds.get(OURS, {}).get("seconds")
        for one in kinds.values():  # of a benchmark that isn't timed in turns: of the medians
            q = one["quartiles"]
            one["ratio"] = q[1] if q else (one["seconds"] / ours if ours else None)
    info = results["machine_info"]
    machine = {
        "processor": info["cpu"].get("brand_raw", "unknown processor"),
        "cores": info["cpu"]["count"],
        "isa": info["isa"], "torch": info["torch"], "python": info["python"],
        "peers": info.get("peers", {}), "date": results["datetime"][:10],
    }  # fmt: skip
    return {"machine": machine, "groups": dict(groups)}


def work(group: str) -> str:
    return group.split(",")[0]


def cell(kind: str, found: dict, peers: dict) -> str:
    if kind in found:
        one = found[kind]
        ratio = f" ({number(one['ratio'])})" if one["ratio"] else ""
        return time_text(one["seconds"]) + ratio + ("*" if "scaled" in one else "")
    if kind in PACKAGES:
        return "not run" if peers.get(PACKAGES[kind]) else "not installed"
    return "-"


def best_peer(found: dict) -> str:
    peers = {k: v for k, v in found.items() if k != OURS and k not in NO_PEER and v["ratio"]}
    if not peers:
        return "-"
    kind = min(peers, key=lambda k: peers[k]["ratio"])
    q = peers[kind]["quartiles"]
    spread = f" ({number(q[0])} to {number(q[2])})" if q else ""
    return f"{NAMES.get(kind, kind)}, **{number(peers[kind]['ratio'])}**{spread}"


def print_tables(results: dict) -> None:
    m, groups = results["machine"], results["groups"]
    versions = ", ".join(f"{k} {v or 'not installed'}" for k, v in m["peers"].items())
    print(
        f"{m['processor']}, {m['cores']} cores, {m['isa']}, torch {m['torch']}, Python "
        f"{m['python']}, {versions}, {m['date']}; medians, in brackets (time / ours); "
        "\\*: a part was timed and scaled up.\n"
    )
    sections: dict = defaultdict(list)
    for name in groups:
        sections[work(name)].append(name)
    for names in sections.values():
        found = {kind for name in names for kind in groups[name]}
        # Columns of absent peers too, where the section belongs to a benchmark that has them.
        absent = {"sample": {"jax", "onnx"}, "DOM2 update": {"jax"}}.get(work(names[0]), set())
        if "draw" in names[0]:
            absent = {"torchrl", "cpprb"}
        kinds = [k for k in NAMES if k in found | absent]
        print(f"| work | ours | {' | '.join(NAMES[k] for k in kinds)} | best peer |")
        print("| --- " * (len(kinds) + 3) + "|")
        for name in names:
            ours = groups[name].get(OURS)
            cells = [cell(k, groups[name], m["peers"]) for k in kinds]
            first = time_text(ours["seconds"]) if ours else "-"
            print(f"| {name} | {first} | {' | '.join(cells)} | {best_peer(groups[name])} |")
        print()


def draw(results: dict, stem: Path) -> list[Path]:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dom2"  # the same results give the same file
    import matplotlib.pyplot as plt

    def save(figure, name: str) -> Path:
        path = stem.with_name(f"{stem.name}-{name}.svg")
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
        return path

    made = []
    curves: dict = defaultdict(lambda: defaultdict(list))
    for group, kinds in results["groups"].items():
        match = re.fullmatch(r"sample, (\w+), 1 x (\d+) rows, 1 threads", group)
        if match:
            for kind, one in kinds.items():
                curves[match[1]][kind].append((int(match[2]), one["seconds"] * 1e3))
    if curves:
        figure, axes = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.4), squeeze=False)
        for ax, (net, lines) in zip(axes[0], curves.items(), strict=True):
            for kind, points in lines.items():
                style = {"lw": 2.5, "color": "black"} if kind == OURS else {"lw": 1.2}
                label = "dom2_fast" if kind == OURS else NAMES.get(kind, kind)
                ax.loglog(*zip(*sorted(points), strict=True), marker=".", label=label, **style)
            ax.set(xlabel="rows", ylabel="ms", title=f"5 steps, {net}, one thread")
            ax.grid(alpha=0.3)
        axes[0][0].legend(fontsize=7)
        made.append(save(figure, "sample"))
    bars = [
        (name, min(v["ratio"] for k, v in kinds.items() if k != OURS and k not in NO_PEER))
        for name, kinds in results["groups"].items()
        if OURS in kinds and any(k != OURS and k not in NO_PEER for k in kinds)
    ]
    if bars:
        names, values = zip(*reversed(bars), strict=True)
        figure, ax = plt.subplots(figsize=(7, 0.6 + 0.19 * len(bars)))
        ax.barh(names, values, color=["#2a7" if v >= 1 else "#c55" for v in values])
        ax.axvline(1.0, color="black", lw=0.8)
        ax.set(xscale="log", xlabel="time of the fastest peer / ours", ylim=(-0.6, len(bars) - 0.4))
        ax.tick_params(labelsize=6.5)
        made.append(save(figure, "ratios"))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", help="files of --benchmark-json")
    parser.add_argument("--save", metavar="NAME", help="keep as benchmarks/results/NAME.*")
    args = parser.parse_args()
    results = load(args.results)
    print_tables(results)
    if args.save:
        stem = Path(__file__).parent / "results" / args.save
        stem.parent.mkdir(exist_ok=True)
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        stem.with_name(f"{args.save}.json").write_text(text, encoding="utf-8")
        draw(results, stem)


if __name__ == "__main__":
    main()
