"""What can be said of the CUDA executors without a GPU: compiles them, and looks at what nvcc made.

    make cuda-gates              # checks; needs nvcc, skipped where there is none
    make cuda-gates UPDATE=1     # and writes csrc/cuda/resources.txt, after a change of the kernels

1. The whole extension builds with DOM2_FAST_CUDA=1, also against a torch without CUDA.
2. Rules that hold for every kernel on every architecture, read off the binary (`problems`).
3. The table csrc/cuda/resources.txt is what this nvcc makes. Another version of nvcc makes other
   numbers: then only the rules count, and that is said.
4. The extension loads without a driver, and the tests of what it says of itself pass.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
TABLE = REPO / "csrc" / "cuda" / "resources.txt"
ARCHS = "80-real;90-real;90-virtual"
CODE = "sm_80 sm_90 compute_90"
SMOKE = ["ops/test_backend.py", "cli/test_doctor.py", "cli/test_gpus.py"]
# Kernels that fetch ahead of their use: without cp.async they would wait for every load.
STREAMING = ("denoise_kernel", "denoise_backward_kernel", "weight_gradient_kernel")


class Stop(Exception):
    """Nothing more can be said; the text is what to do."""


@dataclass
class Row:
    """What one kernel is on one architecture."""

    kernel: str
    arch: str
    registers: int = 0
    shared: int = 0  # static bytes; what a launch adds is not in the binary
    stack: int = 0  # bytes: a stack frame, spilled registers
    local: int = 0  # instructions that access it (LDL, STL)
    instructions: int = 0
    hmma: int = 0  # tensor cores
    ldgsts: int = 0  # cp.async
    generic: int = 0  # LD, ST: the compiler doesn't know which memory


def tool(name: str) -> str:
    """cuobjdump or nvdisasm: of their PyPI packages, else on PATH."""
    try:
        for path in importlib.metadata.files(f"nvidia-cuda-{name}") or []:
            if path.name == name:
                return str(path.locate())
    except importlib.metadata.PackageNotFoundError:
        pass
    found = shutil.which(name)
    if found is None:
        raise Stop(
            f"{name} is missing: `make cuda-gates` installs it, or pip install nvidia-cuda-{name}"
        )
    return found


def output(*command: str, **kw) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **kw)
    if done.returncode:
        raise Stop(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def short(demangled: str) -> str:
    """f<Fp32,8> for `void dom2::cuda::(anonymous namespace)::f<dom2::cuda::Fp32, 8>(...)`."""
    name = re.sub(r"\(anonymous namespace\)::|\w+::|\([^()]*\)$|^void ", "", demangled.strip())
    return name.replace(" ", "")


def parse(usage: str, sass: str) -> list[Row]:
    """From `cuobjdump -res-usage` and `-sass`, demangled."""
    rows: dict[tuple[str, str], Row] = {}
    arch = kernel = ""
    for line in usage.splitlines():
        if line.startswith("arch = "):
            arch = line.split()[-1]
        elif line.startswith(" Function "):
            kernel = short(line[len(" Function ") :].rstrip(":"))
        elif "REG:" in line:
            n = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
            stack = n["STACK"] + n["LOCAL"]
            rows[kernel, arch] = Row(kernel, arch, n["REG"], n["SHARED"], stack)
    row = None
    address, predicate = r"\s+/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?", r"(?:@!?U?P\w+\s+)?"
    instruction = re.compile(rf"{address}{predicate}([A-Z][A-Z0-9]*)")
    for line in sass.splitlines():
        if line.startswith("arch = "):
            arch = line.split()[-1]
        elif "Function : " in line:
            row = rows[short(line.split("Function : ")[1]), arch]
        elif row and (match := instruction.match(line)) and match[1] != "NOP":
            row.instructions += 1
            row.local += match[1] in ("LDL", "STL")
            row.hmma += match[1] == "HMMA"
            row.ldgsts += match[1] == "LDGSTS"
            row.generic += match[1] in ("LD", "ST")
    return sorted(rows.values(), key=lambda r: (r.kernel.partition("<")[0], *astuple(r)[:2]))


def problems(rows: list[Row], ptx: set[str], sources: set[str]) -> list[str]:
    """What breaks a rule.

    Args:
        rows: of every kernel and architecture.
        ptx: kernels that there is PTX of.
        sources: names of the kernels in the source files.
    """
    found = []
    if not rows:
        return ["the binary holds no kernels"]
    names = {row.kernel for row in rows}
    for missing in sorted(sources - {name.partition("<")[0] for name in names}):
        found.append(f"{missing} is in csrc/cuda, but not in the binary: add its file to CMake")
    for name in sorted(names):
        have = {row.arch for row in rows if row.kernel == name}
        for arch in CODE.split():
            if arch not in have and not (arch.startswith("compute") and name in ptx):
                found.append(f"{name} is not compiled for {arch}")
    for r in rows:
        where = f"{r.kernel} on {r.arch}"
        if r.stack or r.local:
            found.append(
                f"{where} uses local memory: {r.stack} bytes, {r.local} LDL/STL. Registers are "
                "spilled, or an array is indexed by a number the compiler doesn't know"
            )
        if "Bf16" in r.kernel and not r.hmma:
            found.append(f"{where} has no HMMA: its products don't run on tensor cores")
        if "Fp32" in r.kernel and r.hmma:
            found.append(f"{where} has {r.hmma} HMMA: its products aren't float32")
        if r.kernel.startswith(STREAMING) and not r.ldgsts:
            found.append(f"{where} has no LDGSTS: its loads from global memory aren't asynchronous")
    return found


def render(rows: list[Row], nvcc: str) -> str:
    """The table as text; parts are separated by spaces, lines of a # are remarks."""
    head = [field.name for field in fields(Row)]
    lines = [head, *([str(value) for value in astuple(row)] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "# What nvcc made of each kernel: written by `make cuda-gates UPDATE=1`, columns explained",
        "# in tools/cuda_gates.py (Row). On sm_90 `shared` is 1024 bytes that CUDA takes itself.",
        f"# nvcc {nvcc}, -O3",
    ]
    for line in lines:
        cells = [
            c.ljust(w) if i < 2 else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text) + "\n"


def written_by(table: str) -> str:
    match = re.search(r"^# nvcc (\S+),", table, re.M)
    return match[1] if match else ""


def compare(table: str, made: str) -> list[str]:
    """Lines that tell a person how the table differs."""
    return [
        line
        for line in difflib.unified_diff(
            table.splitlines(), made.splitlines(), "resources.txt", "this build", lineterm="", n=0
        )
        if not line.startswith("@@")
    ]


def build(base: Path) -> Path:
    """Builds the package with CUDA under `base`; the folder to import it from."""
    environment = {**os.environ, "DOM2_FAST_CUDA": "1", "DOM2_FAST_CUDA_ARCHS": ARCHS}
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-base", str(base)]
    command += ["--build-lib", str(base / "lib")]
    shutil.rmtree(base / "lib", ignore_errors=True)  # Python files that are no more
    if subprocess.run(command, cwd=REPO, env=environment).returncode:
        raise Stop("the extension doesn't build with DOM2_FAST_CUDA=1 (see above)")
    return base / "lib"


def measure(binary: Path) -> tuple[list[Row], set[str]]:
    cuobjdump = tool("cuobjdump")
    path = os.pathsep.join([str(Path(tool("nvdisasm")).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}

    def dump(option: str) -> str:
        mangled = output(cuobjdump, option, str(binary), env=environment)
        if option == "-ptx":
            mangled = "\n".join(re.findall(r"\.entry (\w+)", mangled))
        try:
            return output("c++filt", input=mangled)
        except FileNotFoundError:
            raise Stop("c++filt is missing; it comes with gcc (binutils)") from None

    return parse(dump("-res-usage"), dump("-sass")), {short(n) for n in dump("-ptx").splitlines()}


def kernels_in_sources() -> set[str]:
    text = "".join(path.read_text() for path in sorted((REPO / "csrc" / "cuda").glob("*.cu")))
    return set(re.findall(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(", text))


def smoke(library: Path) -> list[str]:
    """The extension in `library` loads here, says what it holds, and passes its tests."""
    environment = {**os.environ, "PYTHONPATH": str(library)}
    code = (
        "import dom2_fast, sys; from dom2_fast.cli import main as cli; print(dom2_fast.__file__); "
    )
    code += "sys.exit(cli.main(['doctor', '--json']))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=library, env=environment, capture_output=True, text=True)
    place, _, facts = done.stdout.partition("\n")
    if done.returncode or not place.startswith(str(library)):
        return [
            f"the extension built with CUDA doesn't load, or isn't healthy:\n{done.stdout}"
            f"{done.stderr}"
        ]
    compiled = json.loads(facts)["cuda"]["compiled"]
    if not compiled or compiled["code"] != CODE:
        return [f"doctor says {compiled} was compiled, and not {CODE}"]
    tests = [str(REPO / "python_tests" / name) for name in SMOKE]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    return (
        ["tests fail on the extension built with CUDA (see above)"]
        if subprocess.run(command, cwd=library, env=environment).returncode
        else []
    )


def check(rows: list[Row], ptx: set[str], nvcc: str, update: bool) -> list[str]:
    """The rules and the table."""
    found = problems(rows, ptx, kernels_in_sources())
    table, made = TABLE.read_text() if TABLE.exists() else "", render(rows, nvcc)
    if update:
        TABLE.write_text(made)
        print(f"wrote {TABLE.relative_to(REPO)}: {len(rows)} rows, by nvcc {nvcc}")
    elif table and written_by(table) != nvcc:
        print(
            f"{TABLE.name} is of nvcc {written_by(table)} and this is {nvcc}: its numbers are "
            "NOT compared, only the rules are checked"
        )
    elif difference := compare(table, made):
        found.append(
            "csrc/cuda/resources.txt is out of date; if this is what you want, `make "
            "cuda-gates UPDATE=1` and commit it:\n" + "\n".join(difference)
        )
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="write csrc/cuda/resources.txt")
    parser.add_argument("--build", type=Path, default=REPO / "build" / "cuda", help="folder")
    options = parser.parse_args(argv)
    compiler = shutil.which(os.environ.get("CUDACXX") or "nvcc")
    if compiler is None:
        print("SKIPPED: there is no nvcc on this machine to compile the CUDA executors with")
        return 0
    try:
        nvcc = re.search(r"V(\d[\d.]*)", output(compiler, "--version"))[1]
        start = time.monotonic()
        library = build(options.build.resolve())
        print(f"built with nvcc {nvcc} for {CODE}: {time.monotonic() - start:.0f} s", flush=True)
        (binary,) = (library / "dom2_fast").glob("_C*")
        rows, ptx = measure(binary)
        found = check(rows, ptx, nvcc, options.update) + smoke(library)
    except Stop as stop:
        found = [str(stop)]
    for problem in found:
        print(f"\nFAILED: {problem}")
    if not found:
        print(f"CUDA gates passed: {len(ptx)} kernels, each for {CODE}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
