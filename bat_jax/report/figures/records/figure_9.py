"""What attention alone keeps: the best tokens of each view, nothing merged (arXiv:2604.13565, Figure 9)."""

import functools

from bat_jax.report.figures.pruning import pruned_figure
from bat_jax.report.figures.record import FigureRecord

FIGURE = FigureRecord(
    name="9",
    draw=functools.partial(pruned_figure, number="9", selection="topk", title="Tokens kept by attention alone"),
)
