"""`benchmarks/run.py --quick`: what it prints, and what becomes of peers that are absent or end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """Imports a file of benchmarks/."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: __import__(name)


def test_options(bench, capsys):
    quick = bench("quick")
    args = quick.parse([])
    assert args.budget < 180 and args.peers is None and args.clock == "wall"
    args = quick.parse(["--peers", "eager,jax", "--rows", "1 x 1 row$", "--budget", "2"])
    assert args.peers == {"eager", "jax"} and args.budget == 2.0
    assert quick.parse(["--peers", ""]).peers == set()
    with pytest.raises(SystemExit):
        quick.parse(["--rows", "("])
    assert "is no pattern" in capsys.readouterr().err


def test_the_table_has_ratios_shares_and_reasons(bench):
    table = bench("quick_table")
    one = table.Result(
        "one row",
        seconds={
            "ours": [1e-5, 2e-5, 2e-5],
            "floor": [1e-5, 1e-5, 2e-5],
            "eager": [4e-5, 6e-5, 8e-5],
            "jax": [3e-5, 5e-5, 5e-5],
        },
        absent={"onnx": "not installed"},
        operations=1e6,
    )
    half = table.Result("half", {"ours": [1e-3]}, {"onnx": "not installed"}, 1e6, bf16=True)
    late = table.Result("late", {"ours": [1e-3], "compile": [9e-3]}, {}, later={"compile": [4.0]})
    rows = table.lines([one, half, late], {False: 1e11})
    assert rows[0] == (
        "| work | ours | of FMA peak | plain C | PyTorch | torch.compile | JAX | ONNX Runtime | "
        "best peer |"
    )
    # medians over rounds of (time / ours in that round); plain C is nobody's library, so no peer
    assert rows[2] == (
        "| one row | 20 µs | 50% | 10 µs (1.00) | 60 µs (4.0) | - | 50 µs (2.5) | - "
        "| JAX, **2.5** |"
    )
    assert rows[3] == "| half | 1 ms | - | - | - | - | - | - | - |"  # no peak of bf16 was measured
    assert rows[4].endswith("| 9 ms (4.0) | - | - | torch.compile, **4.0** |")
    assert rows[-1] == "left out: ONNX Runtime, one row; half: not installed"


def test_contenders_take_turns_and_one_that_ends_is_left_out(bench):
    quick, remote = bench("quick"), bench("remote")
    calls = {"ours": 0, "ends": 0}

    def ours(n):
        calls["ours"] += n
        return n * 1e-3

    def ends(n):
        calls["ends"] += n
        if calls["ends"] > 20:
            raise remote.Absent("its process ended by SIGSEGV")
        return n * 2e-3

    absent = {}
    times = quick.race({"ours": ours, "ends": ends}, absent, seconds=0.1)
    assert absent == {"ends": "its process ended by SIGSEGV"} and "ends" not in times
    assert len(times["ours"]) >= quick.ROUNDS[0]
    assert all(each == pytest.approx(1e-3) for each in times["ours"])


WORKER = """
import json, os, signal, sys, time
for line in sys.stdin:
    asked = json.loads(line)
    if "time" in asked:
        print(json.dumps({"seconds": 0.25 * asked["time"]}), flush=True)
    elif asked["load"] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif asked["load"] == "exit":
        sys.exit("no licence found")
    elif asked["load"] == "hang":
        time.sleep(60)
    elif asked["load"] == "absent":
        print(json.dumps({"absent": "not installed"}), flush=True)
    else:
        print("{}", flush=True)
"""


def test_a_peer_in_a_process_of_its_own_may_end_there(bench):
    remote = bench("remote")
    peer = remote.Remote("any", command=[sys.executable, "-c", WORKER])
    for work, reason in (
        ("crash", "its process ended by SIGSEGV"),
        ("exit", "its process ended with status 1: no licence found"),
        ("absent", "not installed"),
    ):
        with pytest.raises(remote.Absent, match=reason):
            peer.load(work, 20.0)
    with pytest.raises(remote.Absent, match="no time left"):
        peer.load("something", -3.0)
    with pytest.raises(remote.Absent, match="took more than 0 s"):
        peer.load("hang", 0.3)
    peer.load("something", 20.0)  # a new process
    assert peer.time(2) == 0.5
    process = peer.process
    peer.close()
    assert process.poll() is not None


