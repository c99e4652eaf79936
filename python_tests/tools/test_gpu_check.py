"""tools/gpu_check.py without a GPU: what it runs, how it judges and writes, when it refuses."""

import sys

import gpu_check
import pytest

FACTS = {"GPU": "H100", "driver": "580.1", "date": "2026-11-22 12:00"}
TESTED = "..\n12 passed, 3 skipped, 400 deselected in 2.51s\n"


@pytest.fixture
def tool():
    return gpu_check


class Machine:
    """Stands for a machine with a GPU: notes what was run, answers as it is told."""

    def __init__(self, tool, monkeypatch, sanitizer=True, **answers):
        self.tool, self.answers, self.ran = tool, answers, []
        monkeypatch.setattr(tool, "machine", lambda: FACTS)
        where = "/cuda/compute-sanitizer" if sanitizer else None
        monkeypatch.setattr(tool.shutil, "which", lambda name: where)

    def __call__(self, step):
        self.ran.append(step)
        code, output = self.answers.get(step.name.replace(" ", "_"), (0, TESTED))
        return self.tool.Done(code, output)

    def check(self, tmp_path, *options):
        code = self.tool.main(["--out", str(tmp_path / "out.md"), *options], self)
        return code, (tmp_path / "out.md").read_text()


def test_everything_is_run_and_written(tool, monkeypatch, tmp_path):
    machine = Machine(tool, monkeypatch, benchmarks=(0, "a table\n" * 100 + TESTED))
    code, text = machine.check(tmp_path)
    assert code == 0 and text.startswith("# GPU check: all passed\n")
    names = [step.name for step in machine.ran]
    assert names == [
        "build",
        "doctor",
        "GPU tests",
        "all tests",
        "memcheck",
        "racecheck",
        "synccheck",
        "benchmarks",
    ]
    for name, value in FACTS.items():
        assert f"| {name} | {value} |" in text
    assert "$ DOM2_FAST_CUDA=1 DOM2_FAST_REQUIRE_EXTENSION=1" in text
    for step in machine.ran:
        assert f"## {step.name}: passed" in text and step.command[-1] in text
    assert text.count("a table") == 100  # benchmarks are shown whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.md"]


def test_the_sanitizers_watch_real_allocations_and_report_errors(tool, monkeypatch, tmp_path):
    summary = "========= RACECHECK SUMMARY: 3 hazards displayed (3 errors, 0 warnings)\n"
    machine = Machine(tool, monkeypatch, racecheck=(99, TESTED + summary))
    code, text = machine.check(tmp_path)
    tools = [step for step in machine.ran if "--tool" in step.command]
    assert [step.command[2] for step in tools] == ["memcheck", "racecheck", "synccheck"]
    assert all(step.environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1" for step in tools)
    assert code == 1 and "# GPU check: 1 FAILED" in text
    assert "| racecheck | FAILED | 0 | RACECHECK SUMMARY: 3 hazards" in text


def test_a_missing_sanitizer_is_seen(tool, monkeypatch, tmp_path):
    machine = Machine(tool, monkeypatch, sanitizer=False)
    code, text = machine.check(tmp_path)
    assert code == 0 and "# GPU check: all passed, 3 SKIPPED" in text
    assert text.count("compute-sanitizer is not on PATH") == 3
    assert not any("--tool" in step.command for step in machine.ran)


@pytest.mark.parametrize(
    "answer, words",
    [
        ((1, "1 failed, 3 passed in 9.00s\n"), "exit code 1: 1 failed, 3 passed in 9.00s"),
        ((5, "400 deselected in 0.10s\n"), "no test passed"),
        ((0, "12 skipped in 0.10s\n"), "no test passed: 12 skipped"),
        ((-11, "Fatal Python error: Segmentation fault\n"), "exit code -11: no test passed: Fatal"),
        ((None, "..."), "stopped after 3600 s"),
        (
            (0, "SKIPPED [4] no GPU, or the extension was built without CUDA\n" + TESTED),
            "tests were skipped",
        ),
    ],
)
def test_what_counts_as_failed(tool, monkeypatch, tmp_path, answer, words):
    code, text = Machine(tool, monkeypatch, GPU_tests=answer).check(tmp_path)
    assert code == 1
    (line,) = (line for line in text.splitlines() if line.startswith("| GPU tests | FAILED"))
    assert words in line
    assert "| benchmarks | passed" in text  # the rest is done all the same


def test_without_a_build_nothing_else_is_claimed(tool, monkeypatch, tmp_path):
    machine = Machine(tool, monkeypatch, build=(1, "error: no such header\n"))
    code, text = machine.check(tmp_path)
    assert code == 1 and len(machine.ran) == 1
    assert text.count("| SKIPPED | 0 | the build failed |") == 7
    assert "error: no such header" in text


def test_the_file_is_there_after_each_step(tool, monkeypatch, tmp_path):
    class Crashing(Machine):
        def __call__(self, step):
            if step.name == "memcheck":
                raise KeyboardInterrupt
            return super().__call__(step)

    with pytest.raises(KeyboardInterrupt):
        Crashing(tool, monkeypatch).check(tmp_path)
    text = (tmp_path / "out.md").read_text()
    assert "# GPU check: unfinished, 4 steps to do; so far all passed" in text
    assert "| memcheck | not done yet" in text


def test_choice_of_steps(tool, monkeypatch, tmp_path, capsys):
    machine = Machine(tool, monkeypatch)
    machine.check(tmp_path, "--only", "build,GPU tests")
    assert [step.name for step in machine.ran] == ["build", "GPU tests"]
    with pytest.raises(SystemExit):
        tool.main(["--out", str(tmp_path / "b.md"), "--only", "tset"], machine)
    assert "no step is called tset; there are build, doctor" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main(["--out", str(tmp_path / "out.md")], machine)
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "driver, torch_cuda, words",
    [
        ({"found": False, "error": "libcuda.so.1: no"}, "12.8", "no NVIDIA driver on this machine"),
        ({"found": True, "gpus": 0, "error": ""}, "12.8", "the NVIDIA driver sees no GPU"),
        ({"found": True, "gpus": 1, "error": ""}, None, "install a CUDA build"),
        ({"found": True, "gpus": 1, "error": ""}, "12.8", "torch can't use the GPU"),
    ],
)
def test_it_refuses_where_there_is_no_gpu(
    tool, monkeypatch, tmp_path, capsys, driver, torch_cuda, words
):
    import torch

    from dom2_fast.cli import gpus

    monkeypatch.setattr(gpus, "driver", lambda: driver)
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tool.main(["--out", str(tmp_path / "out.md")], runner=None) == 2
    said = capsys.readouterr().err
    assert "needs a machine with an NVIDIA GPU" in said and words in said
    assert "Nothing was done" in said and not (tmp_path / "out.md").exists()


def test_the_runner_keeps_output_and_time(tool):
    step = tool.Step("x", [sys.executable, "-c", "print('said'); raise SystemExit(3)"])
    assert tool.run(step) == tool.Done(3, "said\n")
    code = "import time; print('before', flush=True); time.sleep(60)"
    step = tool.Step("x", [sys.executable, "-c", code], timeout=2.0)
    done = tool.run(step)
    assert done.code is None and "before" in done.output
