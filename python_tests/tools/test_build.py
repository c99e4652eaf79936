"""setup.py: when the CUDA executors are built, and what happens where they can't be."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[2] / "setup.py"
CUDA_TORCH = "12.8"


@pytest.fixture
def build(monkeypatch):
    """setup.py as a module, in an environment that asks for nothing and has nvcc."""
    if not SETUP.exists():
        pytest.skip("needs the sources")
    for name in ("DOM2_FAST_CUDA", "DOM2_FAST_CUDA_ARCHS", "DOM2_FAST_REQUIRE_EXTENSION"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("dom2_fast_setup", SETUP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "find_nvcc", lambda: "/cuda/bin/nvcc")
    return module


@pytest.mark.parametrize(
    "wanted, nvcc, torch_cuda, builds, why",
    [
        (None, True, CUDA_TORCH, True, ""),
        ("", True, CUDA_TORCH, True, ""),
        ("auto", True, CUDA_TORCH, True, ""),
        ("auto", True, None, False, "torch without CUDA"),
        ("auto", False, CUDA_TORCH, False, "nvcc was not found"),
        ("0", True, CUDA_TORCH, False, "DOM2_FAST_CUDA=0"),
        ("1", True, None, True, ""),
        ("1", True, CUDA_TORCH, True, ""),
    ],
)
def test_when_cuda_is_built(build, monkeypatch, wanted, nvcc, torch_cuda, builds, why):
    if wanted is not None:
        monkeypatch.setenv("DOM2_FAST_CUDA", wanted)
    if not nvcc:
        monkeypatch.setattr(build, "find_nvcc", lambda: None)
    found, reason = build.choose_cuda(torch_cuda)
    assert (found is not None) is builds
    assert why in reason and bool(reason) is not builds


@pytest.mark.parametrize("wanted", ["yes", "2", "AUTO", "on"])
def test_a_wrong_setting_is_refused(build, monkeypatch, wanted):
    monkeypatch.setenv("DOM2_FAST_CUDA", wanted)
    with pytest.raises(SystemExit, match=rf"{wanted}.*Accepted: 0 .*1 .*auto"):
        build.choose_cuda(CUDA_TORCH)


def test_required_without_nvcc_is_an_error(build, monkeypatch):
    monkeypatch.setenv("DOM2_FAST_CUDA", "1")
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    with pytest.raises(SystemExit, match=r"nvcc was not found.*Install the CUDA toolkit"):
        build.choose_cuda(CUDA_TORCH)


def test_nvcc_is_looked_for_where_the_environment_says(build, monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("again", SETUP)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert fresh.find_nvcc() == str(nvcc)
    monkeypatch.setenv("CUDACXX", str(tmp_path / "missing"))
    assert fresh.find_nvcc() is None  # what the user names isn't replaced by something else


@pytest.mark.parametrize(
    "archs, told",
    [
        ("", ""),
        ("90", "90"),
        ("80-real;90", "80-real;90"),
        ("80, 86-real 120-virtual", "80;86-real;120-virtual"),
        ("90a-real", "90a-real"),
        ("native", "native"),
    ],
)
def test_architectures(build, monkeypatch, archs, told):
    monkeypatch.setenv("DOM2_FAST_CUDA_ARCHS", archs)
    options = build.cuda_options("/cuda/bin/nvcc", "")
    assert options == [
        "-DDOM2_CUDA=ON",
        "-DCMAKE_CUDA_COMPILER=/cuda/bin/nvcc",
        f"-DCMAKE_CUDA_ARCHITECTURES={told}",
    ]


@pytest.mark.parametrize("archs", ["8.0", "sm_80", "60", "80;hopper", "native;90", "80-ptx"])
def test_wrong_architectures_are_refused(build, monkeypatch, archs):
    monkeypatch.setenv("DOM2_FAST_CUDA_ARCHS", archs)
    with pytest.raises(SystemExit, match="DOM2_FAST_CUDA_ARCHS"):
        build.cuda_options("/cuda/bin/nvcc", "")


def test_the_reason_can_stand_in_a_c_string(build):
    assert build.cuda_options(None, 'a "b"; c\\d $e')[1] == "-DDOM2_CUDA_WHY=a 'b'' c'd 'e"


class Runs:
    """Stands for the two runs of CMake; those with CUDA fail."""

    def __init__(self, build, monkeypatch, fails):
        self.told = []

        def cmake(command, target, cuda):
            self.told.append(cuda)
            if cuda[0] in fails:
                raise subprocess.CalledProcessError(1, ["cmake", "--build", "x"])

        monkeypatch.setattr(build.CMakeBuild, "_cmake", cmake)
        self.command = build.CMakeBuild.__new__(build.CMakeBuild)
        self.command.get_ext_fullpath = lambda name: "x.so"
        self.extension = type("Extension", (), {"name": "dom2_fast._C", "optional": False})()

    def run(self):
        self.command.build_extension(self.extension)


@pytest.fixture
def cuda_torch(monkeypatch):
    import torch

    monkeypatch.setattr(torch.version, "cuda", CUDA_TORCH)


def test_a_failed_cuda_build_falls_back_loudly(build, monkeypatch, cuda_torch, capsys):
    runs = Runs(build, monkeypatch, fails=["-DDOM2_CUDA=ON"])
    runs.run()
    assert [told[0] for told in runs.told] == ["-DDOM2_CUDA=ON", "-DDOM2_CUDA=OFF"]
    assert "their build failed: compiling ended with code 1" in runs.told[1][1]  # doctor says it
    said = capsys.readouterr().err
    assert "THE CUDA EXECUTORS WERE NOT BUILT" in said and "DOM2_FAST_CUDA=1 makes this" in said
    assert not runs.extension.optional


@pytest.mark.parametrize("required", [True, False])
def test_a_required_cuda_build_fails(build, monkeypatch, cuda_torch, required):
    monkeypatch.setenv("DOM2_FAST_CUDA", "1" if required else "auto")
    runs = Runs(build, monkeypatch, fails=["-DDOM2_CUDA=ON", "-DDOM2_CUDA=OFF"])
    if required:
        with pytest.raises(SystemExit, match=r"DOM2_FAST_CUDA=1, but .* could not be built"):
            runs.run()
        assert len(runs.told) == 1
    else:  # nothing can be compiled here: the package without an extension, as ever
        runs.run()
        assert runs.extension.optional


def test_the_cpu_build_asks_for_no_cuda(build, monkeypatch, capsys):
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    runs = Runs(build, monkeypatch, fails=[])
    runs.run()
    assert [told[0] for told in runs.told] == ["-DDOM2_CUDA=OFF"]
    assert "no CUDA executors: nvcc was not found" in capsys.readouterr().out
