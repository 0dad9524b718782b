"""A finished figure, and the words that all figures share."""

from typing import NamedTuple

from PIL import Image

from bat_jax.report.answer_page import Asked
from bat_jax.report.figures.subject import Ask, Subject
from bat_jax.report.layers import KEPT, MERGED, token_fate

# Size of captions: sheets are about 2,400 pixels wide and are shown at half of that or less.
LETTERS = 26
SELECTION_NAMES = {
    "uhr_bat": "UHR-BAT",
    "topk": "top-K by attention",
    "topk_global": "top-K over all views",
    "random": "random tokens",
    "pooling": "uniform pooling",
    "largest_view": "largest view that fits",
    "dense": "all tokens",
    "fastv": "FastV",
    "visionzip": "VisionZip",
    "prumerge": "PruMerge",
    "tome": "ToMe",
    "background": "text-agnostic pruning",
}


class Figure(NamedTuple):
    """A figure of the paper, redone: its number there, a title, what is shown, the picture."""

    number: str
    title: str
    caption: str
    image: Image.Image


def counts_text(subject: Subject, asked: Asked) -> str:
    """Say how many tokens of how many an answer was given on, and how many of these are means of others."""
    kept = merged = rows = 0
    for tokens, chosen in zip(subject.scene().scales, asked.answer.selections[0], strict=True):
        fate = token_fate(tokens, chosen)
        kept, merged, rows = kept + fate.counts[KEPT], merged + fate.counts[MERGED], rows + fate.num_merged_rows
    text = f"{kept + rows:,} of {subject.num_tokens:,} tokens"
    return f"{text}: {kept:,} by themselves, {rows:,} means of {merged:,}" if rows else text


def verdict(asked: Asked) -> str:
    """Return the answer, and whether it is right where that is known: "answer B (blue): right"."""
    if asked.truth is None:
        return f"answer “{asked.answer_text or '(nothing)'}”"
    return f"answer {asked.answer_text}: {'right' if asked.truth.is_right else 'wrong'}"


def heading(ask: Ask) -> str:
    """Return the question with the truth, for above a row of panels."""
    return f"“{ask.text}”" + (f"   Truth: {ask.known.answer} ({ask.known.answer_word})" if ask.known else "")


def budget_text(budgets: tuple[int, ...]) -> str:
    """Return budgets by view, coarse to fine: "20 + 70 + 190 + 449 = 729 tokens"."""
    return f"{' + '.join(f'{b:,}' for b in budgets)} = {sum(budgets):,} tokens"
