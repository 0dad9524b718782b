"""Averages against published tables, Wilson's interval against a literal and a brute-force search, and the counting."""

import dataclasses
import json
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bat_jax.benchmarks.letters import AnswerKey
from bat_jax.benchmarks.registry import BENCHMARKS
from bat_jax.evals import aggregate
from bat_jax.evals.aggregate import Prediction

FOUR = ("(A) one", "(B) two", "(C) three", "(D) four")
TWO = ("(A) Yes", "(B) No")
COUNTS = {record.name: list(record.counts().values()) for record in BENCHMARKS}
LITE = list(BENCHMARKS["mme_realworld"].counts("Lite").values())
Z = 1.959963984540054


def make_task(id, category, truth="A", options=FOUR, name="xlrs", dialogue=None):
    record = BENCHMARKS[name]
    several = record.subtask(category).is_multi_answer
    question = AnswerKey(benchmark=name, truth=truth, options=options, is_multi_answer=several)
    return record.task(category, id=id, question=question, dialogue=dialogue, text="?", prompt_style="release")


def answers(**outputs):
    return {id: Prediction(output=output) for id, output in outputs.items()}


def test_wilson_equals_literals():
    # 95 % intervals of Newcombe (Statistics in Medicine 17, 1998), table I, method 3
    for num_right, total, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)]:
        assert aggregate.wilson(num_right, total) == pytest.approx((low, high), abs=5e-5)
    assert aggregate.wilson(150 * 33.33 / 100, 150) == pytest.approx((0.2629, 0.4121), abs=1e-4)  # a rounded share
    assert aggregate.wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert aggregate.wilson(20, 20) == pytest.approx((0.8389, 1), abs=5e-5)
    assert aggregate.wilson(0, 0) == (0.0, 1.0)


def test_wilson_equals_brute_force():
    grid = np.linspace(0, 1, 200_001)
    for num_right, total in [(0, 1), (1, 1), (3, 7), (22, 50), (50, 150), (1355, 3080)]:
        inside = np.abs(num_right / total - grid) <= Z * np.sqrt(grid * (1 - grid) / total)
        low, high = grid[inside][[0, -1]]
        assert aggregate.wilson(num_right, total) == pytest.approx((low, high), abs=1e-5)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_holds_the_share_and_mirrors(pair):
    num_right, total = pair
    low, high = aggregate.wilson(num_right, total)
    assert 0 <= low <= num_right / total <= high <= 1
    assert aggregate.wilson(total - num_right, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("num_right", "total"), [(-1, 3), (4, 3)])
def test_wilson_refuses_what_is_no_share(num_right, total):
    with pytest.raises(ValueError, match="must be in"):
        aggregate.wilson(num_right, total)


# XLRS-Bench-lite: the benchmark's own table (macro printed with one decimal) and the UHR-BAT paper's row of itself.
GPT_4O = [25.0, 32.0, 15.0, 66.0, 9.5, 11.3, 11.7, 24.6, 73.0, 73.0, 35.0, 20.0, 25.0]
QWEN_72B = [33.3, 47.0, 39.0, 80.0, 45.3, 42.1, 65.0, 34.0, 71.0, 74.0, 37.0, 43.3, 42.0]
GEOCHAT = [16.7, 29.0, 2.0, 23.0, 21.1, 16.8, 35.0, 24.2, 33.0, 43.0, 10.0, None, 21.0]
UHR_BAT = [21.7, 33.0, 50.0, 55.5, 43.5, 33.8, 65.0, 44.8, 62.0, 71.0, 54.0, 46.7, 51.0]
# RSHR-Bench in the UHR-BAT paper, 9 perception and 5 reasoning columns.
GPT_4O_RSHR = [49.5, 23.0, 15.0, 35.5, 30.5, 28.0, 27.1, 22.5, 41.0, 68.0, 56.0, 30.5, 32.0, 64.0]
UHR_BAT_RSHR = [46.5, 32.0, 38.0, 12.5, 38.5, 24.0, 17.1, 17.0, 37.0, 44.0, 34.0, 65.0, 32.0, 50.0]


