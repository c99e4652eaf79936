"""Two small C programs as yardsticks: one row in plain C (floor.c), the peak of FMAs (fma_peak.c).

Compiled when asked for, into a temporary folder, for this processor. Where the package's
instruction set is forced to AVX2 (DOM2_FAST_ISA=avx2), so is theirs. Without a C compiler the
yardsticks are left out, with `NoCompiler`'s message as the reason.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


class NoCompiler(Exception):
    """No C compiler, or one that doesn't compile the file; says which and what to do."""


def compiler() -> list[str]:
    """The command of the C compiler: $CC, or cc, gcc, clang. Raises NoCompiler."""
    named = os.environ.get("CC")
    names = [named] if named else ["cc", "gcc", "clang"]
    for name in names:
        if shutil.which(name.split()[0]):
            return name.split()
    raise NoCompiler(f"no C compiler ({', '.join(names)}): install gcc, or name one in CC")


def target_flags(isa: str) -> list[str]:
    """For this processor; without AVX-512 where the package runs without it."""
    if isa.startswith("avx512"):
        return ["-march=native", "-mprefer-vector-width=512"]
    return {"avx2": ["-mavx2", "-mfma"]}.get(isa, [])


def load(source: str, flags: list[str]) -> ctypes.CDLL:
    """The C file of this folder, compiled and loaded. Raises NoCompiler."""
    command = [*compiler(), "-O3", "-shared", "-fPIC", *flags, str(HERE / source)]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library.so"
        done = subprocess.run(
            [*command, "-o", str(library), "-lm"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NoCompiler(f"{' '.join(command)} fails: {done.stderr.strip()[-300:]}")
        return ctypes.CDLL(str(library))  # stays loaded when the file is gone


class Floor:
    """floor.c with the weights of an MLPNoiseNet(18, 2): 3 layers of 256, Mish.

    `act(obs [18], x_T [2]) -> [2]`; `run(calls)` repeats the last one so many times, all in C.
    """

    def __init__(self, net, coefficients, bound: float, isa: str):
        """coefficients: (t, a, b) of each step, x <- a x - b net(x, t, obs)."""
        import torch

        self.library = load("floor.c", ["-ffast-math", *target_flags(isa)])
        layers = [m for m in net.mid_layer if isinstance(m, torch.nn.Linear)]
        state = net.state_dict()
        sizes = [(m.in_features, m.out_features) for m in (*layers, net.final_layer)]
        if sizes != [(36, 256), (256, 256), (256, 256), (256, 2)]:
            raise ValueError(f"floor.c has no network of layers {sizes}")
        t = torch.tensor([row[0] for row in coefficients])
        with torch.no_grad():
            embedded = net.time_mlp(t)
        kept = [
            *(m.weight.t() for m in layers),
            net.final_layer.weight,
            *(m.bias for m in layers),
            state["final_layer.bias"],
            embedded,
            torch.tensor([row[1:] for row in coefficients]),
        ]
        kept = [v.detach().float().contiguous() for v in kept]
        if self.library.floor_init(*map(pointer, kept), len(coefficients)):
            raise ValueError(f"floor.c has no room for {len(coefficients)} steps")
        self.bound, self.out = bound, torch.empty(2)
        self.obs, self.x_T = torch.zeros(18), torch.zeros(2)

    def act(self, obs, x_T):
        self.obs, self.x_T = (v.reshape(-1).float().contiguous() for v in (obs, x_T))
        self.run(1)
        return self.out.clone()

    def run(self, calls: int) -> None:
        where = pointer(self.obs), pointer(self.x_T), ctypes.c_float(self.bound), pointer(self.out)
        self.library.floor_act(*where, ctypes.c_long(calls))


def pointer(tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


class Peak:
    """fma_peak.c: `run(rounds)` gives the floating-point operations it has done."""

    def __init__(self, isa: str, bf16: bool = False):
        """bf16: of vdpbf16ps, for the processors that have it."""
        wide = isa.startswith("avx512")
        flags = [*target_flags(isa), f"-DBYTES={64 if wide else 32 if isa == 'avx2' else 16}"]
        self.library = load("fma_peak.c", flags + (["-DBF16"] if bf16 else []))
        self.library.fma_peak.restype = ctypes.c_double
        self.sink = ctypes.c_float(0.0)

    def run(self, rounds: int) -> float:
        return self.library.fma_peak(ctypes.c_long(rounds), ctypes.byref(self.sink))

    def rate(self, seconds: float = 0.02, tries: int = 5, clock=time.perf_counter) -> float:
        """Operations per second, the best of some tries: others' work only ever slows it down."""
        rounds, best = 10_000, 0.0
        for _ in range(tries):
            begin = clock()
            done = self.run(rounds)
            took = max(clock() - begin, 1e-9)
            best = max(best, done / took)
            rounds = max(rounds, int(rounds * min(seconds / took, 100.0)))
        return best
