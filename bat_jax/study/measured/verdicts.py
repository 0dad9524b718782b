"""What decides whether a claim of the paper holds: rules over paired intervals, so that new weights need no new view.

A claim of a gain is reproduced if the whole 95 % interval of the paired difference lies above 0, not reproduced if it
lies below MARGIN (a gain of that size is then ruled out), and undecided in between: more questions would tell. A claim
that settings do not differ is reproduced if all intervals lie within MARGIN points of 0, not reproduced if one lies
outside.
Where the model's answers are guesses, nothing about accuracy is decided.
"""

import dataclasses
from collections.abc import Collection, Iterable
from typing import Literal

from bat_jax.study.measured.comparison import Interval

Verdict = Literal["reproduced in miniature", "not reproduced", "undecided", "computed", "needs the real weights"]
REPRODUCED: Verdict = "reproduced in miniature"
NOT_REPRODUCED: Verdict = "not reproduced"
UNDECIDED: Verdict = "undecided"
COMPUTED: Verdict = "computed"
NEEDS_WEIGHTS: Verdict = "needs the real weights"

# Percent points.
MARGIN = 1.0


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


def fact(holds: bool) -> Verdict:
    """Judge a claim that is counted without error."""
    return REPRODUCED if holds else NOT_REPRODUCED


def gain(difference: Interval) -> Verdict:
    """Judge a claim that something is better."""
    if difference.low > 0:
        return REPRODUCED
    return NOT_REPRODUCED if difference.high < MARGIN else UNDECIDED


def sameness(differences: Collection[Interval]) -> Verdict:
    """Judge a claim that settings do not differ by more than MARGIN."""
    if any(one.low > MARGIN or one.high < -MARGIN for one in differences):
        return NOT_REPRODUCED
    if all(one.low >= -MARGIN and one.high <= MARGIN for one in differences):
        return REPRODUCED
    return UNDECIDED


def rise(steps: Iterable[Interval], whole: Interval) -> Verdict:
    """Judge a claim that more always helps: the whole range gains, and no step loses."""
    return NOT_REPRODUCED if any(step.high < 0 for step in steps) else gain(whole)


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Judge a claim that has several parts: as its worst."""
    order = (NOT_REPRODUCED, UNDECIDED, REPRODUCED)
    return min(verdicts, key=order.index)


def above(limit: float, share: Interval) -> Verdict:
    """Judge a claim that a share is above a limit."""
    if share.low > limit:
        return REPRODUCED
    return NOT_REPRODUCED if share.high < limit else UNDECIDED
