"""Splits: disjoint, and the fixed ones are those that were published."""

import itertools

import pytest

from bat_jax.mini.world import splits
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.render import render_signature, signature_distance
from bat_jax.mini.world.splits import FIXED_SETS, SPLITS, checksum, parse_seeds, seeds_of


def test_no_two_splits_share_a_scene():
    ranges = [*SPLITS.values(), splits.FREE_SEEDS]
    for a, b in itertools.combinations(ranges, 2):
        assert not set(a[:: max(len(a) // 10, 1)]) & set(b[:: max(len(b) // 10, 1)])
        assert a.stop <= b.start or b.stop <= a.start


def test_the_fixed_sets_are_the_published_ones_on_every_machine():
    found = {}
    for split in FIXED_SETS:
        parts = tuple(splits.scenes_with_questions(SPLITS[split]))
        found[split] = (len(parts), sum(len(part.questions) for part in parts), checksum(parts))
    assert found == {
        "development": (200, 4588, "ad1a2587cc71cc1b1447283a14ea7a766cdff78a792d98961762306de73c7e1a"),
        "test": (200, 4584, "4e606acd14ff851a8dd352045a1bb2004d9f24643c45629ebb006c829c6f3461"),
    }
    assert found == {split: (200, fixed.num_questions, fixed.checksum) for split, fixed in FIXED_SETS.items()}


@pytest.mark.parametrize("split", list(FIXED_SETS))
def test_the_first_scene_of_a_fixed_set_is_painted_as_published(split):
    scene = generate_scene(SPLITS[split][0])
    assert signature_distance(render_signature(scene), FIXED_SETS[split].first_signature) <= 1


def test_a_checksum_depends_on_the_order_of_scenes():
    first, second = splits.scenes_with_questions(seeds_of("test", 2))
    assert checksum((first, second)) != checksum((second, first))


def test_seeds_are_the_first_of_a_split():
    assert seeds_of("test", 3) == range(4_000_000, 4_000_003)
    assert seeds_of("development") == range(2_000_000, 2_000_200)
    assert seeds_of("validation") == SPLITS["validation"]
    with pytest.raises(ValueError, match="split='dev': must be one of train, validation, development, test"):
        seeds_of("dev")
    with pytest.raises(ValueError, match="num=201: the split test has 1 to 200 scenes"):
        seeds_of("test", 201)


@pytest.mark.parametrize("text", ["", "5", "5:5", "9:3", "-1:4", "a:b", "1:2:3", "0:9999999999"])
def test_seed_ranges_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="write FROM:TO"):
        parse_seeds(text)


def test_a_seed_range_leaves_its_end_out():
    assert parse_seeds("3000000:3000002") == range(3_000_000, 3_000_002)
