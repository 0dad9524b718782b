"""Means over clusters: SciPy's permutation test and t-test, statsmodels' cluster-robust error, and simulated truths."""

import numpy as np
import pytest
import scipy.stats
import statsmodels.api

from bat_jax.study.measured import rules
from bat_jax.study.measured.cluster_mean import Interval, cluster_mean

RULES = rules.load(2)


def few(num_clusters=8, seed=0, shift=0.3):
    """Return values in clusters of several sizes that lean one way, and their clusters."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(num_clusters), rng.integers(1, 5, num_clusters))
    return (
        shift + rng.normal(size=num_clusters)[clusters] + rng.normal(size=clusters.size)
    ).tolist(), clusters.tolist()


def by_scipy(values, clusters, limit, alternative, **options):
    sums = np.bincount(clusters, weights=np.asarray(values) - limit)
    return scipy.stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", alternative=alternative, vectorized=True, **options
    ).pvalue


@pytest.mark.parametrize("limit", [-0.4, 0.0, 0.25])
def test_flipped_signs_of_clusters_give_scipys_exact_p_values(limit):
    values, clusters = few()
    found = cluster_mean(values, clusters, RULES)
    assert found.p_above(limit) == pytest.approx(by_scipy(values, clusters, limit, "greater"))
    assert found.p_below(limit) == pytest.approx(by_scipy(values, clusters, limit, "less"))


def test_drawn_flips_come_near_all_of_them():
    values, clusters = few(16)
    exact = by_scipy(values, clusters, 0.0, "greater", n_resamples=2**16)
    assert cluster_mean(values, clusters, RULES).p_above(0.0) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("num_clusters", [7, 16, 35])
def test_an_interval_ends_where_a_test_begins_to_reject(num_clusters):
    found = cluster_mean(*few(num_clusters, seed=1), RULES)
    middle, low, high = found.interval()
    assert low < middle < high
    for end, p, outwards in ((low, found.p_above, -1e-6), (high, found.p_below, 1e-6)):
        assert p(end + outwards) <= 0.025 < p(end - outwards)


def test_from_thirty_clusters_on_the_error_is_statsmodels_cluster_robust_one():
    values, clusters = few(30, seed=2)
    fit = statsmodels.api.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": np.asarray(clusters)}, use_t=True
    )
    found = cluster_mean(values, clusters, RULES)
    assert found.interval()[1:] == pytest.approx(fit.conf_int(0.05)[0].tolist())
    assert found.mean == pytest.approx(fit.params[0]) and found.num_clusters == 30
    assert 2 * min(found.p_above(0.0), found.p_below(0.0)) == pytest.approx(fit.pvalues[0])


def test_a_value_a_cluster_gives_the_t_test():
    values = np.random.default_rng(3).normal(0.2, 1, 40).tolist()
    found = cluster_mean(values, range(40), RULES)
    for limit in (0.0, 0.5):
        assert found.p_above(limit) == pytest.approx(
            scipy.stats.ttest_1samp(values, limit, alternative="greater").pvalue
        )
        assert found.p_below(limit) == pytest.approx(scipy.stats.ttest_1samp(values, limit, alternative="less").pvalue)


def test_copies_of_a_question_in_one_scene_tell_nothing_new():
    for num in (8, 40):
        values = np.random.default_rng(4).normal(size=num).tolist()
        alone, copied = (cluster_mean(values * n, list(range(num)) * n, RULES).interval() for n in (1, 9))
        assert copied == pytest.approx(alone)
        apart = cluster_mean(values * 9, range(num * 9), RULES).interval()
        assert apart.middle - apart.low < (alone.middle - alone.low) / 2


def test_five_clusters_are_too_few_for_an_end():
    """2^5 flips: even the farthest has p = 1 / 32."""
    assert cluster_mean([1.0] * 5, range(5), RULES).interval() == Interval(1.0, -np.inf, np.inf)
    assert cluster_mean([1.0] * 6, range(6), RULES).interval() == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize("num_clusters", [12, 40])
def test_the_interval_holds_the_truth_nineteen_times_in_twenty_when_scenes_lean_one_way(num_clusters):
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(num_clusters), 6).tolist()
    held = 0
    for _ in range(400):
        values = 0.3 + rng.normal(0, 0.2, num_clusters)[:, None] + rng.normal(0, 0.2, (num_clusters, 6))
        _, low, high = cluster_mean(values.ravel().tolist(), clusters, RULES).interval()
        held += low <= 0.3 <= high
    assert 0.91 < held / 400 < 0.98


def test_intervals_are_written_with_their_sign_or_without():
    assert Interval(1.23, -0.4, 2.0).text() == "+1.2 [-0.4, +2.0]"
    assert Interval(61.0, 55.2, 66.8).text(".0f") == "61 [55, 67]"


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="got 0 and 0"):
        cluster_mean([], [], RULES)
