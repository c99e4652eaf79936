"""Reweightings against hand-computed cases and the plain definitions; their text forms."""

import math

import pytest
import torch

from dom2_fast.data import reweight
from dom2_fast.errors import Dom2Error

RETURNS = torch.tensor([[10.0, 20.0, 30.0, 40.0], [40.0, 10.0, 10.0, 20.0]], dtype=torch.float64)


def test_thresholds_are_strict_and_repeatable():
    weights = reweight.thresholds([20, 20, 35])(RETURNS)
    assert weights.tolist() == [[1, 1, 3, 4], [4, 1, 1, 1]]


def test_thresholds_equal_literal_replication():
    generator = torch.Generator().manual_seed(0)
    returns = torch.randn(1, 50, generator=generator, dtype=torch.float64)
    levels = [-1.0, 0.0, 0.3, 2.0]
    copies = list(range(50))
    for level in levels:  # D' <- D' + {T : Return(T) > r}
        copies += [j for j in range(50) if returns[0, j] > level]
    counted = torch.bincount(torch.tensor(copies), minlength=50)
    assert torch.equal(reweight.thresholds(levels)(returns)[0], counted.double())


def test_quantiles_are_per_agent():
    weights = reweight.quantiles([0.5, 0.5])(RETURNS)  # medians 25 and 15
    assert weights.tolist() == [[1, 1, 3, 3], [3, 1, 1, 3]]


def test_uniform_and_top_k():
    assert reweight.uniform()(RETURNS).tolist() == [[1, 1, 1, 1]] * 2
    assert reweight.top_k(2)(RETURNS).tolist() == [[0, 0, 1, 1], [1, 0, 0, 1]]
    assert reweight.top_k(3)(RETURNS)[1].tolist() == [1, 1, 0, 1]  # among equals the earlier
    assert reweight.top_k(0.25)(RETURNS).tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]
    assert reweight.top_k(99)(RETURNS).tolist() == [[1, 1, 1, 1]] * 2


def test_softmax_ratio_and_mean():
    weights = reweight.softmax(0.5)(RETURNS)
    assert weights.mean(1).tolist() == pytest.approx([1.0, 1.0])
    # scaled returns 0, 1/3, 2/3, 1: neighbours differ by exp((1/3) / 0.5)
    assert float(weights[0, 3] / weights[0, 2]) == pytest.approx(math.exp(2 / 3))
    assert float(weights[1, 0] / weights[1, 1]) == pytest.approx(math.exp(2))
    flat = reweight.softmax(0.1)(torch.full((1, 3), 7.0))
    assert flat.tolist() == [[1.0, 1.0, 1.0]]


def test_rank_with_ties():
    weights = reweight.rank(1.0)(RETURNS)
    assert weights[0].tolist() == pytest.approx([4 / 4, 4 / 3, 4 / 2, 4 / 1])
    assert weights[1].tolist() == pytest.approx([4 / 1, 4 / 3.5, 4 / 3.5, 4 / 2])
    assert reweight.rank(0.0)(RETURNS).tolist() == [[1, 1, 1, 1]] * 2


def test_one_agent_s_weights_ignore_the_others():
    for rule in ("thresholds:15", "quantiles:0.5", "softmax:0.1", "rank:0.7", "top_k:2", "uniform"):
        both = reweight.parse(rule)(RETURNS)
        assert torch.equal(both[1:], reweight.parse(rule)(RETURNS[1:]))


@pytest.mark.parametrize(
    "text",
    [
        "uniform",
        "thresholds:200,250.5",
        "quantiles:0.5,0.875,0.875",
        "softmax:0.3",
        "rank:1",
        "top_k:0.1",
        "top_k:500",
    ],
)
def test_text_round_trip(text):
    assert str(reweight.parse(text)) == text
    assert reweight.parse(reweight.parse(text)) == reweight.parse(text)


def test_mappings_and_defaults():
    assert reweight.parse({"thresholds": [1, 2]}) == reweight.thresholds([1, 2])
    assert reweight.parse({"top_k": 5}) == reweight.top_k(5)
    assert reweight.parse({"uniform": None}) == reweight.uniform()
    assert reweight.parse("softmax") == reweight.softmax(0.1)


