"""The emulator that runs CUDA kernels on the CPU: correct kernels work, planted bugs are noticed.

Everything runs in programs compiled here from csrc/testing/simt. No GPU is needed, and nothing is
said about one.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SIMT = Path(__file__).resolve().parents[2] / "csrc" / "testing" / "simt"
SCHEDULES = ["forward", "reverse", "random", "greedy"]
CORRECT = ["ping_pong", "collectives", "votes", "multiply", "pipeline", "count", "wide", "many"]
CXX = shutil.which("g++")
FLAGS = ["-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-U_FORTIFY_SOURCE"]


@dataclass
class Program:
    """A build of simt_test, and how to start it."""

    path: Path
    prefix: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments, schedule="forward", seed=0):
        environment = {**os.environ, **self.options}
        environment |= {"DOM2_SIMT_SCHEDULE": schedule, "DOM2_SIMT_SEED": str(seed)}
        command = [*self.prefix, str(self.path), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    def result(self, *arguments, **choice) -> tuple[str, int]:
        """The bits that a planted kernel computed, and how many of the values are NaN."""
        done = self.run(*arguments, **choice)
        found = re.search(r"bits (\w+), (\d+) NaN", done.stdout)
        assert done.returncode == 0 and found, done.stdout + done.stderr
        return found[1], int(found[2])


def compile_test(folder: Path, *flags: str) -> Path:
    if not CXX:
        pytest.skip("g++ is not on PATH")
    program = folder / "simt_test"
    command = [CXX, *FLAGS, *flags, str(SIMT / "simt_test.cpp"), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in done.stderr and any(f.startswith("-fsanitize") for f in flags):
        pytest.skip(f"{CXX} has no libraries for {' '.join(flags)}")
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    return Program(compile_test(tmp_path_factory.mktemp("simt")))


@pytest.fixture(scope="session")
def throwing(tmp_path_factory):
    """With errors as exceptions, and the portable change of stacks instead of the fast one."""
    flags = ["-DDOM2_SIMT_THROW", "-DDOM2_SIMT_UCONTEXT"]
    return Program(compile_test(tmp_path_factory.mktemp("simt-throw"), *flags))


@pytest.fixture(scope="session")
def asan(tmp_path_factory):
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    return Program(compile_test(tmp_path_factory.mktemp("simt-asan"), *flags))


@pytest.fixture(scope="session")
def tsan(tmp_path_factory):
    path = compile_test(tmp_path_factory.mktemp("simt-tsan"), "-fsanitize=thread")
    program = Program(path, options={"TSAN_OPTIONS": f"suppressions={SIMT / 'tsan.supp'}"})
    # Older runtimes can't live with as much address randomisation as newer kernels use.
    for program.prefix in ([], ["setarch", "-R"]):
        if program.prefix and not shutil.which("setarch"):
            break
        if "unexpected memory mapping" not in program.run("correct", "host").stderr:
            return program
    pytest.skip("this TSan can't start under this kernel")


# --- correct kernels --------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [*CORRECT, "host"])
@pytest.mark.parametrize("build", ["plain", "throwing", "asan"])
def test_correct_kernels_give_equal_bits_under_all_schedules(request, build, kernel):
    done = request.getfixturevalue(build).run("correct", kernel, 5 if build == "plain" else 2)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kernel", [*CORRECT, "host"])
def test_correct_kernels_have_no_race(tsan, kernel):
    seeds = 0 if kernel == "many" else 1  # 0: one launch
    done = tsan.run("correct", kernel, seeds)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_unknown_names_are_refused(plain):
    assert plain.run("correct", "nothing").returncode != 0
    assert plain.run("bug", "nothing").returncode == 2
    done = plain.run("correct", "ping_pong", schedule="sideways")
    assert done.returncode != 0
    assert "forward, reverse, random or greedy" in done.stderr


def test_a_change_of_threads_is_cheap(plain):
    done = plain.run("time")
    nanoseconds = int(done.stdout.split()[0])
    # About 50; a system call at each change would take it to several hundred.
    assert nanoseconds < 1000, done.stdout


# --- bugs that show as wrong values -----------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "bug",
    [
        "missing_wait",
        "missing_barrier",
        "missing_copy_barrier",
        "missing_syncwarp",
        "uninitialised",
        "shared_bounds_read",
        "exit_without_wait",
    ],
)
def test_nan_shows_what_was_read_too_early(plain, bug, schedule):
    assert plain.result("bug", bug, schedule=schedule)[1] > 0
    assert plain.result("fixed", bug, schedule=schedule)[1] == 0


@pytest.mark.parametrize(
    ("bug", "schedules"),
    [
        ("write_after_read", ["greedy"]),
        ("write_after_read", ["random"]),
        ("wrong_half", ["greedy"]),
        ("wrong_half", ["random"]),
        ("lost_update", ["random"]),
        ("block_order", ["reverse"]),
        ("block_order", ["random", "greedy"]),
    ],
)
def test_bits_depend_on_the_schedule_where_order_is_missing(plain, bug, schedules):
    def results(which):
        found = {plain.result(which, bug)}
        for schedule in schedules:
            found |= {plain.result(which, bug, schedule=schedule, seed=s) for s in range(4)}
        return found

    assert len(results("bug")) > 1
    assert len(results("fixed")) == 1


def test_lock_step_alone_misses_a_write_after_read(plain):
    """Why there is a greedy schedule."""
    right = plain.result("fixed", "write_after_read")
    assert plain.result("bug", "write_after_read", schedule="forward") == right
    assert plain.result("bug", "write_after_read", schedule="greedy") != right


def test_a_seed_names_one_order(plain):
    """Without this a failure could not be repeated."""

    def result(seed):
        return plain.result("bug", "write_after_read", schedule="random", seed=seed)

    assert [result(s) for s in range(6)] == [result(s) for s in range(6)]
    assert len({result(s) for s in range(6)}) > 1


# --- bugs that end the launch -----------------------------------------------------------------

STOPPED = {
    "outside_mask": r"__shfl_xor_sync: the lane is not in its own mask fffffffd",
    "source_outside_mask": r"__shfl_sync reads lane 20, which is not in the mask 0000ffff",
    "exited_lane": r"has exited",
    "different_collectives": r"__shfl_\w+_sync, but a lane of the same mask ffffffff waits at",
    "different_masks": r"deadlock: .*__syncwarp with mask 000000ff.*__syncwarp with mask ffffffff",
    "divergent_barrier": r"deadlock: threads 0-47 wait at __syncthreads .*; threads 48-63 wait at",
    "different_barriers": r"__syncthreads(_or)? while other threads wait at __syncthreads",
    "misaligned_load": r"load16_global: address \w+ is not a multiple of 16",
    "misaligned_store": r"store8: address \w+ is not a multiple of 8",
    "misaligned_copy": r"cp\.async from: address \w+ is not a multiple of 16",
    "overwritten_source": r"cp\.async: the source was overwritten before the wait",
    "overwritten_destination": r"cp\.async: the destination was written before the wait",
    "shared_bounds_write": r"shared memory was written at byte 512; the block has 512 bytes",
}


@pytest.mark.parametrize("bug", STOPPED)
def test_a_bug_ends_the_program_and_says_where(plain, bug):
    for schedule in SCHEDULES:
        done = plain.run("bug", bug, schedule=schedule)
        assert done.returncode < 0, done.stdout
        assert re.search(STOPPED[bug], done.stderr), done.stderr
        assert re.search(r"\[block \(0,0,0\)", done.stderr)
        if bug != "shared_bounds_write":  # seen when the block has ended
            assert re.search(r"simt: .*test_bugs\.h:\d+: ", done.stderr)
        plain.result("fixed", bug, schedule=schedule)


@pytest.mark.parametrize("bug", STOPPED)
def test_a_bug_is_thrown_and_the_next_launch_works(throwing, bug):
    done = throwing.run("bug", bug, schedule="random", seed=1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search("caught: simt: .*" + STOPPED[bug], done.stdout), done.stdout


def test_an_exited_lane_is_noticed_from_both_sides(plain):
    """Lane 31 leaves after the others have come, or before."""
    after = plain.run("bug", "exited_lane", schedule="forward").stderr
    assert "the lane has exited while others of the mask ffffffff wait" in after
    before = plain.run("bug", "exited_lane", schedule="reverse").stderr
    assert "lane 31, in the mask ffffffff, has exited" in before


def test_a_launch_inside_a_launch_is_refused(plain):
    done = plain.run("bug", "nested_launch")
    assert done.returncode < 0
    assert "a launch while another" in done.stderr
    plain.result("fixed", "nested_launch")


@pytest.mark.parametrize(
    ("bug", "report"),
    [
        ("shared_bounds_write", "use-after-poison"),
        ("shared_bounds_read", "use-after-poison"),
        ("global_bounds", "heap-buffer-overflow"),
    ],
)
def test_asan_sees_accesses_out_of_bounds(asan, bug, report):
    done = asan.run("bug", bug)
    assert done.returncode != 0
    assert report in done.stderr
    assert re.search(rf"#0 .*{bug}<true>.*test_bugs\.h:\d+", done.stderr), done.stderr
    asan.result("fixed", bug)


# --- races, whatever order they happened in ---------------------------------------------------

RACES = [
    "missing_barrier",
    "missing_copy_barrier",
    "write_after_read",
    "missing_syncwarp",
    "warp_write_after_read",
    "wrong_half",
    "cross_block",
    "missing_fence",
]


@pytest.mark.parametrize("bug", RACES)
def test_tsan_reports_a_race_at_its_line(tsan, bug):
    lines = (SIMT / "test_bugs.h").read_text().splitlines()
    (line,) = [n for n, text in enumerate(lines, 1) if text.endswith(f"// race: {bug}")]
    for schedule in ["forward", "greedy"]:
        done = tsan.run("bug", bug, schedule=schedule)
        assert done.returncode == 66, done.stderr
        assert "WARNING: ThreadSanitizer: data race" in done.stderr
        assert re.search(rf"{bug}<true>.*test_bugs\.h:{line}\b", done.stderr), done.stderr
        done = tsan.run("fixed", bug, schedule=schedule)
        assert (done.returncode, done.stderr) == (0, "")


# --- the same source under nvcc ---------------------------------------------------------------

EVERYTHING = f"""
#include "{SIMT / "test_kernels.h"}"
cudaError_t all(cudaStream_t stream, unsigned* u, const float* x, float* y, int* n) {{
  using namespace correct;
  const cudaError_t error = launch(ping_pong, 3, 96, 200000, stream, u, 7);
  if (error != cudaSuccess) return error;
  return launch(pipeline, dim3(1), dim3(64), 3072, stream, x, x, y, 7, *n);
}}
"""

# What cards before sm_80 can do, too.
OLD_CARDS = f"""
#include "{SIMT.parents[1] / "cuda" / "device.h"}"
using namespace dom2::cuda;
__global__ void old(const float* x, float* y) {{
  DOM2_DYNAMIC_SHARED(raw);
  const int t = threadIdx.x;
  cp_async16(raw + 16 * t, x + 4 * t);
  cp_async16_zero(raw + 16 * t, x + 4 * t, t < 5);
  cp_async4(raw + 4 * t, x + t);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  store16(y, load16<float4>(raw));
  y[t] = __uint_as_float(pack_bf16(y[1], y[2]));
}}
"""


@pytest.fixture(scope="session")
def nvcc(tmp_path_factory):
    path = shutil.which("nvcc")
    if not path:
        pytest.skip("nvcc is not on PATH")
    folder = tmp_path_factory.mktemp("simt-nvcc")

    def run(source, *flags):
        (folder / "test.cu").write_text(source)
        command = [path, "-std=c++17", *flags, str(folder / "test.cu"), "-o", str(folder / "out")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return folder / "out"

    return run


def test_nvcc_makes_the_instructions_of_device_h(nvcc):
    ptx = nvcc(EVERYTHING, "-arch=sm_80", "--ptx").read_text()
    for instruction in [
        r"cp\.async\.cg\.shared\.global \[%r\d+\], \[%rd\d+\], 16;",
        r"cp\.async\.cg\.shared\.global \[%r\d+\], \[%rd\d+\], 16, %r\d+;",
        r"cp\.async\.ca\.shared\.global \[%r\d+\], \[%rd\d+\], 4;",
        r"cp\.async\.commit_group;",
        r"cp\.async\.wait_group 1;",
        r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32",
        r"cvt\.rn\.bf16x2\.f32",
        r"ld\.global\.nc\.v4",
        r"ld\.global\.nc\.v2",
        r"ld\.shared\.v4",
        r"st\.shared\.v4",
        r"redux\.sync\.min\.u32",
    ]:
        assert re.search(instruction, ptx), instruction


def test_nvcc_compiles_the_host_side_and_old_cards(nvcc):
    nvcc(EVERYTHING, "-arch=sm_90", "-c", "-Xcompiler", "-Wall")
    ptx = nvcc(OLD_CARDS, "-arch=sm_75", "--ptx").read_text()
    assert "cp.async" not in ptx
    assert "cvt.rn.bf16x2" not in ptx


def test_static_shared_memory_does_not_compile(tmp_path):
    """It could be neither filled with NaN nor guarded, so kernels must not use it."""
    if not CXX:
        pytest.skip("g++ is not on PATH")
    begin = f'#include "{SIMT.parents[1] / "cuda" / "device.h"}"\n__global__ void f() {{ '
    for body, accepted in [
        ("DOM2_DYNAMIC_SHARED(x); (void)x; }", True),
        ("__shared__ float x[32]; (void)x; }", False),
    ]:
        (tmp_path / "test.cpp").write_text(begin + body + "\n")
        command = [CXX, "-std=c++20", "-fsyntax-only", str(tmp_path / "test.cpp")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode == 0) == accepted, done.stderr
