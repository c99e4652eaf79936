"""Statistics over seeds against hand-computed values and scipy's."""

import numpy as np
import pytest
from scipy import stats
from tolerances import SAME_FORMULA_64

from dom2_fast.errors import Dom2Error
from dom2_fast.studies import statistics

RNG = np.random.default_rng(0)
SCORES = [RNG.normal(size=5), RNG.normal(1, 2, size=5), RNG.normal(3, 1, size=4)]


def test_mean_and_sd_by_hand():
    mean, sd = statistics.mean_and_sd([1.0, 2.0, 6.0])
    assert mean == 3.0 and sd == pytest.approx(np.sqrt(7), rel=SAME_FORMULA_64["rtol"])
    assert np.isnan(statistics.mean_and_sd([1.0])[1])


def test_iqm_by_hand_and_as_scipy():
    assert statistics.iqm([[0, 1, 2, 3], [100, 4, 5, -50]]) == 2.5
    expected = stats.trim_mean(np.concatenate(SCORES), 0.25)
    assert statistics.iqm(SCORES) == pytest.approx(expected, rel=SAME_FORMULA_64["rtol"])


def test_the_interval_resamples_within_tasks():
    # Runs of a task are equal: within tasks nothing can vary, across tasks it would.
    assert statistics.interval([[1.0] * 4, [9.0] * 4]) == (5.0, 5.0)
    low, high = statistics.interval(SCORES, seed=1)
    assert low < statistics.iqm(SCORES) < high
    assert (low, high) == statistics.interval(SCORES, seed=1)


def test_the_interval_of_a_mean_is_about_two_standard_errors():
    values = RNG.normal(size=400)
    low, high = statistics.interval([values], lambda scores: float(scores[0].mean()))
    error = values.std() / 20
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_probability_of_improvement_by_hand_and_as_mann_whitney():
    assert statistics.probability_of_improvement([[1, 2]], [[1, 0]]) == 0.875
    assert statistics.probability_of_improvement(SCORES, SCORES) == 0.5
    other = [task + 0.5 for task in SCORES]
    expected = np.mean(
        [
            stats.mannwhitneyu(a, b).statistic / (len(a) * len(b))
            for a, b in zip(other, SCORES, strict=True)
        ]
    )
    ours = statistics.probability_of_improvement(other, SCORES)
    assert ours == pytest.approx(expected, rel=SAME_FORMULA_64["rtol"])


def test_profile_by_hand():
    profile = statistics.performance_profile([[1, 2, 3, 4], [10, 0]], [0, 2, 20])
    assert profile.tolist() == [0.75, 0.5, 0.0]


@pytest.mark.parametrize("wrong", [[], [[]], [[1.0, float("nan")]]])
def test_scores_that_cannot_be_are_refused(wrong):
    with pytest.raises(Dom2Error, match="finite numbers"):
        statistics.iqm(wrong)


def test_different_numbers_of_tasks_are_refused():
    with pytest.raises(Dom2Error, match="same tasks, not 1 and 2"):
        statistics.probability_of_improvement([[1.0]], [[1.0], [2.0]])


def test_rliable_agrees():
    metrics = pytest.importorskip("rliable.metrics", reason="rliable isn't installed")
    scores = RNG.normal(size=(5, 3))
    assert statistics.iqm(list(scores.T)) == pytest.approx(metrics.aggregate_iqm(scores))
    other = RNG.normal(size=(5, 3))
    expected = metrics.probability_of_improvement(scores, other)
    ours = statistics.probability_of_improvement(list(scores.T), list(other.T))
    assert ours == pytest.approx(expected)
