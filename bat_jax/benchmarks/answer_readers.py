"""From what a model wrote to option letters, and whether they are right: four rules side by side.

    official   the benchmark's own scorer, literally: XLRS as in lmms-eval (VLMEvalKit's is identical), UHR-Mini as
               XLRS, MME as in `eval_your_results.py`. RSHR's own scorer is not published; set equality of letters is
               all that is known of it, so its official rule is the release's; LLaVA files have no scorer and take it
               as well.
    release    the release's evaluation scripts: every letter A-F (MME: the question's letters among A-E) anywhere in
               the text, upper-cased, inside words too.
    strict     ours: exactly the form that was asked for and nothing else.
    tolerant   ours: what the text says. The asked form, "(B) Dark green", "B. Dark green", "The answer is B",
               "A, C and D"; never a letter inside a word.

Quirks of the official rules that are kept, because published numbers hold them: "B. Dark green" and "Answer: B" are
wrong on XLRS (every letter counts, inside words too), "Best answer: C" is B on MME (the first capital counts), an empty
text is A on MME (the empty text is part of the first option's).

A question that asks for an option's text instead of its letter (`AnswerKey.answer_form`) is read in one way only: the
exact text, whatever the case; several with commas between. An open question has no options: the text must be that of
the truth, whatever the case, blanks and a full stop at the end. All four rules then say the same.

Every rule compares sets of letters, so several answers have no partial credit and no order. A prediction that does not
exist is wrong under every rule; an empty text is a prediction.

Strict right implies official right, except for the letter F on XLRS and MME, whose scorers know A-E only. It implies
release right where the truth is bare letters, except on MME where the letter does not occur in the conversation's text
or where the fallback replaced the text by the arg-max of first-step scores (it does so for a single letter too).
"""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from bat_jax.benchmarks.categories import benchmark as find_benchmark
from bat_jax.benchmarks.question_prompts import release_truth

RULES = ("official", "release", "strict", "tolerant")
LETTERS = "ABCDEF"
MME_LETTERS = "ABCDE"

# XLRS and MME alike. The last two are pairs of phrases that lost the comma between them, and so never match.
_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)
_MME_LONG = 10  # words above which a text without a capital A-E is no answer
_SPECIAL = re.compile(r"<\|[^>]+?\|>(?: ?assistant)?|<image>|</?s>|<pad>|<eos>|<unk>", re.IGNORECASE)
_LABEL = re.compile(r"(?:\(([A-F])\)|([A-F])[).:])(?:\s|$)", re.IGNORECASE)
_BARE_TRUTH = re.compile(r"[A-F ,;/()]*[A-F][A-F ,;/()]*|[a-f]")
_OPTION_LABEL = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[).:])\s*")
_STRICT_ONE = re.compile(r"\(([A-Z])\)\.?|([A-Z])\.?")
_STRICT_MANY = re.compile(r"[A-Z](?:(?:, ?| )[A-Z])*\.?|\([A-Z]\)(?:(?:, ?| )\([A-Z]\))*\.?")
_RUN = re.compile(r"[A-Z]{2,}\.?")
_PARENTHESISED = re.compile(r"\(([A-Z])\)")
_LEADING = re.compile(r"([A-Z])(?:[.):,\s]|$)")
_SAID = re.compile(r"\b(?:answer|option)s?(?:\s+(?:is|are)\b\s*:?|\s*:)\s*(?:option\s+)?", re.IGNORECASE)
_LIST = re.compile(r"[A-Z](?![\w'])(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s+)[A-Z](?![\w']))*")


