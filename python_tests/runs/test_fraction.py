"""Learning from a part of the data: nested, of whole trajectories, kept on resume."""

import pytest
import torch
from small_data import dataset
from test_train import CONFIGS, QUIET, assert_same_state, metrics, snapshot

from dom2_fast import checkpoint
from dom2_fast import config as configs
from dom2_fast.algos.bc import BCConfig
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
from dom2_fast.runs import run_config
from dom2_fast.runs.diagnosis import diagnose_run
from dom2_fast.runs.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    made = dataset(
        trajectories=40,
        obs_dims=(18,) * 3,
        meta={"task": "simple_spread", "quality": "medium"},
    )
    return made.write(tmp_path_factory.mktemp("data") / "d")


def test_fractions_are_nested_and_whole(data):
    whole = TrajectoryDataset.load(data)
    rows = {tuple(o.tolist()): i for i, o in enumerate(whole.obs[0])}
    before = set()
    for fraction, count in ((0.001, 1), (0.05, 2), (0.1, 4), (0.5, 20), (1.0, 40)):
        part = whole.subset(fraction, seed=3)
        places = [rows[tuple(o.tolist())] for o in part.obs[0]]
        trajectories = {place // 5 for place in places}
        assert part.num_trajectories == len(trajectories) == count
        assert len(places) == 5 * count and before <= trajectories
        before = trajectories
    assert not torch.equal(whole.subset(0.5, seed=3).returns, whole.subset(0.5, seed=4).returns)


def test_a_run_on_a_fraction_is_one_on_that_subset(data, tmp_path):
    """Whatever is taken over the data (quantiles, standardisation) is the subset's."""
    config = BCConfig(**{**vars(CONFIGS["bc"]), "weights": "quantiles:0.5"})
    run = {**QUIET, "steps": 4, "fraction": 0.3, "fraction_seed": 7}
    part = TrajectoryDataset.load(data).subset(0.3, seed=7).write(tmp_path / "part")
    train(config, data, tmp_path / "run", **run)
    train(config, part, tmp_path / "same", 4, **QUIET)
    runs = [checkpoint.load(tmp_path / name) for name in ("run", "same")]
    assert runs[0].pop("run")["fingerprint"] == runs[1].pop("run")["fingerprint"]
    assert_same_state(*runs)
    told = configs.load(tmp_path / "run" / "config.yaml")
    assert (told["fraction"], told["fraction_seed"], told["trajectories"]) == (0.3, 7, 12)
    assert run_config.of_folder(tmp_path / "run")[0]["fraction"] == 0.3


def test_resumed_on_its_own_fraction(data, tmp_path):
    run = {**QUIET, "fraction": 0.2, "log_every": 2}
    train(CONFIGS["dom2"], data, tmp_path / "whole", 8, **run)
    train(CONFIGS["dom2"], data, tmp_path / "parts", 3, **run)
    (tmp_path / "parts" / "config.yaml").unlink()  # the checkpoint alone says it
    train(None, None, tmp_path / "parts", resume=True, steps=8, **QUIET, log_every=2)
    assert_same_state(*(checkpoint.load(tmp_path / name) for name in ("whole", "parts")))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    assert configs.load(tmp_path / "parts" / "config.yaml")["fraction"] == 0.2
    assert len(diagnose_run(tmp_path / "parts", episodes=2)["q"]) == 3


def test_bad_input(data, tmp_path):
    train(CONFIGS["bc"], data, tmp_path / "part", 2, **QUIET, fraction=0.5)
    train(CONFIGS["bc"], data, tmp_path / "all", 2, **QUIET)
    before = snapshot(tmp_path)
    resumed = {**QUIET, "resume": True, "steps": 4}
    cases = [
        (r"fraction must be above 0 and at most 1, got 0\.0", "new", dict(fraction=0.0)),
        (r"fraction must be .* got 5", "new", dict(fraction=5)),
        (r"fraction must be .* got nan", "new", dict(fraction=float("nan"))),
        (r"fraction_seed must be", "new", dict(fraction=0.5, fraction_seed=-1)),
        (
            r"fraction 0\.5 \(seed 0\) of its data, the fraction 0\.25 \(seed 0\) of its data was",
            "part",
            dict(resumed, fraction=0.25),
        ),
        (r"fraction 0\.5 .*, all of its data was asked", "part", dict(resumed, fraction=1.0)),
        (r"seed 0.*seed 3", "part", dict(resumed, fraction_seed=3)),
        (r"from all of its data, the fraction 0\.5", "all", dict(resumed, fraction=0.5)),
    ]
    for message, out, options in cases:
        with pytest.raises(Dom2Error, match=message):
            train(None, data, tmp_path / out, **{**QUIET, **options})
        assert snapshot(tmp_path) == before
