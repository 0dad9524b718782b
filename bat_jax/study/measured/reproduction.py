"""Every claim of UHR-BAT's abstract and Sections 3, 4 and C (arXiv:2604.13565), and what the miniature study says.

    claims(results) -> one Judged a claim, in the order of the paper

Numbers come from the study's answers (plan.py, sweep.py), its token coverage (coverage.py) and the cost model; the
verdict from the rules of verdicts.py. `experiments.study` writes the outcome as a table.
"""

import functools
import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from bat_jax.config import BatConfig
from bat_jax.engine import cost
from bat_jax.study.measured import coverage
from bat_jax.study.measured.comparison import Interval, IsWanted, Record, Records, compare, mean_interval
from bat_jax.study.measured.grids import PAPER_TOKENS, Cell, flag_of
from bat_jax.study.measured.study_results import (
    ONE_SITE_ONLY,
    SCATTERED_ONLY,
    SMALL_ONLY,
    Results,
    is_shared,
)
from bat_jax.study.measured.verdicts import (
    COMPUTED,
    NEEDS_WEIGHTS,
    NOT_REPRODUCED,
    UNDECIDED,
    Judged,
    Verdict,
    above,
    all_of,
    fact,
    gain,
    rise,
    sameness,
)
from bat_jax.study.paper.published import TABLES

UHR_BAT = coverage.UHR_BAT
_WEIGHTS = "checkpoints/uhr_bat_7b"
_ANSWER = f"python -m experiments.answer --checkpoint={_WEIGHTS} --image=FILE --question=TEXT"
_EVALUATE = f"python -m experiments.evaluate --checkpoint={_WEIGHTS} --output_dir=DIR --data=PATH"
_MASKS = "python -m experiments.make_masks --sam=facebook/sam-vit-huge --image_dir=DIR --output_dir=DIR2"
_GUESSES = "the model's answers are guesses, so they decide nothing"


def claims(results: Results) -> tuple[Judged, ...]:
    """Judge every claim."""
    parts = (_abstract, _method, _benchmarks, _ablations, _efficiency, _appendix)
    return tuple(claim for part in parts for claim in part(results))


def _ablate(grid: str) -> str:
    """Return the command that answers a grid with the real weights."""
    flag, value = flag_of(grid)
    command = f"python -m experiments.ablate --checkpoint={_WEIGHTS} --benchmark=xlrs --data=PATH --output_dir=DIR"
    return f"{command} --{flag}={value}"


def _accuracy(results: Results, verdict: Verdict, *, is_guess: bool = False, **rest: Any) -> Judged:
    """Return a claim on accuracy, undecided where the model guesses: always, or on this claim's questions."""
    if is_guess or results.is_guessing:
        return Judged(verdict=UNDECIDED, **rest | {"note": _GUESSES})
    return Judged(verdict=verdict, **rest)


def _needs_weights(where: str, claim: str, why: str, command: str) -> Judged:
    return Judged(where=where, claim=claim, ran=f"nothing: {why}", number="", verdict=NEEDS_WEIGHTS, command=command)


def _better_than(
    results: Results, other: str, where: str, claim: str, is_wanted: IsWanted, of: str, grid: str = "selections"
) -> Judged:
    """Judge that UHR-BAT is better than another selection in a grid of one budget."""
    ours, theirs = (results.answers("selections", grid, name) for name in (UHR_BAT, other))
    found = compare([ours], [theirs], is_wanted)
    budget = "/".join(map(str, results.grid("selections", grid).cells[0].budgets))
    return _accuracy(
        results,
        gain(found.difference),
        where=where,
        claim=claim,
        ran=f"uhr_bat - {other}, budgets {budget}, {found.num_questions} {of}",
        number=f"{found.difference.text()} points ({found.ours:.1f} and {found.theirs:.1f} %)",
        command=_ablate(grid),
    )


def _abstract(results: Results) -> Iterator[Judged]:
    claim = "direct down-sampling loses query-critical details"
    yield _better_than(results, "anchor view alone", "Abstract", claim, SMALL_ONLY, "questions on small objects")
    columns = results.columns("methods", "regions")
    seeds = len(results.seeds(columns[0]))
    runs = [records for _, records in results.series("methods", "regions")]
    for other, name in (("topk_global", "global top-K"), ("topk", "top-K in every view")):
        for is_wanted, of in (
            (ONE_SITE_ONLY, "about one site"),
            (is_shared, "about different sites that share their tokens"),
            (SCATTERED_ONLY, "about several sites"),
        ):
            paired = results.against(other, columns, is_wanted)
            yield _accuracy(
                results,
                gain(paired.difference),
                is_guess=results.are_guesses(runs, is_wanted),
                where="Abstract, Sec. 3.4",
                claim=f"{name} loses what preserve-and-merge keeps: questions {of}",
                ran=f"uhr_bat - {other}, {len(columns)} budgets ({columns[0]} to {columns[-1]}), {seeds} seeds of "
                f"K-means, {paired.num_questions} questions",
                number=f"{paired.difference.text()} points ({paired.ours:.1f} and {paired.theirs:.1f} %)",
                command=_ablate("regions"),
            )
    for other, words in (("random", "random tokens"), ("pooling", "uniform pooling")):
        claim = f"query-guided selection finds the evidence (against {words})"
        yield _better_than(results, other, "Abstract", claim, lambda record: True, "questions")


