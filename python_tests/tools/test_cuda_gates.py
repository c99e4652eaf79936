"""tools/cuda_gates.py finds what it is for: planted faults, on canned output and by nvcc itself."""

import dataclasses
import shutil
import subprocess

import cuda_gates
import pytest


@pytest.fixture
def gates():
    return cuda_gates


NAME = "void dom2::cuda::(anonymous namespace)::denoise_kernel<dom2::cuda::{}, 8, false>(dom2::F)"
USAGE = """
Fatbin elf code:
================
arch = sm_80

Resource usage:
 Common:
  GLOBAL:0
 Function {name}:
  REG:90 STACK:0 SHARED:16 LOCAL:0 CONSTANT[2]:184 CONSTANT[0]:28048 TEXTURE:0
"""
SASS = """
arch = sm_80
\tcode for sm_80
\t\tFunction : {name}
\t.headerflags\t@"EF_CUDA_SM80"
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;   /* 0x00000a00ff017624 */
                                                                             /* 0x000fe400078e00ff */
        /*0010*/              @!P0 LDGSTS.E.BYPASS.128 [R1], [R2.64] ;       /* 0x0000000000707919 */
        /*0020*/             @!UP0 HMMA.16816.F32.BF16 R4, R4, R6, R8 ;      /* 0x001b6000ff007a0c */
        /*0030*/                   LD.E R4, [R6.64] ;                        /* 0x001b6000ff007a0c */
        /*0040*/              @P6  LDS R4, [R6] ;                            /* 0x001b6000ff007a0c */
        /*0050*/                   NOP;                                      /* 0x001b6000ff007a0c */
        /*12340*/                  EXIT ;                                    /* 0x001b6000ff007a0c */
"""  # noqa: E501


def canned(gates, kind="Bf16"):
    name = NAME.format(kind)
    return gates.parse(USAGE.format(name=name), SASS.format(name=name))


def test_parse(gates):
    expected = gates.Row(
        "denoise_kernel<Bf16,8,false>",
        "sm_80",
        registers=90,
        shared=16,
        instructions=6,
        hmma=1,
        ldgsts=1,
        generic=1,
    )
    assert canned(gates) == [expected]


def test_short_names(gates):
    for name in ("void a::(anonymous namespace)::f(a::P)", "a::_GLOBAL__N__1::f(a::P)", "f"):
        assert gates.short(name) == "f"


def good(gates):
    """A binary without a fault: two kernels on two architectures."""
    (row,) = canned(gates)
    rows = [row, dataclasses.replace(row, kernel="denoise_kernel<Fp32,8,false>", hmma=0)]
    rows += [dataclasses.replace(row, arch="sm_90") for row in rows]
    return rows, {row.kernel for row in rows}, {"denoise_kernel"}


def test_good_kernels_pass(gates):
    assert gates.problems(*good(gates)) == []


@pytest.mark.parametrize(
    "change, words",
    [
        ({"stack": 8}, "uses local memory: 8 bytes"),
        ({"local": 2}, "2 LDL/STL"),
        ({"hmma": 0}, "no HMMA"),
        ({"ldgsts": 0}, "no LDGSTS"),
        ({"arch": "sm_70"}, "is not compiled for sm_80"),
        ({"kernel": "denoise_kernel<Fp32,8,false>", "hmma": 3}, "has 3 HMMA"),
        ({"kernel": "denoise_kernel<Bf16,16,false>"}, "is not compiled for compute_90"),
    ],
)
def test_each_rule_finds_its_fault(gates, change, words):
    rows, ptx, sources = good(gates)
    rows[0] = dataclasses.replace(rows[0], **change)
    found = gates.problems(rows, ptx, sources)
    assert any(words in problem and "denoise_kernel" in problem for problem in found), found


def test_forgotten_files_are_found(gates):
    rows, ptx, _ = good(gates)
    (problem,) = gates.problems(rows, ptx, {"denoise_kernel", "new_kernel"})
    assert "new_kernel is in csrc/cuda, but not in the binary" in problem
    assert gates.problems([], set(), set()) == ["the binary holds no kernels"]
    assert {"denoise_kernel", "pack_kernel"} <= gates.kernels_in_sources()


