"""Every claim of UHR-BAT's abstract and Sections 3, 4 and C (arXiv:2604.13565), and what the miniature study says.

    claims(results) -> one Judged a claim, in the order of the paper

The list of claims and what decides them are the rules' (rules_v2.toml), the comparisons claim_tests.py's; here stand
what is counted or computed, commands, and words. `experiments.study` writes the outcome as a table.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from bat_jax.config import BatConfig
from bat_jax.engine import cost
from bat_jax.study.measured.claim_tests import GUESSES, judged_comparisons
from bat_jax.study.measured.comparison import Records
from bat_jax.study.measured.grids import flag_of
from bat_jax.study.measured.plan import COVERAGE
from bat_jax.study.measured.rules import Claim
from bat_jax.study.measured.study_results import Results
from bat_jax.study.measured.verdicts import (
    COMPUTED,
    CONSTRUCTED,
    NEEDS_WEIGHTS,
    NOT_REPRODUCED,
    OUTSIDE,
    POOLED,
    REPRODUCED,
    Comparison,
    Judged,
    Verdict,
    has_common_sign,
    of_claim,
)
from bat_jax.study.paper.published import TABLES

_WEIGHTS = "checkpoints/uhr_bat_7b"
_ANSWER = f"python -m experiments.answer --checkpoint={_WEIGHTS} --image=FILE --question=TEXT"
_EVALUATE = f"python -m experiments.evaluate --checkpoint={_WEIGHTS} --output_dir=DIR --data=PATH"
_ABLATE = f"python -m experiments.ablate --checkpoint={_WEIGHTS} --benchmark=xlrs --data=PATH --output_dir=DIR"
# By claim; claims on a grid are redone by `experiments.ablate`.
_COMMANDS = {
    "xlrs": f"{_EVALUATE} --benchmark=xlrs --budgets=180,1320,1600,8000",
    "rshr": f"{_EVALUATE} --benchmark=rshr --budgets=80,320,1600,4000",
    "mme_realworld": f"{_EVALUATE} --benchmark=mme_realworld --budgets=80,320,1600,4000",
    "tflops": "python -m experiments.cost",
    "seconds": f"{_ABLATE} --figure=3",
    "sam_time": "python -m experiments.make_masks --sam=facebook/sam-vit-huge --image_dir=DIR --output_dir=DIR2",
    **dict.fromkeys(("memory", "picture_time", "named_models"), _ANSWER),
}
# Comparisons that a claim's row has room for.
_MOST_QUOTED = 6


class _Found(NamedTuple):
    """What was run, what came out, and whether it is as claimed."""

    ran: str
    number: str
    holds: bool = True
    note: str = ""


def claims(results: Results) -> tuple[Judged, ...]:
    """Judge every claim."""
    comparisons = judged_comparisons(results)
    return tuple(_judged(results, claim, comparisons.get(claim.id, ())) for claim in results.rules.claims)


def _judged(results: Results, claim: Claim, tests: tuple[Comparison, ...]) -> Judged:
    command = _COMMANDS.get(claim.id, "")
    if claim.kind == "weights":
        verdict, found = NEEDS_WEIGHTS, _Found(f"nothing: {claim.why}", "")
    elif claim.grid:
        verdict, found = of_claim(tests), _compared(claim, tests)
        if claim.grid == "mass":
            area = statistics.fmean(
                100 * value for line in results.coverage.values() for value in line["facts"]["area"]
            )
            found = found._replace(number=f"{found.number} on {area:.1f} % of the anchor")
        if claim.part != COVERAGE:
            flag, value = flag_of(claim.grid)
            command = f"{_ABLATE} --{flag}={value}"
    else:
        found = _FOUND[claim.id](results)
        as_claimed: Verdict = {"construction": CONSTRUCTED, "computed": COMPUTED}.get(claim.kind, REPRODUCED)
        verdict = as_claimed if found.holds else NOT_REPRODUCED
    note = "; ".join(text for text in (found.note, claim.note) if text)
    return Judged(
        where=claim.where,
        claim=claim.claim,
        ran=found.ran,
        number=found.number,
        verdict=verdict,
        note=note,
        command=command,
        tests=tests,
    )


def _compared(claim: Claim, tests: Sequence[Comparison]) -> _Found:
    """Return the comparisons of a claim in short: each of them, or how many are decided and the least difference."""
    shown = [one for one in tests if one.column != POOLED or has_common_sign(tests, one.name)]
    inside, beyond = ([one for one in shown if bool(one.outside) == is_outside] for is_outside in (False, True))
    first = (inside or beyond)[0].found
    names = list(dict.fromkeys(one.name for one in inside or beyond))
    what = names[0] if len(names) == 1 else f"{len(names)} comparisons"
    asked = "" if claim.part == COVERAGE else f"{first.num_questions} questions of "
    notes = []
    if claim.why:
        held_to = f"a margin of {claim.margin:g}" if claim.margin else f"a limit of {claim.limit:g} %"
        notes.append(f"held to {held_to}: {claim.why}")
    if any(one.excluded == GUESSES for one in inside):
        notes.append(f"{GUESSES}, so they decide nothing")
    if len(inside) <= _MOST_QUOTED:
        number = "; ".join(_quoted(one, len(names) > 1) for one in inside or beyond)
    else:
        verdicts = [one.verdict for one in inside]
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
        number = f"{counts}; least {_quoted(min(inside, key=_mean), True)}"
    if beyond:
        reasons = ", ".join(dict.fromkeys(one.outside for one in beyond))
        numbers = ""
        if inside and len(beyond) <= _MOST_QUOTED:
            numbers = ": " + "; ".join(_quoted(one, True) for one in beyond)
        elif inside:
            numbers = (
                f": {len(beyond)} comparisons, {min(map(_mean, beyond)):+.1f} to {max(map(_mean, beyond)):+.1f} points"
            )
        notes.append(f"{OUTSIDE} ({reasons}){numbers}")
    return _Found(f"{what}, {asked}{first.difference.num_clusters} scenes", number, note="; ".join(notes))


def _mean(one: Comparison) -> float:
    return one.found.difference.mean


def _quoted(one: Comparison, with_name: bool) -> str:
    """Return "1k +5.4 [+1.7, +9.2] points, undecided"."""
    column = "all budgets" if one.column == POOLED else one.column
    lead = " ".join(text for text in (one.name if with_name else "", column) if text)
    found = one.found
    shares = "" if column or with_name else f" ({found.ours:.1f} and {found.theirs:.1f} %)"
    verdict = f", {one.verdict}" if (column or with_name) and not one.outside else ""
    lack = f" ({one.excluded})" if one.excluded and one.excluded != GUESSES else ""
    return f"{lead} {found.interval.text()} points{shares}{verdict}{lack}".strip()


def _regions_covered(results: Results) -> _Found:
    total, covered, _ = _region_counts(results)
    number = f"{100 * covered / max(total, 1):.1f} % have one"
    return _Found(f"{_regions_of(results)}, rows in the prompt", number, covered == total)


def _lemma_1(results: Results) -> _Found:
    *_, empty = _region_counts(results)
    return _Found(f"{_regions_of(results)}; tests/compress/test_properties.py", f"{empty:,} have none", not empty)


def _region_counts(results: Results) -> tuple[int, int, int]:
    """Return regions of views with B_s >= R_s, those with a row, and those without a token that the rule keeps."""
    facts = [line["facts"] for line in results.coverage.values()]
    total, covered, empty = (sum(one[name] for one in facts) for name in ("num_regions", "num_covered", "num_empty"))
    return total, covered, empty


def _regions_of(results: Results) -> str:
    return f"{_region_counts(results)[0]:,} regions of views with B_s >= R_s, {len(results.coverage)} scenes"


def _lemma_2(results: Results) -> _Found:
    del results
    return _Found("tests/compress/test_preserve_merge.py against a NumPy twin, test_properties.py", "")


def _budget(results: Results) -> _Found:
    over = [
        sum(record["tokens_kept"]) > sum(cell.budgets)
        for sweep in results.sweeps.values()
        for grid in sweep.grids
        for cell in grid.cells
        for record in sweep.records(cell).values()
        if record["status"] == "answered"
    ]
    ran = f"{len(over):,} answers of all cells; tests/compress/test_properties.py"
    return _Found(ran, f"{sum(over)} exceed it", not any(over))


def _tflops(results: Results) -> _Found:
    del results
    cfg, text = BatConfig.uhr_bat_7b("release"), cost.Text()
    flops = {kept: cost.tflops(cost.release_path(cfg, kept * 1000, text)) for kept in (4, 12)}
    printed = {kept: TABLES[4].value(f"{kept}k", "TFLOPs") for kept in (4, 12)}
    note = (
        f"4k is {printed[4] - flops[4]:+.1f} off, 12k {printed[12] - flops[12]:+.1f}; every view is encoded twice in "
        "both, which explains the part that does not fall"
    )
    ran = "cost model of the release's path, 12k and 4k kept (docs/cost.md)"
    return _Found(ran, f"{flops[12]:.1f} and {flops[4]:.1f} TFLOPs", note=note)


def _seconds(results: Results) -> _Found:
    series = results.series("ablations", "figure3")
    few, many = (1000 * _warm_seconds(records) for _, records in (series[0], series[-1]))
    ran = "mean seconds of a question after encoding, 12k and 3k (scaled)"
    return _Found(ran, f"{many:.0f} and {few:.0f} ms", few < many)


def _warm_seconds(records: Records) -> float:
    times = [r["seconds"] for r in records.values() if r["status"] == "answered" and not r["compile_seconds"]]
    return sum(times) / max(len(times), 1)


def _memory(results: Results) -> _Found:
    del results
    total = sum(cost.inference_memory(BatConfig.uhr_bat_7b("release"), 3000, cost.Text()).values()) / cost.GIGA
    ran = "memory model of this project's path, 3,000 kept tokens (docs/cost.md)"
    return _Found(ran, f"{total:.1f} GB without the runtime's own buffers")


def _training_memory(results: Results) -> _Found:
    del results
    cfg = BatConfig.uhr_bat_7b("release")
    trained = [f"{sum(cost.training_memory(cfg, size).values()) / cost.GIGA:.1f}" for size in (2, 4)]
    ran = "weights, gradients and AdamW moments in bfloat16 and float32 (docs/cost.md)"
    return _Found(ran, f"{' and '.join(trained)} GB without activations")


_FOUND: Mapping[str, Callable[[Results], _Found]] = {
    "regions_covered": _regions_covered,
    "lemma_1": _lemma_1,
    "lemma_2": _lemma_2,
    "budget": _budget,
    "tflops": _tflops,
    "seconds": _seconds,
    "memory": _memory,
    "training_memory": _training_memory,
}
