"""Recompute every average, gain and statement of the paper's tables (UHR-BAT, arXiv:2604.13565) and say what agrees.

    audit(TABLES) -> findings;  report(findings) -> Markdown

A printed number stands for an interval of half a unit of its last place. An average agrees if the interval of the
recomputed value (every cell anywhere in its own interval) meets the printed one, so that only real contradictions are
listed. A gain is the difference of two printed numbers and must be exact to the printed place.
"""

import math
from collections.abc import Iterable, Mapping

from bat_jax.evals.aggregate import wilson
from bat_jax.study.paper.claims import AGREES, CANNOT_BE_CHECKED, DISAGREES, GAINS, QUOTED, UNCHECKED, Finding, Gain
from bat_jax.study.paper.published import (
    MME_FULL,
    MME_LITE,
    OURS,
    RSHR_PERCEPTION,
    RSHR_REASONING,
    TABLES,
    WHY,
    XLRS_PERCEPTION,
    XLRS_REASONING,
    PublishedTable,
    PublishedValue,
)
from bat_jax.study.paper.statements import Tables, all_statements, ranking

_PARTS = {"Perception": sum(XLRS_PERCEPTION.values()), "Reasoning": sum(XLRS_REASONING.values())}
# (table, column of the average, weights of the columns it is made of; None: equal weights)
AVERAGES: tuple[tuple[int, str, Mapping[str, int | None]], ...] = (
    (1, "w.Avg", XLRS_PERCEPTION | XLRS_REASONING),
    (2, "P.Avg", dict.fromkeys(RSHR_PERCEPTION)),
    (2, "R.Avg", dict.fromkeys(RSHR_REASONING)),
    (2, "Avg", dict.fromkeys(RSHR_PERCEPTION | RSHR_REASONING)),
    (3, "Avg", dict.fromkeys(MME_FULL)),
    (5, "w.Avg", _PARTS),
    (6, "w.Avg", _PARTS),
    (7, "Average", _PARTS),
)
# Columns whose values must be k of n questions, n as the paper prints it.
STEPS: tuple[tuple[int, str, int], ...] = (
    *((1, column, count) for column, count in (XLRS_PERCEPTION | XLRS_REASONING).items()),
    *((table, column, count) for table in (5, 6) for column, count in _PARTS.items()),
    *((table, "w.Avg", sum(_PARTS.values())) for table in (5, 6)),
    *((8, column, sum(_PARTS.values())) for column in TABLES[8].rows["SAM"]),
)

SHARE_NOTES = {
    (1, "Claude 3.7 Sonnet"): "unanswered questions seem to be left out of this row's counts",
    (1, "GeoChat"): "XLRS-Bench's own table has no value here: the model takes one image, the task has two",
}


def mean_of(row: Mapping[str, PublishedValue], weights: Mapping[str, int | None]) -> tuple[float, float]:
    """Return (weighted mean, the most that the rounding of its cells can move it)."""
    total = sum(weight or 1 for weight in weights.values())
    mean = sum((weight or 1) * row[name].value for name, weight in weights.items()) / total
    slack = sum((weight or 1) * row[name].half_step for name, weight in weights.items()) / total
    return mean, slack


def meets(printed: PublishedValue, recomputed: float, slack: float) -> bool:
    """Return whether a printed number and a recomputed one with its slack have a value in common."""
    return abs(printed.value - recomputed) <= printed.half_step + slack + 1e-9


def is_share(cell: PublishedValue, count: int) -> bool:
    """Return whether a percentage is k of `count` questions for some whole k, within its printed places."""
    correct = round(cell.value * count / 100)
    return abs(100 * correct / count - cell.value) <= cell.half_step + 1e-9


