"""Direct down-sampling: every token of the largest view whose tokens fit the sum of all budgets.

The anchor is pooled into it if not even its tokens fit.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from bat_jax.compress.candidates import Candidates
from bat_jax.compress.groups import each_alone, grid_groups
from bat_jax.compress.preserve_merge import Selection
from bat_jax.config import SelectionRule
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Array, Bool, Int


def largest_view_groups(
    grids: Sequence[TokenGrid], valid: Sequence[Bool[Array, "_"]], budget: Int[Array, ""]
) -> tuple[Int[Array, "_"], ...]:
    """Return every scale's rows: all valid tokens of the largest view that has at most `budget` of them.

    Where no view fits, the anchor goes into the largest grid of cells that does.
    """
    counts = jnp.stack([jnp.sum(is_valid) for is_valid in valid])
    chosen = jnp.max(jnp.where(counts <= budget, jnp.arange(len(valid)), -1))
    groups = [each_alone(is_valid & (chosen == index), budget) for index, is_valid in enumerate(valid)]
    groups[0] = jnp.where(chosen < 0, grid_groups(grids[0], valid[0], budget), groups[0])
    return tuple(groups)


def _choose(scales: tuple[Candidates, ...]) -> tuple[Selection, ...]:
    total = sum((scale.budget for scale in scales[1:]), scales[0].budget)
    groups = largest_view_groups([scale.grid for scale in scales], [scale.valid for scale in scales], total)
    return tuple(scale.merge(group) for scale, group in zip(scales, groups, strict=True))


SELECTION = SelectionRule(
    name="largest_view",
    title="largest view that fits",
    source="direct down-sampling",
    difference="all tokens of the largest view that fits the sum of all budgets (padding not counted); the anchor "
    "pooled if none does",
    needs=(),
    choose=_choose,
    shares_budget=True,
    shown_in=(),
    place=10,
)