@pytest.mark.parametrize(
    ("row", "macro", "micro"), [(GPT_4O, 32.39, 23.00), (QWEN_72B, 50.23, 46.24), (GEOCHAT, 22.90, 21.17)]
)
def test_xlrs_averages_equal_the_published(row, macro, micro):
    assert aggregate.average("macro", COUNTS["xlrs"], row) == pytest.approx(macro, abs=0.006)
    assert aggregate.average("micro", COUNTS["xlrs"], row) == pytest.approx(micro, abs=0.006)


def test_a_subtask_not_run_may_count_as_zero():
    assert aggregate.average("macro_all", COUNTS["xlrs"], GEOCHAT) == pytest.approx(22.90 * 12 / 13, abs=0.006)
    as_wrong = [0.0 if value is None else value for value in GEOCHAT]
    assert aggregate.average("micro", COUNTS["xlrs"], as_wrong) == pytest.approx(20.75, abs=0.006)
    assert aggregate.average("macro", [5, 5], [None, None]) is None
    with pytest.raises(ValueError, match="kind='mean'"):
        aggregate.average("mean", [1], [1.0])


def test_the_papers_own_rows_follow_from_its_averaging():
    def mean(name, row, columns=slice(None)):
        counts = COUNTS[name][: len(row)][columns]
        return round(aggregate.average(BENCHMARKS[name].mean_of("paper"), counts, row[columns]), 1)

    assert mean("xlrs", UHR_BAT) == 44.0
    assert [mean("rshr", UHR_BAT_RSHR, part) for part in (slice(9), slice(9, None))] == [29.2, 45.0]
    assert mean("rshr", UHR_BAT_RSHR) == 34.8
    assert [mean("rshr", GPT_4O_RSHR, part) for part in (slice(9), slice(9, None))] == [30.2, 50.1]
    assert mean("rshr", GPT_4O_RSHR) == 37.3
    assert round(aggregate.average("micro", LITE, [44.0, 42.0, 14.0]), 2) == 33.33
    # A row of the same table follows from the counts of the full split alone.
    geochat = [25.06, 23.11, 15.66]
    assert round(aggregate.average("micro", COUNTS["mme_realworld"], geochat), 2) == 21.32
    assert round(aggregate.average("micro", LITE, geochat), 2) == 21.28


@pytest.mark.parametrize(
    ("averaging", "kinds"),
    [
        ("paper", ["micro", "macro", "micro", "micro"]),
        ("leaderboard", ["micro", "macro", "macro", "macro"]),
        ("macro_all", ["macro_all"] * 4),
    ],
)
def test_averagings_have_a_meaning_for_every_published_benchmark(averaging, kinds):
    names = ("mme_realworld", "rshr", "uhr_mini", "xlrs")
    assert [BENCHMARKS[name].mean_of(averaging) for name in names] == kinds


def test_a_benchmark_without_a_published_average_leads_with_micro_and_says_so():
    task = make_task("a", "open", name="llava")
    outcomes = aggregate.score([task], answers(a="A"))
    report = aggregate.aggregate("llava", outcomes, "official")
    assert report.averaging == "micro" and report.headline == {"perception": None, "reasoning": None, "overall": 1.0}
    with pytest.raises(ValueError, match="averaging='paper': llava has no published average; give micro or macro"):
        aggregate.aggregate("llava", outcomes, "official", "paper")


def small_run():
    """Three sub-tasks: 2 of 4, 1 of 2 and 1 of 1 right, one missing and one failed among the wrong ones."""
    colour, motion, route = "Object properties/Object color", "Object properties/Object motion state", "Route planning"
    items = [make_task(f"c{index}", colour) for index in range(4)]
    items += [make_task(f"m{index}", motion, options=TWO) for index in range(2)]
    items += [make_task("r0", f"Complex reasoning/{route}", truth="D")]
    predictions = answers(c0="A", c1="(A)", c2="B", m0="A", r0="D")
    predictions["m1"] = Prediction(output=None, error="OSError: image file is truncated")
    return items, predictions


