"""tools/wheels.py: what it refuses; and, by `make test-slow`, an installation without a network."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
wheels = pytest.importorskip("wheels", reason="needs the sources")
EXTENSION = "dom2_fast/_C.cpython-312-x86_64-linux-gnu.so"


def wheel(folder, *names, size=0):
    path = folder / "dom2_fast-0.1.0-cp312-cp312-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name in (*names, "dom2_fast-0.1.0.dist-info/RECORD"):
            file.writestr(name, "x")
        file.writestr("dom2_fast/assets/large", b"\0" * size)
    return path


def test_a_wheel_holds_the_extension_and_is_small(tmp_path):
    wheels.check(wheel(tmp_path, EXTENSION))
    with pytest.raises(SystemExit, match="holds no extension"):
        wheels.check(wheel(tmp_path))
    with pytest.raises(SystemExit, match=r"more than the package: dom2_fast\.libs"):
        wheels.check(wheel(tmp_path, EXTENSION, "dom2_fast.libs/libtorch_cpu.so"))
    with pytest.raises(SystemExit, match=r"at most 4,000,000 are wanted"):
        wheels.check(wheel(tmp_path, EXTENSION, size=wheels.MOST + 1))


def test_the_wheel_of_this_python_is_taken():
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    of = [Path(f"d-1-{t}-{t}-linux_x86_64.whl") for t in ("cp39", tag)]
    assert wheels.matching(sys.executable, of) == of[1]
    with pytest.raises(SystemExit, match=f"is for {tag}: build it"):
        wheels.matching(sys.executable, of[:1])


def test_the_smoke_tests_are_there():
    assert all((REPO / "python_tests" / name).is_file() for name in wheels.SMOKE)


@pytest.mark.slow
def test_without_a_network_and_without_a_compiler():
    """Of a wheel and a wheelhouse that are there: see `make wheel` and `make test-offline`."""
    made = sorted(wheels.DIST.glob("*.whl")) if wheels.HOUSE.is_dir() else []
    if not made or shutil.which("unshare") is None:
        pytest.skip("needs `make wheel`, the wheels of `make test-offline`, and unshare")
    command = [sys.executable, REPO / "tools" / "wheels.py", "offline", *made]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
