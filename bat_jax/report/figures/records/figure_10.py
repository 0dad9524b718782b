"""What UHR-BAT keeps: region by region, the rest of a region merged (arXiv:2604.13565, Figure 10)."""

from bat_jax.report.figures.figure import Figure
from bat_jax.report.figures.pruning import pruned_figure
from bat_jax.report.figures.record import FigureRecord
from bat_jax.report.figures.subject import Subject


def figure_10(subject: Subject) -> Figure:
    """Show it under growing pruning."""
    return pruned_figure(subject, "10", "uhr_bat", "Tokens kept region by region")


FIGURE = FigureRecord(name="10", draw=figure_10)
