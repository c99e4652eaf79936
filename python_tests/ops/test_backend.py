"""The backend probe: choosing an instruction set, and life without the compiled extension."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dom2_fast.errors import Dom2Error
from dom2_fast.ops import backend

needs_extension = pytest.mark.skipif(
    not backend.available(), reason=f"no compiled extension: {backend.reason()}"
)

# Symbols of libtorch that may be used: the C functions of PyTorch's stable ABI.
STABLE = ("aoti_torch_", "torch_")


def python(code: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True
    )


@needs_extension
def test_isas():
    assert set(backend.isas_runnable()) <= set(backend.isas_built())
    assert backend.isas_runnable()[-1] == "base"
    assert backend.isa_active() in backend.isas_runnable()


@needs_extension
def test_set_isa_refuses_what_cannot_run():
    before = backend.isa_active()
    with pytest.raises(Dom2Error, match=r"sse9.*base"):
        backend.set_isa("sse9")
    assert backend.isa_active() == before


@needs_extension
def test_environment_chooses_the_isa():
    code = "from dom2_fast import backend; print(backend.isa_active())"
    for isa in backend.isas_runnable():
        assert python(code, DOM2_FAST_ISA=isa).stdout.strip() == isa
    wrong = python(code, DOM2_FAST_ISA="avx9000")
    assert wrong.returncode != 0
    assert "avx9000" in wrong.stderr and "choose one of" in wrong.stderr


WITHOUT = """
import sys, warnings
sys.modules["dom2_fast._C"] = None  # what a missing or unloadable file looks like to import
import torch
import dom2_fast as d2
from dom2_fast.ops import backend
assert not backend.available() and backend.reason()
net = d2.networks.MLPNoiseNet(4, 2, hidden=8)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    policy = d2.DiffusionPolicy(net, steps=3)
    for _ in range(3):
        action = policy.sample(torch.zeros(5, 4))
assert action.shape == (5, 2)
ours = [w for w in caught if "reference path" in str(w.message)]
assert len(ours) == 1, [str(w.message) for w in caught]
print("fine")
"""


def test_without_the_extension_everything_runs_and_warns_once():
    done = python(WITHOUT)
    assert done.stdout.strip() == "fine", done.stderr


@needs_extension
def test_only_the_stable_abi_of_torch_is_used():
    """So that one binary serves every torch >= 2.10."""
    module = Path(backend.extension().__file__)
    try:
        listed = subprocess.run(
            ["nm", "-D", "--undefined-only", str(module)],
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError:
        pytest.skip("nm (binutils) is not installed")
    names = [line.split()[-1] for line in listed.stdout.splitlines()]
    torch_own = [
        n for n in names if "torch" in n or n.startswith(("_ZN2at", "_ZN3c10", "_ZNK3c10"))
    ]
    assert torch_own, "the extension uses no torch symbol at all?"
    assert [n for n in torch_own if not n.startswith(STABLE)] == []


@needs_extension
def test_cuda_facts_agree():
    built = backend.cuda()
    assert backend.cuda_built() == (built is not None) == (backend.cuda_why_not() == "")
    if built:
        assert re.fullmatch(r"\d+\.\d+.*", built["version"])
        assert all(re.fullmatch(r"(sm|compute)_\d+[af]?", name) for name in built["code"].split())


@needs_extension
def test_no_cuda_library_is_needed():
    """So that a build with CUDA loads without a driver, and beside a torch without CUDA."""
    module = str(Path(backend.extension().__file__))
    try:
        needed = subprocess.run(["readelf", "-d", module], capture_output=True, text=True).stdout
        listed = subprocess.run(["nm", "-D", module], capture_output=True, text=True).stdout
    except FileNotFoundError:
        pytest.skip("readelf and nm (binutils) are not installed")
    libraries = re.findall(r"NEEDED.*\[(.*)\]", needed)
    assert any("torch_cpu" in name for name in libraries), libraries
    assert [n for n in libraries if re.match(r"lib(cuda|cudart|torch_cuda|c10_cuda|nv)", n)] == []
    names = [line.split()[-1].partition("@")[0] for line in listed.splitlines()]
    # Neither asked of others nor offered to them: another CUDA runtime may be in the process.
    assert [n for n in names if re.match(r"cu[A-Z]|cuda[A-Z]|__cuda|_ZN(2at|3c10)4cuda", n)] == []


@needs_extension
def test_no_folder_of_the_build_machine_in_the_binary():
    module = Path(backend.extension().__file__)
    try:
        shown = subprocess.run(
            ["readelf", "-d", str(module)], capture_output=True, text=True, check=True
        ).stdout
    except FileNotFoundError:
        pytest.skip("readelf (binutils) is not installed")
    assert "RPATH" not in shown and "RUNPATH" not in shown


CSRC = Path(__file__).resolve().parents[2] / "csrc" / "cpu"


@pytest.mark.parametrize("isa, flags", [("avx2", ["-mavx2", "-mfma"]), ("base", [])])
def test_kernel_files_export_their_table_alone(tmp_path, isa, flags):
    """Else the linker could put a function compiled for one processor into common code."""
    compiler = shutil.which("c++")
    if compiler is None or not CSRC.is_dir() or platform.machine() != "x86_64":
        pytest.skip("needs the sources, a C++ compiler and an x86-64 machine")
    out = tmp_path / "kernels.o"
    # Without optimisation nothing is inlined away, so every function that could leak is there.
    source = str(CSRC / f"kernels_{isa}.cpp")
    subprocess.run(
        [compiler, "-std=c++17", "-O0", *flags, "-c", source, "-o", str(out)], check=True
    )
    shown = subprocess.run(["nm", "-C", str(out)], capture_output=True, text=True, check=True)
    visible = [
        line.split(maxsplit=2)[-1]
        for line in shown.stdout.splitlines()
        if line[17:18].isupper() and line[17:18] != "U"
    ]
    assert visible == [f"dom2::cpu::kernels_{isa}"]