def test_a_worker_says_what_is_not_installed(bench, tmp_path):
    remote = bench("remote")
    (tmp_path / "openvino.py").write_text("raise ModuleNotFoundError(name='openvino')")
    command = [sys.executable, str(BENCHMARKS / "worker.py"), "openvino", "cpu"]
    numpy = bench("numpy")
    numpy.savez(tmp_path / "x.npz", x=numpy.zeros(1))
    path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    peer = remote.Remote(
        "openvino", command=["env", f"PYTHONPATH={os.pathsep.join(path)}", *command]
    )
    work = {"work": "graph", "feed": str(tmp_path / "x.npz"), "path": "x.onnx"}
    with pytest.raises(remote.Absent, match=r"openvino is not installed: pip install -e"):
        peer.load(work, 60.0)
    peer.close()


def test_a_compiled_peer_that_fails_is_left_out_with_its_reason(bench, monkeypatch):
    quick, remote = bench("quick"), bench("remote")
    inputs = SimpleNamespace(calls=None, policy_and_inputs=lambda *_: (None, None, None))
    monkeypatch.setitem(sys.modules, "quick_work", inputs)
    one = SimpleNamespace(name="one row", net="mlp", agents=1, batch=1)

    class Peers:
        def problem(self, kind, *_):
            raise remote.Absent(f"{kind}: no working C++ compiler found")

    run = quick.Quick(quick.parse([]))
    run.results = [quick.Result("one row", {"ours": [1e-5]}), quick.Result("other", {})]
    assert set(quick.COMPILED) == {"compile", "aoti"}
    for kind in quick.COMPILED:
        run.compiled(kind, one, Peers())
    told = quick.lines(run.results, {})
    assert "left out: AOTInductor, one row: aoti: no working C++ compiler found" in told
    assert "left out: torch.compile, one row: compile: no working C++ compiler found" in told
    run.args.budget = 0.0
    run.compiled("aoti", one, Peers())
    assert "left out: AOTInductor, one row: no time left for compiling" in quick.lines(
        run.results, {}
    )


def test_rows_are_kept_as_a_full_run_keeps_its(bench, tmp_path):
    saved, table = bench("quick_save"), bench("quick_table")
    one = table.Result(
        "one row",
        {"ours": [1e-5, 2e-5, 4e-5], "jax": [4e-5, 6e-5], "gone": []},
        {"onnx": "not installed"},
        later={"aoti": [5.0]},
    )
    one.seconds["aoti"] = [1e-4]
    nothing = table.Result("no time of ours", {"eager": [1.0]})
    machine = saved.facts("avx2", "cpu")
    path = saved.keep("quick-avx2", machine, [one, nothing], {False: 1e11}, ["a note"], tmp_path)
    kept = json.loads(path.read_text("utf-8"))
    assert path == tmp_path / "quick-avx2.json" and list(tmp_path.iterdir()) == [path]
    assert kept["machine"]["isa"] == "avx2" and kept["machine"]["clock"] == "cpu"
    assert kept["machine"]["time"].startswith(kept["machine"]["date"])
    assert list(kept["groups"]) == ["one row"]
    row = kept["groups"]["one row"]
    assert set(row) == {"native", "jax", "aoti"}
    assert row["native"] == {"seconds": 2e-5, "quartiles": [1.0] * 3, "rounds": 3, "ratio": 1.0}
    assert (
        row["jax"]["ratio"] == 3.5 and row["jax"]["seconds"] == 5e-5 and row["jax"]["rounds"] == 2
    )
    assert row["aoti"]["ratio"] == 5.0  # of its own race
    assert kept["quick"] == {
        "peaks": {"fp32": 1e11}, "absent": {"one row": {"onnx": "not installed"}},
        "notes": ["a note"],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["a/b", "..", "", "a b"])
