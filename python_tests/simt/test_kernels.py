"""The CUDA kernels under the emulator, without torch: values, memory, order of threads, races.

csrc/testing/simt/driver.cpp runs each case under all schedules; here it is built, plain and with
sanitizers (build/simt-driver*, kept from run to run), and given its cases.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_case_list import CASES
from kernel_cases import write

REPO = Path(__file__).resolve().parents[2]
SIMT = REPO / "csrc" / "testing" / "simt"
INSTANCES = [
    *(f"{way} {rows}" for way in ("resident", "backward") for rows in (8, 16)),
    *(f"streamed {rows}" for rows in (8, 16, 32)),
    "streamed scratch 8",
    "backward scratch 16",
]


def tool(name):
    """From the environment that runs the tests, or from PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def build(sanitizer=""):
    """The driver; a change of a source compiles what depends on it."""
    cmake, ninja, cxx = tool("cmake"), tool("ninja"), shutil.which("g++")
    if not (cmake and ninja and cxx):
        pytest.skip("cmake, ninja and g++ are needed")
    folder = REPO / "build" / "-".join(filter(None, ["simt-driver", sanitizer.split(",")[0]]))
    configure = [
        cmake,
        "-G",
        "Ninja",
        "-S",
        SIMT,
        "-B",
        folder,
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DCMAKE_CXX_COMPILER={cxx}",
        "-DDOM2_SIMT_DRIVER=ON",
        f"-DDOM2_SIMT_SANITIZE={sanitizer}",
    ]
    for command in (configure, [ninja, "-j1", "-C", folder]):
        done = subprocess.run(command, capture_output=True, text=True)
        text = done.stdout + done.stderr
        if sanitizer and re.search("cannot find .*[at]san", text):
            pytest.skip(f"g++ has no libraries for -fsanitize={sanitizer}")
        assert done.returncode == 0, text
    return folder / "driver"


def check(driver, files, schedules=None, prefix=(), **options):
    chosen = ["--schedules", schedules] if schedules else []
    done = subprocess.run(
        [*prefix, driver, *chosen, *files],
        env={**os.environ, **options},
        capture_output=True,
        text=True,
    )
    failed = [line for line in done.stdout.splitlines() if not line.startswith("ok")]
    assert not failed and done.returncode == 0, "\n".join([*failed, done.stderr[-8000:]])
    assert len(done.stdout.splitlines()) == len(files)


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """(case, its file) of all cases."""
    folder = tmp_path_factory.mktemp("kernel-cases")
    made = []
    for number, case in enumerate(CASES):
        made.append((case, folder / f"{number:03}.case"))
        write(made[-1][1], case.arrays())
    return made


def test_every_instance_has_a_case():
    shapes = {(c.precision, c.shape) for c in CASES if hasattr(c, "precision")}
    for precision in ("fp32", "bf16"):
        for name in INSTANCES:
            assert any(p == precision and s.startswith(f"{name},") for p, s in shapes), name


def test_values_memory_and_schedules(cases):
    check(build(), [file for _, file in cases])


def test_no_access_out_of_bounds(cases):
    check(build("address,undefined"), [file for _, file in cases], "forward,random:1")


def test_no_race(cases):
    driver = build("thread")
    # Older runtimes can't live with as much address randomisation as newer kernels use.
    for prefix in ([], ["setarch", "-R"]):
        start = subprocess.run([*prefix, driver], capture_output=True, text=True)
        if "unexpected memory mapping" not in start.stderr:
            break
    else:
        pytest.skip("this TSan can't start under this kernel")
    small = [file for case, file in cases if case.tsan]
    options = f"suppressions={SIMT / 'tsan.supp'}"
    check(driver, small, "forward", prefix, TSAN_OPTIONS=options)


def test_a_wrong_value_and_a_wrong_instance_are_noticed(cases, tmp_path):
    arrays = next(c for c, _ in cases if c.name == "fp32 one tile").arrays()
    changes = {
        "out": arrays | {"tolerance.out": 1e-9},
        "made for": arrays | {"shape": "resident 16, 1 tiles in 1 blocks, 1 launched"},
        "the case has no 'table'": {k: v for k, v in arrays.items() if k != "table"},
        "expected are 1": arrays | {"expected.out": 1.0},
    }
    for words, changed in changes.items():
        write(tmp_path / "wrong.case", changed)
        done = subprocess.run([build(), tmp_path / "wrong.case"], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stdout.startswith("FAIL fp32 one tile: ") and words in done.stdout