class Reading(NamedTuple):
    """letters: read from the text, sorted; "" for none. is_right: None where the rule gives no verdict at all."""

    letters: str
    is_right: bool | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerKey:
    """The right answer of a question, and what reading an answer to it needs to know.

    Attributes:
      benchmark: a key of categories.BENCHMARKS.
      truth: the answer as the data holds it: a letter, "(B)", "B) text", "ABD", an option's text, or a list of these.
      options: as the data holds them, in order, with or without labels of their own; none for an open question.
      is_multi_answer: of the sub-task; see categories. RSHR's and LLaVA's data do not say, so several letters are read.
      conversation: the question's text where the record holds a conversation; the release's MME script reads the
        letters that can be chosen from it.
      answer_form: what the prompt asks for: "letters", or the options' "texts"; "open" where there are no options.
    """

    benchmark: str
    truth: str | tuple[str, ...]
    options: tuple[str, ...]
    is_multi_answer: bool = False
    conversation: str | None = None
    answer_form: str = "letters"

    def __post_init__(self):
        find_benchmark(self.benchmark)
        if self.answer_form not in ("letters", "texts", "open"):
            raise ValueError(f"answer_form={self.answer_form!r}: must be letters, texts or open")
        if self.answer_form == "open":
            if self.options or not isinstance(self.truth, str) or not self.truth.strip():
                raise ValueError(f"truth={self.truth!r}: an open question has one text as its truth and no options")
            return
        if not 2 <= len(self.options) <= len(LETTERS):
            raise ValueError(f"options={self.options!r}: must be 2 to {len(LETTERS)}")
        truth_letters(self.truth, self.options)

    @property
    def letters(self) -> str:
        """Of the options that the question has."""
        return LETTERS[: len(self.options)]


def judge(
    output: str | None, question: AnswerKey, letter_scores: Mapping[str, float] | None = None
) -> dict[str, Reading]:
    """Return the verdict of every rule.

    Args:
      output: what the model wrote, without its end-of-turn token; None if there is no prediction.
      letter_scores: the first decoding step's scores of the letters, for the release's MME rule; without them its
        fallback is left out.
    """
    if output is None:
        return dict.fromkeys(RULES, Reading("", False))
    if question.answer_form == "open":
        is_right = _open_text(output) == _open_text(question.truth)
        return dict.fromkeys(RULES, Reading("", is_right))
    truth = truth_letters(question.truth, question.options)
    if question.answer_form == "texts":
        letters = text_letters(output, question.options, question.is_multi_answer)
        return dict.fromkeys(RULES, Reading(letters, letters == truth))
    several = question.is_multi_answer or question.benchmark in ("rshr", "llava")
    readings = {
        "official": official_letters(question.benchmark, output, question.options),
        "strict": strict_letters(output, question.letters, several),
        "tolerant": tolerant_letters(output, question.letters, several),
    }
    verdicts = {rule: Reading(letters, letters == truth) for rule, letters in readings.items()}
    verdicts["release"] = _release_verdict(output, question, letter_scores)
    return {rule: verdicts[rule] for rule in RULES}


def truth_letters(truth: str | Sequence[str], options: Sequence[str]) -> str:
    """Return the sorted letters of a truth; of every item: bare letters ("B", "ABD", "A, C"), an option's text, or the
    label in front ("(B) Dark green", "B) Dark green").

    Bare letters are capitals, since "bed" may be an option's text; one small letter alone is read. XLRS' scorer takes
    the answer as it stands, which is bare letters there.

    Raises:
      ValueError: an item is none of these, or names an option that the question does not have.
    """
    known = LETTERS[: len(options)]
    texts = {_without_label(option).casefold(): letter for letter, option in zip(known, options, strict=False)}
    found = set()
    for item in [truth] if isinstance(truth, str) else truth:
        item = item.strip()
        label = _LABEL.match(item)
        if len(item) > 1 and item.casefold() in texts:
            letters = {texts[item.casefold()]}
        elif _BARE_TRUTH.fullmatch(item):
            letters = {character for character in item.upper() if character in LETTERS}
        else:
            letters = {(label[1] or label[2]).upper() if label else "none"}
        if not letters <= set(known):
            raise ValueError(f"truth={truth!r}: names none of the options {known} nor the text of one")
        found |= letters
    if not found:
        raise ValueError(f"truth={truth!r}: is empty")
    return "".join(sorted(found))


def text_letters(output: str, options: Sequence[str], is_multi_answer: bool) -> str:
    """Return the letters of the options whose texts stand in the output, each once and nothing else beside them.

    Capitals and extra blanks do not count; several texts have commas between.
    """
    letter_of = {_plain(_without_label(option)): letter for letter, option in zip(LETTERS, options, strict=False)}
    parts = output.split(",") if is_multi_answer else [output]
    found = [letter_of.get(_plain(part), "") for part in parts]
    return "".join(sorted(found)) if all(found) and len(set(found)) == len(found) else ""


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _open_text(text: str) -> str:
    return _plain(text).removesuffix(".")