def test_presets():
    medium = reweight.preset("simple_spread", "medium")
    assert medium == reweight.thresholds([200, 250, 300, 350, 400, 450, 500, 550])
    replay = reweight.quantiles([0.5, 0.75, 0.875, 0.875])
    assert reweight.parse("preset", "simple_world", "medium") == replay
    assert reweight.parse("preset:simple_spread/medium", "simple_tag", "expert") == medium
    assert reweight.preset("simple_tag", "random") == reweight.uniform()
    for task, quality in reweight.PRESETS:
        assert bool((reweight.preset(task, quality)(RETURNS) >= 1).all())


def test_tuned_is_by_kind_and_the_preset_elsewhere():
    assert reweight.parse("tuned", "simple_world", "medium-replay") == reweight.top_k(0.3)
    assert reweight.parse("tuned:simple_spread/random-medium") == reweight.top_k(0.2)
    random = reweight.parse("tuned", "simple_tag", "random")
    assert random == reweight.quantiles([0.5, 0.75, 0.875, 0.9375])
    for kind in ("expert", "medium"):
        own = reweight.parse("tuned", "simple_tag", kind)
        assert own == reweight.preset("simple_tag", kind)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tuned", "'tuned' needs the data set's task and quality"),
        ("tuned:simple_spread/good", "no thresholds are known for simple_spread/good"),
        ("threshold:1", "accepted: preset"),
        ("thresholds", "at least one number"),
        ("thresholds:1,x", "are not numbers"),
        ("thresholds:nan", "no NaN"),
        ("quantiles:1.5", r"in \[0, 1\]"),
        ("softmax:0", "temperature > 0"),
        ("softmax:1,2", "takes 1 number"),
        ("uniform:1", "takes 0 number"),
        ("rank:-1", "power >= 0"),
        ("top_k:0", "top_k needs"),
        ("top_k:2.5", "top_k needs"),
        ("preset", "task and quality"),
        ("preset:simple_spread/good", "no thresholds are known for simple_spread/good"),
        ({"rank": 1, "top_k": 2}, "one kind"),
        (3, "can't be 3"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(Dom2Error, match=message):
        reweight.parse(spec)


def test_bad_returns():
    with pytest.raises(Dom2Error, match=r"\[agents, trajectories\]"):
        reweight.uniform()(torch.zeros(3))
    with pytest.raises(Dom2Error, match="NaN or infinite"):
        reweight.uniform()(torch.tensor([[1.0, float("nan")]]))


def test_levels_that_nobody_exceeds():
    with pytest.raises(Dom2Error, match=r"40,50.*returns go from 10 to 40 over 4 trajectories"):
        reweight.check(reweight.thresholds([40, 50]), RETURNS)  # 40 isn't above 40
    messages = reweight.check(reweight.thresholds([15, 40]), RETURNS)
    assert len(messages) == 1 and "level(s) 40 of weights thresholds:15,40" in messages[0]
    assert reweight.check(reweight.thresholds([15]), RETURNS) == []


def test_weights_that_make_no_difference():
    messages = reweight.check(reweight.thresholds([5]), RETURNS)  # everybody is above
    assert "every agent" in messages[0] and "from 10 to 40" in messages[0]
    one = torch.tensor([[10.0, 20.0], [1.0, 2.0]])
    assert "all trajectories of agent 1," in reweight.check(reweight.thresholds([15]), one)[0]
    assert "top_k:9" in reweight.check(reweight.top_k(9), RETURNS)[0]
    three = torch.tensor([[1.0, 20.0], [1.0, 2.0], [1.0, 2.0]])
    assert "agents 1, 2," in reweight.check(reweight.thresholds([15]), three)[0]


def test_nothing_to_say():
    equal = torch.full((2, 3), 7.0)
    for rule in ("uniform", "rank", "softmax", "quantiles:0.5", "top_k:0.3"):
        assert reweight.check(reweight.parse(rule), RETURNS) == []
        assert reweight.check(reweight.parse(rule), equal) == []
