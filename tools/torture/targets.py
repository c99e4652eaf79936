"""What is damaged, and how each is used: one `Kind` for a kind of file."""

from __future__ import annotations

import copy
import importlib.util
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torture import mutate

# flashbax writes Vaults; here only what makes one that can be read.
_MAKE_VAULT = """
import sys, numpy as np
from flashbax.buffers.trajectory_buffer import TrajectoryBufferState
from flashbax.vault import Vault
rng, shape = np.random.default_rng(0), (1, 12, 3)
end = np.zeros(shape, bool)
end[:, [3, 7, 11]] = True
given = {
    "observations": rng.normal(size=(*shape, 5)).astype("f4"),
    "actions": rng.uniform(-1, 1, (*shape, 2)).astype("f4"),
    "rewards": rng.normal(size=shape).astype("f4"),
    "terminals": end,
    "truncations": np.zeros(shape, bool),
}
state = TrajectoryBufferState(experience=given, current_index=12, is_full=False)
Vault("tag.vlt", given, rel_dir=sys.argv[1], vault_uid="Expert").write(state, (0, 12))
"""


@dataclass
class Kind:
    """use(folder, rng) writes a damaged one below `folder` and uses it: "refused" or "used"."""

    name: str
    share: int
    use: Callable[[Path, random.Random], str]


def command(*argv) -> str:
    """Runs the command line here. Anything but its own exit codes is raised as it comes."""
    from dom2_fast.cli import main

    try:
        code = main.main([str(word) for word in argv])
    except SystemExit as error:  # argparse's own, of --help and the like
        code = error.code
    if code not in (0, 1, 2):
        raise RuntimeError(f"exit code {code}")
    return "refused" if code == 2 else "used"


def tame() -> None:
    """What a file may rightly ask for, but no test waits for: long training, workers, plays."""
    import os

    from dom2_fast.runs import train
    from dom2_fast.studies import pool

    loop = train._loop

    def short(agents, run, *rest):
        run.steps, run.eval_every = min(run.steps, agents.step + 1), 0
        loop(agents, run, *rest)

    train._loop = short
    pool.run_cells = lambda home, cells, jobs, ended: True
    os.environ.pop("DOM2_FAST_TRACEBACK", None)


def all_kinds(work: Path) -> list[Kind]:
    kinds = [
        Kind("checkpoints, bytes", 4, lambda f, rng: _checkpoint_bytes(work, f, rng)),
        Kind("checkpoints, values", 4, lambda f, rng: _checkpoint_values(work, f, rng)),
        Kind("exported policies, bytes", 4, lambda f, rng: _policy(work, f, rng, False)),
        Kind("exported policies, header", 4, lambda f, rng: _policy(work, f, rng, True)),
        Kind("data: OMAR's layout", 3, lambda f, rng: _omar(work, f, rng)),
        Kind("data: arrays (.npz)", 3, lambda f, rng: _npz(work, f, rng)),
        Kind("config.yaml", 4, lambda f, rng: _config(work, f, rng)),
        Kind("studies", 4, lambda f, rng: _study(work, f, rng)),
        Kind("a run's logs and scores", 1, lambda f, rng: _logs(work, f, rng)),
    ]
    for name, modules in (("minari", ("minari", "h5py")), ("vault", ("tensorstore", "flashbax"))):
        # Found, not imported: what they bring may start threads, which no fork has.
        if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
            print(f"{name} data sets are left out: {missing[0]} is not installed")
            continue
        if name == "vault":
            subprocess.run([sys.executable, "-c", _MAKE_VAULT, work / "vaults"], check=True)
        else:
            _write(work, name)
        kinds.append(
            Kind(f"data: {name}", 1, lambda f, rng, name=name: _foreign(work, name, f, rng))
        )
    return kinds


def _use_run(run: Path, rng: random.Random) -> str:
    what = rng.randrange(3)
    if what == 0:
        return command("evaluate", run, "--episodes", "2", "--threads", "1")
    if what == 1:
        return command("export", run, "--out", run.parent / "out.safetensors")
    return command("train", "--resume", "--out", run, "--quiet", "--threads", "1")


def _checkpoint_bytes(work: Path, folder: Path, rng: random.Random) -> str:
    shutil.copytree(work / "run", folder / "run", ignore=shutil.ignore_patterns("tb"))
    file = folder / "run" / rng.choice(("checkpoint.pt", "checkpoint.pt", "best.pt"))
    file.write_bytes(mutate.data(file.read_bytes(), rng))
    return _use_run(folder / "run", rng)


def _checkpoint_values(work: Path, folder: Path, rng: random.Random) -> str:
    import torch

    shutil.copytree(work / "run", folder / "run", ignore=shutil.ignore_patterns("tb"))
    file = folder / "run" / "checkpoint.pt"
    torch.save(mutate.value(torch.load(file, weights_only=True), rng), file)
    return _use_run(folder / "run", rng)


