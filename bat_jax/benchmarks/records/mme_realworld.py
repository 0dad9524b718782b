"""MME-RealWorld, remote sensing (English): 3 sub-tasks, 3,738 questions, or the 150 of MME-RealWorld-Lite.

Category strings: `Category` of the benchmark's JSON, lower case; `l2-category` in the toolkits' form, whose `category`
is "Perception/Remote Sensing". Counts: Lite is counted; the full split's three are remembered (their sum is published).

Prompts are quoted exactly. "official" is the benchmark's own script, with a blank before its first line break; the
MMERealWorld class of VLMEvalKit has one after "option." instead. The paper and the benchmark's own table print micro.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from bat_jax.benchmarks.file_benchmark import FileBenchmark
from bat_jax.benchmarks.letters import AnswerKey, Reading, clean_release, first_line, release_letters, without_phrases
from bat_jax.benchmarks.question_prompts import Options, listed, release_truth
from bat_jax.benchmarks.record import PERCEPTION, SubTask
from bat_jax.benchmarks.samples import read_fields, read_row

REMOTE_SENSING = "remote sensing"
MME_LETTERS = "ABCDE"
MME_TASK = (
    "Select the best answer to the above multiple-choice question based on the image. Respond with only the letter"
    " (A, B, C, D, or E) of the correct option."
)
RELEASE_TASK = "Please reply with the letter of the correct option (e.g., A/B/C/D/E)."
# What the release's script asks where a record has neither text nor options.
RELEASE_EMPTY = "Answer the question based on the image.\nPlease reply concisely."
_LONG = 10  # words above which a text without a capital A-E is no answer
_PREFIX = re.compile(r"\s*\(?[A-E]\)?[.:\-\s]*", re.IGNORECASE)


def parse(fields: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Read the original form, the toolkits' or a conversation."""
    if "conversations" in fields:
        return read_row(fields, number, category=("l2-category", "category", "Category"))
    if "Answer choices" in fields:
        names = {"id": "Question_id", "question": "Text", "options": "Answer choices", "answer": "Ground truth"}
        return read_fields(fields, number, **names, category=("Category",))
    if "multi-choice options" in fields:
        return read_row(fields, number, category=("l2-category",))
    return read_row(fields, number)


def reason_to_leave_out(fields: Mapping[str, Any]) -> str | None:
    """Say why a row is none of the benchmark's; a field that is absent is no reason, as in the release."""
    part = fields.get("Subtask") or str(fields.get("category") or "").rpartition("/")[2]
    names_its_part = "Subtask" in fields or "l2-category" in fields
    return "not remote sensing" if names_its_part and part.strip().casefold() != REMOTE_SENSING else None


def _harness_prompt(after_head: str, after_task: str) -> Callable[[str, Options, bool], str]:
    """Return what the benchmark's script or VLMEvalKit asks; they differ in where a blank stands."""

    def prompt(question: str, options: Options, is_multi_answer: bool) -> str:
        del is_multi_answer
        lines = "".join(f"{option}\n" for option in listed(options))
        return (
            f"{question} The choices are listed below:{after_head}\n{lines}{MME_TASK}{after_task}\nThe best answer is:"
        )

    return prompt


def _release_prompt(question: str, options: Options, is_multi_answer: bool) -> str:
    del is_multi_answer
    texts = [release_option(option) for option in listed(options)]
    if not question.strip() and not texts:
        return RELEASE_EMPTY
    lines = [question.strip(), "Options:", *(f"{chr(ord('A') + index)}. {text}" for index, text in enumerate(texts))]
    return "\n".join([*lines, RELEASE_TASK])


def release_option(option: str) -> str:
    """Return an option without its label as the release's MME script does it.

    The first letter goes whenever it is one of A-E, label or not: "Airport" becomes "irport", "East" becomes "ast".
    """
    return _PREFIX.sub("", option, count=1).strip() if _PREFIX.match(option) else option.strip()


def mme_letters(output: str, options: tuple[str, ...]) -> str:
    """Read a letter as MME-RealWorld's own scorer does.

    Known phrases go; the first capital A-E anywhere is the answer. Without one, a text of up to ten words names the
    first option whose text holds it: its second character, since options read "(A) ...". So "" is A and "12" may be D.
    """
    text = without_phrases(output)
    first = re.search("[A-E]", text)
    if first:
        return first[0]
    if len(text.split()) > _LONG:
        return ""
    return next((option[1:2] for option in options if text.lower() in option.lower()), "")


def release_valid(question: AnswerKey) -> str:
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


def release_mme_verdict(output: str, question: AnswerKey, letter_scores: Mapping[str, float] | None = None) -> Reading:
    """Compare with the truth as the release's MME script reads it; a truth without a letter makes all answers wrong."""
    valid = release_valid(question)
    letters, _ = release_mme(clean_release(output), valid, letter_scores)
    truth = release_letters(release_truth(question.truth), valid, is_cleaned=False)
    return Reading(letters, bool(truth) and letters == truth)


def _sub(category: str, count: int) -> SubTask:
    return SubTask(abbreviation=category.capitalize(), category=category, group=PERCEPTION, count=count)


BENCHMARK = FileBenchmark(
    name="mme_realworld",
    title="MME-RealWorld, remote sensing",
    aliases=("mme_rs", "mme_rs_lite"),
    subtasks=(_sub("position", 1257), _sub("color", 1255), _sub("count", 1226)),
    variants={"Lite": (50, 50, 50)},
    parse=parse,
    reason_to_leave_out=reason_to_leave_out,
    prompts={
        "official": _harness_prompt(" ", ""),
        "vlmevalkit": _harness_prompt("", " "),
        "release": _release_prompt,
    },
    official=mme_letters,
    release=release_mme_verdict,
    averaging="paper",
    averagings={"paper": "micro", "leaderboard": "micro"},
    description="The remote-sensing questions of MME-RealWorld or MME-RealWorld-Lite; other domains are left out.",
    how_to_get="the folder with the JSON file and its unpacked images, or with the Parquet files for lmms-eval",
)
