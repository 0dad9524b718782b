"""Rules of verdicts: what an interval decides, and what it leaves open."""

import pytest

from bat_jax.study.measured.comparison import Interval
from bat_jax.study.measured.verdicts import (
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    above,
    all_of,
    gain,
    rise,
    sameness,
)

HALF = Interval(0.5, -0.4, 0.9)
WIDE = Interval(0.0, -5.0, 5.0)
AWAY = Interval(-4.0, -6.0, -2.0)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 9.0, REPRODUCED),
        (-1.0, 3.0, UNDECIDED),
        (-3.0, 0.9, NOT_REPRODUCED),
        (-9.0, -1.0, NOT_REPRODUCED),
        (0.1, 0.5, REPRODUCED),
    ],
)
def test_a_gain_needs_its_whole_interval_above_nothing(low, high, verdict):
    assert gain(Interval((low + high) / 2, low, high)) == verdict


def test_sameness_needs_every_interval_within_a_point():
    assert sameness([HALF, HALF]) == REPRODUCED
    assert sameness([HALF, WIDE]) == UNDECIDED
    assert sameness([HALF, WIDE, AWAY]) == NOT_REPRODUCED


def test_one_step_that_loses_refutes_that_more_always_helps():
    up = Interval(3.0, 1.0, 5.0)
    assert rise([up, WIDE], up) == REPRODUCED
    assert rise([up, AWAY], up) == NOT_REPRODUCED
    assert rise([WIDE], WIDE) == UNDECIDED


def test_a_share_is_above_a_limit_with_its_whole_interval():
    assert above(90.0, Interval(95.0, 91.0, 99.0)) == REPRODUCED
    assert above(90.0, Interval(95.0, 85.0, 100.0)) == UNDECIDED
    assert above(90.0, Interval(60.0, 40.0, 80.0)) == NOT_REPRODUCED


def test_a_claim_of_several_parts_is_as_its_worst():
    assert all_of([REPRODUCED, UNDECIDED]) == UNDECIDED
    assert all_of([REPRODUCED, NOT_REPRODUCED, UNDECIDED]) == NOT_REPRODUCED
