"""Region partition (UHR-BAT, arXiv:2604.13565, Sec. 3.2 and App. C.2, Eq. 4, 13-15), apart for every scale.

A partitioner maps features, coordinates and a mask of valid tokens to int32 region ids. K-means and the regular grid
run inside jit; BIRCH runs on the host (`io/birch.py`), and label maps (SAM or any other) become token labels there
(`io/label_maps.py`) and region ids here. The partition does not depend on the question.

Region ids: 0..R-1 for regions, ALONE for a token that is a region of its own.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax.config import CompressorConfig
from bat_jax.ops.kmeans import ScaledRows, kmeans, kmeans_of_scaled
from bat_jax.ops.nearest import SMALLEST_LENGTH, unit_rows
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Array, Bool, Float, Int

Scalar = float | Float[Array, ""]
ALONE = -1
# Label maps come with any number of regions; rounding up keeps the set of compiled shapes small.
SMALLEST_REGION_CAPACITY = 64


class LabelRegions(NamedTuple):
    """region_id (M,) int32. label (R,) the label of each region, ascending. capacity: static R for `preserve_merge`."""

    region_id: np.ndarray
    label: np.ndarray
    capacity: int


def cluster_rows(
    features: Float[Array, "M C"], coordinates: Float[Array, "M 2"], feature_scale: Scalar, coord_scale: Scalar
) -> Float[Array, "M C2"]:
    """Return u_i = [feature_scale * f_i / |f_i|_2 ; coord_scale * (x_i, y_i)] in float32 (Eq. 13)."""
    left, right = feature_scale * unit_rows(features), coord_scale * coordinates
    # Padded and added, not concatenated: XLA then writes the rows once on a CPU, in half the time.
    return jnp.pad(left, ((0, 0), (0, right.shape[1]))) + jnp.pad(right, ((0, 0), (left.shape[1], 0)))


def scaled_rows(
    features: Float[Array, "M C"], coordinates: Float[Array, "M 2"], feature_scale: Scalar, coord_scale: Scalar
) -> ScaledRows:
    """Return the rows of `cluster_rows` as factors, the features as they came."""
    length = jnp.linalg.norm(features.astype(jnp.float32), axis=-1)
    return ScaledRows(features, feature_scale / jnp.maximum(length, SMALLEST_LENGTH), coord_scale * coordinates)


def kmeans_regions(
    cfg: CompressorConfig,
    grid: TokenGrid,
    features: Float[Array, "M C"],
    valid: Bool[Array, "M"],
    init_index: Int[Array, "R"],
    num_clusters: Int[Array, ""] | int,
    max_steps: Int[Array, ""] | int,
) -> Int[Array, "M"]:
    """Cluster a scale's tokens in feature-coordinate space (Eq. 13-14).

    `init_index` are the tokens that start as centres; its length is the static maximum of `num_clusters`. Tokens that
    are not valid get ALONE; they take no part.
    """
    with jax.named_scope("region_partition"):
        return jax.lax.platform_dependent(
            features,
            grid.coordinates(cfg.coordinates),
            valid,
            init_index,
            jnp.asarray(num_clusters),
            jnp.asarray(max_steps),
            cpu=functools.partial(_written_out, cfg),
            default=functools.partial(_factored, cfg),
        )


def _written_out(cfg, features, coordinates, valid, init_index, num_clusters, max_steps):
    """Cluster rows that stand in memory: a CPU's time is its products', which want them normalised once."""
    rows = cluster_rows(features, coordinates, cfg.feature_scale, cfg.coord_scale)
    return kmeans(rows, valid, init_index, num_clusters, max_steps).label


def _factored(cfg, features, coordinates, valid, init_index, num_clusters, max_steps):
    """Cluster rows that are never written: in float32 a 7B model's largest view takes 1.2 GB, and was held twice."""
    first = cluster_rows(features[init_index], coordinates[init_index], cfg.feature_scale, cfg.coord_scale)
    rows = scaled_rows(features, coordinates, cfg.feature_scale, cfg.coord_scale)
    return kmeans_of_scaled(rows, valid, first, num_clusters, max_steps).label


def grid_regions(grid: TokenGrid, num_clusters: Int[Array, ""] | int) -> Int[Array, "M"]:
    """Cut the view into the largest g x g grid of rectangles with g^2 <= num_clusters; ids row by row."""
    cells = jnp.floor(jnp.sqrt(jnp.asarray(num_clusters, jnp.float32) + 0.5)).astype(jnp.int32)
    row, col = grid.rows_and_cols().T
    return (row * cells // grid.full_side) * cells + col * cells // grid.full_side


def label_regions(labels: Int[np.ndarray, "M"], background: str) -> LabelRegions:
    """Turn token labels of a label map into region ids (Eq. 15: tokens of one label form a region).

    Args:
      labels: tile-major token labels, 0 = background, any non-negative ids.
      background: "tokens": every background token is ALONE (a region of its own); "region": label 0 is a region, too.
    """
    is_region = labels >= 0 if background == "region" else labels > 0
    label, inverse = np.unique(labels[is_region], return_inverse=True)
    region_id = np.full(labels.shape, ALONE, np.int32)
    region_id[is_region] = inverse
    capacity = SMALLEST_REGION_CAPACITY
    while capacity < label.size:
        capacity *= 2
    return LabelRegions(region_id, label.astype(np.int32), capacity)
