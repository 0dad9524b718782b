"""Compare answers to the same questions: paired differences, and how many scenes and questions they come from."""

import dataclasses
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from bat_jax.study.measured.cluster_mean import ClusterMean, Interval, cluster_mean
from bat_jax.study.measured.rules import Rules

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
    """Two ways to answer, on the same questions; or one, beside a limit.

    Attributes:
      ours, theirs: percent right. difference: in percent points.
      num_discordant: questions whose shares of right answers differ.
    """

    num_questions: int
    num_discordant: int
    ours: float
    theirs: float
    difference: ClusterMean

    @property
    def interval(self) -> Interval:
        """The difference, within -100 and 100."""
        middle, low, high = self.difference.interval()
        return Interval(middle, max(low, -100.0), min(high, 100.0))


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


def right_shares(runs: Sequence[Records], ids: Sequence[str]) -> list[float]:
    """Return for each of the questions the share of runs in which it is right."""
    return [statistics.fmean(bool(records[id]["is_right"]) for records in runs) for id in ids]


def paired(ours: Sequence[float], theirs: Sequence[float], scenes: Sequence[Hashable], rules: Rules) -> Paired:
    """Compare two accuracies on the same questions.

    Args:
      ours, theirs: for each question whether it is right, or how often. scenes: the question's (`scene_of`).

    Raises:
      ValueError: there are no questions, or not the same number.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"need the same questions of both, got {len(ours)} and {len(theirs)}")
    differences = [100 * (float(our) - float(their)) for our, their in zip(ours, theirs, strict=True)]
    return Paired(
        num_questions=len(ours),
        num_discordant=sum(map(bool, differences)),
        ours=100 * statistics.fmean(ours),
        theirs=100 * statistics.fmean(theirs),
        difference=cluster_mean(differences, scenes, rules),
    )


def compare(
    ours: Sequence[Records], theirs: Sequence[Records], rules: Rules, is_wanted: IsWanted = lambda record: True
) -> Paired:
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
    return paired(right_shares(ours, ids), right_shares(theirs, ids), [scene_of(first[id]) for id in ids], rules)