def check_averages(tables: Tables) -> list[Finding]:
    """Recompute every printed average from its row, weighted as the paper says."""
    found = []
    for number, column, weights in AVERAGES:
        for name, row in tables[number].rows.items():
            mean, slack = mean_of(row, weights)
            printed, holds = row[column], meets(row[column], mean, slack)
            note = _average_note(tables[number], name, column, weights) if not holds else ""
            if printed.reading == "uncertain":
                note = f"reading not certain ({printed.as_read}): {WHY.get((number, name, column), '')}"
            found.append(
                Finding(
                    kind="average",
                    where=f"Table {number}, {name}",
                    what=column,
                    published=f"{printed.value:.{printed.decimals}f}",
                    recomputed=f"{mean:.{printed.decimals + 1}f}",
                    verdict=AGREES if holds else DISAGREES,
                    note=note,
                )
            )
    return found


def _average_note(table: PublishedTable, name: str, column: str, weights: Mapping[str, int | None]) -> str:
    """Say what would make a wrong average right, if a single thing would."""
    row = table.rows[name]
    if table.number == 3:
        mean, slack = mean_of(row, MME_FULL)
        fits = "agrees" if meets(row[column], mean, slack) else "does not agree either"
        return f"weighted by the full split's questions: {mean:.3f}, which {fits}"
    mean, _ = mean_of(row, weights)
    missing = (row[column].value - mean) * sum(weight or 1 for weight in weights.values())
    notes = [f"one cell would have to be {missing:+.1f} off"] if not any(weights.values()) else []
    if "REL" in weights and not math.isclose(row["REL"].value, row["MRJC"].value):
        swapped, slack = mean_of(row | {"REL": row["MRJC"]}, weights)
        if meets(row[column], swapped, slack):
            notes.append(f"agrees if REL is the MRJC cell's {row['MRJC'].value}, not {row['REL'].value}")
    return "; ".join(notes)


def check_gain(tables: Tables, gain: Gain) -> Finding:
    """Recompute a gain of the text as the difference of two printed cells."""
    table, over = tables[gain.table], gain.over
    if over.startswith("best"):
        groups = (over.removeprefix("best").strip(),) if over != "best" else ()
        over = next(name for name, _ in ranking(table, gain.column, groups) if name != OURS)
    difference = table.value(OURS, gain.column) - table.value(over, gain.column)
    places = len(gain.points.partition(".")[2])
    label = over if over == gain.over else f"{gain.over} ({over})"
    return Finding(
        kind="gain",
        where=gain.where,
        what=f"{gain.column} over {label}",
        published=f"+{gain.points}",
        recomputed=f"{difference:+.{places}f}",
        verdict=AGREES if abs(difference - float(gain.points)) < 1e-6 else DISAGREES,
    )


def check_quoted(tables: Tables) -> list[Finding]:
    """Compare the cells that the text quotes with the tables."""
    found = []
    for where, number, row, column, quoted in QUOTED:
        cell = tables[number].rows[row][column]
        found.append(
            Finding(
                kind="statement",
                where=where,
                what=f"quotes Table {number}, {row}, {column}",
                published=quoted,
                recomputed=f"{cell.value:.{cell.decimals}f}",
                verdict=AGREES if abs(float(quoted) - cell.value) < 1e-9 else DISAGREES,
            )
        )
    return found


def check_shares(tables: Tables) -> list[Finding]:
    """Check that accuracies are whole numbers of questions; a row with cells that are none makes a finding."""
    wrong: dict[tuple[int, str], list[tuple[str, int]]] = {}
    for number, column, count in STEPS:
        for name, row in tables[number].rows.items():
            if not is_share(row[column], count):
                wrong.setdefault((number, name), []).append((column, count))
    found = []
    for (number, name), columns in wrong.items():
        row = tables[number].rows[name]
        places = {column: row[column].decimals for column, _ in columns}
        found.append(
            Finding(
                kind="count",
                where=f"Table {number}, {name}",
                what="k of n questions: " + ", ".join(f"{column} ({count})" for column, count in columns),
                published=", ".join(f"{row[column].value:.{places[column]}f}" for column, _ in columns),
                recomputed=", ".join(
                    _neighbours(row[column].value, count, places[column]) for column, count in columns
                ),
                verdict=DISAGREES,
                note=SHARE_NOTES.get((number, name), ""),
            )
        )
    return found


