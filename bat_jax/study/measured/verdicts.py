"""What decides whether a claim of the paper holds: the tests of a version of the rules (rules.py).

A comparison has two one-sided p-values, for the claim and against it. Within a family both are Holm's. Too few scenes
or discordant questions, an interval without width, guesses, and what the weights were not trained for decide nothing.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from bat_jax.study.measured.cluster_mean import ClusterMean
from bat_jax.study.measured.comparison import Paired
from bat_jax.study.measured.rules import Claim, Rules

Verdict = Literal[
    "reproduced in miniature",
    "not reproduced",
    "undecided",
    "differs by budget",
    "outside what the weights were trained for",
    "holds by construction, tested",
    "computed",
    "needs the real weights",
]
REPRODUCED: Verdict = "reproduced in miniature"
NOT_REPRODUCED: Verdict = "not reproduced"
UNDECIDED: Verdict = "undecided"
DIFFERS: Verdict = "differs by budget"
OUTSIDE: Verdict = "outside what the weights were trained for"
CONSTRUCTED: Verdict = "holds by construction, tested"
COMPUTED: Verdict = "computed"
NEEDS_WEIGHTS: Verdict = "needs the real weights"

ComparisonKind = Literal["gain", "equal", "no_more", "no_loss", "above"]
# A column of comparisons over all budgets.
POOLED = "all"
# Percent points that rounding may make of nothing.
_NO_WIDTH = 1e-6


class PValues(NamedTuple):
    """supports: of the test for a claim. opposes: of the one against it. Small ones decide."""

    supports: float
    opposes: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison that a claim is judged by.

    Attributes:
      name: "uhr_bat - topk". column: budget, POOLED, or "". kind: its own, where the claim's is "rise".
      outside: what the weights were not trained for, "" if nothing: the comparison decides nothing.
      excluded: another reason why it decides nothing, "" if none.
      adjusted: p-values within the family; None where it is outside.
    """

    claim: Claim
    name: str
    column: str
    kind: ComparisonKind
    found: Paired
    outside: str = ""
    excluded: str = ""
    adjusted: PValues | None = None
    verdict: Verdict = UNDECIDED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim of the paper and what came of it.

    Attributes:
      where: section, table or figure. claim: in short. ran: what was run or computed. number: what came out.
      note: what a reader has to know, or "". command: for whoever has the real weights; "" where it adds nothing.
      tests: the comparisons that it was judged by.
    """

    where: str
    claim: str
    ran: str
    number: str
    verdict: Verdict
    note: str = ""
    command: str = ""
    tests: tuple[Comparison, ...] = ()


class FromFirst(NamedTuple):
    """How a cell of a grid differs from the first one. p: two-sided, adjusted. verdict: in a word, with its reason."""

    found: Paired
    p: float
    verdict: str


def p_values(kind: ComparisonKind, difference: ClusterMean, margin: float) -> PValues:
    """Return the p-values of a comparison.

    Args:
      margin: percent points; of "gain" and "no_loss" what rules out, and what counts as, a difference.
    """
    above, below = difference.p_above, difference.p_below
    if kind == "gain":
        return PValues(above(0.0), below(margin))
    if kind == "above":  # found is the difference to the limit
        return PValues(above(0.0), below(0.0))
    if kind == "no_loss":
        return PValues(above(-margin), below(0.0))
    if kind == "no_more":
        return PValues(below(margin), above(margin))
    return PValues(max(above(-margin), below(margin)), min(above(margin), below(-margin)))


def shortage(found: Paired, rules: Rules) -> str:
    """Say what a comparison lacks to decide anything; "" if nothing."""
    if found.difference.num_clusters < rules.least_clusters:
        return f"{found.difference.num_clusters} scenes of at least {rules.least_clusters}"
    if found.num_discordant < rules.least_discordant:
        return f"{found.num_discordant} discordant questions of at least {rules.least_discordant}"
    _, low, high = found.interval
    return "an interval without width" if high - low < _NO_WIDTH else ""


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values of a family by Holm's step-down rule: whichever are below a level hold together at that level."""
    if not values:
        return []
    from statsmodels.stats.multitest import multipletests  # takes a second, which only who compares should wait

    return multipletests(values, method="holm")[1].tolist()


