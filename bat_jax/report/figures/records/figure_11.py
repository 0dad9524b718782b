"""Question-answer cards with our answer and the baselines' (arXiv:2604.13565, Figure 11); what these are: cards.py."""

from bat_jax.report.figures.cards import answer_line, card, compare, compared_asks, question_lines
from bat_jax.report.figures.figure import Figure, budget_text
from bat_jax.report.figures.record import FigureRecord
from bat_jax.report.figures.subject import Subject
from bat_jax.report.pictures import stack


def figure_11(subject: Subject) -> Figure:
    """Draw cards with our answer and the baselines'."""
    cards = []
    for ask in compared_asks(subject):
        lines = question_lines(ask)
        for name, asked in compare(subject, ask):
            lines.append(answer_line(f"{name}, {asked.num_kept:,} tokens: ", asked))
        cards.append(card(subject, ask, lines))
    return Figure(
        "11",
        "Answers of ours and of baselines at the same budget",
        f"One model, at most {budget_text(subject.cfg.compressor.budgets)} of {subject.num_tokens:,}, chosen in "
        "several ways; at the foot of each card, the coarsest view alone. On the left the picture, beside it the "
        "framed place.",
        stack(cards),
    )


FIGURE = FigureRecord(name="11", draw=figure_11)