def _neighbours(value: float, count: int, decimals: int) -> str:
    low = math.floor(value * count / 100)
    return "/".join(f"{100 * k / count:.{decimals}f}" for k in (low, low + 1))


def check_copied_column(tables: Tables) -> Finding:
    """Compare Table 2's MRJC with REL: n = 20 allows multiples of 5 only, and many cells equal REL instead."""
    rows = tables[2].rows
    wrong = [name for name, row in rows.items() if not is_share(row["MRJC"], RSHR_REASONING["MRJC"])]
    same = [name for name in wrong if rows[name]["MRJC"].value == rows[name]["REL"].value]
    return Finding(
        kind="count",
        where="Table 2, MRJC",
        what="MRJC is k of 20 questions",
        published=", ".join(f"{name} {rows[name]['MRJC'].value:.1f}" for name in wrong),
        recomputed=f"{len(wrong)} of {len(rows)} rows are no multiple of 5; {len(same)} of them equal their REL cell",
        verdict=UNCHECKED,
        note="20 is inferred from other published rows; equal cells look like a column copied by mistake. "
        "The best MRJC of ours (65.0, 13 of 20) is compared with them",
    )


def check_split(tables: Tables) -> list[Finding]:
    """Find which split of MME-RealWorld each row of Table 3 can come from: Lite (50 a column) or full (about 1,250)."""
    found = []
    for name, row in tables[3].rows.items():
        lite, full = (sum(is_share(row[c], n) for c, n in counts.items()) for counts in (MME_LITE, MME_FULL))
        split = "Lite" if lite == 3 else "not Lite; full fits" if full == 3 else "not Lite; full does not fit either"
        found.append(
            Finding(
                kind="count",
                where=f"Table 3, {name}",
                what="the same questions as ours (Lite: 50 a column)",
                published=" ".join(f"{row[c].value:.2f}" for c in MME_LITE),
                recomputed=f"{lite} of 3 are k/50, {full} of 3 are k/1257, k/1255, k/1226: {split}",
                verdict=AGREES if lite == 3 else DISAGREES,
            )
        )
    return found


def audit(tables: Tables = TABLES) -> list[Finding]:
    """Return all findings: averages, gains, shares of questions, statements, and what cannot be checked."""
    return [
        *check_averages(tables),
        *(check_gain(tables, gain) for gain in GAINS),
        *check_quoted(tables),
        *check_shares(tables),
        check_copied_column(tables),
        *check_split(tables),
        *all_statements(tables),
        *CANNOT_BE_CHECKED,
    ]


def _rows(findings: Iterable[Finding]) -> list[str]:
    lines = ["| where | what | published | recomputed | note |", "|---|---|---|---|---|"]
    lines += [f"| {f.where} | {f.what} | {f.published} | {f.recomputed} | {f.note} |" for f in findings]
    return lines


def _place_lines(tables: Tables) -> list[str]:
    """Return the place of ours in every column of Tables 1-3: what the text does not say about the weak ones."""
    lines = ["| table | rows | place of ours by column (equal values share the better place) |", "|---|---|---|"]
    for number in (1, 2, 3):
        table = tables[number]
        places = {
            column: [v for _, v in ranking(table, column)].index(cell.value) + 1
            for column, cell in table.rows[OURS].items()
        }
        lines.append(
            f"| {number} | {len(table.rows)} | {', '.join(f'{column} {place}' for column, place in places.items())} |"
        )
    return lines


def _sampling_lines(tables: Tables) -> list[str]:
    """Return what the size of the benchmarks allows to say about the leads of Tables 1 and 3."""
    lines = ["| result | n | 95 % Wilson interval | others inside it |", "|---|---|---|---|"]
    for number, column, count in ((1, "w.Avg", 3080), (3, "Avg", 150)):
        table = tables[number]
        share = table.value(OURS, column) / 100
        low, high = (100 * end for end in wilson(share * count, count))
        inside = [f"{n} {v:g}" for n, v in ranking(table, column) if low <= v <= high and n != OURS]
        ours = f"Table {number} {column} {table.value(OURS, column):g}"
        lines.append(f"| {ours} | {count:,} | {low:.1f} to {high:.1f} | {', '.join(inside) or 'none'} |")
    return lines


