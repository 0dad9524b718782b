"""Rows from tokens: the best ones alone, or groups of tokens that each make one row, their mean."""

import jax
import jax.numpy as jnp

from bat_jax.compress.partition import ALONE, grid_regions
from bat_jax.compress.preserve_merge import Selection, preserve_merge
from bat_jax.ops.segment import segment_sum, segment_sum_of_tokens
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Array, Bool, Float, Int


def first_true(mask: Bool[Array, "M"], size: int) -> Int[Array, "J"]:
    """Return the indices of the first `size` True entries; 0 fills up where there are fewer."""
    return jnp.flatnonzero(mask, size=size, fill_value=0).astype(jnp.int32)


def rank_of(order: Int[Array, "M"]) -> Int[Array, "M"]:
    """Return each entry's place in an order: the inverse of the permutation."""
    return jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype))


def evenly_spaced(count: Int[Array, ""], total: Int[Array, ""], size: int) -> Int[Array, "J"]:
    """Return floor(j * total / count) for j = 0 .. size - 1: `count` <= `total` distinct places, evenly spread.

    Only the first `count` entries are places. Both counts may be traced. The product is split, since
    j * total does not fit 32 bits at 82,944 tokens.
    """
    count = jnp.maximum(count, 1)
    place = jnp.arange(size, dtype=jnp.int32)
    return place * (total // count) + place * (total % count) // count


def evenly_over(mask: Bool[Array, "M"], count: Int[Array, ""], size: int) -> tuple[Int[Array, "J"], Bool[Array, "J"]]:
    """Return the indices of `count` True entries (or all, where there are fewer) spread evenly over a mask's.

    Returns:
      `size` slots, and which of them hold an index.
    """
    total = jnp.sum(mask)
    count = jnp.minimum(count, total)
    return first_true(mask, mask.size)[evenly_spaced(count, total, size)], jnp.arange(size) < count


def grid_groups(grid: TokenGrid, valid: Bool[Array, "M"], budget: Int[Array, ""] | int) -> Int[Array, "M"]:
    """Return each token's cell of the largest regular grid of at most `budget` cells, -1 where it is not valid."""
    return jnp.where(valid & (jnp.asarray(budget) > 0), grid_regions(grid, budget), -1)


def each_alone(valid: Bool[Array, "M"], budget: Int[Array, ""] | int) -> Int[Array, "M"]:
    """Return a row of its own for each of the first `budget` valid tokens, -1 for the others."""
    row = jnp.cumsum(valid) - 1
    return jnp.where(valid & (row < budget), row, -1).astype(jnp.int32)


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


def merge_groups(
    tokens: Float[Array, "M D"],
    importance: Float[Array, "M"],
    group: Int[Array, "M"],
    max_budget: int,
    weight: Float[Array, "M"] | None = None,
) -> Selection:
    """Return one row a group, by ascending group: a group's only token as it is, else the mean of its tokens.

    Args:
      group: in [0, max_budget), or -1 for tokens that go into no row. Ids without a token give no row.
      weight: of each token in its group's mean, positive; None weighs all alike.
    """
    importance = jax.lax.stop_gradient(importance.astype(jnp.float32))
    ones = jnp.ones_like(importance)
    share = ones if weight is None else weight.astype(jnp.float32)
    score, size, total = segment_sum(jnp.stack([importance, ones, share], axis=1), group, max_budget).T
    weighted = tokens if weight is None else tokens.astype(jnp.float32) * share[:, None]
    mean = (segment_sum_of_tokens(weighted, group, max_budget) / jnp.maximum(total, 1e-30)[:, None]).astype(
        tokens.dtype
    )
    slot = jnp.where(group >= 0, group, max_budget)  # an extra row, since a negative index would count from the end
    num_tokens = importance.size
    first = jnp.full((max_budget + 1,), num_tokens, jnp.int32).at[slot].min(jnp.arange(num_tokens, dtype=jnp.int32))
    token = jnp.minimum(first[:max_budget], num_tokens - 1)
    is_single = size == 1
    rows = jnp.where(is_single[:, None], tokens[token], mean)
    order = jnp.argsort(size == 0, stable=True).astype(jnp.int32)
    mask = size[order] > 0
    is_token = mask & is_single[order]
    return Selection(
        tokens=jnp.where(mask[:, None], rows[order], 0),
        keep_index=jnp.where(is_token, token[order], -1),
        region=jnp.where(mask & ~is_token, order, ALONE),
        mask=mask,
        importance=jnp.where(mask, (score / jnp.maximum(size, 1))[order], 0.0),
        num_candidates=jnp.sum(size > 0),
        is_kept=(group >= 0) & is_single[jnp.maximum(group, 0)],
        group=group,
    )
