"""The question texts byte by byte, and the release's against its recorded outputs."""

import json
import pathlib

import pytest

from bat_jax.benchmarks import question_prompts
from bat_jax.benchmarks.records.mme_realworld import release_option
from bat_jax.benchmarks.registry import BENCHMARKS

RECORDED = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "scoring.json").read_text(encoding="utf-8"))
FOUR = ["(A) Red", "(B) Dark green", "(C) Blue", "(D) White"]
FIVE = [*FOUR, "(E) This image doesn't feature the color."]


def prompt(benchmark, style, question, options, **facts):
    return BENCHMARKS[benchmark].prompt(style, question, options, **facts)


def test_xlrs_official_single():
    assert prompt("xlrs", "official", "What colour is it?", FOUR) == (
        "What colour is it?The choices are listed below:\n(A) Red\n(B) Dark green\n(C) Blue\n(D) White\n\n"
        "Select the best answer for the multiple-choice question based on the image. Only respond with the letter "
        "corresponding to the correct answer (A, B, C, D).\nThe answer is:"
    )


def test_xlrs_official_two_options_still_name_four_letters():
    assert prompt("xlrs", "official", "Does it move?", ["(A) Yes", "(B) No"]) == (
        "Does it move?The choices are listed below:\n(A) Yes\n(B) No\n\n"
        "Select the best answer for the multiple-choice question based on the image. Only respond with the letter "
        "corresponding to the correct answer (A, B, C, D).\nThe answer is:"
    )


def test_xlrs_official_multiple():
    assert prompt("xlrs", "official", "Which land uses?", FOUR, is_multi_answer=True) == (
        "Which land uses?The choices are listed below:\n(A) Red\n(B) Dark green\n(C) Blue\n(D) White\n\n"
        "Select the best answer(s) for the multiple-choice question based on the image. There may be more than one "
        "correct option. Only respond with the letter(s) corresponding to the correct answer(s) (A, B, C, D), with "
        "multiple choices separated by spaces.The answer(s) is(are):"
    )


def test_xlrs_vlmevalkit_puts_question_and_ready_text_together():
    ready = " The choices are listed below:\n(A) Yes\n(B) No\nSelect the best answer ..."
    assert prompt("xlrs", "vlmevalkit", "Does it move?", ready) == "Does it move?" + ready
    with pytest.raises(ValueError, match="holds options and ending as one text"):
        prompt("xlrs", "vlmevalkit", "Does it move?", FOUR)


@pytest.mark.parametrize(("style", "first", "last"), [("official", " ", ""), ("vlmevalkit", "", " ")])
def test_mme_official_and_vlmevalkit_differ_in_two_blanks(style, first, last):
    assert prompt("mme_realworld", style, "What colour is it?", FIVE) == (
        f"What colour is it? The choices are listed below:{first}\n(A) Red\n(B) Dark green\n(C) Blue\n(D) White\n"
        "(E) This image doesn't feature the color.\n"
        "Select the best answer to the above multiple-choice question based on the image. Respond with only the letter "
        f"(A, B, C, D, or E) of the correct option.{last}\nThe best answer is:"
    )


def test_mme_release():
    assert prompt("mme_realworld", "release", " What colour is it? ", FIVE) == (
        "What colour is it?\nOptions:\nA. Red\nB. Dark green\nC. Blue\nD. White\n"
        "E. This image doesn't feature the color.\n"
        "Please reply with the letter of the correct option (e.g., A/B/C/D/E)."
    )


@pytest.mark.parametrize(
    "options", [["Red", "Blue"], {"b": "Blue", "A": "Red"}, "A. Red\nB. Blue"], ids=["list", "mapping", "text"]
)
def test_rshr_release(options):
    assert prompt("rshr", "release", "Which?", options) == (
        "Which?\nA. Red\nB. Blue\nSelect the best answer based on the image. Answer with the option letter only."
    )


