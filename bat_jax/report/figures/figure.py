"""A finished figure, and the words that all figures share."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from bat_jax.report.answer_page import Ask, Asked
from bat_jax.report.figures.subject import Subject
from bat_jax.report.layers import KEPT, MERGED, UnitBox, draw_frames, token_fate, window_in
from bat_jax.report.pictures import Panel
from bat_jax.typing import UInt8

# Size of captions: sheets are about 2,400 pixels wide and are shown at half of that or less.
LETTERS = 26


class Figure(NamedTuple):
    """A figure of the paper, redone: its number there, a title, what is shown, the picture."""

    number: str
    title: str
    caption: str
    image: Image.Image

    @property
    def heading(self) -> str:
        """The title, behind the paper's number where there is one."""
        return f"Figure {self.number}. {self.title}" if self.number.isdigit() else self.title


def counts_text(subject: Subject, asked: Asked) -> str:
    """Say how many tokens of how many an answer was given on, and how many of these are means of others."""
    kept = merged = rows = 0
    for tokens, chosen in zip(subject.scene().scales, asked.answer.selections[0], strict=True):
        fate = token_fate(tokens, chosen)
        kept, merged, rows = kept + fate.counts[KEPT], merged + fate.counts[MERGED], rows + fate.num_merged_rows
    text = f"{kept + rows:,} of {subject.num_tokens:,} tokens"
    return f"{text}: {kept:,} by themselves, {rows:,} means of {merged:,}" if rows else text


def verdict(asked: Asked) -> str:
    """Return the answer, and whether it is right where that is known: "Answer B (blue): right"."""
    if asked.truth is None:
        return f"Answer “{asked.answer_text}”" if asked.answer_text else "No answer"
    return f"Answer {asked.answer_text}: {'right' if asked.truth.is_right else 'wrong'}"


def heading(ask: Ask) -> str:
    """Return the question with the truth, for above a row of panels."""
    return f"“{ask.text}”" + (f"   Truth: {ask.known.answer} ({ask.known.answer_word})" if ask.known else "")


def budget_text(budgets: tuple[int, ...]) -> str:
    """Return budgets by view, coarse to fine: "20 + 70 + 190 + 449 = 729 tokens"."""
    return f"{' + '.join(f'{b:,}' for b in budgets)} = {sum(budgets):,} tokens"


def framed(pixels: UInt8[np.ndarray, "H W 3"], boxes: Sequence[UnitBox]) -> UInt8[np.ndarray, "H W 3"]:
    """Draw frames that stay visible when a figure is shown small."""
    return draw_frames(pixels, boxes, thickness=4)


def place_panels(subject: Subject, ask: Ask) -> tuple[Panel, Panel]:
    """Return the picture with a frame, and the framed place with what the answer depends on."""
    window = subject.zoom(ask)
    return (
        Panel(framed(subject.backdrop.picture(), [window]), "The picture"),
        Panel(framed(subject.backdrop.crop(window), window_in(ask.boxes, window)), "The framed place"),
    )


def card_panels(subject: Subject, ask: Ask) -> tuple[Panel, ...]:
    """Return the same for a card; the picture alone where a question is about all of it."""
    if ask.known and not ask.boxes:
        return (Panel(subject.backdrop.picture(), "The picture"),)
    return place_panels(subject, ask)
