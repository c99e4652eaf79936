"""Every block of docs/tutorials runs, in the order of its page, in an empty folder.

A block whose first line is "# NAME" or "// NAME" is that file. Numbers of episodes, updates and
seeds are made small; the Python blocks of a page share their names.
"""

import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import foreign
import pytest
import torch
from cpp_build import call, tool
from small_envs import own_registry

from dom2_fast import networks
from dom2_fast.cli import main as cli
from dom2_fast.compat import diffusion_ql

REPO = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path for path in sorted((REPO / "docs" / "tutorials").glob("*.md"))}
SMALLER = [
    (r"(--episodes |episodes=)\d{2,}", r"\g<1>20"),
    (r"(--steps |steps=)2000\b", r"\g<1>2"),
    (r"episodes: \d+", "episodes: 20"),
    (r"steps: \d+", "steps: 2"),
    (r"\[1, 2, 3, 4, 5\]", "[1, 2]"),
    (r"--jobs \d", "--jobs 1"),
    (r"calls=200\b", "calls=5"),
]
FILE = re.compile(r"(?:#|//) (\w+\.\w+)\n")


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text made small) of the page's blocks."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", PAGES[page].read_text("utf-8"), re.M | re.S)
    for pattern, small in SMALLER:
        found = [(language, re.sub(pattern, small, text)) for language, text in found]
    return found


def run(page: str) -> dict:
    """Runs a page's blocks in the current folder; returns the names of its Python blocks."""
    names = {"__name__": "tutorial"}
    for language, text in blocks(page):
        named = FILE.match(text)
        if named:
            Path(named[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, str(PAGES[page]), "exec"), names)
        elif language == "sh":
            for line in text.splitlines():
                program, *options = shlex.split(line)
                assert program == "dom2-fast"
                assert cli.main(options) == 0, line
        else:
            raise AssertionError(f"a {language} block that is no file")
    return names


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty current folder whose modules can be imported; what is registered is gone after."""
    monkeypatch.chdir(tmp_path)
    own_registry(monkeypatch)
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("my_", "agents")):
            del sys.modules[name]


def test_the_pages_are_these():
    assert list(PAGES) == [
        "accelerate_diffusion_ql",
        "act_from_cpp",
        "first_policy",
        "five_seeds",
        "own_data",
        "own_environment",
    ]
    assert all(len(path.read_text("utf-8").splitlines()) < 130 for path in PAGES.values())


@pytest.mark.parametrize("page", ["first_policy", "own_data", "own_environment"])
def test_a_page_runs(page, empty):
    run(page)


def test_diffusion_ql_runs_on_its_classes(empty):
    """On stand-ins in the place of Diffusion-QL's modules, of the same arguments and layout."""

    class Diffusion(foreign.QLPolicy):
        def __init__(self, state_dim, action_dim, model, max_action, beta_schedule, n_timesteps):
            assert beta_schedule == "vp"
            super().__init__(model, diffusion_ql.vp_beta_schedule(n_timesteps), max_action)
            self.state_dim, self.action_dim = state_dim, action_dim

    def mlp(state_dim, action_dim, device):
        return networks.MLPNoiseNet(state_dim, action_dim).to(device)

    torch.manual_seed(0)
    for name, content in {"diffusion": {"Diffusion": Diffusion}, "model": {"MLP": mlp}}.items():
        module = sys.modules[f"agents.{name}"] = types.ModuleType(f"agents.{name}")
        vars(module).update(content)
    sys.modules["agents"] = types.ModuleType("agents")
    trained = Diffusion(11, 3, mlp(11, 3, "cpu"), 1.0, "vp", 5)
    torch.save(trained.state_dict(), "actor.pth")
    names = run("accelerate_diffusion_ql")
    torch.testing.assert_close(names["actor"].state_dict(), trained.state_dict())


@pytest.mark.slow
def test_the_study_runs(empty):
    run("five_seeds")
    assert (empty / "studies" / "five" / "report" / "report.md").exists()


def test_the_loop_runs(empty, built):
    """The program of the page, built against the library that its CMakeLists.txt builds."""
    run("act_from_cpp")
    library = built / "dom2_core" / "libdom2_core.a"
    compiler = tool("c++", "g++", "clang++")
    call(compiler, "-std=c++17", "-O1", f"-I{REPO / 'csrc'}", "loop.cpp", library, "-o", "loop")
    lines = call("./loop", "policy.safetensors", 20).splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == ["an action", "after tick"]
    for line in lines:
        shown = [float(v) for v in re.findall(r" ([\d.]+)(?: |$)", line.replace("p99.9", "p999"))]
        assert len(shown) == 4 and shown == sorted(shown) and shown[0] > 0
    missing = subprocess.run(["./loop", "none"], capture_output=True, text=True)
    assert missing.returncode == 2 and "none" in missing.stderr
    cmake = (empty / "CMakeLists.txt").read_text("utf-8")
    assert re.findall(r"add_subdirectory\(path/to/dom2-fast/(\w+) dom2_core\)", cmake) == ["csrc"]