def official_letters(name: str, output: str, options: Sequence[str]) -> str:
    """Return what the benchmark's own scorer reads from a text."""
    if name in ("xlrs_lite", "uhr_mini"):
        return xlrs_letters(output)
    if name in ("mme_rs", "mme_rs_lite"):
        return mme_letters(output, options)
    return release_letters(output)


def xlrs_letters(output: str) -> str:
    """Read letters as XLRS-Bench's scorer does (lmms-eval and VLMEvalKit, identical).

    Known phrases go; without a capital A-E left there is no answer; letters in parentheses, of either case, count
    alone where there are any; otherwise every letter a-e or A-E anywhere counts. The number of options does not matter.
    """
    text = _without_phrases(output)
    if not re.search("[A-E]", text):
        return ""
    found = re.findall(r"\(([A-Ea-e])\)", text) or re.findall("[A-Ea-e]", text)
    return "".join(sorted({letter.upper() for letter in found}))


def mme_letters(output: str, options: Sequence[str]) -> str:
    """Read a letter as MME-RealWorld's own scorer does.

    Known phrases go; the first capital A-E anywhere is the answer. Without one, a text of up to ten words names the
    first option whose text holds it: its second character, since options read "(A) ...". So "" is A and "12" may be D.
    """
    text = _without_phrases(output)
    first = re.search("[A-E]", text)
    if first:
        return first[0]
    if len(text.split()) > _MME_LONG:
        return ""
    return next((option[1:2] for option in options if text.lower() in option.lower()), "")


def clean_release(text: str | None) -> str:
    """Take special tokens out and squeeze blanks, as the release's XLRS script does before it reads letters."""
    text = _SPECIAL.sub(" ", text or "")
    return re.sub(r"\n{2,}", "\n", re.sub(r"[ \t\r\f\v]+", " ", text)).strip()


def first_line(text: str) -> str:
    """Return the first line that is not blank, stripped; "" if there is none."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def release_letters(output: str | None, valid: Collection[str] = LETTERS, *, is_cleaned: bool = True) -> str:
    """Read letters as the release does: every letter of `valid` anywhere in the upper-cased text.

    Args:
      is_cleaned: take special tokens out before (its XLRS script); its MME script does not, so that a kept
        "<|im_end|>" adds D and E.
    """
    text = clean_release(output) if is_cleaned else output or ""
    return "".join(sorted(set(text.upper()) & set(valid)))


def release_mme_valid(question: AnswerKey) -> str:
    """Return the letters that the release's MME script lets be chosen.

    A record with a conversation: the letters A-E that occur anywhere in its upper-cased text (so "<image>" makes A and
    E valid). Otherwise one letter an option.
    """
    if question.conversation is None:
        return MME_LETTERS[: len(question.options)]
    return release_letters(question.conversation, MME_LETTERS, is_cleaned=False) or MME_LETTERS


def release_mme(
    output: str, valid: str, letter_scores: Mapping[str, float] | None = None, *, branch: str = "sam"
) -> tuple[str, bool]:
    """Read letters as the release's MME script does; also return whether its fallback was used.

    Where the first line is empty or any single character ("!" as well as a valid "B"), the letter with the highest
    first-step score replaces the text. Otherwise letters count in the first line (branch "kmeans") or in the whole
    text (branch "sam").

    Args:
      output: the decoded text; the branch "sam" has cleaned it with `clean_release` before.
      valid: letters that can be chosen.
      letter_scores: at least one score for every valid letter; None leaves the fallback out.

    Raises:
      ValueError: the branch is unknown.
    """
    if branch not in ("kmeans", "sam"):
        raise ValueError(f"branch={branch!r}: must be 'kmeans' or 'sam'")
    line = first_line(output)
    if letter_scores is not None and len(line) <= 1:
        return max(valid, key=lambda letter: letter_scores[letter]), True
    return release_letters(line if branch == "kmeans" else output, valid, is_cleaned=False), False


def _release_verdict(output: str, question: AnswerKey, letter_scores: Mapping[str, float] | None) -> Reading:
    """Compare with the truth as the release reads it: its letters anywhere too; no letter there, no verdict (XLRS)."""
    raw_truth = release_truth(question.truth)
    if question.benchmark.startswith("mme"):
        valid = release_mme_valid(question)
        letters, _ = release_mme(clean_release(output), valid, letter_scores)
        truth = release_letters(raw_truth, valid, is_cleaned=False)
        return Reading(letters, bool(truth) and letters == truth)
    letters, truth = release_letters(output), release_letters(raw_truth)
    return Reading(letters, letters == truth if truth else None)


def release_report_right(row: Mapping[str, Any]) -> bool:
    """Say whether the release's report per category counts a row of its results as right.

    A `correct` that reads as true or false decides; without one, truth and text are compared, upper-cased and stripped.
    A row of a failed sample has neither, and None equals None: it counts as right.
    """
    correct = row.get("correct")
    if isinstance(correct, str):
        correct = {"true": True, "1": True, "false": False, "0": False}.get(correct.strip().lower())
    if correct is not None:
        return bool(correct)
    truth, output = (str(row.get(key)).strip().upper() for key in ("ground_truth", "model_output"))
    return truth == output


def release_report_letter(truth: str | None) -> str | None:
    """Return the one letter A-D of a truth that the release's report calls single-choice, None for all others."""
    letters = release_letters(truth, "ABCD", is_cleaned=False)
    return letters if len(letters) == 1 else None


