"""Other ways to keep B_s tokens of a scale, behind the interface of `preserve_merge`, to compare it with.

    topk          the B_s tokens of each scale with the highest importance (UHR-BAT without regions and merging)
    fastv         the same by the attention that FastV reads (below)
    topk_global   the sum of B_s best tokens of all scales together; how many each scale gets is its tokens' doing
    random        B_s tokens of each scale drawn at random; the draw differs from question to question and is repeatable
    pooling       each scale cut into the largest g x g grid with g^2 <= B_s, one mean token a cell; asks no question

    largest_view  every token of the largest view whose tokens fit the sum of all budgets; the anchor pooled into it
                  if not even its tokens fit: the paper's direct down-sampling
    dense         every token of every view, in order; budgets must hold them (config/bat.py refuses others)

FastV (Chen et al. 2024, arXiv:2403.06764, Sec. 4) lets all visual tokens through the decoder's first K layers and then
drops those that received the least attention in layer K, on average over all tokens. Here the question meets the anchor
before it meets the finer views, so what exists at decoder level is the anchor's attention: fastv reads it in layer K
(`CompressorConfig.fastv_layer`, 2 as in the paper) at the prompt's last token, mean over heads, aligns it with the
finer scales as importance is, and keeps the best of each scale. Dropped tokens never enter the decoder.

The selections that read the vision tower's attention have files of their own: visionzip, prumerge, tome, background.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bat_jax.compress.partition import ALONE, grid_regions
from bat_jax.compress.preserve_merge import Selection, preserve_merge
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


def grid_groups(grid: TokenGrid, valid: Bool[Array, "M"], budget: Int[Array, ""] | int) -> Int[Array, "M"]:
    """Return each token's cell of the largest regular grid of at most `budget` cells, -1 where it is not valid."""
    return jnp.where(valid & (jnp.asarray(budget) > 0), grid_regions(grid, budget), -1)


def each_alone(valid: Bool[Array, "M"], budget: Int[Array, ""] | int) -> Int[Array, "M"]:
    """Return a row of its own for each of the first `budget` valid tokens, -1 for the others."""
    row = jnp.cumsum(valid) - 1
    return jnp.where(valid & (row < budget), row, -1).astype(jnp.int32)


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
