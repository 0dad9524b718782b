"""Sentences of UHR-BAT (arXiv:2604.13565) that need a calculation of their own, each as a function of the tables."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from bat_jax.config import DEFAULT_SCALES_PX, PAPER_BUDGETS
from bat_jax.study.paper.claims import AGREES, DISAGREES, UNCHECKED, Finding
from bat_jax.study.paper.published import OURS, XLRS_PERCEPTION, XLRS_REASONING, PublishedTable

Tables = Mapping[int, PublishedTable]
PATCH_PX = 14
KEPT = {"4k": 4000, "5k": 5000, "6k": 6000, "8k": 8000, "10k": 10000, "11k": 11000, "12k": 12000}
CLUSTERS = 600  # the paper's k (App. C.4, Table 7)
# A row of XLRS-Bench's own lite table that Table 1 leaves out, in Table 1's order of sub-tasks.
QWEN_72B = (33.3, 47.0, 39.0, 80.0, 45.3, 42.1, 65.0, 34.0, 71.0, 74.0, 37.0, 43.3, 42.0)


def statement(where: str, what: str, published: str, recomputed: str, holds: bool, note: str = "") -> Finding:
    """Return the finding of a sentence that holds or does not."""
    return Finding("statement", where, what, published, recomputed, AGREES if holds else DISAGREES, note)


def weighted(table: PublishedTable, row: str, columns: Mapping[str, int] | list[str]) -> float:
    """Return the mean of a row's columns, weighted by questions if a mapping gives them."""
    names = list(columns)
    weights = [columns[name] for name in names] if isinstance(columns, Mapping) else None
    return float(np.average([table.value(row, name) for name in names], weights=weights))


def ranking(table: PublishedTable, column: str, groups: tuple[str, ...] = ()) -> list[tuple[str, float]]:
    """Return rows from best to worst in a column, of all groups or of some; ours is always among them."""
    rows = [name for name in table.rows if not groups or table.group[name] in groups or name == OURS]
    return sorted(((name, table.value(name, column)) for name in rows), key=lambda item: -item[1])


def first_rows(table: PublishedTable, column: str, groups: tuple[str, ...] = (), count: int = 3) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in ranking(table, column, groups)[:count])


def line_fit(tables: Tables, leave_out: tuple[str, ...] = ()) -> tuple[float, float]:
    """Return (slope in TFLOPs per 1,000 kept tokens, intercept in TFLOPs) of Table 4 by least squares."""
    rows = [name for name in tables[4].rows if name not in leave_out]
    slope, intercept = np.polyfit([KEPT[name] / 1000 for name in rows], [tables[4].value(r, "TFLOPs") for r in rows], 1)
    return float(slope), float(intercept)


def best_statements(tables: Tables) -> Iterator[Finding]:
    """Check who is best, where the text says that ours is."""
    open_rs = ("open", "remote sensing")
    for number, column in ((1, "w.Avg"), (2, "Avg"), (3, "Avg")):
        best = ranking(tables[number], column)[0][1]
        holds = best == tables[number].value(OURS, column)
        text = first_rows(tables[number], column, count=4)
        yield statement("Abstract", f"state of the art, Table {number} {column}", "best", text, holds)
    for column, ours in (("P.Avg", "29.2"), ("R.Avg", "45.0")):
        name = ranking(tables[2], column, open_rs)[0][0]
        text = first_rows(tables[2], column, open_rs)
        what = f"best {column} among open-source and remote-sensing models"
        yield statement("Sec. 4, RSHR-Bench", what, ours, text, name == OURS)
    for column in ("MRJC", "SHP", "DET"):
        holds = ranking(tables[2], column)[0][0] == OURS
        yield statement("Sec. 4, RSHR-Bench", f"best in {column}", "best", first_rows(tables[2], column), holds)
    averages = [tables[3].value(name, "Avg") for name in tables[3].rows]
    is_sorted = averages in (sorted(averages), sorted(averages, reverse=True))
    what, text = "methods ranked by Avg", "the rows stand in neither order"
    yield statement("Table 3, caption", what, "ranked", "ranked" if is_sorted else text, is_sorted)