def _is_of(is_scattered: bool, target: Record) -> bool:
    """Return whether a target is one of a question about several sites, or about one."""
    return target["is_scattered"] == is_scattered


def _method(results: Results) -> Iterator[Judged]:
    lines = results.coverage
    for source, words in ((coverage.OWN, "the model's importance"), (coverage.ORACLE, "an oracle's importance")):
        for is_scattered, of in ((False, "about one site"), (True, "about several sites")):
            is_wanted = functools.partial(_is_of, is_scattered)
            difference = coverage.difference(lines, source, UHR_BAT, coverage.TOP_K, coverage.BUDGETS, is_wanted)
            if difference is not None:
                yield Judged(
                    where="Sec. 3.4",
                    claim=f"regions keep sparse targets that top-K loses: targets of questions {of}",
                    ran=f"targets kept unmerged, uhr_bat - topk, {words}, {len(coverage.BUDGETS)} budgets, "
                    f"{len(lines)} scenes, no decoder",
                    number=f"{difference.text()} points",
                    verdict=gain(difference),
                )
    facts = [line["facts"] for line in lines.values()]
    total, covered, empty = (sum(one[name] for one in facts) for name in ("num_regions", "num_covered", "num_empty"))
    ran = f"{total:,} regions of views with B_s >= R_s, {len(facts)} scenes"
    yield Judged(
        where="Sec. 3.3",
        claim="B_s >= R_s guarantees every region a row",
        ran=f"{ran}, rows in the prompt",
        number=f"{100 * covered / max(total, 1):.1f} % have one",
        verdict=fact(covered == total),
        note='Algorithm 1 cuts whole regions; coverage="guaranteed" is this project\'s rule that keeps the promise',
    )
    yield Judged(
        where="App. C.4, Lemma 1",
        claim="every region keeps a token before the budget cuts",
        ran=ran,
        number=f"{empty:,} have none",
        verdict=fact(not empty),
    )
    yield Judged(
        where="App. C.4, Lemma 2",
        claim="a merged token is the mean of what it merges",
        ran="tests/compress/test_preserve_merge.py against a NumPy twin, test_properties.py",
        number="holds",
        verdict=fact(True),
    )
    over = [
        sum(record["tokens_kept"]) > sum(cell.budgets)
        for sweep in results.sweeps.values()
        for grid in sweep.grids
        for cell in grid.cells
        for record in sweep.records(cell).values()
        if record["status"] == "answered"
    ]
    yield Judged(
        where="Abstract, Sec. 3.2",
        claim="the token budget is never exceeded",
        ran=f"{len(over):,} answers of all cells",
        number=f"{sum(over)} exceed it",
        verdict=fact(not any(over)),
    )


def _benchmarks(results: Results) -> Iterator[Judged]:
    """Yield the state-of-the-art claims, of which only the real weights can show the first three."""
    for where, claim, benchmark, budgets in (
        ("Sec. 4, Table 1", "XLRS-Bench 44.0, the best of all", "xlrs", "180,1320,1600,8000"),
        ("Sec. 4, Table 2", "RSHR-Bench 29.2 perception, 45.0 reasoning", "rshr", "80,320,1600,4000"),
        ("Sec. 4, Table 3", "MME-RealWorld-RS 33.33, the best of all", "mme_realworld", "80,320,1600,4000"),
    ):
        command = f"{_EVALUATE} --benchmark={benchmark} --budgets={budgets}"
        yield _needs_weights(where, claim, "weights and pictures cannot come with the repository", command)
    rows = {(cell.name, cell.column): records for cell, records in results.series("selections", "figure1")}
    pairs = {
        (other, column): compare([rows[UHR_BAT, column]], [records])
        for (other, column), records in rows.items()
        if other != UHR_BAT
    }
    worst = min(pairs, key=lambda key: pairs[key].difference.middle)
    num_won = sum(pair.difference.low > 0 for pair in pairs.values())
    yield _accuracy(
        results,
        all_of(gain(pair.difference) for pair in pairs.values()),
        where="Sec. 1, Fig. 1",
        claim="better than the other methods at equal tokens",
        ran=f"uhr_bat - {len({other for other, _ in pairs})} others at {len({column for _, column in pairs})} budgets, "
        f"{pairs[worst].num_questions} questions",
        number=f"better with certainty in {num_won} of {len(pairs)}; worst {pairs[worst].difference.text()} against "
        f"{worst[0]} at {worst[1]}",
        command=_ablate("figure1"),
    )
    claim = "better than text-agnostic background pruning (GeoLLaVA-8K's manner) at 95 % pruning"
    yield _better_than(results, "background", "Sec. 4, Fig. 5", claim, lambda record: True, "questions", "figure5")


