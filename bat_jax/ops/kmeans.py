"""Masked K-means with a fixed shape: the number of clusters and of steps may be traced.

`compress/partition.py` builds the rows (Eq. 13) and calls `kmeans` once a scale.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bat_jax.ops.nearest import best_match
from bat_jax.ops.segment import segment_sum
from bat_jax.typing import Array, Bool, Float, Int, Key

# A centre has stopped when it moved by no more than this (the authors' release: torch.allclose's defaults).
STOP_RTOL, STOP_ATOL = 1e-5, 1e-8


class KMeansResult(NamedTuple):
    """label (M,) int32 in [0, num_clusters), -1 for rows that are not valid; num_steps () assignments made."""

    label: Int[Array, "M"]
    num_steps: Int[Array, ""]


def random_rows(key: Key[Array, ""], valid: Bool[Array, "M"], count: int) -> Int[Array, "R"]:
    """Draw `count` distinct rows, valid ones first: the start of Lloyd's algorithm in the authors' release."""
    order = jnp.where(valid, jax.random.uniform(key, valid.shape), jnp.inf)
    return jnp.argsort(order)[:count].astype(jnp.int32)


def nearest_centre(
    rows: Float[Array, "M C"], centres: Float[Array, "R C"], is_centre: Bool[Array, "R"]
) -> Int[Array, "M"]:
    """Return for each row the nearest centre in Euclidean distance; exact ties go to the lower id.

    Distances are float32 and never stand in memory for all rows at once.
    """
    # -|u - c|^2 / 2 without the term that is alike for all centres
    return best_match(rows, centres, is_centre, bias=-0.5 * jnp.sum(centres**2, axis=-1)).target


def kmeans(
    rows: Float[Array, "M C"],
    valid: Bool[Array, "M"],
    init_index: Int[Array, "R"],
    num_clusters: Int[Array, ""] | int,
    max_steps: Int[Array, ""] | int,
) -> KMeansResult:
    """Cluster the valid rows by Lloyd's algorithm.

    UHR-BAT (arXiv:2604.13565), App. C.2, Eq. 14. As in the authors' release an empty cluster keeps its centre, and the
    labels returned are those of the last assignment, made before the last update of the centres; it stops early once no
    centre moves.

    Args:
      rows: what is clustered. valid: rows that count.
      init_index: rows that are the first centres; only the first `num_clusters` are used. R is the static maximum.
      num_clusters: k <= R, may be traced; clipped to the number of valid rows.
      max_steps: most assignments, at least one is made.
    """
    rows = rows.astype(jnp.float32)
    num_rows, max_clusters = rows.shape[0], init_index.shape[0]
    count = jnp.minimum(jnp.asarray(num_clusters), jnp.sum(valid))
    is_centre = jnp.arange(max_clusters) < count
    ones = jnp.ones((num_rows, 1), jnp.float32)

    def step(state):
        centres, _, num_steps, _ = state
        label = jnp.where(valid, nearest_centre(rows, centres, is_centre), -1)
        size = segment_sum(ones, label, max_clusters)
        moved = jnp.where(size > 0, segment_sum(rows, label, max_clusters) / jnp.maximum(size, 1), centres)
        is_still = jnp.all(jnp.abs(moved - centres) <= STOP_ATOL + STOP_RTOL * jnp.abs(centres))
        return moved, label, num_steps + 1, is_still

    def goes_on(state):
        _, _, num_steps, is_still = state
        return (num_steps < jnp.maximum(max_steps, 1)) & ~is_still

    start = (rows[init_index], jnp.full((num_rows,), -1, jnp.int32), jnp.int32(0), jnp.bool_(False))
    _, label, num_steps, _ = jax.lax.while_loop(goes_on, step, start)
    return KMeansResult(label, num_steps)
