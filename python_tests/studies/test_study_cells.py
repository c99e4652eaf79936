"""A study's file: the cells of its grids, and what is refused before anything is written."""

import pytest

from dom2_fast.errors import Dom2Error
from dom2_fast.studies import spec
from dom2_fast.studies.folder import StudyFolder

GRID = "{tasks: simple_spread, kinds: expert, algos: [bc], seeds: 1}"


def study(tmp_path, grids=GRID, more=""):
    file = tmp_path / "study.yaml"
    file.write_text(f"name: s\nsteps: 4\n{more}\ngrids: [{grids}]\n")
    return file


def test_a_cell_is_named_by_what_differs_from_the_defaults(tmp_path):
    grid = (
        "{tasks: simple_spread, kinds: [medium-replay], seeds: 3, fractions: 1, algos: [bc10, "
        "{name: short, algo: dom2, steps: 2}], reweight: [default, 'top_k:0.1', 'quantiles:.5,.7']}"
    )
    names = [cell.name for cell in spec.read(study(tmp_path, grid)).cells]
    assert names == [
        "simple_spread-medium-replay-bc10-s3",  # top_k:0.1 is its default
        "simple_spread-medium-replay-bc10-wquantiles_.5_.7-s3",
        "simple_spread-medium-replay-short-s3",
        "simple_spread-medium-replay-short-wtop_k_0.1-s3",
        "simple_spread-medium-replay-short-wquantiles_.5_.7-s3",
    ]


def test_further_settings_are_in_the_label_and_in_the_config(tmp_path):
    grid = (
        "{tasks: simple_tag, kinds: random, seeds: [1], algos: dom2, "
        "settings: [{}, {name: k3, steps: 3}]}"
    )
    plain, three = spec.read(study(tmp_path, grid)).cells
    assert (plain.label, three.label) == ("dom2", "dom2_k3")
    assert (plain.config().steps, three.config().steps) == (5, 3)
    assert three.config().seed == 1


def test_cells_that_two_grids_name_are_one_and_seeds_come_in_turn(tmp_path):
    grids = f"{GRID}, {{tasks: simple_spread, kinds: [expert, random], algos: [bc], seeds: [1, 2]}}"
    names = [cell.name for cell in spec.read(study(tmp_path, grids)).cells]
    assert names == [f"simple_spread-{k}-bc-s{s}" for s in (1, 2) for k in ("expert", "random")]


WRONG = {
    "unknown key 'kind'": GRID.replace("kinds", "kind"),
    "seeds is an empty list": GRID.replace("seeds: 1", "seeds: []"),
    "unknown algorithm 'bcc'": GRID.replace("[bc]", "[bcc]"),
    "unknown environment 'spread'": GRID.replace("simple_spread", "spread"),
    "unknown kind of data 'good'": GRID.replace("expert", "good"),
    "unknown key 'stepz'": GRID.replace("[bc]", "[{algo: bc, stepz: 2}]"),
    "two different cells would be called": f"{GRID}, {GRID[:-1]}, steps: 8}}",
    "a fraction must be in (0, 1], not 2": GRID[:-1] + ", fractions: 2}",
    "seed is the grid's": GRID.replace("[bc]", "[{algo: bc, seed: 2}]"),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_grid_is_refused_and_nothing_is_written(tmp_path, said):
    file = study(tmp_path, WRONG[said])
    with pytest.raises(Dom2Error, match="grid") as error:
        StudyFolder(tmp_path / "out").adopt(file)
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("evaluate: {settings: [{shift: sped}]}", "no shift 'sped'"),
        ("evaluate: {settings: [{shift: speed, v_max: 2}]}", "no option 'v_max'"),
        ("evaluate: {settings: [standard, standard]}", "standard is there twice"),
        ("run: {seed: 1}", "unknown key 'seed'"),
        ("evaluate: {settings: []}", "evaluate.settings is an empty list"),
        ("seeds: [1]", "unknown key 'seeds'"),
        ("data: {episode: 5}", "unknown key 'data.episode'"),
        ("data: {episodes: 0}", "episodes must be a whole number"),
    ],
)
def test_wrong_options_are_refused(tmp_path, more, said):
    with pytest.raises(Dom2Error) as error:
        spec.read(study(tmp_path, more=more))
    assert said in str(error.value)


def test_a_study_without_grids_is_refused(tmp_path):
    with pytest.raises(Dom2Error, match="grids is an empty list"):
        spec.read(study(tmp_path, grids=""))


def test_a_folder_of_another_study_or_of_something_else_is_refused(tmp_path):
    home = StudyFolder(tmp_path / "out")
    file = study(tmp_path)
    home.adopt(file)
    file.write_text(file.read_text().replace("name: s", "name: t"))
    with pytest.raises(Dom2Error, match="is of the study 's'"):
        home.adopt(file)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(Dom2Error, match=r"holds thesis\.tex"):
        StudyFolder(tmp_path / "mine").adopt(file)


def test_the_studies_of_the_repository_can_be_read():
    from pathlib import Path

    files = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))
    assert files
    for file in files:
        assert spec.read(file).cells
