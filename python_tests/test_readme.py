"""What README says in numbers is what the results, the timings and the charts say."""

import json
import re
from pathlib import Path

import readme_chart

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text(encoding="utf-8")
RESULTS = (REPO / "docs" / "results.md").read_text(encoding="utf-8")
TASKS = ("simple_spread", "simple_tag", "simple_world")
KINDS = ("expert", "medium", "medium-replay", "random")


def dom2_scores() -> dict[tuple[str, str], str]:
    """The column dom2 of the first table of scores on the results page."""
    table = RESULTS[RESULTS.index("**Scores, standard.**") :]
    header = next(line for line in table.splitlines() if line.startswith("| data |"))
    column = [cell.strip() for cell in header.split("|")].index("dom2")
    found = {}
    for line in table.splitlines()[2:]:
        if not line.startswith("|"):
            if found:
                break
            continue
        cells = [cell.strip() for cell in line.split("|")]
        if (words := cells[1].split()) and words[0] in TASKS:
            found[words[0], words[1]] = re.match(r"\**(-?[\d.]+)", cells[column])[1]
    return found


def papers() -> dict[tuple[str, str], str]:
    """The second-hand figures of the paper, as the results page has them."""
    text = " ".join(RESULTS[RESULTS.index("Second-hand figures of DOM2") :].split())
    return {
        (task, kind): number
        for task in TASKS
        for kind, number in zip(
            KINDS, re.search(rf"{task} (\d+), (\d+), (\d+), (\d+)", text).groups(), strict=True
        )
    }


def test_the_table_of_results_is_that_of_the_results_page():
    ours, theirs = dom2_scores(), papers()
    assert len(ours) == 18
    for kind in KINDS:
        cells = " | ".join(f"{ours[task, kind]} ({theirs[task, kind]})" for task in TASKS)
        assert f"| {kind} | {cells} |" in README


def test_the_interquartile_means_are_those_of_the_results_page():
    names = {"filtered BC": "bc10", "IQL": "iql"}
    text = " ".join(README.split())
    text = text[text.index("Interquartile means over 18 data sets") :]
    said = re.findall(r"([\d.]+), ([\d.]+) and ([\d.]+) \(([^)]+)\)", text)
    for setting, (*numbers, name) in zip(
        ("standard", "speed shift", "stopped shift"), said[:3], strict=True
    ):
        table = RESULTS[RESULTS.index(f"**All data sets, {setting}.**") :].split("**Scores")[0]
        iqm = {n: float(v) for n, v in re.findall(r"^\| (\w+) \| ([\d.]+) \|", table, re.M)[:8]}
        rest = {name: v for name, v in iqm.items() if name not in ("dom2", "omar")}
        next_one = max(rest, key=rest.get)
        assert (iqm["dom2"], iqm["omar"], rest[next_one]) == tuple(map(float, numbers))
        assert next_one == names[name]


def test_the_chart_is_drawn_from_the_timings():
    results = json.loads(readme_chart.RESULTS.read_text("utf-8"))
    assert readme_chart.CHART.read_text("utf-8") == readme_chart.svg(results)
    alternative = re.search(r"!\[Microseconds per action: (.*?)\]", README)[1]
    for kind, name, us, _ in readme_chart.bars(results):
        name = "bf16" if kind == "bf16" else name
        assert f"{name} {us:.0f}" in alternative


def test_the_chart_shows_every_engine_beside_ours_and_escapes_what_it_prints():
    found = {
        "native": (1e-5, 1.0),
        "jax": (4e-5, 4.0),
        "openvino": (2e-5, 2.0),
        "autocast": (9e-5, 9),
    }
    group = {k: {"seconds": s, "ratio": r} for k, (s, r) in found.items()}
    machine = {
        "processor": "A & B",
        "isa": "avx2",
        "torch": "2",
        "peers": {"jax": "1", "cpprb": "2"},
    }
    drawn = readme_chart.svg(
        {"machine": {**machine, "date": "2026-01-01"}, "groups": {readme_chart.PROBLEM: group}}
    )
    order = [drawn.index(f">{name}</text>") for name in ("dom2-fast", "OpenVINO", "JAX")]
    assert order == sorted(order) and "20 µs, 2.0 x" in drawn and "90 µs" not in drawn
    assert "A &amp; B, avx2, 2026-01-01<" in drawn and "torch 2, jax 1<" in drawn
    widths = dict(re.findall(r'class="(\w+)" x="138" y="\d+" width="([\d.]+)"', drawn))
    assert float(widths["peer"]) == 4 * float(widths["ours"])