def _policy(work: Path, folder: Path, rng: random.Random, header: bool) -> str:
    import torch

    import dom2_fast
    from dom2_fast.errors import Dom2Error

    folder.mkdir()
    whole = (work / "policy.safetensors").read_bytes()
    if header:
        length = int.from_bytes(whole[:8], "little")
        told = json.loads(whole[8 : 8 + length])
        if rng.random() < 0.5:
            text = json.dumps(mutate.value(told, rng)).encode()
        else:
            text = mutate.text(json.dumps(told), rng)
        damaged = len(text).to_bytes(8, "little") + text + whole[8 + length :]
    else:
        damaged = mutate.data(whole, rng)
    file = folder / "policy.safetensors"
    file.write_bytes(damaged)
    try:
        policy = dom2_fast.load_policy(file)
    except Dom2Error:
        return "refused"
    rows = (policy.groups, 2) if policy.groups else (2,)
    policy.act(torch.zeros(*rows, policy.obs_dim))
    return "used"


def _inspect(path: Path, rng: random.Random) -> str:
    if rng.random() < 0.3:
        return command("data", "card", path)
    return command("data", "inspect", path)


def _omar(work: Path, folder: Path, rng: random.Random) -> str:
    shutil.copytree(work / "data", folder)
    file = rng.choice(sorted(folder.iterdir()))
    if file.suffix == ".json":
        file.write_bytes(mutate.text(file.read_text(), rng))
    else:
        file.write_bytes(mutate.data(file.read_bytes(), rng))
    return _inspect(folder, rng)


def _npz(work: Path, folder: Path, rng: random.Random) -> str:
    import io

    import numpy as np

    folder.mkdir()
    if not (work / "data.npz").exists():
        _write(work, "arrays")
    whole = (work / "data.npz").read_bytes()
    if rng.random() < 0.5:
        damaged = mutate.data(whole, rng)
    else:  # a whole archive, of arrays that aren't as they should be
        with np.load(io.BytesIO(whole)) as file:
            held = {name: file[name] for name in file.files}
        name = rng.choice(sorted(held))
        odd = [np.zeros(0), np.zeros(3, "U2"), np.zeros((2, 2, 2)), np.array(3), np.array("[1")]
        if held[name].dtype.kind == "f":
            odd += [held[name].astype("c16"), held[name][..., None], held[name] * np.nan]
        held[name] = rng.choice(odd)
        out = io.BytesIO()
        np.savez(out, **held)
        damaged = out.getvalue()
    (folder / "data.npz").write_bytes(damaged)
    return _inspect(folder / "data.npz", rng)


def _write(work: Path, name: str) -> None:
    """The data set in another format."""
    import os

    from dom2_fast.data.formats import get
    from dom2_fast.data.trajectories import TrajectoryDataset

    data = TrajectoryDataset.load(work / "data")
    os.environ["MINARI_DATASETS_PATH"] = str(work / "minari")
    target = {"arrays": work / "data.npz", "minari": "torture/data-v0"}
    get(name).write(data, target[name])


def _foreign(work: Path, name: str, folder: Path, rng: random.Random) -> str:
    whole = (
        work / "vaults" / "tag.vlt" / "Expert"
        if name == "vault"
        else work / "minari" / "torture" / "data-v0"
    )
    shutil.copytree(whole, folder)
    file = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    file.write_bytes(mutate.data(file.read_bytes(), rng))
    return _inspect(folder, rng)


def _config(work: Path, folder: Path, rng: random.Random) -> str:
    import yaml

    folder.mkdir()
    whole = (work / "run" / "config.yaml").read_text()
    if rng.random() < 0.5:
        damaged = mutate.text(whole, rng)
    else:
        damaged = yaml.safe_dump(mutate.value(yaml.safe_load(whole), rng)).encode()
    (folder / "c.yaml").write_bytes(damaged)
    return command(
        *("train", "--config", folder / "c.yaml", "--out", folder / "run", "--quiet"),
        *("--threads", "1"),
    )


def _study(work: Path, folder: Path, rng: random.Random) -> str:
    import yaml

    folder.mkdir()
    whole = (work / "study.yaml").read_text()
    if rng.random() < 0.5:
        damaged = mutate.text(whole, rng)
    else:
        damaged = yaml.safe_dump(mutate.value(yaml.safe_load(whole), rng)).encode()
    (folder / "s.yaml").write_bytes(damaged)
    return command("study", "run", folder / "s.yaml", "--out", folder / "out", "--quiet")


def _logs(work: Path, folder: Path, rng: random.Random) -> str:
    shutil.copytree(work / "run", folder / "run", ignore=shutil.ignore_patterns("tb", "*.pt"))
    names = ("metrics.jsonl", "scores.json", "rollout.npz", "config.yaml")
    file = folder / "run" / rng.choice(names)
    if file.suffix == ".json" and rng.random() < 0.6:
        told = json.loads(file.read_text())
        file.write_text(json.dumps(mutate.value(copy.deepcopy(told), rng)))
    elif file.suffix == ".npz":
        file.write_bytes(mutate.data(file.read_bytes(), rng))
    else:
        file.write_bytes(mutate.text(file.read_text(), rng))
    return command("report", folder / "run", "--out", folder / "report.html")
