"""Each scale cut into the largest g x g grid with g^2 <= B_s, one mean token a cell; asks no question."""

from bat_jax.compress.candidates import by_scale
from bat_jax.compress.groups import grid_groups
from bat_jax.config import SelectionRule

SELECTION = SelectionRule(
    name="pooling",
    title="uniform pooling",
    difference="largest g x g grid with g^2 <= B_s, one mean a cell; a cell of one token is that token",
    needs=(),
    choose=by_scale(lambda scale: scale.merge(grid_groups(scale.grid, scale.valid, scale.budget))),
    shown_in=("grids", "cards"),
    place=8,
)
