"""Every DOM2_FAST_* variable of the sources is in the one list, in its page and in doctor's."""

import json
import re
from pathlib import Path

import pytest

from dom2_fast import variables
from dom2_fast.cli import doctor
from dom2_fast.cli import main as cli

REPO = Path(__file__).resolve().parents[1]
SOURCES = ("dom2_fast", "csrc", "benchmarks", "tools", "examples", ".github")
FILES = ("setup.py", "CMakeLists.txt", "Makefile", ".ci/run")


def read_by_sources() -> set[str]:
    files = [path for name in SOURCES for path in (REPO / name).rglob("*") if path.is_file()]
    files += [REPO / name for name in FILES]
    found = set()
    for path in files:
        if path.suffix in (".so", ".pyc", ".npz"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found |= set(re.findall(r"DOM2_FAST_[A-Z][A-Z_]*[A-Z]", text))
        # setup.py makes two of them by their ends.
        for ends in re.findall(r'f"DOM2_FAST_\{v\}"\) for v in \(([^)]*)\)', text):
            found |= {f"DOM2_FAST_{end}" for end in re.findall(r'"(\w+)"', ends)}
    return found


def test_the_list_is_whole():
    if not (REPO / "setup.py").exists():
        pytest.skip("needs the sources")
    assert read_by_sources() == set(variables.VARIABLES)


def test_the_page_has_them_all():
    page = REPO / "docs" / "variables.md"
    if not page.exists():
        pytest.skip("needs the documentation")
    rows = re.findall(r"^\| `(DOM2_FAST_\w+)` \|", page.read_text(), re.M)
    assert sorted(rows) == sorted(variables.VARIABLES)


def test_doctor_shows_every_one_and_finds_misspelt_ones(monkeypatch, capsys):
    monkeypatch.setenv("DOM2_FAST_CUDA", "0")
    monkeypatch.setenv("DOM2_FAST_ISAS", "avx2")
    cli.main(["doctor", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["variables"] == variables.examine()
    text = doctor.render(facts)
    for name in variables.VARIABLES:
        assert re.search(rf"^{name} ", text, re.M)
    assert re.search(r"^DOM2_FAST_CUDA +'0' \(build: ", text, re.M)
    assert re.search(r"^DOM2_FAST_ISAS +'avx2': NO SUCH VARIABLE", text, re.M)
