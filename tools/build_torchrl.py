"""Builds TorchRL's C++ extension against the torch that is installed, for the benchmarks.

    pip install '.[peers]' && python tools/build_torchrl.py

TorchRL's wheels are compiled for one version of torch; with another the extension doesn't load,
and its prioritised buffers don't work. The wheel brings the extension's sources: they are compiled
as they are (a minute, a C++ compiler), and the result takes the place of the wheel's file, which is
kept beside it as *.wheel. Does nothing where the extension loads. Not a part of the package.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LOADS = [sys.executable, "-W", "ignore", "-c", "import torch, torchrl._torchrl"]


def reason() -> str | None:
    """Why the extension doesn't load, or None where it does."""
    done = subprocess.run(LOADS, capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2]


def main() -> int:
    spec = importlib.util.find_spec("torchrl")
    if spec is None:
        print("torchrl is not installed: pip install '.[peers]'")
        return 1
    why = reason()
    if why is None:
        print("torchrl's extension loads as it is")
        return 0
    print(f"it doesn't load: {why}")
    folder = Path(spec.origin).parent
    found = sorted(folder.glob("_torchrl*.so"))
    sources = [folder / "csrc" / name for name in ("pybind.cpp", "utils.cpp")]
    absent = [str(p) for p in sources if not p.is_file()]
    if absent or len(found) != 1:
        print(f"can't build it: {absent or found} {'are missing' if absent else 'is not one file'}")
        return 1
    from torch.utils.cpp_extension import load

    with tempfile.TemporaryDirectory() as build:
        load(
            "_torchrl",
            [str(p) for p in sources],
            extra_cflags=["-O3"],
            extra_include_paths=[str(folder.parent)],
            build_directory=build,
            is_python_module=False,
        )
        kept = found[0].with_name(found[0].name + ".wheel")
        if not kept.exists():
            shutil.copy2(found[0], kept)
        shutil.copy2(Path(build) / "_torchrl.so", found[0])
    why = reason()
    print("built; it loads" if why is None else f"built, but it doesn't load: {why}")
    return 0 if why is None else 1


if __name__ == "__main__":
    raise SystemExit(main())
