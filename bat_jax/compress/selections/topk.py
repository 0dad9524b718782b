"""The B_s tokens of each scale with the highest importance: UHR-BAT without regions and merging."""

from bat_jax.compress.candidates import by_scale
from bat_jax.config import SelectionRule

SELECTION = SelectionRule(
    name="topk",
    title="top-K by attention",
    source="UHR-BAT without regions and merging",
    choose=by_scale(lambda scale: scale.keep_top()),
    place=1,
)
