"""Masked K-means with a fixed shape: the number of clusters and of steps may be traced.

`compress/partition.py` builds the rows (Eq. 13) and clusters each scale alone: with `kmeans` on a CPU, where rows are
written out once, and with `kmeans_of_scaled` on an accelerator, where they never are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bat_jax.ops.float32_product import float32_product
from bat_jax.ops.nearest import best_match, first_best
from bat_jax.ops.on_mesh import on_mesh, over_rows
from bat_jax.ops.segment import row_blocks, segment_sum
from bat_jax.typing import Array, Bool, Float, Int, Key

# A centre has stopped when it moved by no more than this (the authors' release: torch.allclose's defaults).
STOP_RTOL, STOP_ATOL = 1e-5, 1e-8


class KMeansResult(NamedTuple):
    """label (M,) int32 in [0, num_clusters), -1 for rows that are not valid; num_steps () assignments made."""

    label: Int[Array, "M"]
    num_steps: Int[Array, ""]


class ScaledRows(NamedTuple):
    """Rows u_i = [scale_i * features_i ; coordinates_i] that are not written out; features bfloat16 or float32."""

    features: Float[Array, "*M C"]
    scale: Float[Array, "*M"]
    coordinates: Float[Array, "*M 2"]


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
    max_clusters = init_index.shape[0]
    ones = jnp.ones((rows.shape[0], 1), jnp.float32)

    def assign(part, centres, is_centre):
        rows, ones, valid = part
        label = jnp.where(valid, nearest_centre(rows, centres, is_centre), -1)
        return label, (segment_sum(ones, label, max_clusters), segment_sum(rows, label, max_clusters))

    return _lloyd(assign, (rows, ones, valid), rows[init_index], valid, num_clusters, max_steps)


def kmeans_of_scaled(
    rows: ScaledRows,
    valid: Bool[Array, "M"],
    first_centres: Float[Array, "R C2"],
    num_clusters: Int[Array, ""] | int,
    max_steps: Int[Array, ""] | int,
) -> KMeansResult:
    """Do what `kmeans` does, in one pass over the features a step, by products of bfloat16 where those are bfloat16.

    <u_i, c> = scale_i <features_i, c_features> + <coordinates_i, c_coordinates>: the products read the features as they
    came, and the centres in three pieces. They are as exact as those of float32. Labels differ from those of `kmeans`
    by ties alone, rows whose two nearest centres float32 does not tell apart: both functions choose the nearest but for
    2^-20 of the larger of |u|^2 and |c|^2, in halves of squared distances.

    Args:
      first_centres: C2 = C + 2 columns. Others: see `kmeans`.
    """
    width, max_clusters = rows.features.shape[1], first_centres.shape[0]

    def assign(rows, centres, is_centre):
        num_rows = rows[1].shape[0]
        block, padding = row_blocks(num_rows)
        bias = -0.5 * jnp.sum(centres**2, axis=-1)

        def in_blocks(part):
            padded = jnp.pad(part, ((0, padding),) + ((0, 0),) * (part.ndim - 1))
            return padded.reshape(-1, block, *part.shape[1:])

        def add(sums, part):
            factors, is_valid = part
            # Rows that are not valid may hold NaN, and 0 * NaN would reach every centre.
            features, scale, coordinates = jax.tree.map(lambda x: jnp.where(_as_column(is_valid, x), x, 0), factors)
            score = scale[:, None] * float32_product("mc,rc->mr", features, centres[:, :width])
            score += jnp.einsum("mx,rx->mr", coordinates, centres[:, width:], precision="highest") + bias
            label = jnp.where(is_valid, first_best(jnp.where(is_centre, score, -jnp.inf)).target, -1)
            member = jax.nn.one_hot(label, max_clusters, dtype=jnp.float32)
            moved = (
                jnp.sum(member, axis=0),
                float32_product("mc,mr->rc", features, member * scale[:, None]),
                jnp.einsum("mr,mx->rx", member, coordinates, precision="highest"),
            )
            return jax.tree.map(jnp.add, sums, moved), label

        nothing = (jnp.zeros(max_clusters), jnp.zeros((max_clusters, width)), jnp.zeros((max_clusters, 2)))
        (size, features, coordinates), label = jax.lax.scan(add, nothing, jax.tree.map(in_blocks, rows))
        return label.reshape(-1)[:num_rows], (size[:, None], jnp.concatenate([features, coordinates], axis=1))

    return _lloyd(assign, (rows, valid), first_centres, valid, num_clusters, max_steps)


def _as_column(mask, like):
    return mask.reshape(mask.shape + (1,) * (like.ndim - 1))


def _lloyd(
    assign: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, tuple[jax.Array, jax.Array]]],
    rows: Any,
    first_centres: Float[Array, "R C"],
    valid: Bool[Array, "M"],
    num_clusters: Int[Array, ""] | int,
    max_steps: Int[Array, ""] | int,
) -> KMeansResult:
    """Run steps until no centre moves; `assign(rows, centres, is_centre)` gives labels, and clusters' sizes and sums.

    On a mesh each device assigns the rows that it holds.
    """
    count = jnp.minimum(jnp.asarray(num_clusters), jnp.sum(valid))
    is_centre = jnp.arange(first_centres.shape[0]) < count

    def step(state):
        centres, _, num_steps, _ = state
        label, (size, total) = over_rows(assign, rows, centres, is_centre)
        moved = jnp.where(size > 0, total / jnp.maximum(size, 1), centres)
        is_still = jnp.all(jnp.abs(moved - centres) <= STOP_ATOL + STOP_RTOL * jnp.abs(centres))
        return moved, label, num_steps + 1, is_still

    def goes_on(state):
        _, _, num_steps, is_still = state
        return (num_steps < jnp.maximum(max_steps, 1)) & ~is_still

    start = (first_centres, jnp.full(valid.shape, -1, jnp.int32), jnp.int32(0), jnp.bool_(False))
    _, label, num_steps, _ = jax.lax.while_loop(goes_on, step, start)
    return KMeansResult(on_mesh(label), num_steps)
