"""From what a model wrote to option letters, and whether they are right: four rules side by side.

    official   the benchmark's own scorer, literally: XLRS as in lmms-eval (VLMEvalKit's is identical), UHR-Mini as
               XLRS, MME as in `eval_your_results.py`. RSHR's own scorer is not published; set equality of letters is
               all that is known of it, so its official rule is the release's; LLaVA files have no scorer and take it
               as well.
    release    the release's evaluation scripts: every letter A-F (MME: the question's letters among A-E; a question
               with more than six options: all of its letters) anywhere in the text, upper-cased, inside words too.
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

from collections.abc import Mapping, Sequence

from bat_jax.benchmarks.letters import (
    AnswerKey,
    Reading,
    open_text,
    strict_letters,
    text_letters,
    tolerant_letters,
    truth_letters,
)
from bat_jax.benchmarks.registry import BENCHMARKS

RULES = ("official", "release", "strict", "tolerant")


def judge(
    output: str | None, question: AnswerKey, letter_scores: Mapping[str, float] | None = None
) -> dict[str, Reading]:
    """Return the verdict of every rule.

    Args:
      output: what the model wrote, without its end-of-turn token; None if there is no prediction.
      letter_scores: the first decoding step's scores of the letters, for the release's MME rule; without them its
        fallback is left out.

    Raises:
      ValueError: the question's benchmark is unknown.
    """
    record = BENCHMARKS[question.benchmark]
    if output is None:
        return dict.fromkeys(RULES, Reading("", False))
    if question.answer_form == "open" and isinstance(question.truth, str):
        is_right = open_text(output) == open_text(question.truth)
        return dict.fromkeys(RULES, Reading("", is_right))
    truth = truth_letters(question.truth, question.options)
    if question.answer_form == "texts":
        letters = text_letters(output, question.options, question.is_multi_answer)
        return dict.fromkeys(RULES, Reading(letters, letters == truth))
    several = question.is_multi_answer or record.lets_several
    readings = {
        "official": record.official(output, question.options),
        "strict": strict_letters(output, question.letters, several),
        "tolerant": tolerant_letters(output, question.letters, several),
    }
    verdicts = {rule: Reading(letters, letters == truth) for rule, letters in readings.items()}
    verdicts["release"] = record.release(output, question, letter_scores)
    return {rule: verdicts[rule] for rule in RULES}


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