def _change(before: Records, after: Records) -> Interval:
    """Return by how many points a cell's answers are better than another's."""
    return compare([after], [before]).difference


def _ends(series: Sequence[tuple[Cell, Records]]) -> tuple[list[Interval], Interval]:
    """Return the changes from cell to cell and from the first to the last."""
    answers = [records for _, records in series]
    return [_change(*pair) for pair in itertools.pairwise(answers)], _change(answers[0], answers[-1])


def _ablations(results: Results) -> Iterator[Judged]:
    def judged(grid: str, verdict: Verdict, where: str, claim: str, ran: str, number: str, **rest: Any) -> Judged:
        ran += f", {len(results.series('ablations', grid)[0][1])} questions a cell"
        command = _ablate(grid)
        return _accuracy(results, verdict, where=where, claim=claim, ran=ran, number=number, command=command, **rest)

    clusters = results.series("ablations", "table7")
    spread = [_change(clusters[0][1], records) for _, records in clusters[1:]]
    low, high = (extreme(one.middle for one in spread) for extreme in (min, max))
    yield judged(
        "table7",
        sameness(spread),
        "Fig. 3 left, Table 7, App. C.4",
        "accuracy varies by less than 1 % with the number of clusters",
        f"{len(clusters)} counts, each against the smallest",
        f"{low:+.1f} to {high:+.1f} points, widest interval {max(spread, key=lambda one: one.high - one.low).text()}",
    )
    kept = results.series("ablations", "figure3")
    trained = [one for one in kept if results.is_trained(one[0])]
    beyond = [f"{cell.key} {_change(kept[0][1], found).text()}" for cell, found in kept if not results.is_trained(cell)]
    steps, whole = _ends(trained)
    most = f"the {results.trained_tokens} tokens that the model was trained with at most"
    yield judged(
        "figure3",
        rise(steps, whole),
        "Fig. 3 right, Sec. 4",
        "more tokens always gain",
        f"{trained[0][0].key} to {trained[-1][0].key} of the paper's tokens, scaled",
        f"first to last {whole.text()} points",
        note=f"against {kept[0][0].key}, beyond {most}: {'; '.join(beyond)}" if beyond else "",
    )
    views: dict[str, list[tuple[Cell, Records]]] = {}
    for cell, records in results.series("ablations", "table6"):
        views.setdefault(cell.key.partition(":")[0], []).append((cell, records))
    by_view = {view: _ends(series) for view, series in views.items()}
    yield judged(
        "table6",
        all_of(rise(*changes) for changes in by_view.values()),
        "Fig. 4, Table 6",
        "more tokens of any single view gain",
        "smallest to largest budget of each view",
        "; ".join(f"{view} {whole.text()}" for view, (_, whole) in by_view.items()),
    )
    rates = {cell.key: records for cell, records in results.series("ablations", "table5")}
    sides = {count: _change(rates[f"{count} of 8k"], rates[f"{count} of 4k"]) for count in ("3k", "4k")}
    yield judged(
        "table5",
        sameness(sides.values()),
        "Sec. 4, Table 5",
        "pictures of half the side are on par",
        "picture of 4k - 8k (scaled), at two budgets",
        "; ".join(f"{count} {side.text()}" for count, side in sides.items()),
    )
    rows = {(cell.name, cell.column): records for cell, records in results.series("ablations", "table8")}
    partitions = {
        f"{cell.name} at {cell.column}": _change(rows["K-means", cell.column], rows[cell.name, cell.column])
        for cell in results.grid("ablations", "table8").cells
        if cell.name in ("BIRCH", "SAM") and results.is_trained(cell)
    }
    yield judged(
        "table8",
        sameness(partitions.values()),
        "App. C.4, Table 8",
        "the partition method does not matter",
        "BIRCH and the scenes' own masks (for SAM) against K-means",
        "; ".join(f"{name} {change.text()}" for name, change in partitions.items()),
        note="the model was trained on regions of K-means",
    )
    contexts = results.series("ablations", "table9")
    steps, _ = _ends(contexts)
    yield judged(
        "table9",
        gain(steps[0]) if steps[1].low <= 0 else NOT_REPRODUCED,
        "App. C.4, Table 9",
        "without compression, context gains from 2k to 4k and hardly beyond",
        "uniform pooling in place of the paper's other models",
        "; ".join(step.text() for step in steps),
        is_guess=results.are_guesses([records for _, records in contexts], lambda record: True),
    )


