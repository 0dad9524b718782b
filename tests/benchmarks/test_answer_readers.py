"""The benchmarks' own rules and ours on literal texts, and what holds for any text."""

import string

import hypothesis
import pytest
from hypothesis import strategies as st

from bat_jax.benchmarks import answer_readers
from bat_jax.benchmarks import letters as reading
from bat_jax.benchmarks.answer_readers import judge
from bat_jax.benchmarks.letters import AnswerKey, Reading
from bat_jax.benchmarks.records.mme_realworld import mme_letters, release_mme, release_valid
from bat_jax.benchmarks.records.xlrs import xlrs_letters

FOUR = ("(A) Red", "(B) Dark green", "(C) Blue", "(D) White")
FIVE = ("(A) Orange", "(B) Green", "(C) Black", "(D) 12 ships", "(E) This image doesn't feature the color.")
TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="ABCDEFabz()., \n:*", max_size=12),
    st.lists(
        st.sampled_from(["A", "B", "D", "F", "(C)", "(e)", "and", ",", ".", "\n", "answer is", "Best answer:", "a"]),
        max_size=6,
    ).map(" ".join),
)
FAST = hypothesis.settings(max_examples=100, deadline=None)


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("The answer is B", "B"),
        ("A B D", "ABD"),
        ("ABD", "ABD"),
        ("A, C", "AC"),
        ("b", ""),
        ("B. Dark green", "ABDE"),
        ("(B) Dark green", "B"),
        ("Answer: B", "ABE"),
        ("B<|im_end|>", "BDE"),
        ("(b) Dark green", "B"),  # a capital elsewhere lets small letters in parentheses count
        ("The best option is B", "BE"),  # that phrase is not taken out: a comma is missing in the list
        ("", ""),
    ],
)
def test_xlrs_official_reads(text, letters):
    assert xlrs_letters(text) == letters


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("The best answer is C", "C"),
        ("Best answer: C", "B"),
        ("The best option is B", "B"),
        ("b", "B"),
        ("", "A"),
        ("black", "C"),
        ("12", "D"),
        ("orange", "A"),
        ("purple", ""),
        ("it is a small green boat at the left edge of it", ""),  # more than ten words, no capital A-E
        ("(D) 12 ships or (A)", "D"),
    ],
)
def test_mme_official_reads(text, letter):
    assert mme_letters(text, FIVE) == letter


def test_mme_official_compares_up_to_ten_words_with_the_options():
    options = ("(A) no", "(B) it is a small green boat at the left edge now")
    assert mme_letters("it is a small green boat at the left edge", options) == "B"
    assert mme_letters("it is a small green boat at the left edge now", options) == ""


@pytest.mark.parametrize(
    ("text", "one", "many"),
    [
        ("B", "B", "B"),
        (" (B).\n", "B", "B"),
        ("B.", "B", "B"),
        ("A B D", "", "ABD"),
        ("A, C", "", "AC"),
        ("A,C", "", "AC"),
        ("(A) (C)", "", "AC"),
        ("(A) C", "", ""),
        ("A A", "", ""),
        ("ABD", "", ""),
        ("A and C", "", ""),
        ("b", "", ""),
        ("E", "", ""),
        ("A E", "", ""),
        ("(B", "", ""),
        ("B)", "", ""),
        ("B. Dark green", "", ""),
        ("The answer is B", "", ""),
        ("", "", ""),
    ],
)
def test_strict_reads_the_asked_form_only(text, one, many):
    assert reading.strict_letters(text, "ABCD", False) == one
    assert reading.strict_letters(text, "ABCD", True) == many


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B", "B"),
        ("(B) Dark green", "B"),
        ("B. Dark green", "B"),
        ("B) Dark green", "B"),
        ("B: Dark green", "B"),
        ("B Dark green", "B"),
        ("**B**", "B"),
        ("The answer is B", "B"),
        ("The best answer is: B.", "B"),
        ("Answer: B", "B"),
        ("The correct option is C because it is blue", "C"),
        ("The answer is option D", "D"),
        ("The answers are A, B and D.", "ABD"),
        ("A and C", "AC"),
        ("A B D", "ABD"),
        ("A, B are right", "AB"),
        ("A refinery", ""),
        ("The answer is A refinery", ""),
        ("Dark green", ""),
        ("Answer: Dark green", ""),
        ("Yes", ""),
        ("b", ""),
        ("E", ""),
        ("ABD", ""),
        ("", ""),
    ],
)
def test_tolerant_reads_what_the_text_says(text, letters):
    assert reading.tolerant_letters(text, "ABCD", False) == letters


