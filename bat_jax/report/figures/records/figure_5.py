"""Ours against pruning that does not know the question, at the same budget (UHR-BAT, arXiv:2604.13565, Figure 5)."""

from bat_jax.report.figures.figure import Figure, budget_text
from bat_jax.report.figures.pruning import BLACK, MEANS, MOST_QUESTIONS, VIEWS, percent, pruned_rows
from bat_jax.report.figures.record import FigureRecord
from bat_jax.report.figures.subject import Subject
from bat_jax.report.pictures import stack

COMPARED_AT = 0.95


def figure_5(subject: Subject) -> Figure:
    """Compare both on the same questions."""
    budgets = subject.pruned_budgets(COMPARED_AT)
    columns = [("uhr_bat", budgets), ("background", budgets)]
    return Figure(
        "5",
        f"Ours against text-agnostic pruning at {percent(COMPARED_AT)}",
        f"Both keep {budget_text(budgets)} of {subject.num_tokens:,}. Text-agnostic: background pruning in the manner "
        f"of GeoLLaVA-8K, which does not read the question. {VIEWS}{MEANS}{BLACK}",
        stack([pruned_rows(subject, ask, columns, names=True) for ask in subject.local_asks(MOST_QUESTIONS)]),
    )


FIGURE = FigureRecord(name="5", draw=figure_5)