@pytest.fixture
def table(gates, tmp_path, monkeypatch):
    monkeypatch.setattr(gates, "REPO", tmp_path)
    monkeypatch.setattr(gates, "TABLE", tmp_path / "resources.txt")
    monkeypatch.setattr(gates, "kernels_in_sources", lambda: {"denoise_kernel"})
    return gates.TABLE


def test_the_table_must_be_what_was_built(gates, table, capsys):
    rows, ptx, _ = good(gates)
    assert "out of date" in gates.check(rows, ptx, "13.0.88", update=False)[0]  # there is none
    assert gates.check(rows, ptx, "13.0.88", update=True) == []
    assert gates.check(rows, ptx, "13.0.88", update=False) == []
    rows[0] = dataclasses.replace(rows[0], registers=91)
    (problem,) = gates.check(rows, ptx, "13.0.88", update=False)
    before, after = (
        next(line for line in problem.splitlines() if line.startswith(sign + "den"))
        for sign in "-+"
    )
    assert before.split()[2] == "90" and after.split()[2] == "91"
    assert "UPDATE=1" in problem


def test_another_nvcc_is_held_to_the_rules_alone(gates, table, capsys):
    rows, ptx, _ = good(gates)
    gates.check(rows, ptx, "13.0.88", update=True)
    rows[0] = dataclasses.replace(rows[0], registers=91)
    assert gates.check(rows, ptx, "12.4.99", update=False) == []
    assert "13.0.88 and this is 12.4.99: its numbers are NOT compared" in capsys.readouterr().out
    rows[0] = dataclasses.replace(rows[0], stack=16)
    assert len(gates.check(rows, ptx, "12.4.99", update=False)) == 1


def test_without_nvcc_it_says_skipped(gates, monkeypatch, capsys):
    monkeypatch.setenv("CUDACXX", "no-such-nvcc")
    assert gates.main([]) == 0
    assert "SKIPPED: there is no nvcc" in capsys.readouterr().out


def test_a_failed_build_fails_and_not_more(gates, monkeypatch, capsys):
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setattr(gates.shutil, "which", lambda name: "/cuda/bin/nvcc")
    monkeypatch.setattr(gates, "output", lambda *command: "Build V12.4.131")

    def build(base):
        raise gates.Stop("the extension doesn't build")

    monkeypatch.setattr(gates, "build", build)
    assert gates.main([]) == 1
    assert "FAILED: the extension doesn't build" in capsys.readouterr().out


PLANTED = """
__global__ void denoise_kernel(float* p) {  // indexed by what the compiler doesn't know
  float a[64] = {};
  for (int i = 0; i < 64; ++i) a[static_cast<int>(p[i])] += p[i];
  for (int i = 0; i < 64; ++i) p[i] = a[i];
}
__global__ void __launch_bounds__(1024, 2) pack_kernel(float* p) {  // 32 registers for 64 values
  float a[64];
  #pragma unroll
  for (int i = 0; i < 64; ++i) a[i] = p[i * 1024 + threadIdx.x];
  __syncthreads();
  #pragma unroll
  for (int i = 0; i < 64; ++i) p[i * 1024 + threadIdx.x] = a[63 - i] * a[i];
}
"""


def test_planted_stack_frames_and_spills_are_found_in_a_real_binary(gates, tmp_path):
    try:
        gates.tool("cuobjdump"), gates.tool("nvdisasm")
    except gates.Stop as stop:
        pytest.skip(str(stop))
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc")
    (tmp_path / "x.cu").write_text(PLANTED)
    code = "-gencode=arch=compute_80,code=[sm_80,compute_80]"
    subprocess.run([nvcc, "-O3", code, "-c", "x.cu", "-o", "x.o"], cwd=tmp_path, check=True)
    rows, ptx = gates.measure(tmp_path / "x.o")
    assert [row.kernel for row in rows] == ["denoise_kernel", "pack_kernel"]
    assert rows[0].stack >= 256 and rows[0].local > 0 and rows[0].instructions > 100
    assert rows[1].stack > 0 and rows[1].local > 0  # spills
    assert ptx == {"denoise_kernel", "pack_kernel"}
    found = gates.problems(rows, ptx, ptx)
    assert [p.split()[0] for p in found if "uses local memory" in p] == sorted(ptx)


def test_the_tests_that_it_runs_are_there():
    assert all((cuda_gates.REPO / "python_tests" / name).is_file() for name in cuda_gates.SMOKE)