def test_tolerant_reads_letters_in_one_word_only_where_several_may_be_right():
    assert reading.tolerant_letters("ABD", "ABCD", True) == "ABD"
    assert reading.tolerant_letters("ABD are right", "ABCD", True) == ""


@pytest.mark.parametrize(
    ("truth", "letters"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B)", "B"),
        ("B.", "B"),
        ("B. Dark green", "B"),
        ("B) Dark green", "B"),
        ("(B) Dark green", "B"),
        ("dark green", "B"),
        ("ABD", "ABD"),
        ("DB", "BD"),
        ("A, C", "AC"),
        ("A C", "AC"),
        (("A", "C"), "AC"),
        (("A) Red", "Blue"), "AC"),
    ],
)
def test_truths_of_all_forms_are_read(truth, letters):
    assert reading.truth_letters(truth, FOUR) == letters


@pytest.mark.parametrize("truth", ["", "  ", "E", "AE", "Purple", "bed", (), ("A", "")])
def test_truths_that_name_no_option_are_errors(truth):
    with pytest.raises(ValueError, match="truth="):
        reading.truth_letters(truth, FOUR)


def test_a_truth_that_is_a_word_of_capital_letters_is_that_option():
    assert reading.truth_letters("BED", ("(A) SOFA", "(B) BED")) == "B"


def test_all_rules_stand_side_by_side():
    question = AnswerKey(benchmark="xlrs", truth="B", options=FOUR)
    assert judge("B. Dark green", question) == {
        "official": Reading("ABDE", False),
        "release": Reading("ABDE", False),
        "strict": Reading("", False),
        "tolerant": Reading("B", True),
    }
    assert {verdict.is_right for verdict in judge("B", question).values()} == {True}


def test_no_prediction_is_wrong_though_an_empty_text_may_be_right():
    question = AnswerKey(benchmark="mme_realworld", truth="A", options=FIVE)
    assert judge(None, question) == dict.fromkeys(answer_readers.RULES, Reading("", False))
    assert judge("", question)["official"] == Reading("A", True)


def test_several_answers_are_compared_as_sets():
    question = AnswerKey(benchmark="xlrs", truth="DBA", options=FOUR, is_multi_answer=True)
    assert {verdict.is_right for verdict in judge("B A D", question).values()} == {True}
    assert {verdict.is_right for verdict in judge("A B", question).values()} == {False}


def test_release_reads_the_truth_with_its_own_rule():
    question = AnswerKey(benchmark="rshr", truth="B) Dark green", options=FOUR)
    assert judge("B", question)["release"] == Reading("B", False)
    assert judge("B", question)["official"] == Reading("B", True)
    silent = AnswerKey(benchmark="rshr", truth="ship", options=("yoyo", "ship"))
    assert judge("B", silent)["release"] == Reading("B", None)
    assert judge("B", silent)["strict"] == Reading("B", True)


def test_release_mme_replaces_a_single_letter_by_the_first_steps_scores():
    question = AnswerKey(benchmark="mme_realworld", truth="B", options=FIVE)
    scores = {"A": 0.1, "B": 0.2, "C": 0.9, "D": 0.0, "E": 0.3}
    assert judge("B", question, scores)["release"] == Reading("C", False)
    assert judge("B", question)["release"] == Reading("B", True)
    assert judge("(B)", question, scores)["release"] == Reading("B", True)


def test_release_mme_takes_valid_letters_from_the_conversation():
    question = AnswerKey(
        benchmark="mme_realworld", truth="D", options=FIVE, conversation="<image>\nPick 1: (A) x (B) y"
    )
    assert release_valid(question) == "ABCE"
    assert judge("D", question)["release"] == Reading("", False)