def decide(tests: Iterable[Comparison], rules: Rules) -> tuple[Comparison, ...]:
    """Return the comparisons with adjusted p-values and verdicts.

    What is outside of the training is in no family. Another comparison that decides nothing stays in it with p = 1, so
    that the answers do not change the family's size.
    """
    found = [dataclasses.replace(one, excluded=one.excluded or shortage(one.found, rules)) for one in tests]
    by_family: dict[str, list[int]] = {}
    for place, one in enumerate(found):
        if one.outside:
            found[place] = dataclasses.replace(one, verdict=OUTSIDE)
        else:
            by_family.setdefault(one.claim.family, []).append(place)
    for places in by_family.values():
        raw = [_raw(found[place], rules) for place in places]
        columns = zip(*(holm(side) for side in zip(*raw, strict=True)), strict=True)
        for place, adjusted in zip(places, map(PValues._make, columns), strict=True):
            verdict = _verdict(adjusted, rules)
            found[place] = dataclasses.replace(found[place], adjusted=adjusted, verdict=verdict)
    return tuple(found)


def _raw(one: Comparison, rules: Rules) -> PValues:
    if one.excluded:
        return PValues(1.0, 1.0)
    return p_values(one.kind, one.found.difference, one.claim.margin or rules.margin)


def _verdict(p: PValues, rules: Rules) -> Verdict:
    if p.supports <= rules.alpha / 2:
        return REPRODUCED
    return NOT_REPRODUCED if p.opposes <= rules.alpha / 2 else UNDECIDED


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Judge a claim that has several parts: as its worst."""
    order = (NOT_REPRODUCED, UNDECIDED, REPRODUCED)
    return min(verdicts, key=order.index)


def by_column(tests: Sequence[Comparison]) -> dict[str, Verdict]:
    """Return the verdict at every budget that the weights were trained for, POOLED left out."""
    columns = dict.fromkeys(one.column for one in tests if not one.outside and one.column != POOLED)
    return {name: all_of(one.verdict for one in tests if one.column == name and not one.outside) for name in columns}


def has_common_sign(tests: Sequence[Comparison], name: str) -> bool:
    """Return whether the differences of a comparison at all budgets have the same sign."""
    of_budgets = [one.found.difference.mean for one in tests if one.name == name and one.column != POOLED]
    return all(value > 0 for value in of_budgets) or all(value < 0 for value in of_budgets)


def of_claim(tests: Sequence[Comparison]) -> Verdict:
    """Judge a claim by its comparisons: over budgets only where the differences of all have the same sign."""
    columns = by_column(tests)
    inside = [one for one in tests if not one.outside]
    if not columns:
        return OUTSIDE
    if len(columns) == 1:
        return next(iter(columns.values()))
    if all(has_common_sign(inside, one.name) for one in inside):
        return all_of(one.verdict for one in inside if one.column == POOLED)
    verdicts = set(columns.values())
    return verdicts.pop() if len(verdicts) == 1 else DIFFERS


def from_first(compared: Sequence[Paired], rules: Rules) -> list[FromFirst]:
    """Say of each cell of a grid whether it is better or worse than the first, or equal within the margin."""
    lacks = [shortage(found, rules) for found in compared]
    differences = [found.difference for found in compared]
    sided = [(one.p_above(0.0), one.p_below(0.0)) for one in differences]
    differs = holm([1.0 if lack else min(1.0, 2 * min(pair)) for lack, pair in zip(lacks, sided, strict=True)])
    equals = [p_values("equal", one, rules.margin).supports for one in differences]
    equals = holm([1.0 if lack else p for lack, p in zip(lacks, equals, strict=True)])
    found = []
    for one, lack, p, equal in zip(compared, lacks, differs, equals, strict=True):
        verdict = f"undecided ({lack})" if lack else "undecided"
        if p <= rules.alpha:
            verdict = "better" if one.difference.mean > 0 else "worse"
        elif equal <= rules.alpha / 2:
            verdict = "equal"
        found.append(FromFirst(one, p, verdict))
    return found
