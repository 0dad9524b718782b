"""Question-answer cards with our answer alone (UHR-BAT, arXiv:2604.13565, Figure 12)."""

from bat_jax.config import SELECTIONS
from bat_jax.report.figures.cards import WIDTH, answer_line, card, question_lines
from bat_jax.report.figures.figure import Figure, budget_text
from bat_jax.report.figures.record import FigureRecord
from bat_jax.report.figures.subject import Subject
from bat_jax.report.pictures import stack


def figure_12(subject: Subject) -> Figure:
    """Draw a card for every question with our answer alone, two beside each other."""
    cards = []
    for ask in subject.asks:
        asked = subject.ask(ask)
        lines = [*question_lines(ask), answer_line(f"Answer, {asked.num_kept:,} tokens: ", asked)]
        cards.append(card(subject, ask, lines, WIDTH // 2, 300))
    return Figure(
        "12",
        "Questions and answers",
        f"Answers of {SELECTIONS[subject.selection].title} on at most {budget_text(subject.cfg.compressor.budgets)} of "
        f"{subject.num_tokens:,}. On the left the picture, beside it the framed place.",
        stack(cards, columns=2),
    )


FIGURE = FigureRecord(name="12", draw=figure_12)
