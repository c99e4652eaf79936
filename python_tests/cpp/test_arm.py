"""The torch-free core elsewhere: on 64-bit ARM, cross-compiled and emulated, and built by clang.

`make test-arm`. Every op's kernel and exported policies, held to the tolerances of x86-64. An
emulator says nothing about time.
"""

import functools
import os
import shutil

import numpy as np
import pytest
import torch
from cpp_build import REPO, call, tool
from kernel_cases import write
from kernel_check_cases import CASES, cases
from policy_problems import OBS, A, G, generator, rand
from tolerances import assert_as_good_as_torch

import dom2_fast as d2
from dom2_fast import networks, ops
from dom2_fast.ops import backend, reference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not backend.available(), reason=f"no extension: {backend.reason()}"),
]
F32 = {"dtype": torch.float32}
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", ("qemu-aarch64-static", "qemu-aarch64")


class Target:
    """Programs of python_tests/cpp for one processor, and how they are started."""

    def __init__(self, name, compiler, options, emulator, isas):
        self.folder, self.emulator, self.isas = REPO / "build" / f"check-{name}", emulator, isas
        cmake, ninja = tool("cmake"), tool("ninja")
        # fmt: off
        call(cmake, "-S", REPO / "python_tests" / "cpp", "-B", self.folder, "-G", "Ninja",
             f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DCMAKE_CXX_COMPILER={compiler}", *options)
        # fmt: on
        call(ninja, "-j1", "-C", self.folder)

    def run(self, program, *args, isa, **kwargs):
        env = {**os.environ, "DOM2_FAST_ISA": isa}
        return call(*self.emulator, self.folder / program, *args, env=env, **kwargs)


def arm():
    emulator = next((found for name in EMULATOR if (found := shutil.which(name))), None)
    if not shutil.which(COMPILER) or not emulator:
        pytest.skip(
            f"{COMPILER} and {EMULATOR[0]} are needed; on Debian: "
            "apt install g++-aarch64-linux-gnu qemu-user-static"
        )
    options = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
               "-DCMAKE_EXE_LINKER_FLAGS=-static"]  # fmt: skip
    return Target("arm", COMPILER, options, [emulator], ["neon", "base"])


def clang():
    """This processor by the compiler of macOS; the core knows no OpenMP with any."""
    if not shutil.which("clang++"):
        pytest.skip("clang++ is needed; on Debian: apt install clang")
    return Target("clang", "clang++", [], [], backend.isas_runnable())


@pytest.fixture(scope="module", params=[arm, clang], ids=["arm", "clang"])
def target(request):
    return request.param()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A function: the files of the cases of an instruction set."""

    @functools.cache
    def written(isa):
        if (found := cases(isa)) is None:
            return None
        folder = tmp_path_factory.mktemp("kernel-check")
        names = [folder / f"{number:03}.case" for number in range(len(found))]
        for case, file in zip(found, names, strict=True):
            write(file, case.arrays())
        return names

    return lambda isa: written(isa if isa == "avx512_bf16" else "any")


def test_every_kernel(target, files):
    for isa in target.isas:
        if (given := files(isa)) is None:
            continue
        lines = target.run("kernel_check", isa, *given, isa=isa).splitlines()
        assert len(lines) == len(given) and all(line.startswith("ok") for line in lines)


def test_a_wrong_number_is_noticed(target, tmp_path):
    of_each = {case.arrays()["op"]: case for case in reversed(CASES)}
    assert len(of_each) == 6
    for case in of_each.values():
        arrays = case.arrays()
        name = next(n for n in arrays if n.startswith("expected."))
        wrong = torch.as_tensor(arrays[name]).clone()
        wrong.view(-1)[0] += 1
        write(tmp_path / "wrong.case", arrays | {name: wrong})
        with pytest.raises(AssertionError, match=f"FAIL .*{name.removeprefix('expected.')}"):
            target.run("kernel_check", target.isas[0], tmp_path / "wrong.case", isa=target.isas[0])


POLICIES = {
    "mlp": lambda: d2.DiffusionPolicy(networks.MLPNoiseNet(OBS, A, hidden=20), steps=5),
    "unet": lambda: d2.DiffusionPolicy(networks.UNetNoiseNet(OBS, A), solver="dpm++2m", steps=6),
    "stack": lambda: d2.DiffusionPolicy(
        networks.stack([networks.MLPNoiseNet(OBS, A) for _ in range(G)]), solver="ddpm", steps=4
    ),
    "one pass": lambda: d2.DeterministicPolicy(networks.MLPActor(OBS, A, hidden=20)),
}


def numbers(data):
    return torch.from_numpy(np.array(data, dtype=np.float32))


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_an_exported_policy_acts(target, tmp_path, name, drawn):
    torch.manual_seed(0)
    POLICIES[name]().export(tmp_path / "p")
    q, rows = d2.load_policy(tmp_path / "p"), 37
    groups = q.groups or 1
    lead = (groups, rows) if q.groups else (rows,)
    obs = rand(*lead, OBS, seed=1, **F32)
    x_T, noise = rand(groups, rows, A, seed=2, **F32), rand(q.steps, groups, rows, A, seed=3, **F32)
    rng = ops.make_rng(generator(3))

    def plain(dtype):
        own = [obs.reshape(groups, rows, OBS), q._weights, q._table]
        cond, weights, table = ([v.to(dtype) for v in t] if isinstance(t, list) else t.to(dtype)
                                for t in own)  # fmt: skip
        draws = (None, None) if drawn else (x_T.to(dtype), noise.to(dtype))
        return reference.denoise(
            draws[0], cond, weights, table, q._program, q._tensors()["solver"], draws[1],
            batch=rows, rng=rng, out_low=q.act_low, out_high=q.act_high,
        ).reshape(*lead, A)  # fmt: skip

    for isa in target.isas:
        if drawn:
            given = " ".join(f"{v:.9g}" for v in obs.flatten().tolist())
            seed, offset = rng.tolist()
            options = ["--seed", seed, "--offset", offset] if q.steps else []
            got = target.run("act", tmp_path / "p", "-", *options, input=given, isa=isa).split()
        else:
            (tmp_path / "in").write_bytes(b"".join(t.numpy().tobytes() for t in (obs, x_T, noise)))
            target.run("policy_check", "sample", tmp_path / "p", rows, tmp_path / "in",
                       tmp_path / "out", isa=isa)  # fmt: skip
            got = np.fromfile(tmp_path / "out", dtype=np.float32)
        got = numbers(got).reshape(*lead, A)
        assert_as_good_as_torch(got, plain(torch.float32), plain(torch.float64), isa)
