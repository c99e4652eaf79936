"""The registry: names, options, shifts, constants, import paths, and what is refused."""

import pytest
import torch
from small_data import arrays
from small_envs import Counting, Line, own_registry

from dom2_fast import envs
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error

GUST = {"windy": {"gust": (0.5, "added to every reward")}}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    own_registry(monkeypatch)
    envs.register("count", Counting, normalisation=(0.0, 12.0, "by hand"), shifts=GUST)


def test_a_registered_environment_is_made_with_its_shifts_options():
    assert "count" in envs.names() and envs.spec("count").normalisation[2] == "by hand"
    assert envs.make("count", 3).gust == 0.0
    assert envs.make("count", 3, shift="windy").gust == 0.5
    assert envs.make("count", 3, shift="windy", gust=None).gust == 0.5
    assert envs.make("count", 3, seed=4, shift="windy", gust=0.2).seeds == [4]
    assert envs.make("count", widths=(1, 2)).obs_dims == [1, 2]
    sums = torch.tensor([[1.0], [2.0]])
    assert envs.episode_score(sums, "count").tolist() == [3.0]


def test_an_unknown_environment_has_no_normalised_score():
    assert envs.normalised_score(6.0, "count") == pytest.approx(50)
    assert envs.normalised_score(6.0, "HalfCheetah-v2") is None


def test_a_length_that_all_episodes_have_cuts_data_of_that_name():
    given = arrays(trajectories=3, length=4)
    with pytest.raises(Dom2Error, match="episode_length"):
        TrajectoryDataset.from_arrays(**given, meta={"task": "four"})
    envs.register("four", Counting, episode_length=4)
    data = TrajectoryDataset.from_arrays(**given, meta={"task": "four"})
    assert data.lengths.tolist() == [4, 4, 4]


def test_the_particle_tasks_are_registered_with_their_shifts():
    assert set(envs.TASKS) <= set(envs.names())
    for task in envs.TASKS:
        spec = envs.spec(task)
        assert spec.shifts["speed"]["v_min"][0] == envs.tasks.get(task).v_min
        assert ("landmarks" in spec.shifts) == (task == "spread_6_landmarks")
    default = envs.spec("spread_6_landmarks").shift_options("landmarks", {})
    assert default == {"removed_landmarks": (0, 2, 4)}


def test_paths_and_factories_are_resolved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_envs_here.py").write_text(
        "from small_envs import Counting\n"
        "def make_env(num_envs, seed): return Counting(num_envs, seed)\n"
    )
    spec = envs.resolve("my_envs_here:make_env")
    assert spec.name == "my_envs_here:make_env" and spec.make(5).num_envs == 5
    assert envs.make("my_envs_here:make_env", 2, seed=1).seeds == [1]
    # what is registered brings its constants and shifts along
    assert envs.resolve("small_envs:Counting") is envs.spec("count") is envs.resolve(Counting)
    assert envs.resolve(spec) is spec
    assert envs.make(lambda num_envs, seed: Counting(num_envs, seed), 4).num_envs == 4
    assert envs.make(Line, 3).num_envs == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: envs.make("cuont"), "unknown environment 'cuont'; choose one of: simple_spread"),
        (lambda: envs.make("count", shift="rain"), "accepted: None, 'windy'$"),
        (lambda: envs.make(Line, shift="rain"), r"accepted: None \(`envs.register`"),
        (lambda: envs.make("count", gust=1.0), "gust belongs to shift='windy', but shift is None"),
        (lambda: envs.make("count", shift="windy", gusts=1.0), r"gust \(of shift .*, widths"),
        (lambda: envs.make("count", 0), "num_envs must be a whole number of at least 1"),
        (lambda: envs.make("count", True), "num_envs must be"),
        (lambda: envs.make("count", seed=-1), "seed must be"),
        (lambda: envs.make("no_such_module_:make"), "there is no module 'no_such_module_'"),
        (lambda: envs.make("small_envs:Cuonting"), "has no 'Cuonting'; it has: .*Counting"),
        (lambda: envs.make("small envs:x"), "module:function"),
        (lambda: envs.make(Counting(1, 0)), "made already"),
        (lambda: envs.make(7), "^env: int can't be made several times"),
        (lambda: envs.make(dict), "has no readable signature"),
        (lambda: envs.make(lambda num_envs: None), "takes no seed"),
        (lambda: envs.make(lambda size: None), "needs size"),
        (lambda: envs.make(lambda num_envs, seed: Counting(1, 0), 2), "gave 1 copies, 2 were"),
        (lambda: envs.make(lambda num_envs, seed: 3), "gave int, which is no environment"),
    ],
)
def test_wrong_requests_are_explained(make, message):
    with pytest.raises(Dom2Error, match=message):
        make()


def test_a_module_that_fails_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fails_at_once.py").write_text("raise ValueError('not today')")
    (tmp_path / "needs_more.py").write_text("import no_such_package_")
    with pytest.raises(Dom2Error, match="fails_at_once failed: ValueError: not today"):
        envs.resolve("fails_at_once:make")
    with pytest.raises(Dom2Error, match="needs 'no_such_package_': install it"):
        envs.resolve("needs_more:make")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(name="count"), "registered already"),
        (dict(name="a:b"), "letters, digits"),
        (dict(name=""), "letters, digits"),
        (dict(make=lambda num_envs: 0), "takes no seed"),
        (dict(make=lambda num_envs, seed: 0, shifts=GUST), "takes no gust, shift"),
        (dict(make="Counting"), "str can't be made"),
        (dict(normalisation=(1.0, 2.0)), "random, expert, source"),
        (dict(normalisation=(1.0, 1.0, "x")), "two different finite"),
        (dict(normalisation=(1.0, float("nan"), "x")), "two different finite"),
        (dict(shifts={"windy": {"gust": 0.5}}), "option, \\(default, meaning\\)"),
        (dict(shifts={"windy": {"seed": (0, "x")}}), "'seed' can't be an option"),
        (dict(shifts={"none": {}}), "got 'none'"),
        (dict(shifts=["windy"]), "are a mapping"),
        (dict(episode_length=0), "must be a whole number"),
    ],
)
def test_wrong_registrations_are_refused_and_leave_nothing(given, message):
    before = envs.names()
    with pytest.raises(Dom2Error, match=message):
        envs.register(**({"name": "other", "make": Counting} | given))
    assert envs.names() == before