def test_questions_without_sense_are_errors():
    with pytest.raises(ValueError, match="must be 2 to 26"):
        AnswerKey(benchmark="rshr", truth="A", options=("one",))
    with pytest.raises(ValueError, match="benchmark='vqa'"):
        judge("A", AnswerKey(benchmark="vqa", truth="A", options=FOUR))
    with pytest.raises(ValueError, match="truth='E'"):
        AnswerKey(benchmark="rshr", truth="E", options=FOUR)
    with pytest.raises(ValueError, match="branch='birch'"):
        release_mme("B", "ABCDE", branch="birch")


def test_a_dialogue_counts_if_every_turn_is_right():
    turns = {"a": [True, True, True], "b": [True, False, True], "c": [None, True, True], "d": [True]}
    assert answer_readers.mtem_at_1(turns) == (2, 4)
    assert answer_readers.mtem_at_1({}) == (0, 0)
    with pytest.raises(ValueError, match="dialogue 'e': has no turns"):
        answer_readers.mtem_at_1({"e": []})


@pytest.mark.parametrize("name", ["xlrs", "mme_realworld", "rshr"])
@FAST
@hypothesis.given(text=TEXTS, is_multi_answer=st.booleans(), truth=st.sampled_from(["A", "B", "AC"]))
def test_any_text_is_judged_by_every_rule(name, text, is_multi_answer, truth):
    question = AnswerKey(benchmark=name, truth=truth, options=FIVE, is_multi_answer=is_multi_answer)
    verdicts = judge(text, question)
    assert tuple(verdicts) == answer_readers.RULES
    for rule, verdict in verdicts.items():
        assert list(verdict.letters) == sorted(set(verdict.letters)) and set(verdict.letters) <= set("ABCDEF")
        assert verdict.is_right == (verdict.letters == truth), rule


@FAST
@hypothesis.given(text=TEXTS, is_multi_answer=st.booleans())
def test_what_strict_reads_every_rule_reads(text, is_multi_answer):
    strict = reading.strict_letters(text, "ABCDE", is_multi_answer)
    if strict:
        assert reading.tolerant_letters(text, "ABCDE", is_multi_answer) == strict
        assert xlrs_letters(text) == reading.release_letters(text) == strict
        if not is_multi_answer:
            assert mme_letters(text, FIVE) == strict


@FAST
@hypothesis.given(
    letters=st.lists(st.sampled_from("ABCDE"), min_size=1, max_size=5, unique=True),
    separator=st.sampled_from([" ", ",", ", "]),
    form=st.sampled_from(["{}", "({})"]),
    stop=st.sampled_from(["", ".", "\n"]),
)
def test_strict_right_is_right_under_every_rule(letters, separator, form, stop):
    """The property above on texts that strict does read."""
    text = separator.join(form.format(letter) for letter in letters) + stop
    truth = "".join(sorted(letters))
    names = ["xlrs", "rshr"] + (["mme_realworld"] if len(letters) == 1 else [])
    for name in names:
        question = AnswerKey(benchmark=name, truth=truth, options=FIVE, is_multi_answer=len(letters) > 1)
        assert set(judge(text, question).values()) == {Reading(truth, True)}, name


def test_the_letter_f_is_the_exception():
    assert reading.strict_letters("F", "ABCDEF", False) == "F"
    assert xlrs_letters("F") == mme_letters("F", ()) == ""
    assert reading.release_letters("F") == "F"


@FAST
@hypothesis.given(text=TEXTS)
def test_tolerant_letters_stand_alone_in_the_text(text):
    text = text.replace("*", "").replace("`", "")
    for letter in reading.tolerant_letters(text, "ABCDEF", False):
        places = [index for index, character in enumerate(text) if character == letter]
        near = [text[max(0, index - 1) : index] + text[index + 1 : index + 2] for index in places]
        assert any(not set(pair) & set(string.ascii_letters + string.digits) for pair in near)
