"""Experiment trackers that a run also logs to: Weights & Biases and MLflow, imported if asked for.

metrics.jsonl is the record of a run, and TensorBoard's files are beside it (`runlog`); a tracker
that fails is warned of once and left out, the run goes on. The identity of the tracker's run is in
`loggers.json` of the run folder, so that a resumed run goes on there.
"""

from __future__ import annotations

import importlib
import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write
from dom2_fast.runs.folder import LOGGERS

TENSORBOARD = "tensorboard"  # always on; accepted so that it can be named
PROJECT = "dom2-fast"  # where the environment names no project or experiment
FINISHED, INTERRUPTED, FAILED = "finished", "interrupted", "failed"


class Wandb:
    """A run of Weights & Biases. Its own variables count: WANDB_PROJECT, WANDB_MODE, WANDB_DIR."""

    name = "wandb"
    _codes = {FINISHED: 0, INTERRUPTED: 130, FAILED: 1}  # noqa: RUF012

    def __init__(self, title: str, params: Mapping, known: str | None):
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        how = {} if known is None else {"id": known, "resume": "allow"}
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(project=project, name=title, config=dict(params), **how)
        self.id = str(self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics. Steps that the tracker has already it ignores."""
        self._run.log(dict(values), step=step)

    def close(self, status: str) -> None:
        """Ends the tracker's run."""
        self._run.finish(exit_code=self._codes[status])


class MLflow:
    """A run of MLflow. Its own variables count: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."""

    name = "mlflow"
    _states = {FINISHED: "FINISHED", INTERRUPTED: "KILLED", FAILED: "FAILED"}  # noqa: RUF012

    def __init__(self, title: str, params: Mapping, known: str | None):
        self._entities = importlib.import_module("mlflow.entities")
        # The client, not `mlflow.start_run`: the caller may have a run of its own.
        self._client = importlib.import_module("mlflow").MlflowClient()
        if known is not None:
            self.id = known
            self._client.update_run(known, status="RUNNING")
            return
        named = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(named)
        where = self._client.create_experiment(named) if found is None else found.experiment_id
        self.id = self._client.create_run(where, run_name=title).info.run_id
        told = [self._entities.Param(key, str(value)) for key, value in params.items()]
        self._client.log_batch(self.id, params=told)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics."""
        now = int(1000 * time.time())
        points = [self._entities.Metric(key, v, now, step) for key, v in values.items()]
        self._client.log_batch(self.id, metrics=points)

    def close(self, status: str) -> None:
        """Ends the tracker's run."""
        self._client.set_terminated(self.id, status=self._states[status])


KINDS = {kind.name: kind for kind in (Wandb, MLflow)}


def names_in(text: str | None) -> list[str]:
    """The trackers that `--logger` names, separated by commas; tensorboard isn't one of them.

    Raises:
        Dom2Error: an unknown name.
    """
    asked = [] if text is None else [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in (*KINDS, TENSORBOARD):
            accepted = ", ".join([*KINDS, TENSORBOARD])
            raise Dom2Error(
                f"logger is {text!r}; accepted: {accepted}, or several with commas between them"
            )
    return [name for name in dict.fromkeys(asked) if name != TENSORBOARD]


class Loggers:
    """The trackers of one run; without any, does nothing. As a context, what is open at its end has
    failed.

    Args:
        out: the run folder. It needn't be there: nothing is written into it before `remember`.
        text: what `--logger` says, see `names_in`.
        params: what the trackers show as the run's settings; plain values.
        resume: go on in the trackers' runs that the folder knows.
    Raises:
        Dom2Error: an unknown logger, one that isn't installed or can't be opened (no login, no
            server); the folder's loggers.json can't be read.
    """

    def __init__(self, out: Path, text: str | None, params: Mapping, resume: bool):
        self._file = Path(out) / LOGGERS
        self._open: list = []
        names = names_in(text)
        for name in names:
            _import(name)
        known = _known(self._file) if resume else {}
        for name in names:
            try:
                self._open.append(KINDS[name](Path(out).name, params, known.get(name)))
            except Exception as error:  # whatever its client raises
                self.close(FAILED)
                raise Dom2Error(
                    f"--logger {name} can't be opened: {_first(error)}; leave it out, or see "
                    f"{name}'s own documentation"
                ) from error
        self._ids = {**known, **{one.name: one.id for one in self._open}}

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, *_error) -> None:
        self.close(FAILED)

    def remember(self) -> None:
        """Writes the identities of the trackers' runs into the run folder."""
        if self._ids:
            with atomic_write(self._file, "w") as file:
                json.dump(self._ids, file, indent=1)
                file.write("\n")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One line of finite metrics to each tracker; one that fails is left out from then on."""
        self._each("log", step, values)

    def close(self, status: str) -> None:
        """Ends the trackers' runs; status is FINISHED, INTERRUPTED or FAILED."""
        self._each("close", status)
        self._open = []

    def _each(self, method: str, *arguments) -> None:
        for one in list(self._open):
            try:
                getattr(one, method)(*arguments)
            except Exception as error:  # a tracker must not cost the run
                self._open.remove(one)
                warnings.warn(
                    f"logger {one.name} failed and is left out from here on: {_first(error)}; the "
                    "run goes on, its metrics are in metrics.jsonl",
                    stacklevel=2,
                )


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise Dom2Error(
            f"--logger {name} needs {name}, which can't be imported ({_first(error)}): "
            f"pip install 'dom2-fast[{name}]'"
        ) from None


def _known(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not all(isinstance(value, str) for value in found.values()):
            raise ValueError("an identity isn't a text")
    except (ValueError, AttributeError) as error:
        raise Dom2Error(
            f"{file} can't be read ({_first(error)}): move it away, and the loggers begin new runs"
        ) from error
    return found


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