def _efficiency(results: Results) -> Iterator[Judged]:
    cfg, text = BatConfig.uhr_bat_7b("release"), cost.Text()
    flops = {kept: cost.tflops(cost.release_path(cfg, kept * 1000, text)) for kept in (4, 12)}
    printed = {kept: TABLES[4].value(f"{kept}k", "TFLOPs") for kept in (4, 12)}
    yield Judged(
        where="Sec. 4, Table 4",
        claim="cost falls linearly with kept tokens, 374.24 to 267.68 TFLOPs",
        ran="cost model of the release's path, 12k and 4k kept (docs/cost.md)",
        number=f"{flops[12]:.1f} and {flops[4]:.1f} TFLOPs",
        verdict=COMPUTED,
        note=f"4k is {printed[4] - flops[4]:+.1f} off, 12k {printed[12] - flops[12]:+.1f}; every view is encoded "
        "twice in both, which explains the part that does not fall",
        command="python -m experiments.cost",
    )
    series = results.series("ablations", "figure3")
    few, many = (1000 * _warm_seconds(records) for _, records in (series[0], series[-1]))
    yield Judged(
        where="Sec. 4, Table 4",
        claim="fewer tokens answer faster (5.99 to 4.34 s)",
        ran="mean seconds of a question after encoding, 12k and 3k (scaled)",
        number=f"{many:.0f} and {few:.0f} ms",
        verdict=fact(few < many),
        command=_ablate("figure3"),
    )


def _warm_seconds(records: Records) -> float:
    times = [r["seconds"] for r in records.values() if r["status"] == "answered" and not r["compile_seconds"]]
    return sum(times) / max(len(times), 1)


def _appendix(results: Results) -> Iterator[Judged]:
    facts = [line["facts"] for line in results.coverage.values()]
    purity, squares = (100 * statistics.fmean(one[name] for one in facts) for name in ("purity", "grid_purity"))
    yield Judged(
        where="App. C.4, Fig. 7",
        claim="tokens of one region show the same",
        ran=f"share of the finest view's tokens that show what most of their region do, {len(facts)} scenes",
        number=f"{purity:.1f} %, with as many squares {squares:.1f} %",
        verdict=fact(purity > squares),
    )
    mass = [(100 * value, scene) for scene, one in enumerate(facts) for value in one["mass"]]
    area = statistics.fmean(100 * value for one in facts for value in one["area"])
    share = mean_interval(*zip(*mass, strict=True))
    yield Judged(
        where="App. C.4, Fig. 8",
        claim="importance is on what the question asks about",
        ran=f"importance on the asked sites, {len(mass)} questions",
        number=f"{share.text('.1f')} % of it on {area:.1f} % of the anchor",
        verdict=above(50.0, share),
        note="held to half of it; importance was trained on these places; it did not come by itself at this size",
    )
    kept = coverage.share(results.coverage, coverage.OWN, UHR_BAT, 3, "k", lambda target: True)
    yield Judged(
        where="App. C.4, Figs. 9 and 10",
        claim=f"the evidence stays at high pruning ({100 - 100 * 3000 / PAPER_TOKENS:.1f} %)",
        ran="targets kept unmerged at 3k (scaled), the model's importance",
        number=f"{kept.text('.1f')} %" if kept else "no targets",
        verdict=above(90.0, kept) if kept else UNDECIDED,
        note="held to nine targets in ten",
    )
    claim = "SAM takes prohibitively long beside clustering"
    yield _needs_weights("App. C.4", claim, "SAM's weights cannot come with the repository", _MASKS)
    cfg, text = BatConfig.uhr_bat_7b("release"), cost.Text()
    yield Judged(
        where="App. A",
        claim="inference within about 30 GB",
        ran="memory model of this project's path, 3,000 kept tokens (docs/cost.md)",
        number=f"{sum(cost.inference_memory(cfg, 3000, text).values()) / cost.GIGA:.1f} GB without the runtime's own "
        "buffers",
        verdict=COMPUTED,
        command=_ANSWER,
    )
    trained = [f"{sum(cost.training_memory(cfg, size).values()) / cost.GIGA:.1f}" for size in (2, 4)]
    yield Judged(
        where="App. A",
        claim="trains on one 48 GB card",
        ran="weights, gradients and AdamW moments in bfloat16 and float32 (docs/cost.md)",
        number=f"{' and '.join(trained)} GB without activations",
        verdict=COMPUTED,
        note="more than 48 GB unless parts are frozen or offloaded",
    )
    yield _needs_weights("App. A", "about 4 seconds a picture", "not measured on the paper's card", _ANSWER)
    why = "pictures and models cannot come with the repository"
    yield _needs_weights("App. C.4, Figs. 11 and 12", "right where named models are wrong", why, _ANSWER)
