"""Answer without looking: how far counted habits of the training questions get.

For each option the baseline estimates how often it is right where it is shown, from general to particular: its letter,
its text in this template, its text beside these very options, its text under this very wording. Each estimate is pulled
towards the one before it by `PRIOR` imagined cases, so that rare cases do not shout.
"""

import collections
from collections.abc import Iterable, Iterator

from bat_jax.mini.world.question import LETTERS, Question

PRIOR = 30.0


class LanguageBaseline:
    """Counts of right and shown per habit; `fit` adds to them."""

    def __init__(self) -> None:
        self._right: collections.Counter = collections.Counter()
        self._shown: collections.Counter = collections.Counter()

    def fit(self, questions: Iterable[Question]) -> "LanguageBaseline":
        for question in questions:
            for letter, text in zip(LETTERS, question.options, strict=False):
                for key in self._habits(question, letter, text):
                    self._shown[key] += 1
                    self._right[key] += letter in question.answer
        return self

    def answer(self, question: Question) -> str:
        """Return the likeliest letter; for questions with several answers the likeliest two."""
        several = question.sub_task == "overall_land_use"
        letters = LETTERS[: len(question.options)]
        scores = {
            letter: self._score(question, letter, text) for letter, text in zip(letters, question.options, strict=True)
        }
        best = sorted(letters, key=lambda letter: -scores[letter])[: 2 if several else 1]
        return "".join(sorted(best))

    def _score(self, question: Question, letter: str, text: str) -> float:
        score = 1 / len(question.options)
        for key in self._habits(question, letter, text):
            score = (self._right[key] + PRIOR * score) / (self._shown[key] + PRIOR)
        return score

    def _habits(self, question: Question, letter: str, text: str) -> Iterator[tuple]:
        form, options = question.template, tuple(sorted(question.options))
        yield form, len(options), letter
        yield form, len(options), "text", text
        yield form, "options", options, text
        yield "wording", question.text, text
        yield "all", question.text, options, text


def accuracy_by_sub_task(
    baseline: LanguageBaseline, questions: Iterable[Question]
) -> dict[str, tuple[int, float, float]]:
    """Return {sub-task: (number of questions, accuracy, chance)} and the same over all under "overall"."""
    table: dict[str, list[tuple[bool, float]]] = collections.defaultdict(list)
    for question in questions:
        row = (baseline.answer(question) == question.answer, question.chance)
        table[question.sub_task].append(row)
        table["overall"].append(row)
    return {
        name: (len(rows), sum(is_right for is_right, _ in rows) / len(rows), sum(c for _, c in rows) / len(rows))
        for name, rows in table.items()
    }
