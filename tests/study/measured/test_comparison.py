"""Comparisons: paired on the same questions, with the t-test's interval and another where questions share a scene."""

import numpy as np
import pytest
import scipy.stats

from bat_jax.benchmarks.record import Picture
from bat_jax.benchmarks.records import uhr_mini
from bat_jax.study.measured.comparison import (
    Interval,
    compare,
    form_of,
    mean_interval,
    paired_difference,
    scene_of,
)


def record(is_right, scene="7", template="object_class/site/0"):
    return {"id": "q", "is_right": is_right, "scene": scene, "facts": {"template": template}}


def line_of(picture):
    return record(True, picture.scene)


def test_questions_of_one_file_or_of_one_scene_are_a_cluster_whatever_the_names():
    def clusters(pictures):
        return len({scene_of(line_of(picture)) for picture in pictures})

    def picture(name):
        return Picture(key=name, load=lambda: None, tasks=())

    assert clusters(picture(f"img-{number:04}.png") for number in range(1, 200)) == 199
    assert clusters(map(picture, ("DOTA-v2_P1", "DOTA-v2_P2", "DOTA-v2_P1"))) == 2
    of_a_scene = list(uhr_mini.pictures(range(3_000_000, 3_000_001), 224))
    assert len({one.key for one in of_a_scene}) == 3 and clusters(of_a_scene) == 1


def test_a_line_without_a_scene_is_refused_by_its_question():
    with pytest.raises(ValueError, match="question '4': its line names no scene"):
        scene_of({"id": "4", "picture": "2000000-1"})


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
