"""Verdicts: tests against worked examples and statsmodels, families, budgets, and what decides nothing."""

import dataclasses

import numpy as np
import pytest
import statsmodels.stats.weightstats

from bat_jax.study.measured import rules
from bat_jax.study.measured.cluster_mean import cluster_mean
from bat_jax.study.measured.comparison import paired
from bat_jax.study.measured.rules import Claim
from bat_jax.study.measured.verdicts import (
    DIFFERS,
    NOT_REPRODUCED,
    OUTSIDE,
    POOLED,
    REPRODUCED,
    UNDECIDED,
    Comparison,
    all_of,
    by_column,
    decide,
    from_first,
    has_common_sign,
    holm,
    of_claim,
    p_values,
    shortage,
)

RULES = rules.load(2)
GAIN = Claim(id="a", where="", claim="", kind="gain", part="methods", grid="regions", family="regions")


def differing(gained, lost, same, num_scenes=40):
    """Return two ways of which ours gains and loses so many questions, spread over scenes."""
    rng = np.random.default_rng(0)
    ours = np.repeat([1.0, 0.0, 1.0], [gained, lost, same])
    theirs = np.repeat([0.0, 1.0, 1.0], [gained, lost, same])
    return paired(ours.tolist(), theirs.tolist(), rng.permutation(np.arange(ours.size) % num_scenes).tolist(), RULES)


def comparison(found, column="", claim=GAIN, kind="gain", **rest):
    return Comparison(claim=claim, name="uhr_bat - topk", column=column, kind=kind, found=found, **rest)


def verdict_of(found, **rest):
    return decide([comparison(found, **rest)], RULES)[0].verdict


def test_holms_worked_example():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, none below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0]) and holm([]) == []


def test_equality_is_statsmodels_two_one_sided_tests():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.1, 1, 60), rng.normal(0.0, 1, 60)
    p, low, high = statsmodels.stats.weightstats.ttost_paired(ours, theirs, -0.5, 0.5)
    mean = cluster_mean((ours - theirs).tolist(), range(60), RULES)
    found = p_values("equal", mean, 0.5)
    assert found.supports == pytest.approx(p)
    assert (mean.p_above(-0.5), mean.p_below(0.5)) == pytest.approx((low[1], high[1]))
    assert found.opposes == pytest.approx(min(mean.p_above(0.5), mean.p_below(-0.5)))


@pytest.mark.parametrize(
    ("kind", "middle", "half", "verdict"),
    [
        ("gain", 4.0, 3.0, REPRODUCED),
        ("gain", 1.0, 3.0, UNDECIDED),
        ("gain", -2.5, 3.0, NOT_REPRODUCED),  # the interval ends at 0.5, below the margin
        ("gain", 0.5, 0.2, REPRODUCED),
        ("equal", 0.0, 0.9, REPRODUCED),
        ("equal", 0.3, 0.9, UNDECIDED),
        ("equal", -4.0, 2.0, NOT_REPRODUCED),
        ("no_more", 0.0, 0.9, REPRODUCED),
        ("no_more", 0.5, 0.9, UNDECIDED),  # what is not significant is not shown to be small
        ("no_more", 3.0, 1.0, NOT_REPRODUCED),
        ("no_loss", 0.0, 0.9, REPRODUCED),
        ("no_loss", -0.5, 0.9, UNDECIDED),
        ("no_loss", -2.0, 1.5, NOT_REPRODUCED),
        ("above", 2.0, 1.9, REPRODUCED),
        ("above", 2.0, 2.1, UNDECIDED),
        ("above", -2.0, 1.9, NOT_REPRODUCED),
    ],
)
def test_one_comparison_alone_is_decided_as_its_interval_lies(kind, middle, half, verdict):
    """To nothing and to the margin of one point."""
    values = np.random.default_rng(5).normal(size=80)
    values = (values - values.mean()) / np.ptp(cluster_mean(values.tolist(), range(80), RULES).interval()) * 2 * half
    shares = (0.5 + (values + middle) / 100).tolist()
    found = paired(shares, [0.5] * 80, range(80), RULES)
    assert found.interval == pytest.approx((middle, middle - half, middle + half))
    claim = dataclasses.replace(GAIN, margin=1.0 if kind in ("equal", "no_more") else 0.0)
    assert verdict_of(found, kind=kind, claim=claim) == verdict


