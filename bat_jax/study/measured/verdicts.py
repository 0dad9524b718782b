"""What decides whether a claim of the paper holds: rules over paired intervals, so that new weights need no new view.

A claim of a gain is reproduced if the whole 95 % interval of the paired difference lies above 0, not reproduced if it
lies below MARGIN (a gain of that size is then ruled out), and undecided in between: more questions would tell. A claim
that settings do not differ is reproduced if all intervals lie within MARGIN points of 0, not reproduced if one lies
outside.
Where the model's answers are guesses, nothing about accuracy is decided.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from bat_jax.study.measured.comparison import Paired

Verdict = Literal["reproduced in miniature", "not reproduced", "undecided", "computed", "needs the real weights"]
REPRODUCED: Verdict = "reproduced in miniature"
NOT_REPRODUCED: Verdict = "not reproduced"
UNDECIDED: Verdict = "undecided"
COMPUTED: Verdict = "computed"
NEEDS_WEIGHTS: Verdict = "needs the real weights"

# Percent points.
MARGIN = 1.0
Interval = tuple[float, float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim of the paper and what came of it.

    Attributes:
      where: section, table or figure. claim: in short. ran: what was run or computed. number: what came out.
      note: what a reader has to know, or "". command: for whoever has the real weights; "" where it adds nothing.
    """

    where: str
    claim: str
    ran: str
    number: str
    verdict: Verdict
    note: str = ""
    command: str = ""


def gain(low: float, high: float) -> Verdict:
    """Judge a claim that something is better, by the interval of the difference."""
    if low > 0:
        return REPRODUCED
    return NOT_REPRODUCED if high < MARGIN else UNDECIDED


def sameness(intervals: Iterable[Interval]) -> Verdict:
    """Judge a claim that settings do not differ by more than MARGIN."""
    intervals = tuple(intervals)
    if any(low > MARGIN or high < -MARGIN for _, low, high in intervals):
        return NOT_REPRODUCED
    if all(low >= -MARGIN and high <= MARGIN for _, low, high in intervals):
        return REPRODUCED
    return UNDECIDED


def rise(steps: Sequence[Interval], whole: Interval) -> Verdict:
    """Judge a claim that more always helps: the whole range gains, and no step loses."""
    if any(high < 0 for _, _, high in steps):
        return NOT_REPRODUCED
    return gain(whole[1], whole[2])


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Judge a claim that has several parts: as its worst."""
    order = (NOT_REPRODUCED, UNDECIDED, REPRODUCED)
    return min(verdicts, key=order.index)


def interval_of(paired: Paired) -> Interval:
    return paired.difference, paired.low, paired.high


def above(limit: float, interval: Sequence[float]) -> Verdict:
    """Judge a claim that a share (middle, low, high) is above a limit."""
    if interval[1] > limit:
        return REPRODUCED
    return NOT_REPRODUCED if interval[2] < limit else UNDECIDED


def shown(interval: Sequence[float], form: str = "+.1f") -> str:
    """Write an interval: "+1.2 [-0.3, +2.7]", or "61 [55, 67]" for a share (form=".0f")."""
    middle, low, high = (f"{value:{form}}" for value in interval)
    return f"{middle} [{low}, {high}]"
