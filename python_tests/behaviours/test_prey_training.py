"""Training a prey: evading is learnt, preys are blended, force is limited; the file it makes."""

import sys

import numpy as np
import pytest
import tolerances
import torch

from dom2_fast.behaviours import prey_training
from dom2_fast.behaviours.prey_strength import OMAR, measure
from dom2_fast.behaviours.prey_training import Prey, Recipe, Stage
from dom2_fast.envs import make
from dom2_fast.envs.particle.prey import CHASERS
from dom2_fast.errors import Dom2Error

CALM = Stage(3, 4.0, CHASERS, 0.3, leaving_calm=8.0, far=2.5, effort=1.0)


def test_a_few_iterations_give_a_file_that_plays(tmp_path):
    first = prey_training.train("simple_world", Stage(2, 1.0, best=True), num_envs=4, log_every=1)
    prey = prey_training.train("simple_world", CALM, first, num_envs=4)
    again = prey_training.train("simple_world", CALM, first, num_envs=4)
    for a, b, c in zip(*(p.parameters() for p in (prey, again, first)), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    flee = prey_training.limited(prey, 0.4)
    measured = {kind: measure("simple_world", flee, kind, 20, 1) for kind in CHASERS}
    path = tmp_path / "prey.npz"
    np.savez(path, **prey_training.arrays(prey, 0.4, measured))
    env = make("simple_world", 3, prey=path)
    assert env.about()["prey"] == f"{path} v{prey_training.VERSION}"
    assert list(env.about()["prey_strength"]) == list(CHASERS)
    obs = torch.randn(7, 22)
    torch.testing.assert_close(env.prey(obs), flee(obs), rtol=0, atol=tolerances.NETWORK32)
    assert env.prey(obs).abs().max() <= 0.4


def test_evading_is_learnt():
    """Minutes of training give a prey that is hardly caught; here it has a few seconds."""
    prey = prey_training.train("simple_tag", Stage(1, 4.0), num_envs=16)
    before = measure("simple_tag", prey, "greedy", 300).score
    prey = prey_training.train("simple_tag", Stage(30, 4.0, ("greedy",)), num_envs=32)
    assert measure("simple_tag", prey, "greedy", 300).score < 0.9 * before


def test_a_blend_has_the_mean_weights():
    torch.manual_seed(0)
    one, two = Prey(14), Prey(14)
    blend = prey_training.blended(one, two, 0.25)
    for a, b, c in zip(*(p.parameters() for p in (one, two, blend)), strict=True):
        torch.testing.assert_close(c, 0.75 * a + 0.25 * b, rtol=0, atol=tolerances.NETWORK32)


def test_the_recipe_is_followed(monkeypatch):
    stages = [Stage(1, 4.0, far=far) for far in (1.0, 2.0)]
    monkeypatch.setitem(prey_training.RECIPES, "simple_tag", Recipe(Stage(1, 4.0), tuple(stages)))
    seen = []

    def train(task, stage, start, seed):
        seen.append((stage, start))
        return Prey(14)

    monkeypatch.setattr(prey_training, "train", train)
    first = Prey(14)
    preys = prey_training.candidates("simple_tag", first)
    assert seen == [(stage, first) for stage in stages]
    assert list(preys) == [f"simple_tag, blend {share}" for share in prey_training.BLENDS]
    assert prey_training.candidates("simple_world", first) == {"simple_world": first}


def test_the_limit_is_where_the_numbers_are_nearest():
    """With twice the force of a prey whose numbers are known, half of it is found."""
    bundled = make("simple_tag", 1).prey

    def twice(obs):
        return 2 * bundled(obs)

    preys = {"resting": Prey(14), "twice": twice}
    prey, force, measured = prey_training.limit("simple_tag", preys, (0.25, 0.5), episodes=1000)
    assert prey is twice and force == 0.5
    assert abs(measured["greedy"].score - OMAR["simple_tag"]["scores"][1]) < 25
    with pytest.raises(prey_training.WrongStrength, match="train it otherwise"):
        prey_training.limit("simple_tag", {"resting": Prey(14)}, (0.1,), episodes=50)


def test_a_task_without_prey_is_refused():
    with pytest.raises(Dom2Error, match="simple_tag or simple_world"):
        prey_training.train("simple_spread", CALM)
    with pytest.raises(Dom2Error, match="unknown environment"):
        prey_training.train("tag", CALM)


def test_the_command_refuses_to_overwrite(tmp_path, monkeypatch, capsys):
    out = tmp_path / "prey.npz"
    out.write_text("mine")
    monkeypatch.setattr(sys, "argv", ["prey", "--task", "simple_tag", "--out", str(out)])
    with pytest.raises(SystemExit):
        prey_training.main()
    assert "exists" in capsys.readouterr().err and out.read_text() == "mine"
