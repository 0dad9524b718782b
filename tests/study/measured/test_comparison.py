"""Comparisons: paired on the same questions, with the t-test's interval and another where questions share a scene."""

import numpy as np
import pytest
import scipy.stats

from bat_jax.study.measured.comparison import Interval, compare, form_of, mean_interval, paired_difference


def record(is_right, picture="7", template="object_class/site/0"):
    return {"is_right": is_right, "picture": picture, "facts": {"template": template}}


def test_differences_are_paired():
    ours = [True] * 6 + [False] * 4
    theirs = [True] * 3 + [False] * 6 + [True]
    middle, low, high = paired_difference(ours, theirs, range(10))
    assert middle == pytest.approx(20)  # 3 gained, 1 lost of 10
    expected = scipy.stats.ttest_rel(ours, np.asarray(theirs, float)).confidence_interval(0.95)
    assert (low, high) == pytest.approx((100 * expected.low, 100 * expected.high))
    with pytest.raises(ValueError, match="same questions"):
        paired_difference([True], [], [7])


def test_copies_of_a_question_in_one_scene_tell_nothing_new():
    values = [1.0, 0.0, 0.0, 1.0, 1.0]
    alone = mean_interval(values, range(5))
    copied = mean_interval(values * 9, list(range(5)) * 9)
    assert copied == pytest.approx(alone)
    mean, low, _ = mean_interval(values * 9, range(45))
    assert mean - low < (alone[0] - alone[1]) / 3
    assert mean_interval(values, [7] * 5)[1:] == (-np.inf, np.inf)  # one scene cannot tell


def test_the_interval_holds_the_truth_nineteen_times_in_twenty_when_scenes_lean_one_way():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 6)
    held = 0
    for _ in range(400):
        values = 0.3 + (rng.normal(0, 0.2, 40)[:, None] + rng.normal(0, 0.2, (40, 6))).ravel()
        _, low, high = mean_interval(values.tolist(), groups.tolist())
        held += low <= 0.3 <= high
    assert 0.91 < held / 400 < 0.98


def test_only_questions_that_all_runs_have_are_compared():
    ours = [{"a": record(True), "b": record(False)}, {"a": record(False), "b": record(False)}]
    theirs = [{"a": record(True), "b": record(True), "c": record(True)}]
    found = compare(ours, theirs)
    assert (found.num_questions, found.ours, found.theirs, found.difference.middle) == (2, 25, 100, -75)
    with pytest.raises(ValueError, match="no question"):
        compare(ours, theirs, lambda line: form_of(line) == "overall_counting/kind")


def test_intervals_are_written_with_their_sign_or_without():
    assert Interval(1.23, -0.4, 2.0).text() == "+1.2 [-0.4, +2.0]"
    assert Interval(61.0, 55.2, 66.8).text(".0f") == "61 [55, 67]"
