"""What README says in numbers is what the results, the timings and the charts say."""

import json
import re
from pathlib import Path

import pytest
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
    names = {"filtered BC": "bc10", "IQL": "iql", "TD3+BC": "td3_bc"}
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
    kept = readme_chart.newest(readme_chart.RESULTS)
    assert readme_chart.CHART.read_text("utf-8") == readme_chart.svg(kept)
    alternative = re.search(r"!\[Microseconds per action\. (.*?)\]", README)[1]
    assert alternative == readme_chart.said(kept)


def kept(isa: str, time: str, **found) -> dict:
    """As `run.py --quick --save` keeps it: kind -> microseconds."""
    machine = {"processor": "A & B", "isa": isa, "torch": "2", "peers": {"jax": "1", "cpprb": "2"}}
    group = {k: {"seconds": us * 1e-6, "ratio": us / 10} for k, us in found.items()}
    return {
        "machine": {**machine, "date": time[:10], "time": time},
        "groups": {readme_chart.PROBLEM: group},
        "quick": {},
    }


def test_the_chart_shows_every_engine_beside_ours_and_escapes_what_it_prints():
    wide = kept("avx512", "2026-01-01", native=10, jax=40, openvino=20, floor=9, autocast=90)
    wide["groups"][readme_chart.HALF] = {"native": {"seconds": 5e-6, "ratio": 1.0}}
    drawn = readme_chart.svg({"AVX-512": wide, "AVX2": kept("avx2", "2026-01-01", native=30)})
    first, second = drawn.split(">AVX2</text>")
    names = "dom2-fast, bf16", "dom2-fast", "OpenVINO", "JAX"
    order = [first.index(f">{name}</text>") for name in names]
    assert order == sorted(order) and "20 µs, 2.0 x" in first
    assert "90 µs" not in drawn and "9 µs" not in drawn  # no engines
    assert ">dom2-fast</text>" in second and "30 µs" in second and "JAX" not in second
    assert ">A &amp; B, 2026-01-01<" in drawn and ">torch 2, jax 1<" in drawn
    bar = r'class="(\w+)" x="138" y="\d+" width="([\d.]+)"'
    assert [float(w) for _, w in re.findall(bar, drawn)] == [
        pytest.approx(262 * us / 40, abs=0.1) for us in (5, 10, 20, 40, 30)
    ]


def test_the_chart_takes_the_newest_of_each_instruction_set(tmp_path):
    files = {
        "old": kept("avx512", "2026-01-02T10:00:00+00:00", native=1),
        "new": kept("avx512_bf16", "2026-01-02T11:00:00+00:00", native=2),
        "narrow": kept("avx2", "2026-01-01T09:00:00+00:00", native=3),
        "none": kept("avx2", "2026-02-01T09:00:00+00:00", jax=4),
    }
    full = kept("avx512", "2026-03-01", native=5)
    del full["quick"]  # of a full run
    for name, content in {**files, "full": full}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), "utf-8")
    found = readme_chart.newest(tmp_path)
    assert found == {"AVX-512": files["new"], "AVX2": files["narrow"]}
    (tmp_path / "narrow.json").unlink()
    with pytest.raises(SystemExit, match=r"no timings of AVX2.*\n.*DOM2_FAST_ISA=avx2 .*--save"):
        readme_chart.newest(tmp_path)
