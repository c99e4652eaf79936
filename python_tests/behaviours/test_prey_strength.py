"""A prey's numbers: the scripted chasers, the measurement, and how far it is from OMAR's."""

import pytest
import torch

from dom2_fast.behaviours import prey_strength
from dom2_fast.behaviours.prey_strength import OMAR, Strength
from dom2_fast.envs import make
from dom2_fast.envs.particle.prey import CHASERS
from dom2_fast.errors import Dom2Error

TASKS = ("simple_tag", "simple_world")


def test_chasers_run_at_the_prey():
    env = make("simple_tag", 4, seed=0)
    env.reset()
    state, generator = env.state(), torch.Generator().manual_seed(0)
    act = prey_strength.chase(env, "greedy", generator).transpose(0, 1)  # [E, 3, 2]
    gap = state[:, 3:, :2][:, :1] - state[:, :3, :2]
    assert act.abs().amax(-1).allclose(torch.ones(4, 3))
    cosine = torch.cosine_similarity(act, gap, dim=-1)
    assert cosine.allclose(torch.ones(4, 3))
    # At rest there is nothing to lead.
    assert torch.equal(prey_strength.chase(env, "lead", generator), act.transpose(0, 1))


def test_a_prey_can_be_a_function():
    def rest(obs):
        return obs.new_zeros(len(obs), 2)

    resting, again = (prey_strength.measure("simple_tag", rest, "greedy", 50) for _ in range(2))
    uniform = prey_strength.measure("simple_tag", "uniform", "greedy", 50)
    assert resting == again
    assert resting.score > uniform.score > 0 and 0 < resting.error < 60
    assert 0.5 < resting.inside <= 1


@pytest.mark.parametrize("task", TASKS)
def test_the_numbers_of_omars_prey_are_those_written_down(task, reference_dir):
    prey = str(reference_dir / f"prey_{task}.npz")
    for i, kind in enumerate(CHASERS):
        got = prey_strength.measure(task, prey, kind, episodes=1000, seed=3)
        assert abs(got.score - OMAR[task]["scores"][i]) < 4 * got.error
        assert abs(got.inside - OMAR[task]["inside"][i]) < 0.03


def test_how_far_a_prey_is_from_omars():
    wanted = OMAR["simple_tag"]
    same = {
        kind: Strength(wanted["scores"][i], 0.3, wanted["inside"][i])
        for i, kind in enumerate(CHASERS)
    }
    assert prey_strength.excess("simple_tag", same) == 0
    edge = same | {"greedy": same["greedy"]._replace(score=0.85 * wanted["scores"][1])}
    assert prey_strength.excess("simple_tag", edge) == pytest.approx(1)
    outside = same | {"lead": same["lead"]._replace(inside=wanted["inside"][2] - 0.1)}
    assert prey_strength.excess("simple_tag", outside) > 1
    # Near zero the noise of the episodes counts, too.
    near = same | {"uniform": same["uniform"]._replace(score=wanted["scores"][0] + 1.2)}
    assert prey_strength.excess("simple_tag", near) < 1


@pytest.mark.parametrize("task", TASKS)
def test_the_bundled_prey_has_omars_strength_and_says_so(task):
    measured = {
        kind: prey_strength.measure(task, "bundled", kind, episodes=2000, seed=5)
        for kind in CHASERS
    }
    assert prey_strength.excess(task, measured) <= 1
    about = make(task).about()
    assert about["prey"] == "bundled v2"
    for kind, s in measured.items():
        assert abs(about["prey_strength"][kind] - s.score) < 5 * s.error + 0.05
    assert task in prey_strength.table(task, "bundled", episodes=5)


def test_bad_input_is_explained():
    with pytest.raises(Dom2Error, match="simple_tag or simple_world"):
        prey_strength.measure("simple_spread", "bundled", "greedy", 2)
    with pytest.raises(Dom2Error, match="no prey file"):
        prey_strength.measure("simple_tag", "absent.npz", "greedy", 2)
    with pytest.raises(Dom2Error, match="unknown chaser"):
        prey_strength.measure("simple_tag", "bundled", "fast", 2)
    with pytest.raises(Dom2Error, match="unknown environment"):
        prey_strength.measure("tag", "bundled", "greedy", 2)
