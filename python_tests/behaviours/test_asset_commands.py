"""The commands that made the shipped networks, shrunk: data are collected with what they write."""

import re
import shlex
import sys
from functools import partial
from pathlib import Path

import pytest

from dom2_fast import envs
from dom2_fast.behaviours import prey_strength, prey_training, shipped, training
from dom2_fast.behaviours.collect import collect
from dom2_fast.behaviours.prey_training import Recipe, Stage

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "dom2_fast" / "assets" / "README.md").read_text()
COMMANDS = re.findall(r"python -m dom2_fast\.behaviours\.(\w+) ([^`\n]+)", README)
TRAINING = [rest for module, rest in COMMANDS if module == "training"]
PREYS = [rest for module, rest in COMMANDS if module == "prey_training"]
SMALL = (
    "--steps 27 --stop-after 27 --every 3 --warmup 5 --num-envs 4 --batch-size 8 --hidden 8 "
    "--critic-hidden 8 --capacity 200 --episodes 3 --again 4"
)


def run(module, monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *shlex.split(arguments)])
    module.main()


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Any snapshot is near enough to be medium; files come into an empty folder."""
    monkeypatch.setattr(training, "SLACK", float("inf"))
    monkeypatch.chdir(tmp_path)


def task_of(arguments):
    return re.search(r"--task (\w+)", arguments)[1]


@pytest.mark.parametrize("arguments", TRAINING)
def test_behaviours_that_are_trained_collect_data(small, monkeypatch, tmp_path, arguments):
    task = task_of(arguments)
    if task == "halfcheetah_2x3":
        pytest.importorskip("mujoco", reason="needs the extra mujoco")
        monkeypatch.setattr("dom2_fast.envs.mujoco.physics.MujocoEnv.episode_length", 10)
    run(training, monkeypatch, f"{arguments} {SMALL}")
    path = tmp_path / re.search(r"--out (\S+)", arguments)[1]
    assert path.with_suffix(".json").is_file()
    monkeypatch.setattr(shipped, "asset", lambda task: path)
    for kind in ("medium-replay", "medium", "expert"):
        data = collect(task, kind, 6, seed=1)
        assert data.num_trajectories == 6 and data.meta["task"] == task
    with pytest.raises(SystemExit) as refused:  # a second time
        run(training, monkeypatch, f"{arguments} {SMALL}")
    assert refused.value.code == 2


def test_the_first_and_the_second_run_of_spread_become_one_file(small, monkeypatch, tmp_path):
    policies, noise = shipped.load("simple_spread")
    for name, other in (("first", "medium"), ("second", "expert")):
        shipped.write(tmp_path / f"{name}.npz", policies | {"expert": policies[other]}, noise)
    code = re.search(r'python -c "(from pathlib.+?)"\n', README, re.DOTALL)[1]
    exec(code.replace("\\\n", ""), {})
    made, _ = shipped.read(tmp_path / "behaviour_simple_spread.npz")
    assert made.keys() == policies.keys()
    for name in ("medium", "expert", "replay_0"):
        assert made[name].layers[0][0].equal(policies[name].layers[0][0])


@pytest.mark.parametrize("arguments", PREYS)
def test_a_prey_that_is_trained_is_played_against(monkeypatch, tmp_path, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    task = task_of(arguments)
    stage = Stage(1, 4.0)
    recipe = Recipe(stage, prey_training.RECIPES[task].two and (stage, stage))
    monkeypatch.setitem(prey_training.RECIPES, task, recipe)
    monkeypatch.setattr(prey_training, "BLENDS", (0.5,))
    few = partial(prey_training.limit, forces=(0.3,), episodes=4)
    monkeypatch.setattr(prey_training, "limit", few)
    monkeypatch.setattr(prey_strength, "table", partial(prey_strength.table, episodes=4))

    with pytest.raises(SystemExit, match="nearest to OMAR's strength, but"):
        run(prey_training, monkeypatch, arguments)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(prey_training.prey_strength, "excess", lambda task, measured: 0.5)
    run(prey_training, monkeypatch, arguments)
    assert f"{task}, lead chasers against" in capsys.readouterr().out
    (path,) = tmp_path.iterdir()
    data = collect(task, "medium", 5, prey=path)
    assert data.meta["prey"] == f"{path} v{prey_training.VERSION}"
    with pytest.raises(ValueError, match="is the prey of another task"):
        envs.make({"simple_tag": "simple_world"}.get(task, "simple_tag"), 2, prey=path)


def test_the_commands_are_all_there():
    tasks = ["halfcheetah_2x3", *["simple_spread"] * 2, "simple_tag", "simple_world"]
    assert sorted(map(task_of, TRAINING)) == [*tasks, "spread_6_landmarks"]
    assert sorted(map(task_of, PREYS)) == ["simple_tag", "simple_world"]


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        (training, "--task tag --out new.npz", "unknown environment 'tag'"),
        (training, "--task simple_tag --out new.json", r"must end in \.npz"),
        (training, "--task simple_tag --out old.npz", r"old\.npz exists"),
        (training, "--task simple_tag --out noted.npz", r"noted\.json exists"),
        (training, f"--task simple_spread --out new.npz {SMALL} --critic-lr 1e30", "diverged"),
        (training, "--task simple_tag --out new.npz --batch-size 0", "batch_size must be"),
        (prey_training, "--task simple_spread --out new.npz", "invalid choice: 'simple_spread'"),
        (prey_training, "--task simple_tag --out old.npz", r"old\.npz exists"),
    ],
)
def test_wrong_input_is_refused_and_nothing_is_written(
    monkeypatch, tmp_path, capsys, module, arguments, said
):
    monkeypatch.chdir(tmp_path)
    for name in ("old.npz", "noted.json"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(SystemExit) as refused:
        run(module, monkeypatch, arguments)
    text = f"{refused.value.code}{capsys.readouterr().err}"
    assert re.search(said, text), text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noted.json", "old.npz"]
    assert (tmp_path / "old.npz").read_text() == "mine"


def test_a_prey_whose_training_diverges_is_told():
    with pytest.raises(ValueError, match=r"gain is (nan|-inf) in step 1"):
        prey_training.train("simple_tag", Stage(2, float("inf")), num_envs=4)
