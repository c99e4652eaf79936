"""The command line end to end: the documented commands work, mistakes are one line, exit code 2."""

import json
import subprocess
import sys

import pytest

from dom2_fast import __version__
from dom2_fast.algos import ALGORITHMS
from dom2_fast.cli import main as cli
from dom2_fast.cli.train import OPTION_NAMES

TINY = ["--hidden", "8", "--batch-size", "16", "--denoising-steps", "2", "--quiet"]
TINY_DOM2 = [*TINY, "--critic-hidden", "8"]


def run(capsys, *argv):
    """(exit code, stdout, stderr) of a command."""
    try:
        code = cli.main(list(argv))
    except SystemExit as stopped:  # --help and --version
        code = stopped.code or 0
    out = capsys.readouterr()
    return code, out.out, out.err


def fails(capsys, *argv):
    """The one line that a wrong command prints."""
    code, out, err = run(capsys, *argv)
    assert code == 2 and out == "", (code, out)
    assert err.startswith("dom2-fast: error: ") and err.count("\n") == 1 and "Traceback" not in err
    return err.removeprefix("dom2-fast: error: ").strip()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a small data set and a small trained and evaluated run of each algorithm."""
    root = tmp_path_factory.mktemp("work")
    data = str(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOM2_FAST_TRACEBACK", "1")  # a failure here shows where it came from
        collect = f"collect --env simple_spread --quality random --episodes 20 --out {data}"
        assert cli.main(collect.split()) == 0
        for algo, tiny in (("bc", TINY), ("dom2", TINY_DOM2)):
            out = str(root / algo)
            train = f"train --algo {algo} --data {data} --out {out} --steps 4 --log-every 2".split()
            assert cli.main([*train, "--reweight", "uniform", *tiny]) == 0
            assert cli.main(["evaluate", out, "--episodes", "8"]) == 0
    return root


def test_version_and_help_need_no_torch(capsys):
    assert run(capsys, "--version")[1] == f"dom2-fast {__version__}\n"
    code = (
        "import sys\nfrom dom2_fast.cli import main as cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for command in cli.COMMANDS:
        assert command in shown.stdout


def test_no_command_shows_the_help(capsys):
    assert run(capsys) == run(capsys, "--help")


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_has_help(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0 and out.startswith(f"usage: dom2-fast {command}")


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_setting_of_an_algorithm_is_an_option_with_its_source(capsys, algo):
    from dom2_fast import algos, config

    text = " ".join(run(capsys, "train", "--algo", algo, "--help")[1].split())
    for field in config.fields(algos.algorithm(algo).config_class):
        for option in OPTION_NAMES.get(field.name, (config.option_name(field.name),)):
            assert option in text
        assert field.help, f"{field.name} has no description"
    assert f"more options: {', '.join(ALGORITHMS)}" in text


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_is_trained_by_the_same_command(capsys, work, tmp_path, algo):
    out = str(tmp_path / "r")
    command = f"train --algo {algo} --data {work / 'data'} --out {out} --steps 2"
    more = "--batch-size 16 --hidden 8 --reweight uniform --quiet"
    for argv in (
        [*command.split(), *more.split()],
        ["train", "--resume", "--out", out, "--steps", "3", "--quiet"],
        ["evaluate", out, "--episodes", "2"],
        ["export", out, "--out", str(tmp_path / "p.safetensors")],
        ["report", out, "--out", str(tmp_path / "page.html")],
    ):
        code, _, err = run(capsys, *argv)
        assert code == 0, (argv, err)
    assert algo in (tmp_path / "page.html").read_text()


def test_collect_says_what_it_made(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = "collect --env simple_spread --quality random --episodes 4 --seed 3"
    code, out, _ = run(capsys, *command.split())
    assert code == 0 and "4 episodes of simple_spread" in out and "mean return" in out
    assert (tmp_path / "datasets/simple_spread/random/seed_3_data/obs_2.npy").is_file()
    assert "dom2-fast train --algo dom2 --data datasets/simple_spread/random/seed_3_data" in out


def test_train_saves_what_the_options_said(work):
    from dom2_fast import config

    saved = config.load(work / "dom2" / "config.yaml")
    assert (saved["algo"], saved["steps"], saved["log_every"]) == ("dom2", 4, 2)
    assert saved["env"] == "simple_spread" and saved["data"] == str(work / "data")
    assert saved["config"]["hidden"] == 8 and saved["config"]["critic_hidden"] == 8
    assert saved["config"]["steps"] == 2 and saved["config"]["weights"] == "uniform"
    assert (work / "dom2" / "checkpoint.pt").is_file()
    assert (work / "dom2" / "metrics.jsonl").is_file()


def test_a_run_s_config_starts_another_run_and_options_go_before_it(capsys, work, tmp_path):
    from dom2_fast import config

    out = tmp_path / "again"
    code, shown, err = run(
        capsys,
        "train",
        "--config",
        str(work / "dom2" / "config.yaml"),
        "--out",
        str(out),
        "--steps",
        "2",
        "--critic_lr",
        "1e-4",
        "--quiet",
    )
    assert code == 0, err
    assert "dom2: 2 steps done" in shown
    old, new = (config.load(folder / "config.yaml") for folder in (work / "dom2", out))
    assert new["config"] == old["config"] | {"critic_lr": 1e-4}
    assert new["steps"] == 2 and new["log_every"] == 2


def test_resume_needs_nothing_but_the_folder(capsys, work, tmp_path):
    out = str(tmp_path / "r")
    train = ["train", "--algo", "bc", "--data", str(work / "data"), "--out", out]
    assert run(capsys, *train, "--steps", "3", "--reweight", "uniform", *TINY)[0] == 0
    code, shown, err = run(capsys, "train", "--resume", "--out", out, "--steps", "5", "--quiet")
    assert code == 0, err
    assert "bc: 5 steps done" in shown
    assert "other settings: depth = 3 (asked for: 2)" in fails(
        capsys, "train", "--resume", "--out", out, "--steps", "9", "--depth", "2"
    )
    assert "--resume" in fails(capsys, *train)
    assert "--algo dom2 was given, but" in fails(
        capsys, "train", "--resume", "--algo", "dom2", "--out", out
    )
    assert "no run to resume" in fails(
        capsys, "train", "--resume", "--out", str(tmp_path / "absent")
    )


def test_evaluate_writes_scores_and_prints_them(capsys, work):
    code, out, err = run(
        capsys,
        "evaluate",
        str(work / "bc"),
        "--episodes",
        "8",
        "--shift",
        "speed",
        "--v-min",
        "0.4",
        "--threads",
        "1",
    )
    assert code == 0, err
    assert "speed shift" in out and "standard" in out and "95 % interval" in out
    scores = json.loads((work / "bc" / "scores.json").read_text())
    assert set(scores["results"]) == {"standard", "shift_speed"}
    assert scores["results"]["shift_speed"]["v_min"] == 0.4
    assert (work / "bc" / "rollout.npz").is_file()


def test_export_of_a_run_acts_as_the_run(capsys, work, tmp_path):
    import torch

    from dom2_fast import algos, load_policy

    out = tmp_path / "p.safetensors"
    code, shown, err = run(capsys, "export", str(work / "bc"), "--out", str(out))
    assert code == 0, err
    assert f"written to {out}" in shown and "3 agents" in shown and "samples" not in shown
    policy = algos.algorithm("bc").load(work / "bc").policies.policy.eval()
    obs = torch.zeros(3, 4, policy.obs_dim)
    acts = [
        p.act(obs, generator=torch.Generator().manual_seed(0)) for p in (policy, load_policy(out))
    ]
    assert torch.equal(*acts)
    many = ["train", "--config", str(work / "dom2" / "config.yaml"), "--out", str(tmp_path / "r")]
    assert run(capsys, *many, "--candidates", "3", "--steps", "1", "--quiet")[0] == 0
    shown = run(capsys, "export", str(tmp_path / "r"), "--out", str(out))[1]  # replaces it
    assert "one of 3 samples" in shown and "without the critic" in shown


def test_report_of_real_runs(capsys, work, tmp_path):
    code, _, err = run(
        capsys, "report", str(work / "bc"), str(work / "dom2"), "--out", str(tmp_path / "report")
    )
    assert code == 0, err
    page = (tmp_path / "report" / "report.html").read_text()
    for text in ("Score intervals", "rollout-data", "denoising loss", "Time of one update"):
        assert text in page


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("trian", "trian"),
        ("collect --env simple_sprad --quality medium --out {tmp}/x", "simple_spread"),
        ("collect --env simple_spread --quality best --out {tmp}/x", "medium-replay"),
        ("collect --env simple_spread --quality random --episodes 0 --out {tmp}/x", "episodes"),
        ("collect --env simple_spread --quality random --out {work}/data", "already holds"),
        ("collect --quality random", "env"),
        ("collect --env simple_spread --quality random --episodes many", "expected int, got many"),
        ("train --data {tmp}/absent --out {tmp}/r", "absent"),
        ("train --out {tmp}/r", "--data is missing"),
        ("train --data {work}/data --out {work}/bc", "already holds"),
        ("train --data {work}/data --out {tmp}/r --algo ppo", "accepted: dom2, bc"),
        ("train --data {work}/data --out {tmp}/r --etta 2", "did you mean --eta"),
        ("train --data {work}/data --out {tmp}/r --eta much", "'eta': expected float, got much"),
        ("train --data {work}/data --out {tmp}/r --solver heun", "heun"),
        ("train --data {work}/data --out {tmp}/r --steps 0", "steps"),
        (
            "train --data {work}/data --out {tmp}/r --threads 0",
            "--threads must be a whole number of at least 1, not 0",
        ),
        ("train --data {work}/data --out {tmp}/r --env simple_tag", "simple_tag"),
        ("train --out {tmp}/r --config {tmp}/absent.yaml", "no settings file"),
        ("evaluate {tmp}/absent", "checkpoint"),
        ("evaluate {work}/bc --shift gravity", "gravity"),
        ("evaluate {work}/bc --env simple_tag", "simple_tag"),
        ("export {tmp}/absent --out {tmp}/p", "checkpoint"),
        ("export {work}/bc", "out"),
        ("export {work}/bc --out {work}", "is a folder"),
        ("export {work}/bc --out {work}/bc/config.yaml", "holds something else"),
        ("report {tmp}/absent --out {tmp}/report", "no run folder"),
        ("report", "runs"),
    ],
)
def test_mistakes_are_one_line(capsys, work, tmp_path, command, message):
    argv = [part.format(tmp=tmp_path, work=work) for part in command.split()]
    assert message in fails(capsys, *argv)
    assert list(tmp_path.iterdir()) == []  # and nothing was written


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("algo: dom2\nconfig: {etta: 1.0}\n", "unknown key 'etta'; did you mean 'eta'"),
        ("algo: dom2\nconfig: {eta: big}\n", "'eta': expected float, got big"),
        ("algo: dom2\neta: 1.0\n", "'eta' is a setting of the algorithm: put it under `config:`"),
        ("algo: dom2\nevery: 1\n", "unknown key 'every'"),
        ("algo: dom3\n", "unknown algorithm 'dom3'"),
        ("config: [1]\n", "config must be a mapping"),
        ("algo: dom2\nconfig: {solver: heun}\n", "heun"),
    ],
)
def test_wrong_yaml_is_one_line(capsys, work, tmp_path, yaml, message):
    file = tmp_path / "c.yaml"
    file.write_text(yaml)
    text = fails(
        capsys,
        "train",
        "--config",
        str(file),
        "--data",
        str(work / "data"),
        "--out",
        str(tmp_path / "r"),
    )
    assert message in text
    assert not (tmp_path / "r").exists()


def test_a_cut_off_checkpoint_is_one_line(capsys, work, tmp_path):
    whole = (work / "bc" / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    assert "cut short" in fails(capsys, "evaluate", str(tmp_path))


def test_traceback_on_request_ctrl_c_and_full_disk(capsys, monkeypatch):
    from dom2_fast.cli import doctor
    from dom2_fast.errors import Dom2Error

    def stop(error):
        def command(**_options):
            raise error

        return command

    monkeypatch.setattr(doctor, "run", stop(KeyboardInterrupt()))
    code, _, err = run(capsys, "doctor")
    assert code == 130 and err == "dom2-fast: stopped by Ctrl-C\n"
    monkeypatch.setattr(doctor, "run", stop(OSError(28, "No space left on device", "a/b")))
    assert fails(capsys, "doctor") == "No space left on device: a/b"
    monkeypatch.setattr(doctor, "run", stop(Dom2Error("two\nlines")))
    assert fails(capsys, "doctor") == "two lines"
    monkeypatch.setenv("DOM2_FAST_TRACEBACK", "1")
    with pytest.raises(Dom2Error):
        cli.main(["doctor"])


def test_warnings_are_one_line(capsys, monkeypatch):
    import warnings

    from dom2_fast.cli import doctor

    def warn(**_options):
        warnings.warn("something\nis slow", RuntimeWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(doctor, "run", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run(capsys, "doctor")[2] == "dom2-fast: warning: something is slow\n"


def test_bench_outside_a_checkout_explains(capsys, tmp_path, monkeypatch):
    from dom2_fast.cli import bench

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "dom2_fast" / "cli" / "bench.py"))
    assert "source tree" in fails(capsys, "bench")


def test_bench_runs_the_benchmarks_of_the_checkout(capsys, tmp_path, monkeypatch):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "bench_nothing.py").write_text("")
    monkeypatch.chdir(tmp_path)
    called = {}

    class Done:
        returncode = 0

    def fake(command, cwd, check):
        called.update(command=command, cwd=cwd)
        return Done

    monkeypatch.setattr("subprocess.run", fake)
    assert run(capsys, "bench", "--filter", "denoise")[0] == 0
    assert called["cwd"] == tmp_path
    assert called["command"][3:] == [
        str(tmp_path / "benchmarks"),
        "--benchmark-only",
        "-k",
        "denoise",
    ]


def test_a_switch_needs_no_true_and_a_contradiction_writes_nothing(capsys, work, tmp_path):
    out = tmp_path / "r"
    command = f"train --algo omar --faithful --data {work / 'data'} --out {out} --quiet".split()
    said = fails(capsys, *command, "--lr", "1e-3", "--hidden", "8", "--steps", "2")
    assert "hidden = 8 (OMAR's: 64), lr = 0.001 (OMAR's: 0.01)" in said
    assert not out.exists()
    code, _, err = run(capsys, *command, "--steps", "2", "--reweight", "top_k:0.5")
    assert code == 0, err
    code, _, err = run(capsys, "train", "--resume", "--out", str(out), "--steps", "3", "--quiet")
    assert code == 0, err
