"""What is left of the picture under growing pruning (UHR-BAT, arXiv:2604.13565, Figures 5, 9 and 10).

The paper keeps the picture where a token survives and blackens the rest. Here four views make one prompt, so they lie
over each other (seen.py), and merged tokens show their mean colour.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from bat_jax.config import SELECTIONS
from bat_jax.report.answer_page import Asked
from bat_jax.report.figures.figure import (
    LETTERS,
    Figure,
    budget_text,
    counts_text,
    framed,
    heading,
    place_panels,
    verdict,
)
from bat_jax.report.figures.seen import seen_picture
from bat_jax.report.figures.subject import Ask, Subject
from bat_jax.report.layers import ALL, UnitBox, window_in
from bat_jax.report.pictures import Panel, sheet, stack
from bat_jax.typing import UInt8

PRUNE_SHARES = (0.85, 0.95, 0.975)
COMPARED_AT = 0.95
_MOST_QUESTIONS = 2
_VIEWS = "Views lie over each other: a kept token shows its pixels as its view has them"
_MERGED = ", tokens that were merged into one row show their mean colour"
_BLACK = ", black reached the model in no view. Below, the framed place enlarged."


def figure_5(subject: Subject) -> Figure:
    """Compare ours with pruning that does not know the question, at the same budget."""
    budgets = subject.pruned_budgets(COMPARED_AT)
    columns = [("uhr_bat", budgets), ("background", budgets)]
    return Figure(
        "5",
        f"Ours against text-agnostic pruning at {_percent(COMPARED_AT)}",
        f"Both keep {budget_text(budgets)} of {subject.num_tokens:,}. Text-agnostic: background pruning in the manner "
        f"of GeoLLaVA-8K, which does not read the question. {_VIEWS}{_MERGED}{_BLACK}",
        stack([_rows(subject, ask, columns, names=True) for ask in subject.local_asks(_MOST_QUESTIONS)]),
    )


def figure_9(subject: Subject) -> Figure:
    """Show what attention alone keeps: the best tokens of each view, nothing merged."""
    return _pruned(subject, "9", "topk", "Tokens kept by attention alone")


def figure_10(subject: Subject) -> Figure:
    """Show what UHR-BAT keeps: region by region, the rest of a region merged."""
    return _pruned(subject, "10", "uhr_bat", "Tokens kept region by region")


def _pruned(subject: Subject, number: str, selection: str, title: str) -> Figure:
    columns = [(selection, subject.pruned_budgets(share)) for share in PRUNE_SHARES]
    budgets = "; ".join(
        f"{_percent(share)}: {budget_text(budgets)}" for share, (_, budgets) in zip(PRUNE_SHARES, columns, strict=True)
    )
    return Figure(
        number,
        title,
        f"Pruned by {SELECTIONS[selection].title}, of {subject.num_tokens:,} tokens of all views, coarse to fine. "
        f"{budgets}. {_VIEWS}{_MERGED if selection == 'uhr_bat' else ''}{_BLACK}",
        stack([_rows(subject, ask, columns) for ask in subject.local_asks(_MOST_QUESTIONS)]),
    )


def _rows(
    subject: Subject, ask: Ask, columns: Sequence[tuple[str, tuple[int, ...]]], names: bool = False
) -> Image.Image:
    """Return a question's two rows: the picture and what is left of it, whole and enlarged.

    Args:
      columns: selection and budgets of each column. names: columns are told apart by selection, not by share.
    """
    window = subject.zoom(ask)
    asked = [subject.ask(ask, selection, budgets) for selection, budgets in columns]
    labels = [
        SELECTIONS[selection].title if names else f"{_percent(1 - sum(budgets) / subject.num_tokens)} pruned"
        for selection, budgets in columns
    ]
    picture, place = place_panels(subject, ask)
    whole, near = [picture], [place]
    for label, item in zip(labels, asked, strict=True):
        whole.append(Panel(_seen(subject, item), f"{label}: {counts_text(subject, item)}"))
        pixels = framed(_seen(subject, item, window), window_in(ask.boxes, window))
        near.append(Panel(pixels, verdict(item)))
    return sheet(heading(ask), [*whole, *near], len(whole), letters=LETTERS)


def _seen(subject: Subject, asked: Asked, window: UnitBox = ALL) -> UInt8[np.ndarray, "H W 3"]:
    return seen_picture(subject.scene(), subject.backdrop, asked.answer.selections[0], window)


def _percent(share: float) -> str:
    return f"{round(100 * share, 1):g} %"
