"""The two orders of a view's tokens: raster order over the whole grid, and tile-major order, as the tower yields them.

Tile-major: tiles row by row, inside a tile its patches row by row; a token's index is tile * P + row * side + col.
Every array of tokens in this project is tile-major; grids (Q, Q, ...) are for interpolation and pictures.
"""

from typing import NamedTuple, TypeVar

import jax
import numpy as np

from bat_jax.typing import Array, Float

A = TypeVar("A", jax.Array, np.ndarray, Array)


class TokenGrid(NamedTuple):
    """tiles: tiles along the view's side (g_s). side: patches along a tile's side. Static, hashable."""

    tiles: int
    side: int

    @property
    def num_tokens(self) -> int:
        """M = (tiles * side)^2."""
        return (self.tiles * self.side) ** 2

    @property
    def full_side(self) -> int:
        """Q, tokens along the whole view's side."""
        return self.tiles * self.side

    def to_tiles(self, grid: A) -> A:
        """Reorder a (Q, Q, ...) grid into tile-major tokens (M, ...). NumPy or JAX."""
        rest = grid.shape[2:]
        split = grid.reshape(self.tiles, self.side, self.tiles, self.side, *rest)
        return split.swapaxes(1, 2).reshape(self.num_tokens, *rest)

    def to_grid(self, tokens: A) -> A:
        """Reorder tile-major tokens (M, ...) into a (Q, Q, ...) grid. NumPy or JAX."""
        rest = tokens.shape[1:]
        split = tokens.reshape(self.tiles, self.tiles, self.side, self.side, *rest)
        return split.swapaxes(1, 2).reshape(self.full_side, self.full_side, *rest)

    def rows_and_cols(self) -> np.ndarray:
        """Return (M, 2) int32: each tile-major token's row and column on the whole grid."""
        row, col = np.meshgrid(np.arange(self.full_side), np.arange(self.full_side), indexing="ij")
        return self.to_tiles(np.stack([row, col], axis=-1)).astype(np.int32)

    def coordinates(self, kind: str) -> Float[np.ndarray, "M 2"]:
        """Return (x, y) of every token, tile-major, float32 in [0, 1].

        UHR-BAT (arXiv:2604.13565), App. C.2, Eq. 13: the normalised centre on the whole view ("scale"). The authors'
        release uses (col, row) / (side - 1) inside the tile ("tile"), so tokens of different tiles coincide.
        """
        row, col = self.rows_and_cols().T
        if kind == "scale":
            return np.stack([(col + 0.5) / self.full_side, (row + 0.5) / self.full_side], axis=1).astype(np.float32)
        inside = np.stack([col % self.side, row % self.side], axis=1).astype(np.float32)
        return inside / np.float32(max(self.side - 1, 1))
