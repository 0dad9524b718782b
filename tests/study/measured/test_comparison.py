"""Comparisons: paired on the same questions, with the scene that each line names as its cluster."""

import pytest
import scipy.stats

from bat_jax.benchmarks.record import Picture
from bat_jax.benchmarks.records import uhr_mini
from bat_jax.study.measured import rules
from bat_jax.study.measured.comparison import compare, form_of, paired, scene_of

RULES = rules.load(2)


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
    ours = [1.0] * 24 + [0.0] * 16
    theirs = [1.0] * 12 + [0.0] * 24 + [1.0] * 4
    found = paired(ours, theirs, range(40), RULES)
    assert found.interval.middle == pytest.approx(20)  # 12 gained, 4 lost of 40
    assert (found.num_questions, found.num_discordant, found.ours, found.theirs) == (40, 16, 60, 40)
    expected = scipy.stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found.interval[1:] == pytest.approx((100 * expected.low, 100 * expected.high))
    with pytest.raises(ValueError, match="same questions"):
        paired([1.0], [], [7], RULES)


def test_an_interval_ends_at_a_hundred_points_where_scenes_are_too_few_for_an_end():
    assert paired([1.0] * 3, [0.0, 1.0, 1.0], range(3), RULES).interval[1:] == (-100, 100)


def test_only_questions_that_all_runs_have_are_compared():
    ours = [{"a": record(True), "b": record(False)}, {"a": record(False), "b": record(False)}]
    theirs = [{"a": record(True), "b": record(True), "c": record(True)}]
    found = compare(ours, theirs, RULES)
    assert (found.num_questions, found.ours, found.theirs, found.difference.mean) == (2, 25, 100, -75)
    with pytest.raises(ValueError, match="no question"):
        compare(ours, theirs, RULES, lambda line: form_of(line) == "overall_counting/kind")
