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


@pytest.fixture(scope="module")
def rliable():
    """rliable's (metrics, library), and scores [runs, tasks] of two methods."""
    install = "rliable isn't installed: pip install rliable 'pandas<3'"
    metrics = pytest.importorskip("rliable.metrics", reason=install)
    library = pytest.importorskip("rliable.library", reason=install)
    rng = np.random.default_rng(1)
    return metrics, library, rng.normal([0, 1, 5], size=(5, 3)), rng.normal([1, 1, 3], size=(5, 3))


def test_means_and_probabilities_are_rliables(rliable):
    metrics, _, ours, theirs = rliable
    same = {"rel": SAME_FORMULA_64["rtol"]}
    assert statistics.iqm(ours.T) == pytest.approx(metrics.aggregate_iqm(ours), **same)
    expected = metrics.probability_of_improvement(ours, theirs)
    found = statistics.probability_of_improvement(ours.T, theirs.T)
    assert found == pytest.approx(expected, **same)


def test_profiles_are_rliables(rliable):
    _, library, ours, _ = rliable
    limits = np.linspace(-1, 6, 15)
    expected, _ = library.create_performance_profile({"ours": ours}, limits, reps=2)
    found = statistics.performance_profile(ours.T, limits)
    np.testing.assert_allclose(found, expected["ours"], **SAME_FORMULA_64)


def test_intervals_are_rliables_within_the_error_of_the_resampling(rliable):
    """An end is a quantile at 2.5 % of n drawn values: of both, four standard errors apart."""
    metrics, library, ours, _ = rliable
    n = statistics.RESAMPLES
    error = np.sqrt(2 * 0.025 * 0.975 / n)

    def ends(share):
        _, found = library.get_interval_estimates(
            {"ours": ours},
            lambda scores: np.array([metrics.aggregate_iqm(scores)]),
            reps=n,
            confidence_interval_size=1 - 2 * share,
            random_state=np.random.RandomState(0),
        )
        return found["ours"].ravel()

    wide, narrow = ends(0.025 - 4 * error), ends(0.025 + 4 * error)
    low, high = statistics.interval(ours.T)
    assert wide[0] <= low <= narrow[0] and narrow[1] <= high <= wide[1]
