"""Exported policies in C++, without PyTorch: the same numbers, and no crash whatever the file.

examples/act.cpp is built as its README says; cpp/policy_check.cpp has what only tests need.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from cpp_build import CHECK, call, tool
from policy_problems import OBS, A, G, generator, rand

import dom2_fast as d2
from dom2_fast import networks, ops
from dom2_fast.policies import pretrained

REPO = Path(__file__).resolve().parents[2]
F32 = {"dtype": torch.float32}


NETS = {
    "mlp": lambda: networks.MLPNoiseNet(OBS, A, hidden=20, time_dim=6),
    "unet": lambda: networks.UNetNoiseNet(OBS, A),
    "stack": lambda: networks.stack([networks.MLPNoiseNet(OBS, A) for _ in range(G)]),
}
ONE_PASS = {
    "deterministic": lambda: d2.DeterministicPolicy(networks.MLPActor(OBS, A, hidden=20)),
    "gaussian": lambda: d2.GaussianPolicy(
        networks.stack([networks.MLPGaussianActor(OBS, A, hidden=20) for _ in range(G)])
    ),
}
SOLVERS = [("dpm1", 5), ("dpm++2m", 6), ("ddpm", 4)]


@pytest.fixture
def exported(tmp_path, isa):
    """A function that exports a policy and gives (file, loaded policy); one instruction set."""

    def export(net="mlp", solver="dpm1", steps=5):
        torch.manual_seed(0)
        d2.DiffusionPolicy(NETS[net](), solver=solver, steps=steps).export(tmp_path / "p")
        return tmp_path / "p", d2.load_policy(tmp_path / "p")

    return export


def environment(isa):
    return {**os.environ, "DOM2_FAST_ISA": isa}


def numbers(text):
    return torch.from_numpy(np.array(text.split(), dtype=np.float32))


@pytest.mark.parametrize(("solver", "steps"), SOLVERS)
@pytest.mark.parametrize("net", list(NETS))
def test_the_example_draws_and_acts_as_python_does(built, exported, isa, net, solver, steps):
    path, q = exported(net, solver, steps)
    rows = 7
    lead = (rows,) if q.groups is None else (q.groups, rows)
    obs = rand(*lead, OBS, seed=1, **F32)
    want = q.sample(obs, generator=generator(3))
    seed, offset = ops.make_rng(generator(3)).tolist()  # what the line above drew with
    given = " ".join(f"{v:.9g}" for v in obs.flatten().tolist())
    options = ["-", "--seed", seed, "--offset", offset]
    got = call(built / "act", path, *options, input=given, env=environment(isa))
    assert torch.equal(numbers(got).reshape(*lead, A), want)


@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("kind", list(ONE_PASS))
def test_policies_of_one_pass_act_as_in_python(built, isa, tmp_path, kind, rows):
    torch.manual_seed(0)
    ONE_PASS[kind]().export(tmp_path / "p")
    q = d2.load_policy(tmp_path / "p")
    lead = (rows,) if q.groups is None else (G, rows)
    obs = rand(*lead, OBS, seed=1, **F32)
    for bf16 in (False, True):
        want = d2.load_policy(tmp_path / "p", precision="bf16" if bf16 else "fp32").act(obs)
        given = " ".join(f"{v:.9g}" for v in obs.flatten().tolist())
        command = [built / "act", tmp_path / "p", "-", *(["--bf16"] if bf16 else [])]
        got = numbers(call(*command, input=given, env=environment(isa)))
        assert torch.equal(got.reshape(*lead, A), want)


def test_the_example_in_bf16(built, exported, isa):
    path, _ = exported("stack")
    obs = rand(G, 40, OBS, seed=1, **F32)
    want = d2.load_policy(path, precision="bf16").sample(obs, generator=generator(3))
    seed, offset = ops.make_rng(generator(3)).tolist()
    given = " ".join(f"{v:.9g}" for v in obs.flatten().tolist())
    options = ["-", "--seed", seed, "--offset", offset]
    full, half = (
        numbers(call(built / "act", path, *options, *more, input=given, env=environment(isa)))
        for more in ((), ("--bf16",))
    )
    assert torch.equal(half.reshape(G, 40, A), want)
    assert not torch.equal(full, half)


@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("net", list(NETS))
def test_given_noise_gives_the_same_numbers(built, exported, isa, tmp_path, net, rows):
    path, q = exported(net, "ddpm", 4)
    lead = (rows,) if q.groups is None else (q.groups, rows)
    obs, x_T = rand(*lead, OBS, seed=1, **F32), rand(*lead, A, seed=2, **F32)
    noise = rand(q.steps, *lead, A, seed=3, **F32)
    (tmp_path / "in").write_bytes(b"".join(t.numpy().tobytes() for t in (obs, x_T, noise)))
    call(
        built / "policy_check",
        "sample",
        path,
        rows,
        tmp_path / "in",
        tmp_path / "out",
        env=environment(isa),
    )
    got = torch.from_numpy(np.fromfile(tmp_path / "out", dtype=np.float32))
    assert torch.equal(got.reshape(*lead, A), q.sample(obs, x_T, noise))


@pytest.mark.parametrize("name", pretrained.names())
def test_every_shipped_policy_acts_as_in_python(built, isa, name):
    """Their numbers are F16, which the reader widens."""
    path, q = pretrained.FOLDER / f"{name}{pretrained.SUFFIX}", d2.pretrained(name)
    obs = rand(q.groups, 5, q.obs_dim, seed=1, **F32)
    want = q.sample(obs, generator=generator(3))
    seed, offset = ops.make_rng(generator(3)).tolist()
    given = " ".join(f"{v:.9g}" for v in obs.flatten().tolist())
    options = ["-", "--seed", seed, "--offset", offset]
    got = call(built / "act", path, *options, input=given, env=environment(isa))
    assert torch.equal(numbers(got).reshape(want.shape), want)


def test_float16_below_its_normal_numbers_is_widened_exactly(built, isa, tmp_path):
    torch.manual_seed(0)
    policy = ONE_PASS["deterministic"]()
    first = next(policy.net.parameters())
    with torch.no_grad():
        first.mul_(1e-5)
    below = first.half().abs()
    assert ((below > 0) & (below < 2**-14)).any()
    policy.frozen().export(tmp_path / "h", half=True)
    obs = rand(9, OBS, seed=1, **F32) * 1e5
    given = " ".join(f"{v:.9g}" for v in obs.flatten().tolist())
    got = numbers(call(built / "act", tmp_path / "h", "-", input=given, env=environment(isa)))
    want = d2.load_policy(tmp_path / "h").act(obs)
    assert torch.equal(got.reshape(9, A), want) and want.std() > 0.01


@pytest.mark.parametrize("rows", [1, 300])
def test_sampling_takes_no_memory_after_the_first_call(built, tmp_path, rows):
    torch.manual_seed(0)
    d2.DiffusionPolicy(NETS["stack"]()).export(tmp_path / "p")
    ONE_PASS["gaussian"]().export(tmp_path / "one")
    for name in ("p", "one"):
        assert call(built / "policy_check", "allocations", tmp_path / name, rows) == "0\n"


def test_the_example_by_itself(built, tmp_path):
    torch.manual_seed(0)
    d2.DiffusionPolicy(NETS["stack"]()).export(tmp_path / "p")
    one, two = (call(built / "act", tmp_path / "p", "--seed", s) for s in (1, 2))
    assert one != two and len(numbers(one)) == G * A and one.count("\n") == G
    timed = subprocess.run(
        [built / "act", tmp_path / "p", "--seed", "1", "--time"], capture_output=True, text=True
    )
    assert timed.stdout == one and " us for 3 agents, 1 rows, " in timed.stderr


def test_the_example_says_what_is_wrong(built, tmp_path):
    d2.DiffusionPolicy(NETS["mlp"]()).export(tmp_path / "p")
    whole = (tmp_path / "p").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-10])
    (tmp_path / "newer").write_bytes(whole.replace(b'"version":"1"', b'"version":"9"'))

    def fails(*args, **kwargs):
        done = subprocess.run([built / "act", *args], capture_output=True, text=True, **kwargs)
        assert done.returncode == 2 and done.stdout == ""
        return done.stderr

    assert "usage: act FILE" in fails()
    assert "usage: act FILE" in fails(tmp_path / "p", "--fast")
    assert "can't be opened" in fails(tmp_path / "absent")
    assert "can't be read" in fails(tmp_path)
    assert "cut short" in fails(tmp_path / "cut")
    assert "version '9'" in fails(tmp_path / "newer")
    assert "multiples of 5" in fails(tmp_path / "p", "-", input="1 2 3")
    assert "0 numbers" in fails(tmp_path / "p", "-", input="")
    assert "3 numbers" in fails(tmp_path / "p", "-", input="1 2 3 four 5")
    assert "can't run here" in fails(tmp_path / "p", env=environment("sse9"))


def test_python_and_c_plus_plus_refuse_the_same_files(built, tmp_path):
    from test_frozen import BROKEN, BROKEN_ONE, PYTHON_ALONE, actor, stack

    d2.DiffusionPolicy(stack(groups=2), solver="ddpm", steps=2).export(tmp_path / "p")
    whole = (tmp_path / "p").read_bytes()
    actor("deterministic").export(tmp_path / "one")
    one = (tmp_path / "one").read_bytes()
    broken = {name: edit(whole) for name, (edit, _) in BROKEN.items()}
    broken |= {
        name: edit(one) for name, (edit, _) in BROKEN_ONE.items() if name not in PYTHON_ALONE
    }
    for name, data in broken.items():
        (tmp_path / "broken").write_bytes(data)
        done = subprocess.run([built / "act", tmp_path / "broken"], capture_output=True, text=True)
        assert done.returncode == 2 and "as an exported policy: " in done.stderr, name


def test_no_file_makes_it_read_or_write_elsewhere(tmp_path):
    """Truncated and damaged files under the address and undefined-behaviour sanitizers."""
    compiler = tool("c++", "g++", "clang++")
    flags = ["-std=c++17", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    (tmp_path / "x.cpp").write_text("int main() {}\n")
    trial = [compiler, *flags, str(tmp_path / "x.cpp"), "-o", str(tmp_path / "x")]
    if (
        subprocess.run(trial, capture_output=True).returncode
        or subprocess.run([tmp_path / "x"], capture_output=True).returncode
    ):
        pytest.skip("this compiler has no sanitizers")
    core = [REPO / "csrc" / "core" / f"{n}.cpp" for n in ("plan", "policy_file", "safetensors")]
    cpu = [REPO / "csrc" / "cpu" / f"{n}.cpp" for n in ("isa", "pack", "policy", "run")]
    cpu.append(REPO / "csrc" / "cpu" / "kernels_base.cpp")
    call(compiler, *flags, f"-I{REPO / 'csrc'}", CHECK, *core, *cpu, "-o", tmp_path / "check")
    torch.manual_seed(0)
    net = networks.stack([networks.MLPNoiseNet(OBS, A, hidden=8, time_dim=4) for _ in range(2)])
    d2.DiffusionPolicy(net, solver="ddpm", steps=3).export(tmp_path / "p")
    env = {k: v for k, v in os.environ.items() if k not in ("DOM2_FAST_ISA", "LD_PRELOAD")}
    small = [networks.MLPActor(OBS, A, hidden=8) for _ in range(2)]
    d2.DeterministicPolicy(networks.stack(small)).export(tmp_path / "one")
    d2.load_policy(tmp_path / "p").export(tmp_path / "half", half=True)
    for name in ("p", "one", "half"):
        words = call(tmp_path / "check", "fuzz", tmp_path / name, env=env).split()
        assert words[1::2] == ["refused,", "used"] and int(words[0]) > 3000 and int(words[2]) > 300
