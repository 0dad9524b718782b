"""Other ways to keep B_s tokens of a scale, behind the interface of `preserve_merge`, to compare it with.

    topk          the B_s tokens of each scale with the highest importance (UHR-BAT without regions and merging)
    topk_global   the sum of B_s best tokens of all scales together; how many each scale gets is its tokens' doing
    random        B_s tokens of each scale drawn at random; the draw differs from question to question and is repeatable
    pooling       each scale cut into the largest g x g grid with g^2 <= B_s, one mean token a cell; asks no question

The anchor alone, the paper's direct down-sampling, needs no function: it is a config with one scale.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bat_jax.compress.partition import ALONE, grid_regions
from bat_jax.compress.preserve_merge import Selection, preserve_merge
from bat_jax.ops.segment import segment_sum
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Array, Bool, Float, Int, Key


def keep_top(
    tokens: Float[Array, "M D"],
    importance: Float[Array, "M"],
    valid: Bool[Array, "M"],
    budget: Int[Array, ""] | int,
    max_budget: int,
) -> Selection:
    """Keep the `budget` valid tokens of highest importance, in that order; equal ones by their index."""
    alone = jnp.full(importance.shape, ALONE, jnp.int32)
    return preserve_merge(tokens, importance, alone, valid, budget, num_regions=1, max_budget=max_budget)


def global_shares(
    importance: Sequence[Float[Array, "_"]], valid: Sequence[Bool[Array, "_"]], budget: Int[Array, ""] | int
) -> tuple[Int[Array, ""], ...]:
    """Return how many of the `budget` best tokens of all scales together lie in each scale."""
    scores = [jnp.where(is_valid, score, -jnp.inf) for score, is_valid in zip(importance, valid, strict=True)]
    scale = jnp.concatenate([jnp.full(score.shape, index) for index, score in enumerate(scores)])
    order = jnp.argsort(-jnp.concatenate(scores), stable=True)
    is_best = jnp.arange(order.size) < budget
    return tuple(jnp.sum(is_best & (scale[order] == index)).astype(jnp.int32) for index in range(len(scores)))


def random_scores(key: Key[Array, ""], importance: Float[Array, "M1"], num_tokens: int) -> Float[Array, "M"]:
    """Return scores in [0, 1) that have nothing to do with importance but change with it, as a hash does."""
    bits = jax.lax.bitcast_convert_type(importance.astype(jnp.float32), jnp.uint32)
    odd = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1  # places count: the same values elsewhere are another draw
    return jax.random.uniform(jax.random.fold_in(key, jnp.sum(bits * odd, dtype=jnp.uint32)), (num_tokens,))


def pool_grid(
    grid: TokenGrid,
    tokens: Float[Array, "M D"],
    importance: Float[Array, "M"],
    valid: Bool[Array, "M"],
    budget: Int[Array, ""] | int,
    max_budget: int,
) -> Selection:
    """Merge a scale into a regular grid of at most `budget` mean tokens, row by row; empty cells are left out.

    Every row counts as merged: its index is -1, its region the cell.
    """
    cell = jnp.where(valid, grid_regions(grid, budget), ALONE)
    scores = jnp.stack([importance.astype(jnp.float32), jnp.ones(importance.shape)], axis=1)
    sums = segment_sum(scores, cell, max_budget)
    size = jnp.maximum(sums[:, 1], 1)
    mean = (segment_sum(tokens, cell, max_budget) / size[:, None]).astype(tokens.dtype)
    is_cell = sums[:, 1] > 0
    order = jnp.argsort(~is_cell, stable=True).astype(jnp.int32)
    mask = is_cell[order]
    return Selection(
        tokens=jnp.where(mask[:, None], mean[order], 0),
        index=jnp.full((max_budget,), -1, jnp.int32),
        region=jnp.where(mask, order, -1),
        mask=mask,
        importance=jnp.where(mask, (sums[:, 0] / size)[order], 0.0),
        num_candidates=jnp.sum(is_cell),
        is_kept=jnp.zeros(importance.shape, bool),
    )
