"""Compare answers to the same questions: paired differences with intervals that know which questions share a scene.

    d_i = ours_i - theirs_i
    mean +- t * sqrt(G / (G - 1) * sum over G scenes of (sum over its questions of (d_i - mean))^2) / n

Questions about one scene share its picture, so their differences may lean the same way; the sum over scenes allows for
that (a cluster-robust standard error, Liang and Zeger 1986), and t, Student's 97.5 % point with G - 1 degrees of
freedom, for there being few. With a question a scene it is the interval of the paired t-test.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from scipy.special import stdtrit

Record = Mapping[str, Any]
Records = Mapping[str, Record]
IsWanted = Callable[[Record], bool]

# Forms of UHR-Mini's questions by what has to be seen: things on several sites, or what is on one named site.
SCATTERED = ("overall_counting/kind", "spatial_relation/sites", "route_planning/first")
ONE_SITE = (
    "regional_counting/site",
    "object_class/site",
    "object_colour/site",
    "motion_state/site",
    "existence/which",
    "existence/yes_no",
    "spatial_relation/objects",
    "anomaly/what",
)
# Those among them that ask about a small object.
SMALL_OBJECT = ("object_class/site", "object_colour/site", "motion_state/site", "existence/which", "existence/yes_no")
# Forms that are also asked in groups about different sites, for each of which tokens are chosen once.
SHARED = ("object_class/site", "object_colour/site", "motion_state/site")


class Interval(NamedTuple):
    """A mean with the ends of its 95 % interval."""

    middle: float
    low: float
    high: float

    def text(self, form: str = "+.1f") -> str:
        """Write it: "+1.2 [-0.3, +2.7]", or "61 [55, 67]" for a share (form=".0f")."""
        middle, low, high = (f"{value:{form}}" for value in self)
        return f"{middle} [{low}, {high}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
    """Two ways to answer, on the same questions. ours, theirs: percent right. difference: percent points."""

    num_questions: int
    ours: float
    theirs: float
    difference: Interval


def form_of(record: Record) -> str:
    """Return the form of a UHR-Mini question without its wording: "object_class/site"; "" for other benchmarks."""
    return record["facts"].get("template", "").rpartition("/")[0]


def scene_of(record: Record) -> str:
    """Return the name of what questions share (`Picture.scene`).

    Raises:
      ValueError: the line is of a version that did not write it.
    """
    if "scene" not in record:
        raise ValueError(f"question {record['id']!r}: its line names no scene (an older version wrote it); ask anew")
    return record["scene"]


def right_of(records: Records, ids: Sequence[str]) -> list[bool]:
    """Return which of the questions are right."""
    return [bool(records[id]["is_right"]) for id in ids]


def right_shares(runs: Sequence[Records], ids: Sequence[str]) -> list[float]:
    """Return for each of the questions the share of runs in which it is right."""
    return [statistics.fmean(run) for run in zip(*(right_of(records, ids) for records in runs), strict=True)]


def mean_interval(values: Sequence[float], groups: Sequence[Hashable]) -> Interval:
    """Return a mean with its 95 % interval, as above.

    Args:
      groups: which values belong together. One group alone gives an interval without ends.

    Raises:
      ValueError: there are no values, or not as many groups.
    """
    if not values or len(values) != len(groups):
        raise ValueError(f"need values and a group for each, got {len(values)} and {len(groups)}")
    mean = statistics.fmean(values)
    sums: dict[Hashable, float] = {}
    for value, group in zip(values, groups, strict=True):
        sums[group] = sums.get(group, 0.0) + value - mean
    if len(sums) == 1:
        return Interval(mean, -math.inf, math.inf)
    spread = math.fsum(part**2 for part in sums.values()) * len(sums) / (len(sums) - 1)
    half = float(stdtrit(len(sums) - 1, 0.975)) * math.sqrt(spread) / len(values)
    return Interval(mean, mean - half, mean + half)


def paired_difference(
    ours: Sequence[bool] | Sequence[float], theirs: Sequence[bool] | Sequence[float], groups: Sequence[Hashable]
) -> Interval:
    """Return the difference of two accuracies on the same questions, in percent points.

    Args:
      ours, theirs: for each question whether it is right, or how often. groups: see `mean_interval`.

    Raises:
      ValueError: there are no questions, or not the same number.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"need the same questions of both, got {len(ours)} and {len(theirs)}")
    differences = [float(our) - float(their) for our, their in zip(ours, theirs, strict=True)]
    mean, low, high = mean_interval(differences, groups)
    return Interval(100 * mean, 100 * max(low, -1.0), 100 * min(high, 1.0))


def compare(ours: Sequence[Records], theirs: Sequence[Records], is_wanted: IsWanted = lambda record: True) -> Paired:
    """Compare two ways on the questions that all of their runs answered.

    Args:
      ours, theirs: runs of each way (seeds, budgets); a question counts with the share of its runs that are right.
      is_wanted: which questions.

    Raises:
      ValueError: there is no such question.
    """
    first, *others = (*ours, *theirs)
    ids = [id for id, record in first.items() if is_wanted(record) and all(id in other for other in others)]
    if not ids:
        raise ValueError("no question that all runs answered to compare them on; give more scenes")
    our_shares, their_shares = right_shares(ours, ids), right_shares(theirs, ids)
    return Paired(
        num_questions=len(ids),
        ours=100 * statistics.fmean(our_shares),
        theirs=100 * statistics.fmean(their_shares),
        difference=paired_difference(our_shares, their_shares, [scene_of(first[id]) for id in ids]),
    )
