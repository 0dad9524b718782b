"""The comparisons that the rules list, made from a study's answers: a claim's cells, their differences, verdicts."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bat_jax.study.measured import coverage
from bat_jax.study.measured.comparison import Paired, Record, Records, compare, paired
from bat_jax.study.measured.grids import Cell
from bat_jax.study.measured.plan import COVERAGE
from bat_jax.study.measured.rules import Claim, Rules
from bat_jax.study.measured.study_results import QUESTIONS, Results
from bat_jax.study.measured.verdicts import POOLED, Comparison, ComparisonKind, decide

GUESSES = "the model's answers are guesses"
# Of comparisons of scenes' facts.
_NAMES = {"purity": "regions - squares", "mass": "importance on the asked sites"}


class _Pair(NamedTuple):
    """Runs to compare, under the name and budget of their comparison."""

    name: str
    column: str
    kind: ComparisonKind
    ours: list[tuple[Cell, Records]]
    theirs: list[tuple[Cell, Records]]

    @property
    def cells(self) -> list[Cell]:
        return [cell for cell, _ in (*self.ours, *self.theirs)]

    @property
    def runs(self) -> tuple[list[Records], list[Records]]:
        return [records for _, records in self.ours], [records for _, records in self.theirs]


def judged_comparisons(results: Results) -> Mapping[str, tuple[Comparison, ...]]:
    """Return every claim's comparisons with their verdicts, by the claim's id."""
    tests = [one for claim in results.rules.claims if claim.grid for one in _tests(results, claim)]
    decided = decide(tests, results.rules)
    return {id: tuple(of) for id, of in itertools.groupby(decided, key=lambda one: one.claim.id)}


def _tests(results: Results, claim: Claim) -> Iterator[Comparison]:
    if claim.part == COVERAGE:
        for column, found in _of_coverage(results, claim):
            kind: ComparisonKind = "above" if claim.kind == "above" else "gain"
            name = _NAMES.get(claim.grid, f"targets that {claim.ours} keeps")
            if claim.theirs:
                name = f"{claim.ours} - {claim.theirs[0]}"
            yield Comparison(claim=claim, name=name, column=column, kind=kind, found=found)
        return
    is_wanted = QUESTIONS[claim.questions]
    pairs = list(_pairs(results, claim))
    inside = [pair for pair in pairs if not _outside(results, pair)]
    runs = [run for pair in inside for side in pair.runs for run in side]
    is_guess = results.is_guessing or (bool(runs) and results.are_guesses(runs, is_wanted))
    for name, of_name in itertools.groupby(pairs, key=lambda pair: pair.name):
        budgets = list(of_name)
        pooled = [pair for pair in budgets if not _outside(results, pair)]
        if len(pooled) > 1:
            ours = [run for pair in pooled for run in pair.ours]
            theirs = [run for pair in pooled for run in pair.theirs]
            budgets.append(pooled[0]._replace(column=POOLED, ours=ours, theirs=theirs))
        for pair in budgets:
            yield Comparison(
                claim=claim,
                name=name,
                column=pair.column,
                kind=pair.kind,
                found=compare(*pair.runs, results.rules, is_wanted),
                outside=_outside(results, pair),
                excluded=GUESSES if is_guess else "",
            )


def _outside(results: Results, pair: _Pair) -> str:
    return next((text for cell in pair.cells if (text := results.outside(cell))), "")


def _pairs(results: Results, claim: Claim) -> Iterator[_Pair]:
    """Yield the cells that a claim compares."""
    if claim.theirs:
        kind: ComparisonKind = "equal" if claim.kind == "equal" else "no_more" if claim.kind == "no_more" else "gain"
        for other, column in itertools.product(claim.theirs, claim.columns):
            ours, theirs = (results.runs(claim.part, claim.grid, name, column) for name in (claim.ours, other))
            yield _Pair(f"{claim.ours} - {other}", column, kind, ours, theirs)
        return
    series = results.series(claim.part, claim.grid)
    if claim.kind == "equal":
        for one in series[1:]:
            yield _pair("equal", one, series[0])
        return
    views: dict[str, list[tuple[Cell, Records]]] = {}
    for one in series:
        view, colon, _ = one[0].name.partition(":")
        views.setdefault(view if colon else "", []).append(one)
    for of_view in views.values():
        inside = [one for one in of_view if not results.outside(one[0])]
        yield _pair("gain", inside[-1], inside[0])
        if len(inside) > 2:
            yield from (_pair("no_loss", after, before) for before, after in itertools.pairwise(inside))
        yield from (_pair("gain", one, inside[0]) for one in of_view if results.outside(one[0]))


def _pair(kind: ComparisonKind, ours: tuple[Cell, Records], theirs: tuple[Cell, Records]) -> _Pair:
    return _Pair(f"{ours[0].name} - {theirs[0].name}", "", kind, [ours], [theirs])


def _is_of(claim: Claim, target: Record) -> bool:
    """Return whether a target is one of a question of the claim's kind."""
    return not claim.questions or target["is_scattered"] == (claim.questions == "scattered")


def _of_coverage(results: Results, claim: Claim) -> Iterator[tuple[str, Paired]]:
    """Yield (budget, comparison) of what token coverage saw: targets, or the facts of scenes."""
    lines, rules, is_wanted = results.coverage, results.rules, functools.partial(_is_of, claim)
    if claim.grid not in (coverage.OWN, coverage.ORACLE):
        yield "", _of_scenes(results, claim)
        return
    budgets = [int(column.removesuffix("k")) for column in claim.columns]
    for column, kept in [*zip(claim.columns, ([one] for one in budgets), strict=True), (POOLED, budgets)]:
        if column == POOLED and len(budgets) == 1:
            return
        if claim.kind == "above":
            values, scenes = coverage.fate_shares(lines, claim.grid, claim.ours, kept, "k", is_wanted)
            found = _beside(claim.limit, values, scenes, rules) if values else None
        else:
            found = coverage.difference(lines, claim.grid, claim.ours, claim.theirs[0], kept, is_wanted, rules)
        if found is not None:
            yield column, found


def _of_scenes(results: Results, claim: Claim) -> Paired:
    """Compare a fact of scenes with what it is held to: purity with that of squares, importance with the limit."""
    facts = [(scene, line["facts"]) for scene, line in results.coverage.items()]
    if claim.grid == "purity":
        ours, theirs = ([one[name] for _, one in facts] for name in ("purity", "grid_purity"))
        return paired(ours, theirs, [scene for scene, _ in facts], results.rules)
    values, scenes = zip(*((value, scene) for scene, one in facts for value in one["mass"]), strict=True)
    return _beside(claim.limit, values, scenes, results.rules)


def _beside(limit: float, values: Sequence[float], scenes: Sequence[str], rules: Rules) -> Paired:
    """Compare shares with a limit in percent."""
    return paired(values, [limit / 100] * len(values), scenes, rules)
