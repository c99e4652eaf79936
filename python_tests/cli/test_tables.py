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
