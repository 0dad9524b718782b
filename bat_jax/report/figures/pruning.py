"""What is left of the picture under pruning, for UHR-BAT's (arXiv:2604.13565) Figures 5, 9 and 10.

The paper keeps the picture where a token survives and blackens the rest. Here four views make one prompt, so they lie
over each other (seen.py), and merged tokens show their mean colour.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from bat_jax.config import SELECTIONS
from bat_jax.report.answer_page import Ask, Asked
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
from bat_jax.report.figures.subject import Subject
from bat_jax.report.layers import ALL, UnitBox, window_in
from bat_jax.report.pictures import Panel, sheet, stack
from bat_jax.typing import UInt8

PRUNE_SHARES = (0.85, 0.95, 0.975)
MOST_QUESTIONS = 2
VIEWS = "Views lie over each other: a kept token shows its pixels as its view has them"
MEANS = ", tokens that were merged into one row show their mean colour"
BLACK = ", black reached the model in no view. Below, the framed place enlarged."


def pruned_figure(subject: Subject, number: str, selection: str, title: str) -> Figure:
    """Show what a selection leaves of the picture for some questions at each share of pruning."""
    columns = [(selection, subject.pruned_budgets(share)) for share in PRUNE_SHARES]
    budgets = "; ".join(
        f"{percent(share)}: {budget_text(budgets)}" for share, (_, budgets) in zip(PRUNE_SHARES, columns, strict=True)
    )
    return Figure(
        number,
        title,
        f"Pruned by {SELECTIONS[selection].title}, of {subject.num_tokens:,} tokens of all views, coarse to fine. "
        f"{budgets}. {VIEWS}{MEANS if selection == 'uhr_bat' else ''}{BLACK}",
        stack([pruned_rows(subject, ask, columns) for ask in subject.local_asks(MOST_QUESTIONS)]),
    )


def pruned_rows(
    subject: Subject, ask: Ask, columns: Sequence[tuple[str, tuple[int, ...]]], names: bool = False
) -> Image.Image:
    """Return a question's two rows: the picture and what is left of it, whole and enlarged.

    Args:
      columns: selection and budgets of each column. names: columns are told apart by selection, not by share.
    """
    window = subject.zoom(ask)
    asked = [subject.ask(ask, selection, budgets) for selection, budgets in columns]
    labels = [
        SELECTIONS[selection].title if names else f"{percent(1 - sum(budgets) / subject.num_tokens)} pruned"
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


def percent(share: float) -> str:
    """Return a share as captions have it: "97.5 %"."""
    return f"{round(100 * share, 1):g} %"
