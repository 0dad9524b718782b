"""Splits: disjoint, and the fixed test set is the one that was published."""

import itertools
import subprocess
import sys

import pytest

from bat_jax.mini.world import splits
from bat_jax.mini.world.render import render_signature, signature_distance
from bat_jax.mini.world.splits import SPLITS, checksum, parse_seeds, seeds_of


def test_no_two_splits_share_a_scene():
    ranges = [*SPLITS.values(), range(splits.FIRST_FREE_SEED, 2**31)]
    for a, b in itertools.combinations(ranges, 2):
        assert not set(a[:: max(len(a) // 10, 1)]) & set(b[:: max(len(b) // 10, 1)])
        assert a.stop <= b.start or b.stop <= a.start


# In a process of its own: without the checks of types that tests run under, it takes seconds.
TEST_SET = """
from bat_jax.mini.world import splits
parts = tuple(splits.scenes_with_questions(splits.SPLITS["test"]))
print(len(parts), sum(len(part.questions) for part in parts), splits.checksum(parts))
"""


def test_the_test_set_is_the_published_one_on_every_machine():
    done = subprocess.run([sys.executable, "-c", TEST_SET], capture_output=True, text=True)
    assert done.stdout.split() == ["200", str(splits.TEST_NUM_QUESTIONS), splits.TEST_CHECKSUM], done.stderr
    assert splits.TEST_NUM_QUESTIONS >= 2000
    first, second = splits.scenes_with_questions(seeds_of("test", 2))
    assert checksum((first, second)) != checksum((second, first))
    assert signature_distance(render_signature(first.scene), splits.TEST_FIRST_SIGNATURE) <= 1


def test_seeds_are_the_first_of_a_split():
    assert seeds_of("test", 3) == range(2_000_000, 2_000_003)
    assert seeds_of("validation") == SPLITS["validation"]
    with pytest.raises(ValueError, match="split='dev': must be one of train, validation, test"):
        seeds_of("dev")
    with pytest.raises(ValueError, match="num=201: the split test has 1 to 200 scenes"):
        seeds_of("test", 201)


@pytest.mark.parametrize("text", ["", "5", "5:5", "9:3", "-1:4", "a:b", "1:2:3", "0:9999999999"])
def test_seed_ranges_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="write FROM:TO"):
        parse_seeds(text)


def test_a_seed_range_leaves_its_end_out():
    assert parse_seeds("3000000:3000002") == range(3_000_000, 3_000_002)
