"""`dom2-fast evaluate --env module:function`: an environment of the user's own, by the command."""

import json
import sys

import pytest
from small_data import dataset
from test_cli import fails, run

from dom2_fast.algos.bc import BCConfig
from dom2_fast.runs.train import train

MODULE = '''
import numpy as np
from gymnasium.spaces import Box
from pettingzoo import ParallelEnv


class Steady(ParallelEnv):
    """Two agents; every one of four steps pays `bonus`."""

    metadata = {"name": "steady"}
    possible_agents = ["a", "b"]

    def __init__(self, bonus=1.0):
        self.bonus = bonus

    def observation_space(self, agent):
        return Box(-1, 1, (4,), np.float32)

    def action_space(self, agent):
        return Box(-1, 1, (2,), np.float32)

    def reset(self, seed=None, options=None):
        self.t, self.agents = 0, list(self.possible_agents)
        return self.each(np.zeros(4, np.float32)), self.each({})

    def step(self, actions):
        self.t += 1
        no, over = self.each(False), self.each(self.t == 4)
        out = self.each(np.zeros(4, np.float32)), self.each(self.bonus), no, over, self.each({})
        if self.t == 4:
            self.agents = []
        return out

    def each(self, value):
        return dict.fromkeys(self.possible_agents, value)


def make_env(bonus=1.0):
    return Steady(bonus)


nothing = 3
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the user's module and a run on data without a task."""
    (tmp_path / "own_steady.py").write_text(MODULE)
    data = dataset(obs_dims=(4, 4)).write(tmp_path / "data")
    config = BCConfig(weights="uniform", batch_size=4, hidden=8, depth=1, steps=2)
    train(config, data, tmp_path / "run", 1, progress=False, tensorboard=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    sys.modules.pop("own_steady", None)


def test_an_environment_of_the_user(capsys, folder):
    command = ["evaluate", "run", "--env", "own_steady:make_env", "--episodes", "3"]
    code, out, err = run(capsys, *command, "--num-envs", "2")
    assert code == 0, err
    assert "bc on own_steady:make_env" in out and "4.0" in out
    scores = json.loads((folder / "run" / "scores.json").read_text())
    result = scores["results"]["standard"]
    assert (scores["env"], result["mean"], result["num_envs"]) == ("own_steady:make_env", 4.0, 2)
    assert "normalised" not in result and not (folder / "run" / "rollout.npz").exists()
    code, out, err = run(capsys, *command, "--env-option", "bonus=2.5")
    assert code == 0 and "10.0" in out, err
    code, _, err = run(capsys, "report", "run", "--out", "page.html")
    assert code == 0, err
    assert "own_steady:make_env" in (folder / "page.html").read_text()


def test_evaluated_on_the_way(capsys, folder):
    tiny = "--hidden 8 --batch-size 4 --denoising-steps 2 --reweight uniform --quiet"
    command = (
        f"train --algo bc --data data --out r --steps 2 --eval-every 1 --eval-episodes 2 {tiny}"
    )
    assert "doesn't say its task" in fails(capsys, *command.split())
    code, _, err = run(capsys, *command.split(), "--env", "own_steady:make_env")
    assert code == 0, err
    rows = [json.loads(line) for line in (folder / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [row["eval/return"] for row in rows if "eval/return" in row] == [4.0, 4.0]
    sys.modules.pop("own_steady")  # as in a new process; the run alone says its environment
    sys.path.remove(str(folder))
    assert run(capsys, "evaluate", "r", "--episodes", "2")[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "doesn't say its environment"),
        ("--env nowhere:make_env", "nowhere"),
        ("--env own_steady:make", "make"),
        ("--env own_steady:nothing", "nothing"),
        ("--env own_steady:make_env --env-option bnus=2", "bnus"),
        ("--env own_steady:make_env --env-option bonus", "it must be KEY=VALUE"),
        ("--env own_steady:make_env --env-option bonus=1 --env-option bonus=2", "given twice"),
        ("--env own_steady:make_env --env-option prey=a --prey b", "given twice"),
        ("--env own_steady:make_env --shift speed", "no shift 'speed'"),
        ("--env own_steady:make_env --num-envs 0", "num_envs"),
        ("--env simple_spread", "observations of widths [4, 4], simple_spread gives"),
        ("--env simple_spred", "unknown environment 'simple_spred'"),
    ],
)
def test_mistakes_are_one_line(capsys, folder, options, message):
    assert message in fails(capsys, "evaluate", "run", *options.split())
    assert not (folder / "run" / "scores.json").exists()