def gains_on_both_sides(tables: Tables) -> Iterator[Finding]:
    """Check "these gains across both perception and reasoning" (XLRS-Bench), recomputed by questions."""
    table = tables[1]
    for name in ("GeoChat", "GeoLLaVA-8K", "EarthDial", "VHM", "GPT-4o", "Claude 3.7 Sonnet", "LLaVA-OneVision-72B"):
        perception, reasoning = (
            weighted(table, OURS, counts) - weighted(table, name, counts)
            for counts in (XLRS_PERCEPTION, XLRS_REASONING)
        )
        text = f"perception {perception:+.1f}, reasoning {reasoning:+.1f}"
        what, holds = f"gains on both over {name}", min(perception, reasoning) > 0
        yield statement("Sec. 4, XLRS-Bench", what, "gains on both", text, holds)
    counts = XLRS_PERCEPTION | XLRS_REASONING
    best = float(np.average(QWEN_72B, weights=list(counts.values())))
    text = f"Qwen2.5-VL-72B, weighted alike: {best:.1f}"
    note = "not in Table 1; its sub-tasks are from XLRS-Bench's own lite table"
    what, holds = "state of the art across open-source models", best < table.value(OURS, "w.Avg")
    yield statement("Sec. 4, XLRS-Bench", what, "44.0, best", text, holds, note)
    columns = list(counts)
    ours, other = (weighted(table, name, columns) for name in (OURS, "GeoLLaVA-8K"))
    place = [name for name, _ in sorted(((n, weighted(table, n, columns)) for n in table.rows), key=lambda x: -x[1])]
    text = f"mean over the 13 sub-tasks: {ours:.1f} (place {place.index(OURS) + 1}), GeoLLaVA-8K {other:.1f}"
    note = "XLRS-Bench's own lite table averages over sub-tasks, lmms-eval prints both; the paper weights by questions"
    yield statement("Sec. 4", "official aggregation of XLRS-Bench", "44.0, best", text, place[0] == OURS, note)


