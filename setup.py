"""Builds dom2_fast._C by running CMake (CMakeLists.txt is the one build description).

Environment: DOM2_FAST_CUDA=auto|0|1, DOM2_FAST_CUDA_ARCHS (as CMAKE_CUDA_ARCHITECTURES),
DOM2_FAST_REQUIRE_EXTENSION=1, CMAKE_ARGS.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FAILURES = (OSError, ImportError, subprocess.CalledProcessError)


def find_nvcc() -> str | None:
    """nvcc as CUDACXX names it, on PATH, or where CUDA is usually installed."""
    if os.environ.get("CUDACXX"):
        return shutil.which(os.environ["CUDACXX"])
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [shutil.which("nvcc"), *(shutil.which("nvcc", path=f"{h}/bin") for h in homes if h)]
    return next((place for place in places if place), None)


def choose_cuda(torch_cuda: str | None) -> tuple[str | None, str]:
    """(nvcc, "") where the CUDA executors are to be built, else (None, why not).

    Args:
        torch_cuda: torch.version.cuda, None for a torch without CUDA.
    """
    wanted = os.environ.get("DOM2_FAST_CUDA") or "auto"
    if wanted not in ("auto", "0", "1"):
        sys.exit(
            f"dom2_fast: DOM2_FAST_CUDA is {wanted!r}. Accepted: 0 (never), 1 (required), auto "
            "(where there are nvcc and a torch with CUDA); unset it for auto"
        )
    if wanted == "0":
        return None, "built with DOM2_FAST_CUDA=0"
    nvcc = find_nvcc()
    if nvcc is None:
        why = "nvcc was not found when the package was built"
        if wanted == "1":
            sys.exit(
                f"dom2_fast: DOM2_FAST_CUDA=1, but {why}. Install the CUDA toolkit (12.1 or newer) "
                "and put nvcc on PATH or its path into CUDACXX, or build with DOM2_FAST_CUDA=0"
            )
        return None, why
    if wanted == "auto" and torch_cuda is None:
        return None, "built with a torch without CUDA (DOM2_FAST_CUDA=1 builds them all the same)"
    return nvcc, ""


def cuda_options(nvcc: str | None, why_not: str) -> list[str]:
    """What CMake is told about CUDA."""
    if nvcc is None:
        why_not = re.sub(r'[";\\$]', "'", why_not)  # it becomes a string in C++
        return ["-DDOM2_CUDA=OFF", f"-DDOM2_CUDA_WHY={why_not}"]
    archs = os.environ.get("DOM2_FAST_CUDA_ARCHS", "")
    names = [name for name in re.split(r"[;,\s]+", archs) if name]
    known = re.compile(r"\d+[af]?(-real|-virtual)?|native|all|all-major")
    for name in names:
        number = re.match(r"\d+", name)
        if not known.fullmatch(name) or (number and not 70 <= int(number[0]) < 1000):
            sys.exit(
                f"dom2_fast: DOM2_FAST_CUDA_ARCHS has {name!r}. Accepted: numbers from 70 as in "
                "sm_70, separated by ';' (80;90), each perhaps with -real (its binary only) or "
                "-virtual (PTX only); or native alone, for the cards of this machine; or unset it"
            )
        if not number and len(names) > 1:
            sys.exit(f"dom2_fast: DOM2_FAST_CUDA_ARCHS={archs!r}: {name} must stand alone")
    # Empty: as csrc/cuda/toolkit.cmake decides, whatever an earlier build was told.
    return [
        "-DDOM2_CUDA=ON",
        f"-DCMAKE_CUDA_COMPILER={nvcc}",
        f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(names)}",
    ]


class CMakeBuild(build_ext):
    """One call of CMake; a failure leaves a package that runs its reference path, and says so."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        try:
            self._build(target)
        except FAILURES as error:
            if "1" in (os.environ.get(f"DOM2_FAST_{v}") for v in ("REQUIRE_EXTENSION", "CUDA")):
                raise
            ext.optional = True  # nothing to copy: the package warns once and runs without it
            print(
                f"dom2_fast: the kernels were not built ({error}). The package will run its slow "
                "reference path. A C++ compiler (gcc >= 11 or clang >= 14), cmake and ninja are "
                "needed; set DOM2_FAST_REQUIRE_EXTENSION=1 to make this an error.",
                file=sys.stderr,
            )

    def _build(self, target: Path) -> None:
        import torch

        nvcc, why_not = choose_cuda(torch.version.cuda)
        if nvcc:
            print(f"dom2_fast: building the CUDA executors, too, by {nvcc}", flush=True)
            try:
                return self._cmake(target, cuda_options(nvcc, ""))
            except FAILURES as error:
                if os.environ.get("DOM2_FAST_CUDA") == "1":
                    sys.exit(
                        f"dom2_fast: DOM2_FAST_CUDA=1, but the CUDA executors could not be built "
                        f"({describe(error)}). What went wrong is printed above; DOM2_FAST_CUDA=0 "
                        "builds without them"
                    )
                why_not = f"their build failed: {describe(error)}"
                bar = "!" * 100
                print(
                    f"{bar}\ndom2_fast: THE CUDA EXECUTORS WERE NOT BUILT, {why_not}; what went "
                    f"wrong is printed above.\nBuilding for the CPU alone: on CUDA tensors this "
                    f"package will run its slow reference path.\nDOM2_FAST_CUDA=1 makes this an "
                    f"error, DOM2_FAST_CUDA=0 doesn't try.\n{bar}",
                    file=sys.stderr,
                    flush=True,
                )
        else:
            print(f"dom2_fast: no CUDA executors: {why_not}", flush=True)
        self._cmake(target, cuda_options(None, why_not))

    def _cmake(self, target: Path, cuda: list[str]) -> None:
        import pybind11
        import torch

        root = Path(torch.__file__).parent
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        cmake = shutil.which("cmake") or "cmake"
        configure = [
            cmake,
            "-G",
            "Ninja",
            "-S",
            str(Path(__file__).resolve().parent),
            "-B",
            str(build),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DPython_INCLUDE_DIR={sysconfig.get_path('include')}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DTORCH_INCLUDE={root / 'include'}",
            f"-DTORCH_LIB={root / 'lib'}",
            f"-DTORCH_VERSION={torch.__version__}",
            "-UTORCH_CPU",  # found in TORCH_LIB, which may be another than last time
            *cuda,
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        try:
            subprocess.run(configure, check=True)
        except subprocess.CalledProcessError:
            # What a failed try found out must not decide the next one.
            (build / "CMakeCache.txt").unlink(missing_ok=True)
            raise
        subprocess.run([cmake, "--build", str(build)], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        (built,) = build.glob("_C*" + sysconfig.get_config_var("EXT_SUFFIX"))
        target.unlink(missing_ok=True)  # not overwritten: a process may be running it
        shutil.copy2(built, target)

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]


def describe(error: Exception) -> str:
    """What failed, without a command line of a thousand characters."""
    if isinstance(error, subprocess.CalledProcessError):
        what = "compiling" if "--build" in error.cmd else "configuring"
        return f"{what} ended with code {error.returncode}"
    return str(error)


if __name__ == "__main__":  # also where pip runs this file; tests import it
    setup(ext_modules=[Extension("dom2_fast._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
