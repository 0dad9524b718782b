"""Bilinear interpolation of square grids: half-pixel centres, edge clamping (align_corners=False), no antialias.

Used twice: cross-scale alignment of importance (`compress/alignment.py`), scale embeddings (`nn/scale_embedding.py`).
"""

import jax.numpy as jnp
import numpy as np

from bat_jax.typing import Array, Bool, Float


def bilinear_matrix(source: int, target: int) -> np.ndarray:
    """Return W (target, source) float32 with `W @ values` = the 1-D bilinear resize of `source` values to `target`.

    Row i holds at most two weights, at the neighbours of (i + 0.5) * source / target - 0.5 clamped to the grid.
    """
    centre = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    low = np.floor(centre).astype(np.int64)
    high = np.minimum(low + 1, source - 1)
    fraction = (centre - low).astype(np.float32)
    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    np.add.at(matrix, (rows, low), 1 - fraction)
    np.add.at(matrix, (rows, high), fraction)
    return matrix


def resize_bilinear(grid: Float[Array, "G G *C"], side: int) -> Float[Array, "Q Q *C"]:
    """Resize a square grid to `side` x `side`, in float32 at full matmul precision.

    UHR-BAT (arXiv:2604.13565), App. C.3, Eq. 16.
    """
    matrix = bilinear_matrix(grid.shape[0], side)
    grid = grid.astype(jnp.float32)
    rows = jnp.einsum("qg,gh...->qh...", matrix, grid, precision="highest")
    return jnp.einsum("rh,qh...->qr...", matrix, rows, precision="highest")


def resize_bilinear_masked(grid: Float[Array, "G G"], valid: Bool[Array, "G G"], side: int) -> Float[Array, "Q Q"]:
    """Resize like `resize_bilinear`, but average over the valid neighbours only; 0 where none is valid.

    A token at the edge of a non-square image keeps its own importance instead of mixing with the padding's.
    """
    weighted = resize_bilinear(jnp.where(valid, grid, 0.0), side)
    weight = resize_bilinear(valid.astype(jnp.float32), side)
    return jnp.where(weight > 0, weighted / jnp.where(weight > 0, weight, 1.0), 0.0)