def strict_letters(output: str, letters: str, is_multi_answer: bool) -> str:
    """Read only the form that was asked for.

    One answer: `B`, `(B)`, with a full stop or not. Several: such letters, each once, with a blank or a comma between.
    Capitals only, blanks around are no part of it.

    Args:
      letters: of the question's options; another letter is no answer.
    """
    text = output.strip()
    if is_multi_answer:
        found = re.findall("[A-Z]", text) if _STRICT_MANY.fullmatch(text) else []
    else:
        match = _STRICT_ONE.fullmatch(text)
        found = [match[1] or match[2]] if match else []
    if len(set(found)) != len(found) or not set(found) <= set(letters):
        return ""
    return "".join(sorted(found))


def tolerant_letters(output: str, letters: str, is_multi_answer: bool) -> str:
    """Read the letters that a text names, never one inside a word. The first of these that the text holds:

      1. every `(B)` anywhere;
      2. what follows "answer is", "answers are", "answer:", "option:" as a list of letters;
      3. several answers: "ABD" as the whole text;
      4. a list of letters in front, with blanks, commas or "and" between, followed by what ends a word; one letter:
         by `.`, `)`, `:`, `,`, a blank or the end.
    "A" before a blank and a small letter is English ("A refinery") and no answer. Markdown's ** and ` do not count.

    Args:
      letters: of the question's options; others are left out.
    """
    text = re.sub("[*`]", "", output).strip()
    found = _PARENTHESISED.findall(text)
    said = _SAID.search(text)
    if not found and said:
        found = _listed(text[said.end() :])
    if not found and is_multi_answer and _RUN.fullmatch(text):
        found = re.findall("[A-Z]", text)
    if not found and _LEADING.match(text):
        found = _listed(text)
    return "".join(sorted(set(found) & set(letters)))


def _listed(text: str) -> list[str]:
    """Return the letters of the list that a text starts with; none where the list is an English article."""
    match = _LIST.match(text)
    if not match:
        return []
    found = re.findall("[A-Z]", match[0])
    return found[:-1] if found[-1] == "A" and re.match(r"\s+[a-z]", text[match.end() :]) else found


def mtem_at_1(turns: Mapping[str, Sequence[bool | None]]) -> tuple[int, int]:
    """Return (dialogues with every turn right, all dialogues): RSHR's measure of multi-turn dialogues, MTEM@1.

    Args:
      turns: dialogue -> whether each of its turns is right; a turn without a prediction stands in it as False or None.

    Raises:
      ValueError: a dialogue has no turns.
    """
    for name, values in turns.items():
        if not values:
            raise ValueError(f"dialogue {name!r}: has no turns")
    return sum(all(values) for values in turns.values()), len(turns)


def _without_phrases(output: str) -> str:
    text = output.strip()
    for phrase in _PREFIXES:
        text = text.replace(phrase, "")
    return text


def _without_label(option: str) -> str:
    return _OPTION_LABEL.sub("", option, count=1).strip() if _OPTION_LABEL.match(option) else option.strip()
