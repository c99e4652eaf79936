"""Builds dom2_fast._C by running CMake (CMakeLists.txt is the one build description)."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class CMakeBuild(build_ext):
    """One call of CMake; a failure leaves a package that runs its reference path, and says so."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        try:
            self._cmake(target)
        except (OSError, ImportError, subprocess.CalledProcessError) as error:
            if os.environ.get("DOM2_FAST_REQUIRE_EXTENSION") == "1":
                raise
            ext.optional = True  # nothing to copy: the package warns once and runs without it
            print(
                f"dom2_fast: the kernels were not built ({error}). The package will run its slow "
                "reference path. A C++ compiler (gcc >= 11 or clang >= 14), cmake and ninja are "
                "needed; set DOM2_FAST_REQUIRE_EXTENSION=1 to make this an error.",
                file=sys.stderr,
            )

    def _cmake(self, target: Path) -> None:
        import pybind11
        import torch

        root = Path(torch.__file__).parent
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        cmake = shutil.which("cmake") or "cmake"
        configure = [
            cmake, "-G", "Ninja",
            "-S", str(Path(__file__).resolve().parent), "-B", str(build),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DPython_INCLUDE_DIR={sysconfig.get_path('include')}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DTORCH_INCLUDE={root / 'include'}",
            f"-DTORCH_LIB={root / 'lib'}",
            f"-DTORCH_VERSION={torch.__version__}",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]  # fmt: skip
        try:
            subprocess.run(configure, check=True)
        except subprocess.CalledProcessError:
            # What a failed try found out must not decide the next one.
            (build / "CMakeCache.txt").unlink(missing_ok=True)
            raise
        subprocess.run([cmake, "--build", str(build)], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        (built,) = build.glob("_C*" + sysconfig.get_config_var("EXT_SUFFIX"))
        shutil.copy2(built, target)

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]


setup(ext_modules=[Extension("dom2_fast._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
