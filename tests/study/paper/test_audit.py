"""The audit against sums done by hand, and against errors planted in the tables."""

import collections
import dataclasses
import pathlib

import pytest

from bat_jax.report.paper_audit import report
from bat_jax.study.paper.audit import audit, check_split, is_share, mean_of
from bat_jax.study.paper.claims import AGREES, DISAGREES, GAINS, UNCHECKED
from bat_jax.study.paper.published import (
    OURS,
    RSHR_PERCEPTION,
    TABLE_1,
    TABLES,
    WHY,
    XLRS_PERCEPTION,
    XLRS_REASONING,
    PublishedValue,
    read_table,
)
from bat_jax.study.paper.statements import line_fit

ROOT = pathlib.Path(__file__).parents[3]


def find(findings, where, what):
    return next(f for f in findings if f.where == where and f.what.startswith(what))


def planted_in(number, row, column, text):
    """Return the tables with one cell replaced."""
    rows = TABLES[number].rows
    rows = rows | {row: rows[row] | {column: PublishedValue.parse(text)}}
    return TABLES | {number: dataclasses.replace(TABLES[number], rows=rows)}


@pytest.fixture(scope="module")
def findings():
    return audit()


def test_a_cell_says_what_was_mended():
    assert PublishedValue.parse("31.8") == PublishedValue(31.8, 1, "as read", "31.8")
    assert PublishedValue.parse("31.8'") == PublishedValue(31.8, 1, "point restored", "318")
    assert PublishedValue.parse("31.6<31,6") == PublishedValue(31.6, 1, "corrected", "31,6")
    assert PublishedValue.parse("41.43?4143") == PublishedValue(41.43, 2, "uncertain", "4143")
    with pytest.raises(ValueError, match="no number"):
        PublishedValue.parse("31,6")


def test_a_row_with_a_cell_too_few_is_refused():
    with pytest.raises(ValueError, match="2 cells for 3 columns"):
        read_table(1, "t", "a b c", "x | 1.0 2.0")


def test_every_uncertain_cell_has_a_reason():
    uncertain = {
        (t.number, row, column)
        for t in TABLES.values()
        for row, cells in t.rows.items()
        for column, cell in cells.items()
        if cell.reading == "uncertain"
    }
    assert uncertain == set(WHY)
    assert len(uncertain) == 3


def test_the_counts_are_those_of_the_benchmarks():
    assert sum(XLRS_PERCEPTION.values()) == 2620
    assert sum(XLRS_REASONING.values()) == 460
    assert sum(RSHR_PERCEPTION.values()) == 1370
    assert [len(t.rows) for t in TABLES.values()] == [18, 15, 10, 7, 4, 16, 9, 3, 3]


def test_the_weighted_average_of_ours_is_the_sum_done_by_hand():
    """1302 + 3300 + 5000 + 11100 + 34800 + 27040 + 3900 + 22400 + 6200 + 7100 + 5400 + 2802 + 5100 = 135444."""
    mean, slack = mean_of(TABLE_1.rows[OURS], XLRS_PERCEPTION | XLRS_REASONING)
    assert mean == pytest.approx(135444 / 3080)
    assert slack == pytest.approx(0.05)


def test_known_contradictions_are_found(findings):
    # MiniCPM: 21.5 + 28 + 30 + 24 + 19.5 + 29.5 + 34.3 + 22 + 29 = 237.8, / 9 = 26.42, printed 27.4
    finding = find(findings, "Table 2, MiniCPM2_6", "P.Avg")
    assert (finding.published, finding.recomputed, finding.verdict) == ("27.4", "26.42", DISAGREES)
    # GeoChat of Table 3: (25.06 + 23.11 + 15.66) / 3 = 21.277; by questions 79702.7 / 3738 = 21.322
    finding = find(findings, "Table 3, GeoChat", "Avg")
    assert (finding.published, finding.recomputed, finding.verdict) == ("21.32", "21.277", DISAGREES)
    assert "21.322, which agrees" in finding.note
    finding = find(findings, "Sec. 4, RSHR-Bench", "best R.Avg")
    assert finding.verdict == DISAGREES
    assert finding.recomputed.startswith("VILA-HD 46.6")


def test_every_gain_of_the_text_is_the_difference_of_its_cells(findings):
    gains = [f for f in findings if f.kind == "gain"]
    assert len(gains) == len(GAINS) == 25
    assert {f.verdict for f in gains} == {AGREES}
    assert find(findings, "Sec. 4, MME-RealWorld", "Color over best").what.endswith("(GeoLLaVA-8K)")


def test_averages_and_gains_find_a_planted_error(findings):
    """EarthDial 33.3 for 33.8: its row makes 104236 / 3080 = 33.84, and the gain over it would be 44.0 - 33.3."""
    planted = planted_in(1, "EarthDial", "w.Avg", "33.3")
    before, after = (collections.Counter(f.verdict for f in some) for some in (findings, audit(planted)))
    assert after[DISAGREES] == before[DISAGREES] + 2
    assert find(audit(planted), "Table 1, EarthDial", "w.Avg").recomputed == "33.84"
    assert find(audit(planted), "Sec. 4, XLRS-Bench", "w.Avg over EarthDial").recomputed == "+10.7"


def test_a_cell_that_is_no_share_of_its_questions_is_found():
    """22.5 % of 100 questions is no number of questions."""
    planted = planted_in(1, "VHM", "AD", "42.5")
    assert any(f.kind == "count" and f.where == "Table 1, VHM" for f in audit(planted))
    assert is_share(PublishedValue.parse("46.7"), 60)
    assert not is_share(PublishedValue.parse("24.0"), 60)


def test_only_our_row_of_table_3_comes_from_the_lite_split():
    verdicts = {f.where: f.verdict for f in check_split(TABLES)}
    assert [where for where, verdict in verdicts.items() if verdict == AGREES] == ["Table 3, UHR-BAT"]


def test_table_4_is_a_line_without_its_first_row():
    assert line_fit(TABLES) == pytest.approx((13.70, 208.8), abs=0.06)
    slope, intercept = line_fit(TABLES, ("4k",))
    assert (slope, intercept) == pytest.approx((14.18, 204.0), abs=0.06)


def test_what_cannot_be_checked_says_why(findings):
    unchecked = [f for f in findings if f.verdict == UNCHECKED]
    assert len(unchecked) > 10
    assert all(f.note for f in unchecked)


def test_the_report_in_docs_is_what_the_audit_says(findings):
    assert (ROOT / "docs" / "paper_audit.md").read_text(encoding="utf-8") == report(findings)


def test_the_report_shows_a_planted_error():
    planted = planted_in(3, OURS, "Avg", "34.33")
    lines = report(audit(planted), planted).splitlines()
    assert any(line.startswith("| Table 3, UHR-BAT | Avg | 34.33 | 33.333 |") for line in lines)
