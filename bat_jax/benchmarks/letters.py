"""Read option letters from a text and from a truth: the rules that several benchmarks share.

`strict_letters` and `tolerant_letters` are ours, `release_letters` is the release's; a benchmark's own scorer stands in
its record's file. What the rules are for is said in `answer_readers`.
"""

import dataclasses
import re
import string
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from bat_jax.benchmarks.question_prompts import release_truth

LETTERS = string.ascii_uppercase
_RELEASE_LETTERS = 6  # that the release looks for

# XLRS and MME alike. The last two are pairs of phrases that lost the comma between them, and so never match.
_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)
_SPECIAL = re.compile(r"<\|[^>]+?\|>(?: ?assistant)?|<image>|</?s>|<pad>|<eos>|<unk>", re.IGNORECASE)
_LABEL = re.compile(r"(?:\(([A-Z])\)|([A-Z])[).:])(?:\s|$)", re.IGNORECASE)
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
      benchmark: its key.
      truth: the answer as the data holds it: a letter, "(B)", "B) text", "ABD", an option's text, or a list of these.
      options: as the data holds them, in order, with or without labels of their own; none for an open question.
      is_multi_answer: of the sub-task.
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
    bare = re.compile(rf"[{known} ,;/()]*[{known}][{known} ,;/()]*|[{known.lower()}]")
    found = set()
    for item in [truth] if isinstance(truth, str) else truth:
        item = item.strip()
        label = _LABEL.match(item)
        if len(item) > 1 and item.casefold() in texts:
            letters = {texts[item.casefold()]}
        elif bare.fullmatch(item):
            letters = set(item.upper()) & set(known)
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


def open_text(text: str) -> str:
    """Return the form in which two answers to an open question are the same."""
    return _plain(text).removesuffix(".")


def clean_release(text: str | None) -> str:
    """Take special tokens out and squeeze blanks, as the release's XLRS script does before it reads letters."""
    text = _SPECIAL.sub(" ", text or "")
    return re.sub(r"\n{2,}", "\n", re.sub(r"[ \t\r\f\v]+", " ", text)).strip()


def first_line(text: str) -> str:
    """Return the first line that is not blank, stripped; "" if there is none."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def release_letters(
    output: str | None, valid: Collection[str] = LETTERS[:_RELEASE_LETTERS], *, is_cleaned: bool = True
) -> str:
    """Read letters as the release does: every letter of `valid` anywhere in the upper-cased text.

    Args:
      valid: A-F in its XLRS script.
      is_cleaned: take special tokens out before (its XLRS script); its MME script does not, so that a kept
        "<|im_end|>" adds D and E.
    """
    text = clean_release(output) if is_cleaned else output or ""
    return "".join(sorted(set(text.upper()) & set(valid)))


def release_official(output: str, options: tuple[str, ...]) -> str:
    """Read letters by the release's rule, for a benchmark whose own scorer is not published."""
    return release_letters(output, _release_valid(options))


def release_verdict(output: str, question: AnswerKey, letter_scores: Mapping[str, float] | None = None) -> Reading:
    """Compare with the truth as the release's XLRS script reads it: its letters anywhere; none there, no verdict."""
    del letter_scores
    valid = _release_valid(question.options)
    letters, truth = release_letters(output, valid), release_letters(release_truth(question.truth), valid)
    return Reading(letters, letters == truth if truth else None)


def _release_valid(options: Sequence[str]) -> str:
    """Return A-F, or the letters of a question that has more, which the release does not know."""
    return LETTERS[: max(_RELEASE_LETTERS, len(options))]


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


def without_phrases(output: str) -> str:
    """Take out the phrases that the scorers of XLRS-Bench and MME-RealWorld know."""
    text = output.strip()
    for phrase in _PREFIXES:
        text = text.replace(phrase, "")
    return text


def _without_label(option: str) -> str:
    return _OPTION_LABEL.sub("", option, count=1).strip() if _OPTION_LABEL.match(option) else option.strip()