def test_a_small_run_is_counted_by_hand():
    outcomes = aggregate.score(*small_run())
    assert [outcome.status for outcome in outcomes] == ["answered"] * 3 + ["missing", "answered", "error", "answered"]
    report = aggregate.aggregate("xlrs", outcomes, "strict")
    cells = {cell.name: cell for cell in report.subtasks}
    assert cells["OCL"][:7] == ("OCL", 4, 2, 1, 0, 0, 0.5)
    assert cells["OMS"][:7] == ("OMS", 2, 1, 0, 1, 0, 0.5)
    assert (cells["OCL"].low, cells["OCL"].high) == aggregate.wilson(2, 4)
    assert (cells["OC"].total, cells["OC"].accuracy, cells["OC"].chance) == (0, None, None)
    assert report.micro["perception"][:6] == ("perception", 6, 3, 1, 1, 0)
    assert report.micro["reasoning"].num_right == 1
    assert report.micro["overall"].accuracy == pytest.approx(4 / 7)
    assert report.micro["overall"].chance == pytest.approx((4 / 4 + 2 / 2 + 1 / 4) / 7)
    assert report.macro == pytest.approx({"perception": 0.5, "reasoning": 1.0, "overall": 2 / 3})
    assert report.macro_all["overall"] == pytest.approx(2 / 13)
    assert report.headline == {group: cell.accuracy for group, cell in report.micro.items()}
    assert aggregate.aggregate("xlrs", outcomes, "strict", "leaderboard").headline == report.macro


def test_chance_is_that_of_the_options():
    assert aggregate.chance(4, False) == 0.25
    assert aggregate.chance(2, False) == 0.5
    assert aggregate.chance(4, True) == 1 / 15
    several = make_task("o", "Land use classification/Overall Land use classification", truth="AB")
    report = aggregate.aggregate("xlrs", aggregate.score([several], answers(o="A B")), "strict")
    assert report.micro["overall"].chance == pytest.approx(1 / 15)


def test_dialogues_count_whole_and_stand_in_no_average():
    turns = [
        make_task(f"{dialogue}{turn}", "multturn_anomaly_detection", name="rshr", dialogue=dialogue)
        for dialogue in "abc"
        for turn in range(3)
    ]
    single = make_task("s", "color", name="rshr")
    predictions = answers(a0="A", a1="A", a2="A", b0="A", b1="B", b2="A", c0="A", c1="A", s="A")
    report = aggregate.aggregate("rshr", aggregate.score([*turns, single], predictions), "official")
    assert report.dialogues[:7] == ("MTEM@1", 3, 1, 1, 0, 0, pytest.approx(1 / 3))
    assert report.dialogues.chance == pytest.approx(1 / 64)
    assert report.micro["overall"].total == 1 and report.headline["overall"] == 1.0
    assert {cell.name: cell.num_right for cell in report.subtasks}["MAD"] == 7
    outside = make_task("x", "multturn_anomaly_detection", name="rshr")
    with pytest.raises(ValueError, match="id='x': is a turn"):
        aggregate.aggregate("rshr", aggregate.score([outside], {}), "official")


def test_a_dialogue_without_all_of_its_turns_is_named_and_counts_in_nothing():
    """As a limited run has them: of "b" the first turn alone, which is right; of "c" more turns than it has."""
    turns = [
        dataclasses.replace(
            make_task(f"{dialogue}{turn}", "multturn_anomaly_detection", name="rshr", dialogue=dialogue),
            num_turns=2 if dialogue == "d" else None,
        )
        for dialogue, count in (("a", 3), ("b", 1), ("c", 4), ("d", 2))
        for turn in range(count)
    ]
    outcomes = aggregate.score(turns, answers(**{turn.id: "A" for turn in turns}))
    report = aggregate.aggregate("rshr", outcomes, "official")
    assert (report.dialogues.total, report.dialogues.num_right) == (2, 2)
    assert report.part_dialogues == ("b (1 of 3 turns)", "c (4 of 3 turns)")
    first = aggregate.aggregate("rshr", outcomes[3:4], "official")
    assert (first.dialogues.total, first.part_dialogues) == (0, ("b (1 of 3 turns)",))
    assert "MTEM@1" not in aggregate.to_markdown([first])


