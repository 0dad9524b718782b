"""What UHR-BAT keeps: region by region, the rest of a region merged (arXiv:2604.13565, Figure 10)."""

import functools

from bat_jax.report.figures.pruning import pruned_figure
from bat_jax.report.figures.record import FigureRecord

FIGURE = FigureRecord(
    name="10",
    draw=functools.partial(pruned_figure, number="10", selection="uhr_bat", title="Tokens kept region by region"),
)