def efficiency(tables: Tables) -> Iterator[Finding]:
    """Check Table 4 and what is said about it."""
    table, total = tables[4], sum((size // PATCH_PX) ** 2 for size in DEFAULT_SCALES_PX)
    yield statement("Table 4", "total input tokens", "131,328", f"{total:,}", total == 131328, "4 views, 14 px patches")
    for name, kept in KEPT.items():
        cell, ratio = table.rows[name]["Compression"], total / kept
        holds = abs(cell.value - ratio) <= cell.half_step + 1e-9
        yield statement(f"Table 4, {name}", "compression", f"{cell.value:.2f}", f"{ratio:.3f}", holds)
    drop = 100 * (1 - table.value("4k", "Gen_s") / table.value("12k", "Gen_s"))
    what = "generation time falls from 12k to 4k"
    yield statement("Sec. 4, Table 4", what, "27.5 %", f"{drop:.2f} %", abs(drop - 27.5) <= 0.05 + 1e-9)
    slope, intercept = line_fit(tables)
    straight, start = line_fit(tables, ("4k",))
    gap = table.value("4k", "TFLOPs") - (start + 4 * straight)
    text = (
        f"all rows: {slope:.2f} per 1k + {intercept:.1f}; without 4k: {straight:.2f} per 1k + {start:.1f}, "
        f"and the 4k row lies {gap:+.2f} TFLOPs off that line"
    )
    note = f"the 4k row fits the line at {(table.value('4k', 'TFLOPs') - start) / straight:.2f}k kept tokens"
    yield statement("Sec. 4, Table 4", "TFLOPs are linear in kept tokens", "linear", text, abs(gap) < 1, note)
    seconds = [table.value(name, "Total_s") for name in KEPT]
    text = ", ".join(f"{name} {value:g}" for name, value in zip(KEPT, seconds, strict=True))
    fall = 100 * (1 - seconds[0] / seconds[-1])
    note = f"total time falls by {fall:.1f} % from 12k to 4k; 12k is faster than 10k and 11k"
    what = "fewer tokens give tangible throughput (total seconds rise with tokens)"
    yield statement("Sec. 4, Table 4", what, "rising", text, seconds == sorted(seconds), note)
    text = f"{table.value('4k', 'Total_s'):g} s in total at 4k, of which {table.value('4k', 'Gen_s'):g} s generation"
    what, note = "latency per image (budget 3,000)", "only the generation column is near it"
    yield statement("App. A", what, "roughly 4 s", text, table.value("4k", "Total_s") < 5, note)


def budgets() -> Iterator[Finding]:
    """Check the token budgets against the rule B_s >= R_s of Sec. 3.3 at the paper's k."""
    for name, where in (("xlrs", "App. B, XLRS-Bench"), ("rshr", "App. B, RSHR and MME"), ("default", "App. A")):
        below = [f"{b} at {s}" for s, b in zip(DEFAULT_SCALES_PX, PAPER_BUDGETS[name], strict=True) if b < CLUSTERS]
        text = f"sum {sum(PAPER_BUDGETS[name]):,}; below k = {CLUSTERS}: {', '.join(below) or 'none'}"
        note = "holds only if k is smaller at the coarse scales, which the paper does not say"
        yield statement(where, "B_s >= R_s at every scale (Sec. 3.3)", "enforced", text, not below, note)


def ablations(tables: Tables) -> Iterator[Finding]:
    """Check what is said about Tables 5-9."""
    five = tables[5]
    gains = [five.value(f"{k} of 4k", "w.Avg") - five.value(f"{k} of 8k", "w.Avg") for k in ("3k", "4k")]
    text = ", ".join(f"{gain:+.2f}" for gain in gains)
    is_near = all(abs(gain - 0.1) < 0.1 for gain in gains)
    note = f"{', '.join(str(round(30.80 * gain)) for gain in gains)} of 3,080 questions"
    yield statement("Sec. 4, Table 5", "4K input beats 8K by about 0.1", "0.1", text, is_near, note)
    for scale in ("672", "1344", "2688", "4032"):
        rows = [name for name in tables[6].rows if tables[6].group[name] == scale]
        values = [tables[6].value(name, "w.Avg") for name in rows]
        rises = all(a < b for a, b in itertools.pairwise(values))
        text = ", ".join(f"{name.split()[1]}: {value}" for name, value in zip(rows, values, strict=True))
        what = f"a larger budget at {scale} consistently improves accuracy"
        note = f"largest change {round(30.80 * (max(values) - min(values)))} of 3,080 questions"
        yield statement("Sec. 4, Table 6", what, "rising", text, rises, note)
    for column in ("Perception", "Reasoning", "Average"):
        by_count = {name: tables[7].value(name, column) for name in tables[7].rows}
        spread = max(by_count.values()) - min(by_count.values())
        best = max(by_count, key=by_count.__getitem__)
        note = f"best at {best}: {by_count[best]}; at k=600: {by_count['k=600']}"
        what = f"{column} fluctuates within 1 % over cluster counts"
        yield statement("App. C.4, Table 7", what, "< 1", f"{spread:.1f}", spread <= 1, note)
    eight = tables[8]
    for column in next(iter(eight.rows.values())):
        values = [eight.value(name, column) for name in eight.rows]
        spread = max(values) - min(values)
        text = ", ".join(f"{name} {eight.value(name, column):.2f}" for name in eight.rows)
        what = f"the partition method does not matter at {column}"
        finding = statement("App. C.4, Table 8", what, "no significant impact", text, spread <= 1)
        uncertain = [name for name in eight.rows if eight.rows[name][column].reading == "uncertain"]
        if uncertain:
            note = (
                f"the {uncertain[0]} cell could not be read with certainty; as given the methods differ by {spread:.2f}"
            )
            finding = dataclasses.replace(finding, verdict=UNCHECKED, note=note)
        yield finding
    for name, row in eight.rows.items():
        values = [cell.value for cell in row.values()]
        text = ", ".join(f"{value:.2f}" for value in values)
        what = f"more tokens consistently yield gains ({name}, 4k to 10k)"
        yield statement("Sec. 4, Fig. 3 / Table 8", what, "rising", text, values == sorted(values))
    nine = tables[9]
    for model in next(iter(nine.rows.values())):
        first, second = (nine.value(b, model) - nine.value(a, model) for a, b in (("2K", "4K"), ("4K", "8K")))
        text = f"2K to 4K {first:+.2f}, 4K to 8K {second:+.2f}"
        what, claim = f"{model}: context beyond 4K brings little", "4K to 8K negligible or negative"
        yield statement("App. C.4, Table 9", what, claim, text, second < first)
    ours, other = nine.value("4K", "Qwen2.5VL-7B"), tables[1].value("Qwen2.5-VL-7B", "w.Avg")
    best_here = max(nine.value(name, "Qwen2.5VL-7B") for name in nine.rows)
    text = f"{best_here:.2f} at best in Table 9, {other} in Table 1"
    leads = [tables[1].value(OURS, "w.Avg") - value for value in (ours, other)]
    note = f"with Table 9's {ours:.2f} the lead would be {leads[0]:.1f}, with Table 1's {leads[1]:.1f}"
    what, holds = "Qwen2.5-VL-7B on XLRS-Bench", abs(best_here - other) < 1
    yield statement("Tables 1 and 9", what, "one model", text, holds, note)


def coverage_of_the_tables(tables: Tables) -> Iterator[Finding]:
    """Check that what the text says is in the tables is there."""
    names = " ".join(tables[2].rows)
    columns = " ".join(tables[2].rows[OURS])
    gemini, turns = "Gemini" in names, "Multi" in columns
    text = "in" if gemini else "no such row"
    yield statement("App. B, Table 2", "Gemini-2.5-pro is a baseline", "listed", text, gemini)
    yield statement("Sec. 4, RSHR-Bench", "multi-turn facet", "measured", "in" if turns else "no such column", turns)


def all_statements(tables: Tables) -> list[Finding]:
    """Return every sentence's finding, in the order of the paper."""
    return [
        *best_statements(tables),
        *gains_on_both_sides(tables),
        *coverage_of_the_tables(tables),
        *efficiency(tables),
        *ablations(tables),
        *budgets(),
    ]
