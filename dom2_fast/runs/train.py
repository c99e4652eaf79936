"""Training runs: progress, logs, checkpoints, exact resume. The learning is in `algos`.

A run folder holds `config.yaml` (every setting, the data's path and fingerprint), `metrics.jsonl`
(one JSON object per log step), `tb/` (the same for TensorBoard) and `checkpoint.pt` (the latest
state, replaced atomically). A run that was interrupted and resumed gives the same checkpoint and
the same metrics, bit for bit, as one that was not; only times differ.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dom2_fast import algos, checkpoint, envs
from dom2_fast import config as configs
from dom2_fast._version import __version__
from dom2_fast.data.checks import positive_int
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.files import new_run_dir, refuse_used
from dom2_fast.runs.runlog import Meter, RunLog

CONFIG = "config.yaml"


@dataclass(frozen=True)
class TrainResult:
    """How a run ended: at which step, and whether a signal stopped it early."""

    out: Path
    step: int
    interrupted: bool
    agents: object


@dataclass(frozen=True)
class Schedule:
    """When a run logs, saves and evaluates, in updates; 0: never."""

    log_every: int = 50
    save_every: int = 500
    eval_every: int = 0
    eval_episodes: int = 100

    def __post_init__(self):
        for name in ("log_every", "save_every", "eval_episodes"):
            positive_int(getattr(self, name), name)
        if self.eval_every:
            positive_int(self.eval_every, "eval_every")


def train(
    config,
    data_path,
    out,
    steps: int,
    resume: bool = False,
    *,
    env: str | None = None,
    episode_length: int | None = None,
    log_every: int = 50,
    save_every: int = 500,
    eval_every: int = 0,
    eval_episodes: int = 100,
    progress: bool = True,
    tensorboard: bool = True,
) -> TrainResult:
    """Trains until `steps` updates are done in all, into the folder `out`.

    Ctrl-C and SIGTERM end the run after the current update, with a checkpoint; a second Ctrl-C
    stops at once. With `resume`, the run goes on from its checkpoint, as if it had never stopped.

    Args:
        config: the algorithm's config dataclass (`DOM2Config`, `BCConfig`). With `resume` None
            takes the run's own; anything else must equal it.
        data_path: a data set in OMAR's layout. With `resume` None takes the run's own.
        out: a new or empty folder, or with `resume` the run's.
        steps: updates in all, those before a resume included.
        env: the task the policies are for. None: the one the data set names.
        episode_length: see `TrajectoryDataset.load`.
        log_every, save_every, eval_every, eval_episodes: see `Schedule`.
        progress: show a progress bar. tensorboard: also log for TensorBoard.
    Raises:
        Dom2Error: before anything is written: unusable data, settings or folder; `resume` without a
            run, or with another algorithm, environment, data set or settings. Later: losses that
            are not finite, no space left (the last checkpoint stays intact).
    """
    out = Path(out)
    positive_int(steps, "steps")
    times = Schedule(log_every, save_every, eval_every, eval_episodes)
    saved = _open_run(out, config, env) if resume else None
    if saved is None:
        if config is None or data_path is None:
            raise Dom2Error("a new run needs a config and a data set")
        refuse_used(out, resume_hint=True)  # before the data is read
    else:
        data_path = data_path or saved["run"]["data_path"]
        episode_length = episode_length or saved["run"]["episode_length"]
        env = saved["env"]
    data = TrajectoryDataset.load(data_path, episode_length)
    env = _check_env(env or data.task, data, times)
    if saved is None:
        agents = algos.of_config(config)(config, data, env=env)
        meter = Meter()
    else:
        if data.fingerprint() != saved["run"]["fingerprint"]:
            raise Dom2Error(
                f"the data at {data_path} is not what the run in {out} was started with "
                f"({saved['run']['data_path']}): give the same data set"
            )
        agents = algos.algorithm(saved["algo"]).from_state(saved, data)
        meter = Meter(saved["run"]["meter"])
        if steps < agents.step:
            raise Dom2Error(
                f"the run in {out} has done {agents.step} steps already: --steps counts all, give "
                f"at least {agents.step}"
            )
    run = {
        "data_path": str(data_path),
        "fingerprint": data.fingerprint(),
        "episode_length": episode_length,
    }

    def save() -> None:
        _check_finite(agents, out)
        run["meter"] = meter.state()
        checkpoint.save(out / checkpoint.NAME, {**agents.state_dict(), "run": run})

    with _explain_no_space(out):
        if saved is None:
            new_run_dir(out)
            save()  # from here on the run can be resumed
        _write_config(out, agents, data, run, steps, times)
        with (
            _StopSignal() as stop,
            RunLog(out, agents.step, times.log_every, steps, agents.name, progress, tensorboard)
            as log,
        ):  # fmt: skip
            _loop(agents, steps, times, meter, log, stop, save)
    return TrainResult(out, agents.step, stop.received, agents)


def _loop(agents, steps, times: Schedule, meter: Meter, log: RunLog, stop, save) -> None:
    saved_at = agents.step
    clock = _Clock(agents)
    while agents.step < steps and not stop.received:
        meter.add(agents.update())
        step = agents.step
        log.advance()
        if step % times.log_every == 0:
            log.write(step, {**meter.mean(), **clock.lap()})
            meter.reset()
            if bad := log.not_finite():
                raise Dom2Error(
                    f"training diverged: {bad} is not finite at step {step}; lower lr, critic_lr "
                    f"or eta, or clip more; the checkpoint of step {saved_at} is intact"
                )
        if times.eval_every and step % times.eval_every == 0:
            with clock.paused():
                log.write(step, _evaluate(agents, times.eval_episodes))
        if step % times.save_every == 0 and step < steps:
            with clock.paused():
                save()
            saved_at = step
    if agents.step > saved_at:
        save()
    if agents.step % times.log_every and meter.count:
        # Off schedule, so a resumed run drops this line again; the meter goes on.
        log.write(agents.step, {**meter.mean(), **clock.lap()})


def _evaluate(agents, episodes: int) -> dict[str, float]:
    from dom2_fast.runs import evaluation as evaluate

    result = evaluate.evaluate(agents.policies, env=agents.env, episodes=episodes)
    keys = {"eval/return": result["mean"], "eval/low": result["ci95"][0],
            "eval/high": result["ci95"][1]}  # fmt: skip
    if "normalised" in result:
        keys["eval/normalised"] = result["normalised"]
    return keys


def evaluate_run(
    run,
    *,
    episodes: int = 500,
    shift: str | None = None,
    v_min: float | None = None,
    env: str | None = None,
    prey: str = "bundled",
    seed: int | None = None,
) -> dict:
    """Evaluates a run's latest checkpoint and writes its scores.json and rollout.npz.

    Results of other settings that are in scores.json already stay there. rollout.npz holds the
    first episode of the standard setting (of the shifted one if that was evaluated first).

    Args: as of `evaluate.evaluate`; `run` is a run folder.
    Returns: what is in scores.json then.
    Raises: Dom2Error: see `checkpoint.load` and `evaluate.evaluate`.
    """
    from dom2_fast.runs import evaluation as evaluate

    folder = Path(run)
    state = checkpoint.load(folder, env=env)
    agents = algos.algorithm(state["algo"]).from_state(state)
    env = env or agents.env
    if env is None:
        raise Dom2Error(f"the run in {folder} doesn't say its environment: give one (env=...)")
    result = evaluate.evaluate(
        agents.policies, env=env, episodes=episodes, shift=shift, v_min=v_min, prey=prey,
        seed=evaluate.SEED if seed is None else seed, record=True,
    )  # fmt: skip
    rollout = result.pop("rollout")
    data_path = state.get("run", {}).get("data_path")
    header = {"algo": agents.name, "env": env, "data": data_path, "step": agents.step}
    scores = evaluate.save_scores(folder, header, {evaluate.setting_name(shift): result})
    if shift is None or not (folder / evaluate.ROLLOUT).exists():
        evaluate.save_rollout(folder, rollout)
    return scores


def export_run(run, path):
    """Writes the policies that a run's latest checkpoint acts with to one file.

    Returns: these policies (`algos.base.Policies`).
    Raises: Dom2Error: see `checkpoint.load` and `export.export`.
    """
    state = checkpoint.load(run)
    policies = algos.algorithm(state["algo"]).from_state(state).policies
    policies.policy.export(path)
    return policies


def _open_run(out: Path, config, env) -> dict:
    """The checkpoint to go on from, checked against what was asked for."""
    if not (out / checkpoint.NAME).exists():
        raise Dom2Error(f"there is no run to resume in {out}: leave out --resume to start one")
    algo = None if config is None else algos.of_config(config).name
    saved = checkpoint.load(out, algo=algo, env=env)
    if "run" not in saved:
        raise Dom2Error(f"{out / checkpoint.NAME} was saved outside a run: it can't be resumed")
    if config is not None:
        asked = configs.to_dict(config)
        differ = [
            f"{name} = {saved['config'].get(name)!r} (asked for: {value!r})"
            for name, value in asked.items()
            if saved["config"].get(name) != value
        ]
        if differ:
            raise Dom2Error(
                f"the run in {out} has other settings: {'; '.join(differ)}. "
                "Resume it with its own, or start a new run in another folder"
            )
    return saved


def _check_env(env: str | None, data: TrajectoryDataset, times: Schedule) -> str | None:
    if times.eval_every and env is None:
        raise Dom2Error("this data set doesn't say its task: give env=... to evaluate on the way")
    if env not in envs.TASKS:
        if times.eval_every:
            raise Dom2Error(f"unknown environment {env!r}; accepted: {', '.join(envs.TASKS)}")
        return env
    dims = envs.make(env, num_envs=1, prey="external").obs_dims
    if data.obs_dims != dims[: data.num_agents]:
        raise Dom2Error(
            f"the data set's observations have widths {data.obs_dims}, {env} has {dims}: "
            "give the data set's own environment"
        )
    return env


def _write_config(out: Path, agents, data, run: dict, steps: int, times: Schedule) -> None:
    summary = data.summary()
    content = {
        "format": 1,
        "algo": agents.name,
        "env": agents.env,
        "data": run["data_path"],
        "episode_length": run["episode_length"],
        "quality": data.quality,
        "trajectories": summary["trajectories"],
        "transitions": summary["transitions"],
        "fingerprint": run["fingerprint"],
        "agents": agents.num_agents,
        "steps": steps,
        **asdict(times),
        "dom2_fast": __version__,
        "torch": torch.__version__,
        "config": configs.to_dict(agents.config),
    }
    configs.save(content, out / CONFIG, "Settings of this run, written by dom2-fast train.")


def _check_finite(agents, out: Path) -> None:
    for name, p in agents.net.named_parameters():
        if not bool(p.isfinite().all()):
            raise Dom2Error(
                f"training diverged: {name} is not finite at step {agents.step}; lower lr, "
                f"critic_lr or eta, or clip more; the last checkpoint in {out} is intact"
            )


class _Clock:
    """Seconds per update by stage, and updates per second, since the last lap."""

    def __init__(self, agents):
        self.agents = agents
        self.agents.stage.reset()
        self.step, self.begin = agents.step, time.perf_counter()

    def lap(self) -> dict[str, float]:
        updates = max(1, self.agents.step - self.step)
        elapsed = max(time.perf_counter() - self.begin, 1e-9)
        out = {f"seconds/{s}": t / updates for s, t in self.agents.stage.seconds.items()}
        self.agents.stage.reset()
        self.step, self.begin = self.agents.step, time.perf_counter()
        return {**out, "rate": updates / elapsed}

    @contextlib.contextmanager
    def paused(self):
        begin = time.perf_counter()
        yield
        self.begin += time.perf_counter() - begin


class _StopSignal:
    """Notes SIGINT and SIGTERM instead of dying; a second SIGINT raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.received = False
        self._former: dict = {}

    def _handle(self, number, _frame) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True

    def __enter__(self) -> _StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_error) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)


@contextlib.contextmanager
def _explain_no_space(out: Path):
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Dom2Error(
            f"no space left while writing to {out}: the last checkpoint there is intact; free some "
            "space, then go on with --resume"
        ) from error
