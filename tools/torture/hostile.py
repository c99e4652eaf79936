"""Files made to run code of their own: pickles for arrays and tensors, YAML's Python tags."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from pathlib import Path

from torture.base import Result, call


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def run(work: Path) -> Result:
    """Each is given to the command that reads such files: refused, and nothing of it ran."""
    problems = []
    trap, log = work / "trap", work / "log"
    cases = list(_cases(work, trap))
    for name, argv in cases:
        ended = call(argv, log)
        if ended.code != 2 or ended.trouble():
            problems.append(f"{name}: exit code {ended.code}: {ended.text[-200:]}")
        if trap.exists():
            problems.append(f"{name}: ITS CODE RAN")
            trap.rmdir()
    return Result("files that carry code", len(cases), problems, "all refused" * (not problems))


def _cases(work: Path, trap: Path):
    import numpy as np
    import torch

    folder = work / "hostile"
    for name in ("pickle", "torch", "legacy"):
        run = folder / name
        shutil.copytree(work / "run", run)
        file = run / "checkpoint.pt"
        content = {"format": 1, "algo": "dom2", "env": None, "x": Bomb(trap)}
        if name == "pickle":
            file.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, file, _use_new_zipfile_serialization=name == "torch")
        yield f"checkpoint ({name})", ["evaluate", run, "--episodes", "2"]
        yield f"checkpoint ({name}), resumed", ["train", "--resume", "--out", run, "--quiet"]
        yield f"checkpoint ({name}), exported", ["export", run, "--out", folder / "p"]
    bomb = np.array([Bomb(trap)], dtype=object)
    data = folder / "data"
    shutil.copytree(work / "data", data)
    np.save(data / "obs_0.npy", bomb, allow_pickle=True)
    yield "array of objects", ["data", "inspect", data]
    (data / "obs_0.npy").write_bytes(pickle.dumps(Bomb(trap)))
    yield "pickle called .npy", ["data", "inspect", data]
    with zipfile.ZipFile(folder / "d.npz", "w") as file:
        file.write(data / "acs_0.npy", "obs_0.npy")
        file.writestr("obs_1.npy", pickle.dumps(Bomb(trap)))
    yield "archive with a pickle", ["data", "inspect", folder / "d.npz"]
    rollout = folder / "torch" / "rollout.npz"
    np.savez(rollout, states=bomb)
    yield "recorded episode", ["report", folder / "torch", "--out", folder / "r.html"]
    for number, tag in enumerate(("object/apply:os.mkdir", "object/new:os.mkdir")):
        text = f"name: x\nsteps: !!python/{tag} ['{trap}']\n"
        file = folder / f"{number}.yaml"
        file.write_text(text)
        yield f"settings with {tag}", ["train", "--config", file, "--out", folder / "out"]
        yield f"study with {tag}", ["study", "run", file, "--out", folder / "out"]
    torch.save([Bomb(trap)] * 8, folder / "prey.pt")
    yield (
        "prey",
        [
            *["collect", "--env", "simple_tag", "--quality", "random", "--episodes", "1", "--prey"],
            *(folder / "prey.pt", "--out", folder / "out"),
        ],
    )
