"""Every claim of UHR-BAT's abstract and Sections 3, 4 and C (arXiv:2604.13565), and what the miniature study says.

    claims(results) -> one Judged a claim, in the order of the paper

Numbers come from the study's answers (plan.py, sweep.py), its token coverage (coverage.py) and the cost model; the
verdict from the rules of verdicts.py. `experiments.study` writes the outcome as a table.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from bat_jax.config import BatConfig
from bat_jax.engine import cost
from bat_jax.study.measured import coverage
from bat_jax.study.measured.comparison import Paired, Records, compare, mean_interval
from bat_jax.study.measured.grids import PAPER_TOKENS
from bat_jax.study.measured.study_results import (
    ONE_SITE_ONLY,
    SCATTERED_ONLY,
    SMALL_ONLY,
    IsAsked,
    Results,
    against,
    is_shared,
)
from bat_jax.study.measured.verdicts import (
    COMPUTED,
    NEEDS_WEIGHTS,
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    Judged,
    Verdict,
    above,
    all_of,
    gain,
    interval_of,
    rise,
    sameness,
    shown,
)
from bat_jax.study.paper.published import TABLES

UHR_BAT = coverage.UHR_BAT
_WEIGHTS = "checkpoints/uhr_bat_7b"
_ABLATE = f"python -m experiments.ablate --checkpoint={_WEIGHTS} --benchmark=xlrs --data=PATH --output_dir=DIR"
# The flag of experiments.ablate that asks for a grid.
_FLAGS = {"selections": "--ours=selections", "figure5": "--figure=5"}
_GUESSES = "the model's answers are guesses, so they decide nothing"


def claims(results: Results) -> tuple[Judged, ...]:
    """Judge every claim."""
    parts = (_abstract, _method, _benchmarks, _ablations, _efficiency, _appendix)
    return tuple(claim for part in parts for claim in part(results))


def _accuracy(results: Results, verdict: Verdict, **rest: Any) -> Judged:
    """Return a claim on accuracy, undecided where the model guesses."""
    if results.is_guessing:
        return Judged(verdict=UNDECIDED, **rest | {"note": _GUESSES})
    return Judged(verdict=verdict, **rest)


def _better_than(
    results: Results, other: str, where: str, claim: str, is_asked: IsAsked, of: str, grid: str = "selections"
) -> Judged:
    """Judge that UHR-BAT is better than another selection in a grid of one budget."""
    found = compare(*([results.answers("selections", grid, name)] for name in (UHR_BAT, other)), is_asked)
    budget = "/".join(map(str, results.grid("selections", grid).cells[0].budgets))
    return _accuracy(
        results,
        gain(found.low, found.high),
        where=where,
        claim=claim,
        ran=f"uhr_bat - {other}, budgets {budget}, {found.num_questions} {of}",
        number=f"{found.text} points ({found.ours:.1f} and {found.theirs:.1f} %)",
        command=f"{_ABLATE} {_FLAGS[grid]}",
    )


def _abstract(results: Results) -> list[Judged]:
    small, everything = "questions on small objects", "questions"
    found = [
        _better_than(
            results,
            "anchor view alone",
            "Abstract",
            "direct down-sampling loses query-critical details",
            SMALL_ONLY,
            small,
        )
    ]
    columns = results.columns("methods", "regions")
    for other, name in (("topk_global", "global top-K"), ("topk", "top-K in every view")):
        for is_asked, of in (
            (ONE_SITE_ONLY, "about one site"),
            (is_shared, "about different sites that share their tokens"),
            (SCATTERED_ONLY, "about several sites"),
        ):
            paired = against(results, other, columns, is_asked)
            seeds = len(results.seeds(columns[0]))
            runs = [records for _, records in results.series("methods", "regions")]
            is_guess = results.are_guesses(runs, is_asked)
            found.append(
                _accuracy(
                    results,
                    UNDECIDED if is_guess else gain(paired.low, paired.high),
                    note=_GUESSES if is_guess else "",
                    where="Abstract, Sec. 3.4",
                    claim=f"{name} loses what preserve-and-merge keeps: questions {of}",
                    ran=f"uhr_bat - {other}, {len(columns)} budgets ({columns[0]} to {columns[-1]}), {seeds} seeds of "
                    f"K-means, {paired.num_questions} questions",
                    number=f"{paired.text} points ({paired.ours:.1f} and {paired.theirs:.1f} %)",
                    command=f"{_ABLATE} --ours=regions",
                )
            )
    for other, claim in (
        ("random", "query-guided selection finds the evidence (against random tokens)"),
        ("pooling", "query-guided selection finds the evidence (against uniform pooling)"),
    ):
        found.append(_better_than(results, other, "Abstract", claim, lambda record: True, everything))
    return found


def _method(results: Results) -> list[Judged]:
    lines = results.coverage
    found = []
    for source, words in ((coverage.OWN, "the model's importance"), (coverage.ORACLE, "an oracle's importance")):
        for is_scattered, of in ((False, "about one site"), (True, "about several sites")):
            interval = coverage.difference(
                lines,
                source,
                UHR_BAT,
                coverage.TOP_K,
                coverage.BUDGETS,
                lambda target, wanted=is_scattered: target["is_scattered"] == wanted,
            )
            if interval is not None:
                found.append(
                    Judged(
                        where="Sec. 3.4",
                        claim=f"regions keep sparse targets that top-K loses: targets of questions {of}",
                        ran=f"targets kept unmerged, uhr_bat - topk, {words}, {len(coverage.BUDGETS)} budgets, "
                        f"{len(lines)} scenes, no decoder",
                        number=f"{shown(interval)} points",
                        verdict=gain(*interval[1:]),
                    )
                )
    facts = [line["facts"] for line in lines.values()]
    total, covered, empty = (sum(fact[name] for fact in facts) for name in ("num_regions", "num_covered", "num_empty"))
    ran = f"{total:,} regions of views with B_s >= R_s, {len(facts)} scenes"
    found.append(
        Judged(
            where="Sec. 3.3",
            claim="B_s >= R_s guarantees every region a row",
            ran=f"{ran}, rows in the prompt",
            number=f"{100 * covered / max(total, 1):.1f} % have one",
            verdict=REPRODUCED if covered == total else NOT_REPRODUCED,
            note='Algorithm 1 cuts whole regions; coverage="guaranteed" is this project\'s rule that keeps the promise',
        )
    )
    found.append(
        Judged(
            where="App. C.4, Lemma 1",
            claim="every region keeps a token before the budget cuts",
            ran=ran,
            number=f"{empty:,} have none",
            verdict=NOT_REPRODUCED if empty else REPRODUCED,
        )
    )
    found.append(
        Judged(
            where="App. C.4, Lemma 2",
            claim="a merged token is the mean of what it merges",
            ran="tests/compress/test_preserve_merge.py against a NumPy twin, test_properties.py",
            number="holds",
            verdict=REPRODUCED,
        )
    )
    most = [
        (sum(record["tokens_kept"]), sum(cell.budgets))
        for sweep in results.sweeps.values()
        for grid in sweep.grids
        for cell in grid.cells
        for record in sweep.records(cell).values()
        if record["status"] == "answered"
    ]
    over = sum(kept > budget for kept, budget in most)
    found.append(
        Judged(
            where="Abstract, Sec. 3.2",
            claim="the token budget is never exceeded",
            ran=f"{len(most):,} answers of all cells",
            number=f"{over} exceed it",
            verdict=NOT_REPRODUCED if over else REPRODUCED,
        )
    )
    return found


def _benchmarks(results: Results) -> list[Judged]:
    """Return the state-of-the-art claims, which only the real weights can show."""
    evaluate = f"python -m experiments.evaluate --checkpoint={_WEIGHTS} --output_dir=DIR --data=PATH"
    found = [
        Judged(
            where=where,
            claim=claim,
            ran="nothing: weights and pictures cannot come with the repository",
            number="",
            verdict=NEEDS_WEIGHTS,
            command=f"{evaluate} --benchmark={benchmark} --budgets={budgets}",
        )
        for where, claim, benchmark, budgets in (
            ("Sec. 4, Table 1", "XLRS-Bench 44.0, the best of all", "xlrs", "180,1320,1600,8000"),
            ("Sec. 4, Table 2", "RSHR-Bench 29.2 perception, 45.0 reasoning", "rshr", "80,320,1600,4000"),
            ("Sec. 4, Table 3", "MME-RealWorld-RS 33.33, the best of all", "mme_realworld", "80,320,1600,4000"),
        )
    ]
    columns = results.columns("selections", "figure1")
    others = list(dict.fromkeys(cell.name for cell in results.grid("selections", "figure1").cells))
    pairs = {
        (other, column): compare(
            [results.answers("selections", "figure1", UHR_BAT, column)],
            [results.answers("selections", "figure1", other, column)],
        )
        for other in others
        for column in columns
        if other != UHR_BAT
    }
    worst = min(pairs, key=lambda key: pairs[key].difference)
    num_won = sum(pair.low > 0 for pair in pairs.values())
    found.append(
        _accuracy(
            results,
            all_of(gain(pair.low, pair.high) for pair in pairs.values()),
            where="Sec. 1, Fig. 1",
            claim="better than the other methods at equal tokens",
            ran=f"uhr_bat - {len(others) - 1} others at {len(columns)} budgets, {pairs[worst].num_questions} questions",
            number=f"better with certainty in {num_won} of {len(pairs)}; worst {pairs[worst].text} against {worst[0]} "
            f"at {worst[1]}",
            command=f"{_ABLATE} --figure=1",
        )
    )
    found.append(
        _better_than(
            results,
            "background",
            "Sec. 4, Fig. 5",
            "better than text-agnostic background pruning (GeoLLaVA-8K's manner) at 95 % pruning",
            lambda record: True,
            "questions",
            grid="figure5",
        )
    )
    return found


def _to_first(series: Sequence[tuple[str, Records]]) -> list[Paired]:
    """Compare every cell with the first one."""
    return [compare([records], [series[0][1]]) for _, records in series[1:]]


def _ends(series: Sequence[tuple[str, Records]]) -> tuple[list[tuple[float, float, float]], tuple[float, float, float]]:
    """Return the differences from cell to cell and from the first to the last."""
    steps = [interval_of(compare([after[1]], [before[1]])) for before, after in itertools.pairwise(series)]
    return steps, interval_of(compare([series[-1][1]], [series[0][1]]))


def _ablations(results: Results) -> list[Judged]:
    def num_questions(grid: str) -> str:
        return f"{len(results.series('ablations', grid)[0][1])} questions a cell"

    def judged(
        grid: str, verdict: Verdict, where: str, claim: str, ran: str, number: str, flag: str, note: str = ""
    ) -> Judged:
        text = f"{ran}, {num_questions(grid)}"
        command = f"{_ABLATE} {flag}"
        return _accuracy(
            results, verdict, where=where, claim=claim, ran=text, number=number, command=command, note=note
        )

    clusters = results.series("ablations", "table7")
    spread = [interval_of(pair) for pair in _to_first(clusters)]
    kept = results.series("ablations", "figure3")
    trained = [cell for cell in kept if results.is_trained("ablations", "figure3", cell[0])]
    steps, whole = _ends(trained)
    beyond = [
        f"{key} {shown(interval_of(compare([records], [kept[0][1]])))}"
        for key, records in kept
        if (key, records) not in trained
    ]
    rates = dict(results.series("ablations", "table5"))
    sides = [interval_of(compare([rates[f"{k}k of 4k"]], [rates[f"{k}k of 8k"]])) for k in (3, 4)]
    views: dict[str, list[tuple[str, Records]]] = {}
    for key, records in results.series("ablations", "table6"):
        views.setdefault(key.partition(":")[0], []).append((key, records))
    by_view = {view: _ends(series) for view, series in views.items()}
    partitions = {
        f"{other} at {column}": interval_of(
            compare(
                [results.answers("ablations", "table8", other, column)],
                [results.answers("ablations", "table8", "K-means", column)],
            )
        )
        for other in ("BIRCH", "SAM")
        for column in results.columns("ablations", "table8")
        if results.is_trained("ablations", "table8", f"{other} | {column}")
    }
    contexts = results.series("ablations", "table9")
    context_steps, _ = _ends(contexts)
    is_plateau = gain(*context_steps[0][1:]) if context_steps[1][1] <= 0 else NOT_REPRODUCED
    pooled_guesses = results.are_guesses([records for _, records in contexts], lambda record: True)
    most = f"the {results.trained_tokens} tokens that the model was trained with at most"
    return [
        judged(
            "table7",
            sameness(spread),
            "Fig. 3 left, Table 7, App. C.4",
            "accuracy varies by less than 1 % with the number of clusters",
            f"{len(clusters)} counts, each against the smallest",
            f"{min(s[0] for s in spread):+.1f} to {max(s[0] for s in spread):+.1f} points, widest interval "
            f"{shown(max(spread, key=lambda s: s[2] - s[1]))}",
            "--table=7",
        ),
        judged(
            "figure3",
            rise(steps, whole),
            "Fig. 3 right, Sec. 4",
            "more tokens always gain",
            f"{trained[0][0]} to {trained[-1][0]} of the paper's tokens, scaled",
            f"first to last {shown(whole)} points",
            "--figure=3",
            f"against {kept[0][0]}, beyond {most}: {'; '.join(beyond)}" if beyond else "",
        ),
        judged(
            "table6",
            all_of(rise(*part) for part in by_view.values()),
            "Fig. 4, Table 6",
            "more tokens of any single view gain",
            "smallest to largest budget of each view",
            "; ".join(f"{view} {shown(part[1])}" for view, part in by_view.items()),
            "--table=6",
        ),
        judged(
            "table5",
            sameness(sides),
            "Sec. 4, Table 5",
            "pictures of half the side are on par",
            "picture of 4k - 8k (scaled), at two budgets",
            "; ".join(f"{kept}k {shown(side)}" for kept, side in zip((3, 4), sides, strict=True)),
            "--table=5",
        ),
        judged(
            "table8",
            sameness(partitions.values()),
            "App. C.4, Table 8",
            "the partition method does not matter",
            "BIRCH and the scenes' own masks (for SAM) against K-means",
            "; ".join(f"{name} {shown(pair)}" for name, pair in partitions.items()),
            "--table=8",
            "the model was trained on regions of K-means",
        ),
        judged(
            "table9",
            UNDECIDED if pooled_guesses else is_plateau,
            "App. C.4, Table 9",
            "without compression, context gains from 2k to 4k and hardly beyond",
            "uniform pooling in place of the paper's other models",
            "; ".join(shown(step) for step in context_steps),
            "--table=9",
            _GUESSES if pooled_guesses else "",
        ),
    ]


def _efficiency(results: Results) -> list[Judged]:
    cfg, text = BatConfig.uhr_bat_7b("release"), cost.Text()
    flops = {kept: cost.tflops(cost.release_path(cfg, kept * 1000, text)) for kept in (4, 12)}
    printed = {kept: TABLES[4].value(f"{kept}k", "TFLOPs") for kept in (4, 12)}
    series = results.series("ablations", "figure3")
    seconds = [_warm_seconds(records) for _, records in (series[0], series[-1])]
    return [
        Judged(
            where="Sec. 4, Table 4",
            claim="cost falls linearly with kept tokens, 374.24 to 267.68 TFLOPs",
            ran="cost model of the release's path, 12k and 4k kept (docs/cost.md)",
            number=f"{flops[12]:.1f} and {flops[4]:.1f} TFLOPs",
            verdict=COMPUTED,
            note=f"4k is {printed[4] - flops[4]:+.1f} off, 12k {printed[12] - flops[12]:+.1f}; every view is encoded "
            "twice in both, which explains the part that does not fall",
            command="python -m experiments.cost",
        ),
        Judged(
            where="Sec. 4, Table 4",
            claim="fewer tokens answer faster (5.99 to 4.34 s)",
            ran="mean seconds of a question after encoding, 12k and 3k (scaled)",
            number=f"{1000 * seconds[1]:.0f} and {1000 * seconds[0]:.0f} ms",
            verdict=REPRODUCED if seconds[0] < seconds[1] else NOT_REPRODUCED,
            command=f"{_ABLATE} --figure=3",
        ),
    ]


def _warm_seconds(records: Records) -> float:
    times = [r["seconds"] for r in records.values() if r["status"] == "answered" and not r["compile_seconds"]]
    return sum(times) / max(len(times), 1)


def _appendix(results: Results) -> list[Judged]:
    facts = [line["facts"] for line in results.coverage.values()]
    num = len(facts)
    purity, grid = (100 * sum(fact[name] for fact in facts) / num for name in ("purity", "grid_purity"))
    mass = [(100 * value, scene) for scene, fact in enumerate(facts) for value in fact["mass"]]
    area = [100 * value for fact in facts for value in fact["area"]]
    share = mean_interval(*zip(*mass, strict=True))
    kept = coverage.share(results.coverage, coverage.OWN, UHR_BAT, 3, "k", lambda target: True)
    cfg, text = BatConfig.uhr_bat_7b("release"), cost.Text()
    held = sum(cost.inference_memory(cfg, 3000, text).values()) / cost.GIGA
    trained = [sum(cost.training_memory(cfg, size).values()) / cost.GIGA for size in (2, 4)]
    pruned = 100 - 100 * 3000 / PAPER_TOKENS
    answer = f"python -m experiments.answer --checkpoint={_WEIGHTS} --image=FILE --question=TEXT"
    return [
        Judged(
            where="App. C.4, Fig. 7",
            claim="tokens of one region show the same",
            ran=f"share of the finest view's tokens that show what most of their region do, {num} scenes",
            number=f"{purity:.1f} %, with as many squares {grid:.1f} %",
            verdict=REPRODUCED if purity > grid else NOT_REPRODUCED,
        ),
        Judged(
            where="App. C.4, Fig. 8",
            claim="importance is on what the question asks about",
            ran=f"importance on the asked sites, {len(mass)} questions",
            number=f"{shown(share, '.1f')} % of it on {sum(area) / len(area):.1f} % of the anchor",
            verdict=above(50.0, share),
            note="held to half of it; importance was trained on these places; it did not come by itself at this size",
        ),
        Judged(
            where="App. C.4, Figs. 9 and 10",
            claim=f"the evidence stays at high pruning ({pruned:.1f} %)",
            ran="targets kept unmerged at 3k (scaled), the model's importance",
            number=f"{shown(kept, '.1f')} %" if kept else "no targets",
            verdict=above(90.0, kept) if kept else UNDECIDED,
            note="held to nine targets in ten",
        ),
        Judged(
            where="App. C.4",
            claim="SAM takes prohibitively long beside clustering",
            ran="nothing: SAM's weights cannot come with the repository",
            number="",
            verdict=NEEDS_WEIGHTS,
            command="python -m experiments.make_masks --sam=facebook/sam-vit-huge --image_dir=DIR --output_dir=DIR2",
        ),
        Judged(
            where="App. A",
            claim="inference within about 30 GB",
            ran="memory model of this project's path, 3,000 kept tokens (docs/cost.md)",
            number=f"{held:.1f} GB without the runtime's own buffers",
            verdict=COMPUTED,
            command=answer,
        ),
        Judged(
            where="App. A",
            claim="trains on one 48 GB card",
            ran="weights, gradients and AdamW moments in bfloat16 and float32 (docs/cost.md)",
            number=f"{trained[0]:.1f} and {trained[1]:.1f} GB without activations",
            verdict=COMPUTED,
            note="more than 48 GB unless parts are frozen or offloaded",
        ),
        Judged(
            where="App. A",
            claim="about 4 seconds a picture",
            ran="nothing: not measured on the paper's card",
            number="",
            verdict=NEEDS_WEIGHTS,
            command=answer,
        ),
        Judged(
            where="App. C.4, Figs. 11 and 12",
            claim="right where named models are wrong",
            ran="nothing: pictures and models cannot come with the repository",
            number="",
            verdict=NEEDS_WEIGHTS,
            command=answer,
        ),
    ]
