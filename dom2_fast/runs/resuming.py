"""What a resumed run goes on with: its checkpoint, options, settings and data, all checked."""

from __future__ import annotations

import math
from pathlib import Path

from dom2_fast import algos, checkpoint
from dom2_fast import config as configs
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.runs import run_config
from dom2_fast.runs.folder import SCORE
from dom2_fast.runs.run_config import RunConfig
from dom2_fast.runs.runlog import Meter


def open_run(out: Path, config, given: dict) -> dict:
    """The checkpoint to go on from, checked against what was asked for."""
    if not (out / checkpoint.NAME).exists():
        raise Dom2Error(f"there is no run to resume in {out}: leave out --resume to start one")
    algo = given.get("algo") if config is None else algos.of_config(config).name
    saved = checkpoint.load(out, algo=algo, env=given.get("env"))
    if "run" not in saved:
        raise Dom2Error(f"{out / checkpoint.NAME} was saved outside a run: it can't be resumed")
    return saved


def own_options(out: Path, saved: dict) -> dict:
    """The options a run was started with: of its config.yaml, and of its checkpoint."""
    told = {
        "algo": saved["algo"],
        "env": saved["env"],
        "data": saved["run"]["data_path"],
        "episode_length": saved["run"]["episode_length"],
        **saved["run"].get("subset", {}),
    }
    first = saved["run"].get("options", {})  # in a run's first checkpoint only
    return first | run_config.of_folder(out)[0] | told


def check_settings(out: Path, saved: dict, config, data: TrajectoryDataset) -> None:
    """The settings asked for on resuming, if any, are the run's own."""
    if config is None:
        return
    # A run of an earlier version lacks settings that have come since: it has their defaults.
    own = configs.from_dict(type(config), saved["config"], str(out / checkpoint.NAME))
    config = algos.of_config(config).settled(config, data.task or saved["env"], data.quality)
    own, asked = configs.to_dict(own), configs.to_dict(config)
    differ = [
        f"{name} = {own[name]!r} (asked for: {value!r})"
        for name, value in asked.items()
        if own[name] != value
    ]
    if differ:
        raise Dom2Error(
            f"the run in {out} has other settings: {'; '.join(differ)}. "
            "Resume it with its own, or start a new run in another folder"
        )


def check_subset(out: Path, saved: dict, run: RunConfig) -> None:
    """The fraction of the data asked for is the run's own."""
    own = saved["run"].get("subset", {})
    asked = run_config.subset_of(run)
    if own != asked:
        raise Dom2Error(
            f"the run in {out} learns from {_told(own)}, {_told(asked)} was asked for: leave out "
            "--fraction and --fraction-seed, or start a new run in another folder"
        )


def _told(subset: dict) -> str:
    if not subset:
        return "all of its data"
    return f"the fraction {subset['fraction']} (seed {subset['fraction_seed']}) of its data"


def restored(out: Path, saved: dict, data: TrajectoryDataset, run: RunConfig):
    """(agents, meter) as they were when the checkpoint was written."""
    if data.fingerprint() != saved["run"]["fingerprint"]:
        raise Dom2Error(
            f"the data at {run.data} is not what the run in {out} was started with "
            f"({saved['run']['data_path']}): give the same data set"
        )
    if run.steps < saved["step"]:
        raise Dom2Error(
            f"the run in {out} has done {saved['step']} steps already: --steps counts all, give "
            f"at least {saved['step']}"
        )
    agents = algos.algorithm(saved["algo"]).from_state(saved, data)
    return agents, Meter(saved["run"]["meter"])


def best_return(out: Path, saved: dict) -> float:
    """What the run's best checkpoint scored when it was kept; that file alone says so.

    It may be of a later step than the checkpoint that the run goes on from: then the same scores
    come again, and it stays.
    """
    file = out / checkpoint.FILES["best"]
    if not file.exists():
        return -math.inf
    told = checkpoint.load(file, algo=saved["algo"], env=saved["env"]).get("run", {})
    if SCORE not in told:
        raise Dom2Error(f"{file} doesn't say what it scored, so no run kept it: move it away")
    return told[SCORE]