def test_names_that_are_no_file_are_refused(bench, capsys, name):
    with pytest.raises(SystemExit):
        bench("quick").parse(["--save", name])
    assert "is no name" in capsys.readouterr().err


def test_without_a_compiler_the_yardsticks_say_so(bench, monkeypatch, tmp_path):
    floor = bench("floor")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(floor.NoCompiler, match=r"no C compiler .cc, gcc, clang.: install gcc"):
        floor.load("fma_peak.c", [])
    monkeypatch.setenv("CC", "/none/cc")
    with pytest.raises(floor.NoCompiler, match="/none/cc"):
        floor.compiler()


def test_a_compiler_that_fails_is_quoted(bench, monkeypatch):
    floor = bench("floor")
    monkeypatch.setenv("CC", "false")
    with pytest.raises(floor.NoCompiler, match=r"false .*floor\.c.* fails"):
        floor.load("floor.c", [])


def needs_compiler(floor) -> None:
    try:
        floor.compiler()
    except floor.NoCompiler as reason:
        pytest.skip(str(reason))


def test_plain_c_gives_the_policys_actions(bench):
    import torch

    from dom2_fast import networks
    from dom2_fast.ops import backend
    from dom2_fast.policies.diffusion import DiffusionPolicy

    floor, peer_torch = bench("floor"), bench("peer_torch")
    needs_compiler(floor)
    torch.manual_seed(0)
    net = networks.MLPNoiseNet(18, 2).eval()
    isa = backend.isa_active() if backend.available() else "base"
    obs, x_T = torch.randn(1, 18), torch.randn(1, 2)
    for bound in (1e4, 1.0):
        policy = DiffusionPolicy(net, steps=5, act_low=-bound, act_high=bound, backend="reference")
        made = floor.Floor(net, peer_torch.coefficients(5), bound, isa)
        out = made.act(obs, x_T)
        made.run(3)
        expected = policy.sample(obs, x_T)[0]
        # As in benchmarks/conftest.py: float32 through a few hundred operations.
        assert (out - expected).norm() <= 1e-4 * expected.norm()
        assert torch.equal(made.out, out)  # the calls that are timed give the same
    with pytest.raises(ValueError, match="no network of layers"):
        floor.Floor(networks.MLPNoiseNet(18, 2, hidden=64), peer_torch.coefficients(5), 1.0, isa)
    with pytest.raises(ValueError, match="no room for 65 steps"):
        floor.Floor(net, peer_torch.coefficients(65), 1.0, isa)


def test_the_peak_counts_its_operations(bench):
    floor = bench("floor")
    needs_compiler(floor)
    peak = floor.Peak("base")
    assert peak.run(1000) == 2 * 12 * 4 * 1000
    slow = iter(range(100))
    assert peak.rate(seconds=0.0, tries=2, clock=lambda: next(slow)) == 2 * 12 * 4 * 10_000


def quick_run(*options, **changes):
    env = {**os.environ, "OMP_NUM_THREADS": "1", **changes}
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--quick", *options]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=BENCHMARKS.parent,
    )  # fmt: skip


def test_a_spent_budget_and_a_missing_compiler_still_give_a_table():
    out, err = quick_run("--budget", "0.01", "--peers", "", CC="/none/cc").communicate(timeout=100)
    assert out.startswith("| work | ours | of FMA peak |")
    assert "left out: share of the FMA peak: no C compiler (/none/cc)" in out
    assert "not reached in 0.01 s: sample, mlp, 1 x 1 row; " in out
    assert "s] importing" in err  # progress


def test_an_interrupted_run_prints_what_it_has():
    run = quick_run("--rows", "1 x 1 row$|1 x 256 rows$", "--peers", "eager", "--seconds", "5")
    lines = []
    for line in run.stderr:
        lines.append(line)
        if "2/4" in line:  # the second row has begun
            break
    time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 130, (lines, out)
    assert "| sample, mlp, 1 x 1 row | " in out and "interrupted" in out
