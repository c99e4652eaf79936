"""The site has every page and, in its reference, every public name."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dom2_fast

REPO = Path(__file__).resolve().parents[1]
DOCS = REPO / "docs"
sys.path.append(str(DOCS))

from docstrings import to_rest  # noqa: E402

PAGES = sorted((DOCS / "reference").glob("*.md"))


def modules() -> list[str]:
    """Every module of the package that has no leading underscore, but the command line's."""
    found = []
    for path in sorted((REPO / "dom2_fast").rglob("*.py")):
        parts = path.relative_to(REPO).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        private = any(part.startswith("_") for part in parts)
        if len(parts) > 1 and not private and parts[1] != "cli":
            found.append(".".join(parts))
    return found


def public_names() -> list[tuple[str, object]]:
    """("module.name", what it is) of the functions and classes that the modules define."""
    found = []
    for module in map(importlib.import_module, modules()):
        for name, value in vars(module).items():
            mine = getattr(value, "__module__", None) == module.__name__
            if (inspect.isclass(value) or inspect.isfunction(value)) and mine and name[0] != "_":
                found.append((f"{module.__name__}.{name}", value))
    return found


def test_every_page_has_its_place():
    listed = re.findall(r"^(?:/?[A-Za-z_]+/?)+$", (DOCS / "index.md").read_text(), re.M)
    listed += re.findall(r"^reference/\w+$", (DOCS / "reference.md").read_text(), re.M)
    pages = [f"{p.relative_to(DOCS).with_suffix('')}" for p in DOCS.glob("**/*.md")]
    pages += [f"/{p.stem}" for p in REPO.glob("*.md")]
    pages += [f"/examples/{p.stem}" for p in REPO.glob("examples/*.md")]
    assert sorted(listed) == sorted(set(pages) - {"index"})


def test_every_module_is_in_the_reference():
    """On the page of its room; autodoc shows whatever public name a module has."""
    text = "".join(page.read_text() for page in PAGES)
    listed = re.findall(r"^\.\. automodule:: (\S+)$", text, re.M)
    assert sorted(listed) == sorted(modules())


def test_every_public_name_is_documented():
    """But `main`, and what the protocol `DataFormat` says of every format."""
    said = re.compile(r"\.main$|\.formats\.\w+\.(sniff|open|write)$|^dom2_fast\.activations\.Act$")
    bare = [name for name, value in public_names() if not (value.__doc__ or "").strip()]
    assert not [name for name in bare if not said.search(name)]


def test_the_table_of_the_short_names():
    text = (DOCS / "reference.md").read_text()
    listed = dict(re.findall(r"^\| `d2\.(\w+)` \| `(dom2_fast[\w.]*)`", text, re.M))
    assert set(listed) == set(dom2_fast.__all__) - {"__version__"}
    for short, full in listed.items():
        module, _, name = full.rpartition(".")
        value = getattr(dom2_fast, short)
        if inspect.ismodule(value):
            assert value.__name__ == full
        else:
            assert value is getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    ("docstring", "rest"),
    [
        ("a|b, **options, `x|y*` and eta_ .", r"a\|b, \*\*options, `x|y*` and eta\_ ."),
        ("* one *\n* two", "* one \\*\n* two"),
        ("As here:\n\n    y = |x|\n\nMore|", "As here::\n\n    y = |x|\n\nMore\\|"),
        ("Returns: what\n    it is.", "Returns:\n    what\n    it is."),
    ],
    ids=["characters", "bullets", "formula", "section"],
)
def test_docstrings_become_rest(docstring, rest):
    assert "\n".join(to_rest(docstring.split("\n"))) == rest


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    sphinx = pytest.importorskip("sphinx", reason="pip install 'dom2-fast[docs]'")
    for need in ("myst_parser", "furo", "sphinx_copybutton"):
        pytest.importorskip(need)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "-c", "docs", "."]
    done = subprocess.run([*command, str(tmp_path)], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").exists()
    from sphinx.util.inventory import InventoryFile

    assert sphinx
    inventory = InventoryFile.loads((tmp_path / "objects.inv").read_bytes(), uri="")
    missing = [name for name, _ in public_names() if not _has(inventory, name)]
    assert not missing


def _has(inventory, name: str) -> bool:
    return any(name in names for kind, names in inventory.data.items() if kind.startswith("py:"))


def test_every_environment_variable_is_explained():
    said = set(re.findall(r"^\| `(DOM2_FAST_\w+)`", (DOCS / "variables.md").read_text(), re.M))
    used = set()
    for folder in ("dom2_fast", "csrc", "benchmarks", "examples"):
        for path in (REPO / folder).rglob("*"):
            if path.suffix in (".py", ".cpp", ".h", ".inl", ".cu"):
                used |= set(re.findall(r"\bDOM2_FAST_[A-Z_]+\b", path.read_text("utf-8")))
    used |= set(re.findall(r"\bDOM2_FAST_[A-Z_]+\b", (REPO / "setup.py").read_text()))
    assert used == said
