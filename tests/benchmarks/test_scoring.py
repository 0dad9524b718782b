"""The release's rule equals what the release's scripts were recorded to say (see tests/golden/scoring.md)."""

import json
import pathlib

import pytest

from bat_jax.benchmarks import letters as reading
from bat_jax.benchmarks.answer_readers import judge
from bat_jax.benchmarks.records.mme_realworld import release_mme, release_valid

RECORDED = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "scoring.json").read_text(encoding="utf-8"))
PIPELINE = [(branch, place) for branch, places in RECORDED["pipeline"].items() for place in places]


def mme_letters(text, valid):
    return reading.release_letters(text, valid, is_cleaned=False)


@pytest.mark.parametrize("case", RECORDED["helpers"], ids=lambda case: repr(case["raw"]))
def test_reading_equals_the_recorded(case):
    raw, truth, xlrs = case["raw"], case["gt"], case["xlrs"]
    assert reading.clean_release(raw) == xlrs["clean"]
    assert reading.first_line(raw) == xlrs["first_nonempty_line"]
    assert [reading.release_letters(raw), reading.release_letters(truth)] == [
        "".join(xlrs[k]) for k in ("set", "gt_set")
    ]
    for valid in ("ABCDE", "ABC"):
        letters, wanted = mme_letters(raw, valid), mme_letters(truth, valid)
        assert letters == "".join(case["mme"][valid]["set"])
        is_right = bool(wanted) and letters == wanted
        assert [is_right, list(letters), list(wanted)] == case["mme"][valid]["determine_correct"]


def test_nothing_reads_as_nothing():
    recorded = RECORDED["none_inputs"]
    assert reading.clean_release(None) == recorded["xlrs._clean_generated_text(None)"]
    assert list(reading.release_letters(None)) == recorded["xlrs._extract_choice_set(None)"]
    assert list(mme_letters(None, "ABCDE")) == recorded["mme._extract_choice_set(None)"]


@pytest.mark.parametrize(("branch", "place"), PIPELINE)
def test_xlrs_rows_equal_the_recorded(branch, place):
    rows = RECORDED["pipeline"][branch][place]["xlrs"]
    read_from_prompt = 0
    for row in rows:
        result, text = row["result"], row["result"]["raw_tail"]
        letters, truth = reading.release_letters(text), reading.release_letters(result["ground_truth"])
        assert row["has_correct"] == bool(truth)
        assert result.get("correct") == (letters == truth if truth else None), row["raw"]
        if not reading.clean_release(text) and place == "specials_outside_vocab_size":
            read_from_prompt += result["model_output"] == "ABCDEF"
        else:
            assert result["model_output"] == (letters or reading.clean_release(text)), row["raw"]
    assert len(rows) == 44 and read_from_prompt == (3 if place == "specials_outside_vocab_size" else 0)


@pytest.mark.parametrize(("branch", "place"), PIPELINE)
def test_mme_rows_equal_the_recorded(branch, place):
    rows = RECORDED["pipeline"][branch][place]["mme"]
    for row in rows:
        sample, result = row["sample"], row["result"]
        turns = sample.get("conversations")
        question = reading.AnswerKey(
            benchmark="mme_realworld",
            truth="A",
            options=tuple(sample.get("Answer choices", ("(A) x", "(B) y"))),
            conversation=turns[0]["value"] if turns else None,
        )
        valid = release_valid(question)
        scores = dict(zip("ABCDE", row["letter_scores_step0_ABCDE"], strict=True))
        letters, was_replaced = release_mme(result["raw_output"], valid, scores, branch=branch)
        truth = mme_letters(result["ground_truth"], valid)
        assert was_replaced == result["logit_fallback"], row["raw"]
        assert (list(letters), list(truth)) == (result["pred_choices"], result["gt_choices"]), row["raw"]
        assert (bool(truth) and letters == truth) == result["correct"], row["raw"]
    assert len(rows) == 43


@pytest.mark.parametrize("branch", ["kmeans", "sam"])
def test_judging_a_recorded_row_gives_its_verdict(branch):
    """The whole way: a sample and what the model wrote, through `judge`."""
    judged = 0
    for row in RECORDED["pipeline"][branch]["specials_inside_vocab_size"]["xlrs"]:
        options = ("one", "two", "three", "four", "five", "six")  # truths go up to F
        question = reading.AnswerKey(benchmark="rshr", truth=row["result"]["ground_truth"], options=options)
        assert judge(row["raw"], question)["release"].is_right == row["result"]["correct"], row["raw"]
        judged += 1
    assert judged == 44
