"""A small problem that has every kind of file: data sets, a run, its scores, an export, a study."""

from __future__ import annotations

from pathlib import Path

from torture.base import must

ENV = "simple_spread"
STEPS = 12

STUDY = """\
name: torture
data: {episodes: 10}
steps: 6
run: {log_every: 2, save_every: 3, eval_every: 3, eval_episodes: 4}
evaluate: {episodes: 5, settings: [standard, {shift: speed}]}
grids:
  - tasks: simple_spread
    kinds: [random]
    algos: [bc_det, {name: dom2, algo: dom2, steps: 2, hidden: 16}]
    seeds: [1]
"""


def collect(out) -> list[str]:
    return f"collect --env {ENV} --quality expert --episodes 12 --seed 1 --out {out}".split()


def train(data, out) -> list[str]:
    return (
        f"train --algo dom2 --data {data} --out {out} --steps {STEPS} --hidden 8 --critic-hidden 8 "
        "--batch-size 8 --denoising-steps 2 --log-every 2 --save-every 3 --eval-every 6 "
        "--eval-episodes 5 --threads 1 --quiet"
    ).split()


def resume(data, out) -> list[str]:
    """Goes on with a run where there is one to go on with, as a person would who is told so."""
    if (Path(out) / "checkpoint.pt").is_file():
        return f"train --resume --out {out} --steps {STEPS} --threads 1 --quiet".split()
    return train(data, out)


def evaluate(run) -> list[str]:
    return f"evaluate {run} --episodes 20 --threads 1".split()


def export(run, out) -> list[str]:
    return f"export {run} --out {out}".split()


def study(file, out) -> list[str]:
    return f"study run {file} --out {out} --jobs 2 --quiet".split()


def make(folder: Path) -> None:
    """data, run (trained and scored), policy.safetensors and study.yaml in `folder`."""
    log = folder / "log"
    must(collect(folder / "data"), log)
    must(train(folder / "data", folder / "run"), log)
    must(evaluate(folder / "run"), log)
    must(export(folder / "run", folder / "policy.safetensors"), log)
    (folder / "study.yaml").write_text(STUDY)
