"""What each command does. Options are in `cli`; heavy imports wait until a command runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dom2_fast import config as configs
from dom2_fast.cli import tables
from dom2_fast.errors import Dom2Error

DEFAULT_STEPS = 2000

# Settings of a run beside its algorithm's: keys of config.yaml that are also options of `train`.
RUN_KEYS = (
    "algo", "data", "env", "steps", "episode_length",
    "log_every", "save_every", "eval_every", "eval_episodes",
)  # fmt: skip
# What a run's config.yaml records on top, as a note; it is no setting.
NOTES = (
    "format", "quality", "trajectories", "transitions", "fingerprint", "agents", "dom2_fast",
    "torch",
)  # fmt: skip


def run(command: str, options: dict) -> int:
    """Run a command with its parsed options; returns the exit code."""
    threads = options.pop("threads", None)
    if threads is not None:
        if threads < 1:
            raise Dom2Error(f"--threads is {threads}, it must be at least 1")
        if command == "bench":
            os.environ["DOM2_FAST_BENCH_THREADS"] = str(threads)
        else:
            import torch

            torch.set_num_threads(threads)
    commands: dict[str, Callable[..., int]] = {
        "collect": collect,
        "train": train,
        "evaluate": evaluate,
        "export": export,
        "report": report,
        "doctor": doctor,
        "bench": bench,
    }
    return commands[command](**options)


def collect(
    env: str, quality: str, episodes: int, seed: int, prey: str, out: str | None = None
) -> int:
    from dom2_fast.behaviours.collect import collect
    from dom2_fast.runs import evaluation

    out = out or f"datasets/{env}/{quality}/seed_{seed}_data"
    start = time.perf_counter()
    data = collect(env, quality, episodes=episodes, seed=seed, out=out, prey=prey)
    scores = evaluation.dataset_scores(data, env)
    low, high = scores["ci95"]
    print(
        f"{episodes:,} episodes of {env}, {quality}, in {time.perf_counter() - start:.1f} s: mean "
        f"return {scores['mean']:.1f} (95 % interval {low:.1f} to {high:.1f})\n"
        f"written to {out}\n"
        f"next: dom2-fast train --algo dom2 --data {out} --out runs/a --steps {DEFAULT_STEPS}"
    )
    return 0


def train(out: str, resume: bool, quiet: bool, config: str | None = None, **given) -> int:
    from dom2_fast import algos
    from dom2_fast.runs.train import train

    options = {key: given.pop(key) for key in RUN_KEYS if key in given}
    # `steps` is the run's number of updates here; the algorithm's has an option of another name.
    own = {"steps" if key == "denoising_steps" else key: value for key, value in given.items()}
    values, settings = _from_yaml(config, out if resume else None)
    asked = options.get("algo")
    if asked is not None and values.get("algo", asked) != asked:
        raise Dom2Error(
            f"--algo {asked} was given, but {config or out} is of {values['algo']}: "
            f"leave out one of the two"
        )
    values |= options
    algo = values.pop("algo", "dom2")
    cls = algos.algorithm(algo).config_class
    # A resumed run keeps its own settings; its checkpoint has them even without a config.yaml.
    chosen = None
    if settings or own or not resume:
        chosen = configs.from_dict(cls, settings | own, config or "the settings")
    if "data" not in values and not resume:
        raise Dom2Error("--data is missing: give a folder that `dom2-fast collect` made")
    data, steps = values.pop("data", None), values.pop("steps", DEFAULT_STEPS)
    start = time.perf_counter()
    result = train(chosen, data, out, steps, resume, progress=not quiet, **values)
    took = tables.duration(time.perf_counter() - start)
    if result.interrupted:
        print(
            f"stopped at step {result.step} of {steps} after {took}; the checkpoint is in {out}\n"
            f"go on: dom2-fast train --resume --out {out}"
        )
        return 130
    print(
        f"{algo}: {result.step} steps done, {took}; checkpoint and logs are in {out}\n"
        f"next: dom2-fast evaluate {out}   (curves: tensorboard --logdir {out}/tb)"
    )
    return 0


def _from_yaml(file: str | None, run_folder: str | None) -> tuple[dict, dict]:
    """(the run's settings, the algorithm's) from --config, or from the run that is resumed."""
    if file is None:
        if run_folder is None or not (Path(run_folder) / "config.yaml").is_file():
            return {}, {}
        file = str(Path(run_folder) / "config.yaml")
    content = configs.load(file)
    settings = content.pop("config", None) or {}
    if not isinstance(settings, dict):
        raise Dom2Error(f"{file}: config must be a mapping of keys to values, not {settings!r}")
    for key in content:
        if key not in RUN_KEYS + NOTES:
            raise Dom2Error(_unknown(key, content, file))
    values = {key: content[key] for key in RUN_KEYS if content.get(key) is not None}
    return values, settings


def _unknown(key: str, content: dict, file: str) -> str:
    from dom2_fast import algos

    cls = algos.algorithm(str(content.get("algo", "dom2"))).config_class
    if key in {field.name for field in configs.fields(cls)}:
        return f"{file}: '{key}' is a setting of the algorithm: put it under `config:`"
    return configs.unknown_key(key, [*RUN_KEYS, "config"], file)


def evaluate(run: str, shift: str | None = None, **options) -> int:
    from dom2_fast.runs.train import evaluate_run

    shift = None if shift == "none" else shift
    scores = evaluate_run(run, shift=shift, **options)
    print(f"{scores['algo']} on {scores['env']}, trained {scores['step']} steps")
    print(tables.scores({scores["algo"]: scores["results"]}))
    print(f"written to {Path(run) / 'scores.json'}; next: dom2-fast report {run} --out report/")
    return 0


def export(run: str, out: str) -> int:
    from dom2_fast.runs.train import export_run

    policies = export_run(run, out)
    policy, candidates = policies.policy, policies.candidates
    size = Path(out).stat().st_size / 1e3
    print(
        f"written to {out} ({size:,.0f} kB): {policy.groups} agents, observations of "
        f"{policy.obs_dim}, actions of {policy.act_dim}, {policy.solver} with {policy.steps} steps"
    )
    if candidates > 1:
        print(
            f"the run acts with the best of {candidates} samples by its critic; the file has the "
            f"policy alone, without the critic"
        )
    return 0


def report(runs: list[str], out: str, title: str) -> int:
    from dom2_fast.report import write_report

    path = write_report(runs, out, title=title)
    print(f"written to {path} ({path.stat().st_size / 1e3:.0f} kB, one file, no network needed)")
    return 0


def doctor(json: bool) -> int:
    from dom2_fast.cli import doctor

    facts = doctor.examine()
    print(_json(facts) if json else doctor.render(facts))
    return 0 if facts["healthy"] else 1


def bench(filter: str | None = None, json: str | None = None) -> int:
    folders = [Path.cwd() / "benchmarks", Path(__file__).resolve().parents[2] / "benchmarks"]
    folder = next((f for f in folders if any(f.glob("bench_*.py"))), None)
    if folder is None:
        raise Dom2Error(
            "there are no benchmarks here: they are in the source tree, not in the installed "
            "package. Run this in a checkout, after `pip install .[test]`"
        )
    try:
        import pytest  # noqa: F401
        import pytest_benchmark  # noqa: F401
    except ImportError as error:
        raise Dom2Error(
            f"the benchmarks need {error.name}: `pip install pytest pytest-benchmark`"
        ) from None
    command = [sys.executable, "-m", "pytest", str(folder), "--benchmark-only"]
    command += ["-k", filter] if filter else []
    command += [f"--benchmark-json={json}"] if json else []
    return subprocess.run(command, cwd=folder.parent, check=False).returncode


def _json(values: dict) -> str:
    return json.dumps(values, indent=2)
