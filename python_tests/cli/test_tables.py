from dom2_fast.cli import tables
from dom2_fast.runs.evaluation import evaluate, random_policies


def test_scores_against_a_prey_say_which():
    result = evaluate(random_policies(3), "simple_tag", episodes=3)
    note = tables.prey({"standard": result, "shift_speed": result})
    strength = result["prey_strength"]
    assert note.startswith("prey: bundled v2") and "\n" not in note
    assert f"greedy {strength['greedy']:.1f}" in note
    assert (
        tables.prey({"standard": evaluate(random_policies(3), "simple_spread", episodes=3)}) == ""
    )


def test_ways_have_columns_where_somebody_counted_them():
    plain = {"mean": 1.0, "ci95": [0.5, 1.5]}
    ways = {"ways": 2.5, "entropy": 0.7, "solved": 0.25, "solved_ways": 1.5}
    assert "ways" not in tables.scores({"a": {"standard": plain}})
    both = {"standard": plain, "shift_landmarks": plain | {"solutions": ways}}
    head, _, without, with_ways = tables.scores({"a": both}).splitlines()
    assert head.split()[-5:] == ["ways", "entropy", "solved", "solved", "ways"]
    assert without.split()[-4:] == ["-"] * 4
    assert with_ways.split()[-4:] == ["2.50", "0.70", "0.25", "1.50"]
