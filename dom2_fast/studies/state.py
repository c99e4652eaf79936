"""How far a cell is, as its run folder says: the folders are the truth, nothing else is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dom2_fast import algos, checkpoint, envs
from dom2_fast import config as configs
from dom2_fast.errors import Dom2Error
from dom2_fast.runs import folder as run_folder
from dom2_fast.runs import run_config
from dom2_fast.studies.cell import Cell
from dom2_fast.studies.folder import StudyFolder
from dom2_fast.studies.spec import Play, Study

DONE, RUNNING, WAITING, FAILED = "done", "running", "waiting", "failed"


@dataclass
class State:
    """Of a cell: one of the four words, why it failed, its run's options and scores."""

    word: str
    reason: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] | None = None


def look(home: StudyFolder, study: Study, cell: Cell) -> State:
    """The state of a cell. Reads its folder, and changes nothing."""
    running = home.is_locked(cell.name)
    run = home.run(cell)
    try:
        options = matching_options(run, cell)
        scores = read_scores(run)
        missing = missing_plays(run, study, cell, options, scores) if options else [None]
    except Dom2Error as error:
        return State(FAILED, str(error))
    if options and not missing:
        return State(DONE, "", options, scores)
    if running:
        return State(RUNNING, "", options)
    if (reason := home.failure(cell)) is not None:
        return State(FAILED, reason, options)
    return State(WAITING, "", options)


def matching_options(run: Path, cell: Cell) -> dict[str, Any]:
    """The options of the run in that folder; empty where there is none yet.

    Raises:
        Dom2Error: its algorithm, settings, data or number of updates are not the cell's.
    """
    if not (run / run_folder.CONFIG).is_file():
        return {}
    options, own = run_config.of_folder(run)
    told = configs.load(run / run_folder.CONFIG)
    algo = options.get("algo", run_config.RunConfig.algo)
    differ = []
    if algo != cell.algo:
        differ.append(f"algo {algo}, not {cell.algo}")
    else:
        cls = algos.algorithm(algo).config_class
        config = algos.algorithm(algo).settled(
            configs.from_dict(cls, own, str(run / run_folder.CONFIG)), cell.task, cell.kind
        )
        had = configs.to_dict(config)
        differ += [
            f"{key} {had[key]!r}, not {value!r}"
            for key, value in cell.settled().items()
            if had[key] != value
        ]
    # What a run's file says of its data; `train` compares the fingerprint when it goes on.
    for key, value, wanted in (
        ("env", options.get("env"), cell.task),
        ("kind of data", told.get("quality"), cell.kind),
        ("fraction", float(options.get("fraction", 1.0)), cell.fraction),
        ("steps", options.get("steps"), cell.steps),
    ):
        if wanted is not None and value is not None and value != wanted:
            differ.append(f"{key} {value!r}, not {wanted!r}")
    if differ:
        raise Dom2Error(
            f"{run} holds a run of other settings: {'; '.join(differ)}. Nothing in it was changed: "
            "move it away, or change the study"
        )
    return options | {
        "fingerprint": told.get("fingerprint"),
        "version": told.get("dom2_fast"),
    }


def read_scores(run: Path) -> dict[str, Any] | None:
    """A run's scores.json; None where there is none. `Dom2Error` where it can't be read."""
    path = run / run_folder.SCORES
    if not path.is_file():
        return None
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        int(scores["step"]), dict(scores["results"])
    except (ValueError, KeyError, TypeError) as error:
        raise Dom2Error(
            f"{path} is no scores file ({error!r}): move it away, the study evaluates again"
        ) from None
    return scores


def missing_plays(
    run: Path, study: Study, cell: Cell, options: dict, scores: dict | None
) -> list[tuple[Play, str]]:
    """(play, checkpoint) in which the run isn't scored yet as the study wants it.

    All plays of the last checkpoint, and of the best one where the run keeps it.
    """
    steps = cell.steps or options.get("steps")
    kept = [which for which, name in checkpoint.FILES.items() if (run / name).is_file()]
    wanted = [(play, which) for which in kept or ["last"] for play in study.plays]
    if scores is None or scores["step"] != steps or "last" not in kept:
        return wanted
    results = scores["results"]
    return [
        (play, which) for play, which in wanted if not _scored(study, cell, play, which, results)
    ]


def _scored(study: Study, cell: Cell, play: Play, which: str, results: dict) -> bool:
    result = results.get(run_folder.setting_name(play.shift, which))
    if result is None:
        return False
    wanted = envs.spec(cell.task).shift_options(play.shift, play.options)
    enough = result.get("episodes", 0) >= study.evaluate.episodes
    same = all(result.get(key) == _as_read(value) for key, value in wanted.items())
    own = {k: v for k, v in play.options.items() if k not in wanted}
    same &= result.get("options", {}) == own
    return enough and same and result.get("seed") == study.evaluate.seed


def _as_read(value: Any) -> Any:
    """The value as a JSON file gives it back: a tuple is a list there."""
    return json.loads(json.dumps(value))