def test_release_labels_a_list_twice_where_it_has_labels():
    assert prompt("rshr", "release", "Which?", ["(A) Red", "(B) Blue"]) == (
        "Which?\nA. (A) Red\nB. (B) Blue\n"
        "Select the best answer based on the image. Answer with the option letter only."
    )


def test_the_leaking_hint_is_off_unless_asked_for():
    plain = prompt("rshr", "release", "Which?", ["Red", "Blue"], truth="AB")
    assert "multiple" not in plain
    assert prompt("rshr", "release", "Which?", ["Red", "Blue"], truth="AB", leak_hint=True) == (
        "Which?\nA. Red\nB. Blue\nSelect the best answer based on the image. You should choose multiple answers. "
        "Answer with the option letter only."
    )
    assert prompt("rshr", "release", "Which?", ["Red", "Blue"], truth="A", leak_hint=True) == plain


def test_the_hint_misfires_on_a_truth_written_out_and_fires_once():
    text = "Q\nSelect the best answer based on the image."
    hinted = text + " You should choose multiple answers."
    assert question_prompts.with_leaked_hint(text, "B) Dark green") == hinted
    assert question_prompts.with_leaked_hint(hinted, "AB") == hinted
    assert question_prompts.with_leaked_hint("no such sentence", "AB") == "no such sentence"
    assert question_prompts.with_leaked_hint(text, "BB") == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"benchmark": "rshr", "style": "official"}, "prompt=official: rshr offers release"),
        (
            {"benchmark": "mme_realworld", "style": "ours"},
            "prompt=ours: mme_realworld offers official, vlmevalkit",
        ),
        ({"benchmark": "vqa", "style": "official"}, "benchmark='vqa': must be one of llava, mme_realworld, rshr"),
        (
            {"benchmark": "xlrs", "style": "official", "leak_hint": True, "truth": "A"},
            "needs prompt=release and a truth",
        ),
        ({"benchmark": "rshr", "style": "release", "leak_hint": True}, "needs prompt=release and a truth"),
        ({"benchmark": "xlrs", "style": "official", "options": {"A": "x"}}, "needs a list of texts"),
        ({"benchmark": "mme_realworld", "style": "release", "options": None}, "needs a list of texts"),
    ],
)
def test_what_does_not_fit_is_an_error_of_one_line(arguments, message):
    with pytest.raises(ValueError) as error:
        prompt(**{"question": "Which?", "options": FOUR, **arguments})
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("option", "text"), RECORDED["mme_strip_option_prefix"])
def test_release_mme_options_equal_the_recorded(option, text):
    assert release_option(option) == text


@pytest.mark.parametrize(("options", "text"), RECORDED["xlrs_format_options"])
def test_release_options_equal_the_recorded(options, text):
    assert question_prompts.release_options(options) == text


@pytest.mark.parametrize("case", RECORDED["mme_format_question"])
def test_release_mme_questions_equal_the_recorded(case):
    sample = case["sample"]
    options = sample.get("Answer choices", sample.get("options", []))
    assert prompt("mme_realworld", "release", sample.get("Text", ""), options) == case["question"]


@pytest.mark.parametrize("case", RECORDED["xlrs_extract_question_and_gt"])
def test_release_questions_and_truths_equal_the_recorded(case):
    sample = case["sample"]
    if "conversations" in sample:
        asked, truth = (turn["value"] for turn in sample["conversations"])
        text = question_prompts.with_leaked_hint(asked, truth)
    else:
        truth = sample["answer"]
        arguments = ("rshr", "release", sample["question"], sample["options"])
        text = prompt(*arguments, truth=truth, leak_hint=True)
    assert (text, question_prompts.release_truth(truth)) == (case["question"], case["gt"])


@pytest.mark.parametrize("case", RECORDED["prompts_qwen_1_5"])
def test_release_conversations_equal_the_recorded(case):
    start = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\n"
    text = question_prompts.release_conversation(case["question"])
    assert start + text + "<|im_end|>\n<|im_start|>assistant\n" == case["prompt"]