def test_a_question_without_a_verdict_is_wrong_and_counted():
    silent = make_task("s", "color", truth="ship", options=("yoyo", "ship"), name="rshr")
    outcomes = aggregate.score([silent], answers(s="B"))
    assert aggregate.aggregate("rshr", outcomes, "release").micro["overall"][:7] == ("overall", 1, 0, 0, 0, 1, 0.0)
    assert aggregate.aggregate("rshr", outcomes, "strict").micro["overall"].num_right == 1


def test_what_does_not_fit_together_is_an_error():
    items, predictions = small_run()
    with pytest.raises(ValueError, match="id='c0': occurs twice"):
        aggregate.score([*items, items[0]], predictions)
    with pytest.raises(ValueError, match="1 ids are of no question, the first is 'zzz'"):
        aggregate.score(items, {**predictions, "zzz": Prediction(output="A")})
    outcomes = aggregate.score(items, predictions)
    with pytest.raises(ValueError, match="rule='loose'"):
        aggregate.aggregate("xlrs", outcomes, "loose")
    with pytest.raises(ValueError, match="averaging='best'"):
        aggregate.aggregate("xlrs", outcomes, "strict", "best")
    with pytest.raises(ValueError, match="mme_realworld has no such category"):
        aggregate.aggregate("mme_realworld", outcomes, "strict")


def test_the_table_shows_every_rule_and_the_json_holds_no_nan():
    outcomes = aggregate.score(*small_run())
    reports = [aggregate.aggregate("xlrs", outcomes, rule) for rule in ("official", "strict")]
    lines = aggregate.to_markdown(reports).splitlines()
    assert lines[:6] == [
        "| XLRS-Bench-lite | n | missing | errors | official | strict | chance |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| OCL | 4 | 1 | 0 | 50.0 [15.0, 85.0] | 50.0 [15.0, 85.0] | 25.0 |",
        "| OMS | 2 | 0 | 1 | 50.0 [9.5, 90.5] | 50.0 [9.5, 90.5] | 50.0 |",
        "| RP | 1 | 0 | 0 | 100.0 [20.7, 100.0] | 100.0 [20.7, 100.0] | 25.0 |",
        "| perception, micro | 6 | 1 | 1 | 50.0 [18.8, 81.2] | 50.0 [18.8, 81.2] | 33.3 |",
    ]
    assert "| overall, macro | | | | 66.7 | 66.7 | |" in lines
    assert "| overall, paper | | | | 57.1 | 57.1 | |" in lines
    first, second = (json.loads(json.dumps(report.as_dict(), allow_nan=False)) for report in reports)
    assert (first["rule"], second["rule"]) == ("official", "strict")
    assert first["micro"]["overall"]["num_right"] == 4 and first["subtasks"][0]["accuracy"] is None
    assert math.isclose(first["headline"]["overall"], 4 / 7)
    with pytest.raises(ValueError, match="not of the same questions"):
        aggregate.to_markdown([reports[0], aggregate.aggregate("xlrs", outcomes[:2], "strict")])
    with pytest.raises(ValueError, match="is empty"):
        aggregate.to_markdown([])


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    st.lists(
        st.tuples(st.sampled_from([item.category for item in BENCHMARKS["xlrs"].subtasks]), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_groups_sum_to_the_whole_in_any_run(drawn):
    items = [make_task(str(index), category) for index, (category, _) in enumerate(drawn)]
    predictions = {str(index): Prediction(output="A" if right else "B") for index, (_, right) in enumerate(drawn)}
    report = aggregate.aggregate("xlrs", aggregate.score(items, predictions), "official")
    whole = report.micro["overall"]
    assert (whole.total, whole.num_right) == (len(drawn), sum(right for _, right in drawn))
    for field in ("total", "num_right"):
        parts = [getattr(report.micro[group], field) for group in ("perception", "reasoning")]
        assert sum(parts) == sum(getattr(cell, field) for cell in report.subtasks) == getattr(whole, field)
    lowest, highest = (pick(c.accuracy for c in report.subtasks if c.total) for pick in (min, max))
    for mean in (report.macro["overall"], whole.accuracy):
        assert lowest - 1e-12 <= mean <= highest + 1e-12
