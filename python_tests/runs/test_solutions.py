"""Several solutions from one start: counted by hand with policies made for it."""

import json
import math

import pytest
import torch
from small_data import dataset

from dom2_fast import envs
from dom2_fast.algos.bc import BCConfig
from dom2_fast.behaviours import scripted
from dom2_fast.cli.main import main
from dom2_fast.errors import Dom2Error
from dom2_fast.runs import evaluation
from dom2_fast.runs.scoring import evaluate_run
from dom2_fast.runs.solutions import solutions
from dom2_fast.runs.train import train

TASK = "spread_6_landmarks"


def towards(obs, targets):
    """Each agent flies to its landmark and brakes: targets [G, E]."""
    seen = obs[..., 4:16].unflatten(-1, (6, 2))  # [G, E, 6, 2]
    gap = seen.gather(2, targets[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
    return (2.0 * gap - obs[..., :2]).clamp(-1, 1)


def fixed(obs, generator=None):
    return towards(obs, torch.tensor([[0], [2], [4]]).expand(3, obs.shape[1]))


class Coin:
    """All agents take landmarks 0, 2, 4 or all take 1, 3, 5; an episode's coin is drawn at once."""

    def __init__(self):
        self.of = None

    def act(self, obs, generator=None):
        if self.of is not generator:
            self.of, self.coin = generator, torch.randint(2, (obs.shape[1],), generator=generator)
        return towards(obs, torch.tensor([[0], [2], [4]]) + self.coin)


def test_deterministic_policies_have_one_way():
    found = solutions(fixed, TASK, repeats=4, starts=20)
    assert (found["ways"], found["entropy"]) == (1.0, 0.0)
    assert (found["solved"], found["solved_ways"]) == (1.0, 1.0)
    assert (found["repeats"], found["starts"]) == (4, 20)
    still = solutions(lambda obs, generator: torch.zeros(3, 20, 2), TASK, 4, 20)
    assert (still["ways"], still["entropy"]) == (1.0, 0.0)
    assert (still["solved"], still["solved_ways"]) == (0.0, 0.0)


def test_a_coin_gives_two_ways_and_a_removed_landmark_leaves_one_of_them():
    found = solutions(Coin(), TASK, repeats=32, starts=50)
    assert found["ways"] == found["solved_ways"] == 2.0 and found["solved"] == 1.0
    # The entropy as found from 32 throws is about 1/64 below log 2 on average, never above it.
    assert math.log(2) - 0.05 < found["entropy"] < math.log(2)
    shifted = solutions(Coin(), TASK, 32, 50, shift="landmarks", removed_landmarks=[0])
    assert shifted["ways"] == 2.0 and shifted["solved_ways"] == 1.0
    assert shifted["entropy"] == found["entropy"]  # the same throws
    assert 0.4 < shifted["solved"] < 0.6


def test_random_policies_end_anywhere_and_solve_nothing():
    found = solutions(envs.random_policies(3), TASK, repeats=8, starts=30)
    assert found["ways"] > 4 and found["entropy"] > 1
    assert found["solved"] < 0.02 and found["solved_ways"] < 0.1


@pytest.mark.parametrize(
    ("shift", "options"), [(None, {}), ("speed", {"v_min": 0.3}), ("stopped", {})]
)
def test_repeats_have_the_starts_and_draws_of_evaluate(shift, options):
    """A policy that draws nothing ends as in `evaluate`, every time, whatever the shift draws."""
    seen = []

    def spy(obs, generator=None):
        seen.append(obs.clone())
        return fixed(obs)

    found = solutions(spy, TASK, 3, 10, shift=shift, **options)
    rounds = [torch.stack(seen[i : i + 25]) for i in (0, 25, 50)]
    assert found["ways"] == 1.0 and len(seen) == 75
    assert all(torch.equal(rounds[0], other) for other in rounds[1:])
    seen.clear()
    evaluation.evaluate(spy, TASK, 10, shift=shift, **options)
    assert torch.equal(torch.stack(seen), rounds[0])


def test_chunks_are_those_of_evaluate():
    halves = [solutions(fixed, TASK, 2, 5, seed=7 + k, shift="stopped") for k in (0, 1)]
    both = solutions(fixed, TASK, 2, 10, seed=7, num_envs=5, shift="stopped")
    assert both["solved"] == pytest.approx((halves[0]["solved"] + halves[1]["solved"]) / 2)
    assert both["starts"] == 10


def test_xor_pairs_of_signs():
    pair = solutions(scripted.xor_pair, "xor", repeats=32, starts=50)
    assert pair["ways"] == pair["solved_ways"] == 2.0 and pair["solved"] == 1.0
    apart = solutions(envs.random_policies(2, 1), "xor", repeats=64, starts=50)
    assert apart["ways"] == 4.0 and apart["solved_ways"] == 2.0
    assert 0.45 < apart["solved"] < 0.55


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(env=TASK, repeats=1), "solutions must be a whole number of at least 2"),
        (dict(env=TASK, repeats=2.5), "solutions must be a whole number"),
        (dict(env="simple_spread", repeats=4), "simple_spread has no several solutions"),
        (dict(env="small_envs:Counting", repeats=4), r"Counting doesn't say what a solution is"),
        (dict(env=TASK, repeats=4, starts=0), "episodes must be"),
        (dict(env=TASK, repeats=4, removed_landmarks=[1]), "belongs to shift='landmarks'"),
    ],
)
def test_mistakes_are_explained_before_anything_is_played(arguments, message):
    def never(obs, generator=None):
        raise AssertionError("played")

    with pytest.raises(Dom2Error, match=message):
        solutions(never, **arguments)


def test_the_command_writes_and_prints_them(capsys, tmp_path):
    data = dataset(trajectories=8, obs_dims=(24,) * 3, meta={"task": TASK})
    data.write(tmp_path / "d")
    config = BCConfig(weights="uniform", batch_size=4, hidden=8, depth=1, steps=2)
    run = train(config, tmp_path / "d", tmp_path / "run", 1, progress=False, tensorboard=False).out
    command = ["evaluate", str(run), "--episodes", "4"]
    assert main([*command, "--solutions", "1"]) != 0
    assert "solutions must be a whole number of at least 2" in capsys.readouterr().err
    assert not (run / "scores.json").exists()
    shifted = ["--shift", "landmarks", "--env-option", "removed_landmarks=[1, 3]"]
    assert main([*command, *shifted, "--solutions", "3"]) == 0
    assert "solved ways" in capsys.readouterr().out
    result = json.loads((run / "scores.json").read_text())["results"]["shift_landmarks"]
    assert result["removed_landmarks"] == [1, 3]
    assert set(result["solutions"]) == {
        *("repeats", "starts", "ways", "entropy", "solved", "solved_ways")
    }
    plain = evaluate_run(run, episodes=4, shift="landmarks", removed_landmarks=[1, 3])
    assert plain["results"]["shift_landmarks"]["returns"] == result["returns"]
    assert "solutions" not in plain["results"]["shift_landmarks"]
    (run / "scores.json").write_text(json.dumps(plain))
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
