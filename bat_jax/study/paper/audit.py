"""Recompute every average, gain and statement of the paper's tables (UHR-BAT, arXiv:2604.13565) and say what agrees.

    audit(TABLES) -> findings

A printed number stands for an interval of half a unit of its last place. An average agrees if the interval of the
recomputed value (every cell anywhere in its own interval) meets the printed one, so that only real contradictions are
listed. A gain is the difference of two printed numbers and must be exact to the printed place.
"""

import math
from collections.abc import Mapping

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
            recomputed, verdict = f"{mean:.{printed.decimals + 1}f}", AGREES if holds else DISAGREES
            found.append(Finding("average", f"Table {number}, {name}", column, printed.text, recomputed, verdict, note))
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
    verdict = AGREES if abs(difference - float(gain.points)) < 1e-6 else DISAGREES
    what, recomputed = f"{gain.column} over {label}", f"{difference:+.{places}f}"
    return Finding("gain", gain.where, what, f"+{gain.points}", recomputed, verdict)


def check_quoted(tables: Tables) -> list[Finding]:
    """Compare the cells that the text quotes with the tables."""
    found = []
    for where, number, row, column, quoted in QUOTED:
        cell = tables[number].rows[row][column]
        what, verdict = f"quotes Table {number}, {row}, {column}", AGREES if float(quoted) == cell.value else DISAGREES
        found.append(Finding("statement", where, what, quoted, cell.text, verdict))
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
        row, note = tables[number].rows[name], SHARE_NOTES.get((number, name), "")
        what = "k of n questions: " + ", ".join(f"{column} ({count})" for column, count in columns)
        printed = ", ".join(row[column].text for column, _ in columns)
        nearest = ", ".join(_neighbours(row[column], count) for column, count in columns)
        found.append(Finding("count", f"Table {number}, {name}", what, printed, nearest, DISAGREES, note))
    return found


def _neighbours(cell: PublishedValue, count: int) -> str:
    low = math.floor(cell.value * count / 100)
    return "/".join(f"{100 * k / count:.{cell.decimals}f}" for k in (low, low + 1))


def check_copied_column(tables: Tables) -> Finding:
    """Compare Table 2's MRJC with REL: n = 20 allows multiples of 5 only, and many cells equal REL instead."""
    rows = tables[2].rows
    wrong = [name for name, row in rows.items() if not is_share(row["MRJC"], RSHR_REASONING["MRJC"])]
    same = [name for name in wrong if rows[name]["MRJC"].value == rows[name]["REL"].value]
    printed = ", ".join(f"{name} {rows[name]['MRJC'].text}" for name in wrong)
    counted = f"{len(wrong)} of {len(rows)} rows are no multiple of 5; {len(same)} of them equal their REL cell"
    note = (
        "20 is inferred from other published rows; equal cells look like a column copied by mistake. "
        "The best MRJC of ours (65.0, 13 of 20) is compared with them"
    )
    return Finding("count", "Table 2, MRJC", "MRJC is k of 20 questions", printed, counted, UNCHECKED, note)


def check_split(tables: Tables) -> list[Finding]:
    """Find which split of MME-RealWorld each row of Table 3 can come from: Lite (50 a column) or full (about 1,250)."""
    found = []
    for name, row in tables[3].rows.items():
        lite, full = (sum(is_share(row[c], n) for c, n in counts.items()) for counts in (MME_LITE, MME_FULL))
        split = "Lite" if lite == 3 else "not Lite; full fits" if full == 3 else "not Lite; full does not fit either"
        what, printed = "the same questions as ours (Lite: 50 a column)", " ".join(row[c].text for c in MME_LITE)
        counted = f"{lite} of 3 are k/50, {full} of 3 are k/1257, k/1255, k/1226: {split}"
        verdict = AGREES if lite == 3 else DISAGREES
        found.append(Finding("count", f"Table 3, {name}", what, printed, counted, verdict))
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
