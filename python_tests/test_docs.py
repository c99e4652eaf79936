"""The documents keep to the truth: links lead somewhere, commands parse, Python examples run."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from dom2_fast.cli import main as cli

REPO = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*REPO.glob("*.md"), *REPO.glob("docs/**/*.md"), *REPO.glob("examples/*.md")])
IDS = [str(path.relative_to(REPO)) for path in DOCUMENTS]
OPTIONAL = ("onnx", "onnxruntime", "tensordict")
SMALLER = {"steps=2000": "steps=2", "episodes=500": "episodes=4"}


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def commands():
    """Every line of a document that is a `dom2-fast` command with options."""
    for path in DOCUMENTS:
        for line in re.findall(r"^\s*(dom2-fast [a-z]+ .*)$", path.read_text("utf-8"), re.M):
            if not any(mark in line for mark in ("...", "--help", "[options]")):
                yield pytest.param(line, id=line[:60])


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_links_between_documents_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("line", list(commands()))
def test_commands_parse(line):
    argv = shlex.split(line.partition("  #")[0].partition("   (")[0])[1:]
    options = cli.build_parser(argv).parse_args(argv)
    assert options.command == argv[0]


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_python_examples_run(path, tmp_path, monkeypatch):
    examples = blocks(path, "python")
    if not examples or path.name == "CONTRIBUTING.md" or path.parent.name == "tutorials":
        return  # nothing to run here; test_contributing.py and test_tutorials.py run those pages'
    if path.name == "halfcheetah.md":
        pytest.importorskip("mujoco", reason="needs the extra mujoco")
    from dom2_fast.behaviours.collect import collect

    monkeypatch.chdir(tmp_path)
    collect("simple_spread", "random", 20, 0, "datasets/simple_spread/medium/seed_0_data")
    for example in examples:
        for long, short in SMALLER.items():
            example = example.replace(long, short)
        if any(name in example and not find_spec(name) for name in OPTIONAL):
            continue  # of an extra; test_onnx.py and test_torchrl.py say what can't be run
        exec(compile(example, str(path), "exec"), {"__name__": "example"})
