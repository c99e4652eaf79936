"""Training runs: progress, logs, checkpoints, exact resume. The learning is in `algos`.

A run folder holds `config.yaml` (every setting, the data's path and fingerprint), `metrics.jsonl`
(one JSON object per log step), `tb/` (the same for TensorBoard) and `checkpoint.pt` (the latest
state, replaced atomically), and with evaluations on the way `best.pt` (the same of the highest
return so far). A run that was interrupted and resumed gives the same checkpoint and
the same metrics, bit for bit, as one that was not; only times differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dom2_fast import algos, checkpoint, envs
from dom2_fast._version import __version__
from dom2_fast.config import to_dict
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.files import explain_no_space, held, new_run_dir, refuse_used, remove_leftovers
from dom2_fast.runs import resuming, run_config
from dom2_fast.runs.folder import CONFIG, METRICS, SCORE
from dom2_fast.runs.loggers import FINISHED, INTERRUPTED, Loggers
from dom2_fast.runs.run_config import RunConfig
from dom2_fast.runs.runlog import Clock, Meter, RunLog
from dom2_fast.runs.signals import StopSignal


@dataclass(frozen=True)
class TrainResult:
    """How a run ended: at which step of how many, and whether a signal stopped it early."""

    out: Path
    step: int
    steps: int
    interrupted: bool
    agents: object


def train(
    config,
    run,
    out,
    steps: int | None = None,
    resume: bool = False,
    *,
    progress: bool = True,
    tensorboard: bool = True,
    **options,
) -> TrainResult:
    """Trains until the run's `steps` updates are done in all, into the folder `out`.

    Ctrl-C and SIGTERM end the run after the current update, with a checkpoint; a second Ctrl-C
    stops at once. With `resume`, the run goes on from its checkpoint, as if it had never stopped.

    Args:
        config: the algorithm's config dataclass, such as `DOM2Config`. None: the defaults of the
            run's `algo`, or with `resume` the run's own; there, anything else must equal it.
        run: a `RunConfig`; or the data set's path, the run's other options being keywords
            (`steps`, `log_every`, ...: the fields of `RunConfig`). With `resume`, what isn't given
            is the run's own.
        out: a new or empty folder, or with `resume` the run's.
        steps: the option of that name. None: the number that belongs to the settings, if one does
            (see `faithful` of the baselines of OMAR's paper), else the option's default.
        progress: show a progress bar. tensorboard: also log for TensorBoard.
    Raises:
        Dom2Error: before anything is written: unusable data, options, settings, folder or
            logger; `resume` without a run, or with another algorithm, environment, data set or
            settings; another process trains into the folder. Later: losses that are not finite,
            no space left (the last checkpoint stays intact).
    """
    out = Path(out)
    given = _given(run, steps, options)
    with ExitStack() as owner:  # of the folder, as soon as there is one
        if resume and out.is_dir():
            owner.enter_context(_owned(out))
        return _train(config, given, out, resume, progress, tensorboard, owner)


def _train(config, given: dict, out: Path, resume, progress, tensorboard, owner) -> TrainResult:
    if resume:
        saved = resuming.open_run(out, config, given)
        with checkpoint.fitting(out / checkpoint.NAME):
            own = resuming.own_options(out, saved)
            run = run_config.make(own | given | {"algo": saved["algo"]})
            resuming.check_subset(out, saved, run)
        data = run_config.load_data(run.data, run.episode_length, run_config.subset_of(run))
        dims = _check_env(run, data)
        with checkpoint.fitting(out / checkpoint.NAME):
            resuming.check_settings(out, saved, config, data)
            agents, meter = resuming.restored(out, saved, data, run)
    else:
        run = run_config.make(given)
        if config is not None:
            run.algo = algos.of_config(config).name
        if run.data is None:
            raise Dom2Error("a new run needs a data set: give its path")
        refuse_used(out, resume_hint=True)  # before the data is read
        data = run_config.load_data(run.data, run.episode_length, run_config.subset_of(run))
        dims = _check_env(run, data)
        cls = algos.algorithm(run.algo)
        agents = cls(cls.config_class() if config is None else config, data, env=run.env)
        meter = Meter()
        if "steps" not in given:
            run.steps = agents.usual_steps or run.steps
    _check_trained(agents, dims, run)
    origin = {
        "data_path": run.data,
        "fingerprint": data.fingerprint(),
        "episode_length": run.episode_length,
    }
    if subset := run_config.subset_of(run):
        origin["subset"] = subset

    def save(which: str = "last", **more) -> None:
        _check_finite(agents, out)
        state = {**agents.state_dict(), "run": {**origin, "meter": meter.state(), **more}}
        checkpoint.save(out / checkpoint.FILES[which], state)

    best = resuming.best_return(out, saved) if resume and run.eval_every else -math.inf
    own = {f"{run_config.OWN}.{k}": v for k, v in to_dict(agents.config).items()}
    trackers = Loggers(out, run.logger, to_dict(run) | own, resume)

    with (
        trackers,
        explain_no_space(
            out,
            "the last checkpoint there is intact",
            "free some space, then go on with --resume",
        ),
    ):
        if not resume:
            new_run_dir(out)
            owner.enter_context(_owned(out))
            refuse_used(out, resume_hint=True)  # another process may have been quicker
            # From here on the run can be resumed, even where config.yaml isn't written any more.
            save(options={k: v for k, v in asdict(run).items() if v is not None})
        trackers.remember()
        notes = _notes(agents, data, origin["fingerprint"])
        run_config.write(out, run, notes, agents.config)
        with StopSignal() as stop, RunLog(out, agents, run, progress, tensorboard, trackers) as log:
            _loop(agents, run, meter, log, stop, save, best)
        trackers.close(FINISHED if agents.step >= run.steps else INTERRUPTED)
    return TrainResult(out, agents.step, run.steps, stop.received, agents)


@contextmanager
def _owned(out: Path) -> Iterator[None]:
    """Holds the folder against other trainings, and removes what a killed one left half written."""
    with held(out, f"another process trains into {out}: wait for it, or stop it"):
        remove_leftovers(out, (*checkpoint.FILES.values(), CONFIG, METRICS))
        yield


def _given(run, steps: int | None, options: dict) -> dict:
    """The options that a call of `train` names, whichever way."""
    if isinstance(run, RunConfig):
        given = asdict(run)
        named = "a RunConfig"
    else:
        given = {} if run is None else {"data": run}
        named = "a data set"
    if steps is not None:
        options = options | {"steps": steps}
    if (isinstance(run, RunConfig) and options) or given.keys() & options.keys():
        raise Dom2Error(
            f"{named} was given, and {', '.join(options)} beside it: leave out one of the two"
        )
    return {name: value for name, value in (given | options).items() if value is not None}


def _loop(agents, run: RunConfig, meter: Meter, log: RunLog, stop, save, best: float) -> None:
    saved_at = agents.step
    clock = Clock(agents)
    while agents.step < run.steps and not stop.received:
        meter.add(agents.update())
        step = agents.step
        log.advance()
        if step % run.log_every == 0:
            log.write(step, {**_finite(meter, agents, saved_at), **clock.lap()})
            meter.reset()
        if run.eval_every and step % run.eval_every == 0:
            with clock.paused():
                scores = _evaluate(agents, run)
                log.write(step, scores)
                if scores[SCORE] > best:
                    best = scores[SCORE]
                    save("best", **{SCORE: best})
        if step % run.save_every == 0 and step < run.steps:
            with clock.paused():
                save()
            saved_at = step
    if agents.step > saved_at:
        save()
    if agents.step % run.log_every and meter.count:
        # Off schedule, so a resumed run drops this line again; the meter goes on.
        log.write(agents.step, {**_finite(meter, agents, saved_at), **clock.lap()})


def _finite(meter: Meter, agents, saved_at: int) -> dict[str, float]:
    """The metrics to log; raises Dom2Error instead where one isn't finite."""
    means = meter.mean()
    if bad := next((name for name, value in means.items() if not math.isfinite(value)), None):
        raise Dom2Error(
            f"training diverged: {bad} is not finite at step {agents.step}; {agents.advice}; "
            f"the checkpoint of step {saved_at} is intact"
        )
    return means


def _evaluate(agents, run: RunConfig) -> dict[str, float]:
    from dom2_fast.runs import evaluation

    result = evaluation.evaluate(agents.policies, env=run.env, episodes=run.eval_episodes)
    low, high = result["ci95"]
    logged = {SCORE: result["mean"], "eval/low": low, "eval/high": high}
    if "normalised" in result:
        logged["eval/normalised"] = result["normalised"]
    return logged


def _check_env(run: RunConfig, data: TrajectoryDataset) -> list[int] | None:
    """Settles the run's environment; gives its agents' observation widths, None if none is known.

    Raises:
        Dom2Error: there is none to evaluate in, or the data isn't from there.
    """
    run.env = run.env or data.task
    if run.env is None and run.eval_every:
        raise Dom2Error("this data set doesn't say its task: give env=... to evaluate on the way")
    known = run.env is not None and (run.env in envs.names() or ":" in run.env)
    if not known and not run.eval_every:
        return None  # one can train on the data of any task
    world = envs.make(run.env)
    dims, act_dim = list(world.obs_dims), world.act_dim
    getattr(world, "close", lambda: None)()
    both = min(len(dims), data.num_agents)  # data may also hold agents that the environment drives
    if data.obs_dims[:both] != dims[:both] or data.act_dim != act_dim:
        raise Dom2Error(
            f"the data set's observations have widths {data.obs_dims}, {run.env} has {dims}; its "
            f"actions {data.act_dim} and {act_dim}: give the data set's own environment"
        )
    return dims


def _check_trained(agents, dims: list[int] | None, run: RunConfig) -> None:
    """The environment has every agent that is trained, and no other where it is evaluated in."""
    trained = len(agents.policies.obs_dims)
    if dims is not None and (trained > len(dims) or (run.eval_every and trained < len(dims))):
        raise Dom2Error(
            f"{trained} agents would be trained, {run.env} has {len(dims)}: say how many with "
            "agents=..., or give the data set's own environment"
        )


def _notes(agents, data: TrajectoryDataset, fingerprint: str) -> run_config.Notes:
    summary = data.summary()
    return run_config.Notes(
        format=1,
        quality=data.quality,
        trajectories=summary["trajectories"],
        transitions=summary["transitions"],
        fingerprint=fingerprint,
        agents=agents.num_agents,
        dom2_fast=__version__,
        torch=torch.__version__,
    )


def _check_finite(agents, out: Path) -> None:
    for part, net in agents.learnt().items():
        for name, p in net.named_parameters():
            if not bool(p.isfinite().all()):
                raise Dom2Error(
                    f"training diverged: {name} of {part} is not finite at step {agents.step}; "
                    f"{agents.advice}; the last checkpoint in {out} is intact"
                )
