"""Mixed data: each part of it has its own rule, from its own returns."""

import pytest
import torch
from small_data import dataset

from dom2_fast.data import reweight
from dom2_fast.data.sampler import TrajectorySampler
from dom2_fast.errors import Dom2Error

RETURNS = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 8, 90, 100], [10.0, 9, 8, 7, 6, 5, 4, 3, 2, 1]])
RULE = "parts:0.8/thresholds:2,6/0.2/thresholds:95"


def test_each_part_has_its_own_levels():
    weights = reweight.parse(RULE)(RETURNS)
    assert weights.tolist() == [[1, 1, 2, 2, 2, 2, 3, 3, 1, 2], [3, 3, 3, 3, 2, 2, 2, 2, 1, 1]]


def test_quantiles_are_those_of_the_part():
    weights = reweight.parse("parts:0.5/quantiles:0.5/0.5/quantiles:0.5")(RETURNS)
    assert weights[0].tolist() == [1, 1, 1, 2, 2, 1, 1, 1, 2, 2]  # medians 3 and 8


def test_the_presets_replicate_both_parts_as_two_buffers_would():
    returns = torch.linspace(0, 500, 50, dtype=torch.float64).repeat(2, 1)
    mixed = reweight.preset("simple_tag", "medium-expert")(returns)
    medium = reweight.preset("simple_tag", "medium")(returns[:, :45])
    expert = reweight.preset("simple_tag", "expert")(returns[:, 45:])
    assert torch.equal(mixed, torch.cat([medium, expert], 1))
    spread = reweight.preset("simple_spread", "medium-expert")
    assert str(spread) == (
        "parts:0.9/quantiles:0.5,0.75,0.875,0.875/0.1/quantiles:0.5,0.75,0.875,0.875"
    )
    for task in ("simple_spread", "spread_6_landmarks", "HalfCheetah-v2"):
        assert reweight.preset(task, "random-medium") == reweight.uniform()
    assert reweight.preset("spread_6_landmarks", "expert").kind == "quantiles"
    for task, quality in reweight.MIXED:
        assert bool((reweight.preset(task, quality)(returns) >= 1).all())


def test_texts_and_mappings():
    rule = reweight.parse(RULE)
    assert str(rule) == RULE and reweight.parse(str(rule)) == rule
    assert reweight.parse({"parts": [0.8, "thresholds:2,6", 0.2, "thresholds:95"]}) == rule
    assert rule == reweight.parts([0.8, 0.2], ["thresholds:2,6", reweight.thresholds([95])])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("parts", "are not numbers"),
        ("parts:0.9/uniform", "add up to 1"),
        ("parts:0.9/uniform/0.2/uniform", "add up to 1"),
        ("parts:-0.5/uniform/1.5/uniform", ">= 0"),
        ("parts:0.9/uniform/0.1", "a share for each rule, given 2 and 1"),
        ("parts:0.9/uniform/x/uniform", "are not numbers"),
        ("parts:0.9/uniform/0.1/unifom", "'unifom' are unknown"),
    ],
)
def test_bad_parts(spec, message):
    with pytest.raises(Dom2Error, match=message):
        reweight.parse(spec)
    with pytest.raises(Dom2Error, match="inside of parts"):
        reweight.parts([1], [reweight.parts([1], ["uniform"])])


def test_levels_that_a_part_doesn_t_reach_are_a_warning_and_an_error_where_no_part_does():
    rule = reweight.parse("parts:0.8/thresholds:2,6/0.2/thresholds:900")
    messages = reweight.check(rule, RETURNS)
    assert len(messages) == 1 and "part 1: no trajectory of any agent exceeds" in messages[0]
    with pytest.raises(Dom2Error, match=r"part 0: no trajectory.*part 1: no trajectory"):
        reweight.check(reweight.parse("parts:0.8/thresholds:800/0.2/thresholds:900"), RETURNS)
    messages = reweight.check(reweight.parse("parts:0.5/thresholds:0/0.5/uniform"), RETURNS)
    assert messages[0].startswith("part 0: weights thresholds:0 are the same")
    rule = reweight.parse("parts:0.75/thresholds:2/0.25/thresholds:3")
    assert reweight.check(rule, RETURNS[:1, :4]) == []  # part 1 is one trajectory


def test_where_the_second_part_begins_is_the_data_s_own_count():
    meta = {"task": "simple_spread", "quality": "medium-expert"}
    parts = [{"quality": "medium", "episodes": 12}, {"quality": "expert", "episodes": 8}]
    data = dataset(trajectories=20, meta={**meta, "parts": parts})
    assert data.part_counts == [12, 8]
    rule = reweight.quantiles([0.5, 0.75, 0.875, 0.875])
    wanted = torch.cat([rule(data.returns[:, :12]), rule(data.returns[:, 12:])], 1)
    assert torch.equal(TrajectorySampler(data, "preset").weights, wanted)
    few = data.subset(indices=[0, 5, 11, 12, 19])
    assert few.part_counts == [3, 2] and data.part_counts == [12, 8]
    assert data.subset(indices=[13, 14]).part_counts == [0, 2]
    assert dataset(trajectories=20, meta=meta).part_counts is None
    assert dataset(trajectories=20, meta={"parts": parts[:1]}).part_counts is None
    plain = dataset(trajectories=20, meta=meta)  # nothing said: 90 and 10 %
    wanted = torch.cat([rule(plain.returns[:, :18]), rule(plain.returns[:, 18:])], 1)
    assert torch.equal(TrajectorySampler(plain, "preset").weights, wanted)