def test_a_family_asks_more_of_each_comparison_than_one_alone():
    close = differing(26, 12, 400)
    assert 0.005 < p_values("gain", close.difference, 1.0).supports < 0.025
    assert verdict_of(close) == REPRODUCED
    others = [comparison(differing(20, 20, 400), column=str(number)) for number in range(9)]
    first, *_ = decide([comparison(close), *others], RULES)
    assert first.verdict == UNDECIDED and first.adjusted.supports == pytest.approx(
        10 * p_values("gain", close.difference, 1.0).supports
    )
    # Another family, and what is outside of the training, do not count.
    elsewhere = [dataclasses.replace(one, claim=dataclasses.replace(GAIN, family="figure1")) for one in others[:5]]
    outside = [dataclasses.replace(one, outside="selection tome") for one in others[5:]]
    first, *rest = decide([comparison(close), *elsewhere, *outside], RULES)
    assert first.verdict == REPRODUCED
    assert [one.verdict for one in rest[5:]] == [OUTSIDE] * 4 and rest[5].adjusted is None


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (differing(90, 0, 90, num_scenes=9), "9 scenes of at least 10"),
        (differing(9, 0, 300), "9 discordant questions of at least 10"),
        (differing(40, 0, 0), "an interval without width"),
        (paired([1.0] * 40, [0.9] * 40, range(40), RULES), "an interval without width"),  # 1 - 0.9 is no tenth
        (paired([1.0] * 20, [0.9] * 20, range(20), RULES), "an interval without width"),
    ],
)
def test_too_little_decides_nothing_and_says_what_is_lacking(found, reason):
    assert shortage(found, RULES) == reason
    [one] = decide([comparison(found)], RULES)
    assert (one.verdict, one.excluded, one.adjusted) == (UNDECIDED, reason, (1.0, 1.0))
    assert from_first([found], RULES)[0].verdict == f"undecided ({reason})"


def test_ten_scenes_and_ten_discordant_questions_are_enough():
    found = differing(10, 0, 90, num_scenes=10)
    assert shortage(found, RULES) == "" and verdict_of(found) == REPRODUCED


def judge(budgets, pooled):
    found = [comparison(one, column=column) for column, one in budgets.items()]
    tests = decide([*found, comparison(pooled, column=POOLED)], RULES)
    return by_column(tests), of_claim(tests), has_common_sign(tests, "uhr_bat - topk")


def test_budgets_of_other_signs_have_no_common_verdict():
    """As in the tables of 80 scenes: +5.4 at 1k and -4.7 at 6k had become "neither is better"."""
    few, many = differing(60, 33, 412), differing(28, 52, 425)
    assert (few.interval.middle, many.interval.middle) == (pytest.approx(5.3, abs=0.1), pytest.approx(-4.8, abs=0.1))
    verdicts, verdict, is_common = judge({"1k": few, "6k": many}, differing(70, 68, 367))
    assert verdicts == {"1k": REPRODUCED, "6k": NOT_REPRODUCED}
    assert verdict == DIFFERS and not is_common


def test_budgets_of_the_same_sign_are_judged_by_their_mean():
    budgets = {"1k": differing(60, 20, 420), "6k": differing(30, 28, 442)}
    verdicts, verdict, is_common = judge(budgets, differing(80, 30, 390))
    assert verdicts == {"1k": REPRODUCED, "6k": UNDECIDED}
    assert verdict == REPRODUCED and is_common


def test_what_was_not_trained_decides_no_claim():
    tests = decide([comparison(differing(90, 1, 300), column="3k", outside="selection tome")], RULES)
    assert of_claim(tests) == OUTSIDE and by_column(tests) == {}


def test_a_claim_of_several_parts_is_as_its_worst():
    assert all_of([REPRODUCED, UNDECIDED]) == UNDECIDED
    assert all_of([REPRODUCED, NOT_REPRODUCED, UNDECIDED]) == NOT_REPRODUCED


def test_cells_of_a_grid_are_better_worse_or_equal_to_the_first():
    cells = [differing(60, 20, 400), differing(20, 60, 400), differing(30, 20, 400), differing(7, 6, 3000)]
    found = from_first(cells, RULES)
    assert [one.verdict for one in found] == ["better", "worse", "undecided", "equal"]
    two_sided = [2 * min(one.difference.p_above(0.0), one.difference.p_below(0.0)) for one in cells]
    assert [one.p for one in found] == pytest.approx(holm([min(1.0, p) for p in two_sided]))
