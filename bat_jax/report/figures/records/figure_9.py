"""What attention alone keeps: the best tokens of each view, nothing merged (arXiv:2604.13565, Figure 9)."""

from bat_jax.report.figures.figure import Figure
from bat_jax.report.figures.pruning import pruned_figure
from bat_jax.report.figures.record import FigureRecord
from bat_jax.report.figures.subject import Subject


def figure_9(subject: Subject) -> Figure:
    """Show it under growing pruning."""
    return pruned_figure(subject, "9", "topk", "Tokens kept by attention alone")


FIGURE = FigureRecord(name="9", draw=figure_9)