def report(findings: list[Finding], tables: Tables = TABLES) -> str:
    """Return the audit as Markdown."""
    of = {verdict: [f for f in findings if f.verdict == verdict] for verdict in (AGREES, DISAGREES, UNCHECKED)}
    cells = [(t.number, row, column, c) for t in tables.values() for row in t.rows for column, c in t.rows[row].items()]
    readings = {kind: [item for item in cells if item[3].reading == kind] for kind in ("corrected", "uncertain")}
    restored = sum(item[3].reading == "point restored" for item in cells)
    lines = [
        "# Audit of the paper's numbers",
        "",
        "Made by `python -m experiments.audit_paper`. The tables of UHR-BAT (arXiv:2604.13565) are typed in as data "
        "(`bat_jax/study/paper/published.py`) and every average, gain and statement about them is computed again. No "
        "model runs here: the question is whether the published numbers agree with each other.",
        "",
        "A printed number stands for half a unit of its last place on either side; an average disagrees only if no "
        "values within the printed places of its cells can give it.",
        "",
        "| verdict | averages | gains | questions | statements | all |",
        "|---|---|---|---|---|---|",
    ]
    for verdict, some in of.items():
        counts = [sum(f.kind == kind for f in some) for kind in ("average", "gain", "count", "statement")]
        lines.append(f"| {verdict} | {' | '.join(map(str, counts))} | {len(some)} |")
    lines += ["", "## Does not agree"]
    titles = {
        "average": "Averages",
        "gain": "Gains in the text",
        "count": "Accuracies and numbers of questions",
        "statement": "Statements",
    }
    for kind, title in titles.items():
        some = [f for f in of[DISAGREES] if f.kind == kind]
        lines += ["", f"### {title}", "", *(_rows(some) if some else ["None."])]
    lines += [
        "",
        "Table 3 compares two splits: our row has values of 50 questions a column (MME-RealWorld-Lite), no other row "
        "has one. Seven of the nine others fit the full split's 1,257 / 1,255 / 1,226 questions in all three columns "
        "(by chance a two-decimal value fits in one case of eight), and six averages are weighted by them. The full "
        "split's sum, 3,738, is known; its division was remembered and is borne out by these 21 cells.",
        "",
        "## How much the size of a benchmark allows to say",
        "",
        *_sampling_lines(tables),
        "",
        "These intervals are for one accuracy alone, as if rows were independent; a paired test needs the answers.",
        "",
        "## Where ours stands column by column",
        "",
        *_place_lines(tables),
        "",
        "## Cannot be checked",
        "",
        *_rows(of[UNCHECKED]),
        "",
        "## Agrees",
        "",
        *_rows(f for f in of[AGREES] if f.kind != "average"),
        "",
        "Averages:",
        "",
        "| table | column | rows that agree |",
        "|---|---|---|",
    ]
    for number, column, _ in AVERAGES:
        some = [f for f in findings if f.kind == "average" and f.what == column]
        some = [f for f in some if f.where.startswith(f"Table {number},")]
        lines.append(f"| {number} | {column} | {sum(f.verdict == AGREES for f in some)} of {len(some)} |")
    lines += [
        "",
        "## How the tables were read",
        "",
        f"{len(cells)} cells. {restored} lost their decimal point in the reading and got it back; "
        f"{len(readings['corrected'])} were corrected otherwise and {len(readings['uncertain'])} are not certain:",
        "",
        "| table | row | column | as read | taken as | why |",
        "|---|---|---|---|---|---|",
    ]
    for number, row, column, cell in readings["corrected"] + readings["uncertain"]:
        why = WHY.get((number, row, column), "comma for point")
        lines.append(f"| {number} | {row} | {column} | {cell.as_read} | {cell.value:.{cell.decimals}f} | {why} |")
    return "\n".join(lines) + "\n"
