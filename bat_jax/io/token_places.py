"""Where a view's tokens lie: in the picture, in its file, and on the map.

Letters: Q tokens along a view's side, M = Q * Q tokens, N points. A view shows the picture as it was read, W x H
pixels, in the middle of a square of its long side L (`io.views.pad_to_square`), so that a token covers L / Q of those
pixels. Grid coordinates are (x to the right, y down) in tokens over that square: token (row, col) reaches from
(col, row) to (col + 1, row + 1).
"""

import dataclasses

import numpy as np
from affine import Affine

from bat_jax.io.georeference import Georeference, moved
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenPlaces:
    """The tokens of one view.

    Attributes:
      grid: the view's tokens. read_size: (W, H) of the pixels that the view is made of.
      full_size: (width, height) of the same picture before a decimated read.
      georeference: of the picture.
    """

    grid: TokenGrid
    read_size: tuple[int, int]
    full_size: tuple[int, int]
    georeference: Georeference

    @property
    def to_picture(self) -> Affine:
        """From grid coordinates to the picture's pixel coordinates at full resolution."""
        (width, height), side = self.read_size, max(self.read_size)
        decimated = Affine.scale(self.full_size[0] / width, self.full_size[1] / height)
        margin = Affine.translation(-((side - width) // 2), -((side - height) // 2))
        return decimated @ margin @ Affine.scale(side / self.grid.full_side)

    @property
    def to_map_affine(self) -> Affine | None:
        """From grid coordinates to those that `to_map` gives; None where that is no affine map."""
        of_picture = self.georeference.to_map_affine
        return None if of_picture is None else of_picture @ self.to_picture

    def to_map(self, points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Return the map coordinates of grid coordinates; pixels of the file where it says nothing of a map."""
        return self.georeference.to_map(moved(self.to_picture, points))

    def from_map(self, points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Return the grid coordinates of map coordinates; the inverse of `to_map`."""
        return moved(~self.to_picture, self.georeference.from_map(points))

    def corners(self) -> Float[np.ndarray, "M 2"]:
        """Return the grid coordinates of every token's corner nearest to (0, 0), tile-major."""
        return self.grid.rows_and_cols()[:, ::-1].astype(np.float64)

    def tokens_at(self, points: Float[np.ndarray, "N 2"]) -> Int[np.ndarray, "N"]:
        """Return which token (tile-major) holds each point on the map, -1 for none."""
        side = self.grid.full_side
        number = self.grid.to_grid(np.arange(self.grid.num_tokens))
        col, row = np.floor(self.from_map(points)).T
        is_inside = (col >= 0) & (col < side) & (row >= 0) & (row < side)
        col, row = (np.where(is_inside, place, 0).astype(int) for place in (col, row))
        return np.where(is_inside, number[row, col], -1)
