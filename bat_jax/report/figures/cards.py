"""Question-answer cards, with and without baselines (UHR-BAT, arXiv:2604.13565, Figures 11 and 12).

The paper's baselines are other models. Here they are other ways to choose the tokens, in the same model and with the
same budget, and the coarsest view alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from bat_jax.config import SELECTIONS
from bat_jax.config.selections import shown_in
from bat_jax.mini.world.question import LETTERS as OPTION_LETTERS
from bat_jax.report.answer_page import Ask, Asked
from bat_jax.report.figures.figure import LETTERS, card_panels
from bat_jax.report.figures.subject import Subject
from bat_jax.report.layers import font, wrap

_MOST_COMPARED = 4
WIDTH, _PAD = 2400, 28
_INK, _SOFT, _GOOD, _BAD, _TINT = (28, 36, 32), (90, 104, 98), (23, 112, 63), (179, 38, 30), (243, 245, 243)


class Compared(NamedTuple):
    """An answer and what it was given on."""

    name: str
    asked: Asked


class _Line(NamedTuple):
    text: str
    colour: tuple[int, int, int] = _INK
    is_bold: bool = False


def compared_asks(subject: Subject) -> tuple[Ask, ...]:
    """Return the questions that Figure 11 shows."""
    return subject.local_asks(_MOST_COMPARED)


def compare(subject: Subject, ask: Ask) -> tuple[Compared, ...]:
    """Return our answer, those of the baselines under the same budget, and that on all of the coarsest view."""
    chosen = dict.fromkeys((subject.selection, *shown_in("cards")))
    found = [
        Compared(SELECTIONS[name].title + (" (ours)" if name == "uhr_bat" else ""), subject.ask(ask, name))
        for name in chosen
    ]
    anchor = (subject.valid_counts[0], *(0 for _ in subject.valid_counts[1:]))
    px = subject.scene().scales_px[0]
    return (*found, Compared(f"{px} px view alone, all of it", subject.ask(ask, "topk", anchor)))


def question_lines(ask: Ask) -> list[_Line]:
    """Return the question with what is known of it: sub-task, options, truth."""
    lines = [_Line(ask.text, is_bold=True)]
    if ask.known:
        options = zip(OPTION_LETTERS, ask.known.options, strict=False)
        lines.insert(0, _Line(ask.known.sub_task.replace("_", " ").capitalize(), _SOFT))
        lines.append(_Line("    ".join(f"{letter}.\u00a0{text}" for letter, text in options)))
        lines.append(_Line(f"Truth: {ask.known.answer} ({ask.known.answer_word})"))
    return lines


def answer_line(before: str, asked: Asked) -> _Line:
    """Return the answer behind some words, green or red where the truth is known."""
    if asked.truth is None:
        return _Line(f"{before}{asked.answer_text or '(nothing)'}")
    mark, colour = ("✓", _GOOD) if asked.truth.is_right else ("✗", _BAD)
    return _Line(f"{mark} {before}{asked.answer_text}", colour)


def card(subject: Subject, ask: Ask, lines: Sequence[_Line], width: int = WIDTH, picture_px: int = 480) -> Image.Image:
    """Return the picture, the place of the evidence and lines of text beside each other on a plate."""
    pictures = [Image.fromarray(panel.pixels) for panel in card_panels(subject, ask)]
    for picture in pictures:
        picture.thumbnail((picture_px, picture_px), Image.Resampling.LANCZOS)
    left = _PAD * 3 // 2 + sum(picture.width + _PAD for picture in pictures)
    broken = [
        line._replace(text=text)
        for line in lines
        for text in wrap(line.text, width - left - 2 * _PAD, font(LETTERS, line.is_bold))
    ]
    step = round(LETTERS * 1.5)
    height = max(pictures[0].height, step * len(broken)) + 2 * _PAD
    plate = Image.new("RGB", (width, height + _PAD), (255, 255, 255))
    draw = ImageDraw.Draw(plate)
    draw.rounded_rectangle((_PAD // 2, _PAD // 2, width - _PAD // 2, height + _PAD // 2), 22, fill=_TINT)
    x = _PAD * 3 // 2
    for picture in pictures:
        plate.paste(picture, (x, _PAD * 3 // 2))
        x += picture.width + _PAD
    for number, line in enumerate(broken):
        place = (left, _PAD * 3 // 2 + step * number)
        draw.text(place, line.text, fill=line.colour, font=font(LETTERS, line.is_bold))
    return plate
