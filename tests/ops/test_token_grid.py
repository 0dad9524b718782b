"""Raster order and tile-major order, drawn out for two by two tiles of two by two tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.ops.token_grid import TokenGrid

GRID = TokenGrid(tiles=2, side=2)
GRIDS = [TokenGrid(1, 1), TokenGrid(1, 4), TokenGrid(3, 1), TokenGrid(2, 3), TokenGrid(4, 3)]
#  0  1 |  2  3        tiles row by row, inside a tile its tokens row by row
#  4  5 |  6  7
#  -----+------
#  8  9 | 10 11
# 12 13 | 14 15
TILE_MAJOR = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def test_tokens_of_a_tile_stand_together():
    raster = np.arange(16).reshape(4, 4)
    assert GRID.to_tiles(raster).tolist() == TILE_MAJOR
    np.testing.assert_array_equal(GRID.to_grid(np.array(TILE_MAJOR)), raster)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("library", [np, jnp])
def test_the_two_orders_are_inverse_with_any_channels_and_either_library(grid, library):
    for channels in ((), (3,), (2, 2)):
        raster = library.arange(grid.num_tokens * int(np.prod(channels))).reshape(
            grid.full_side, grid.full_side, *channels
        )
        tokens = grid.to_tiles(raster)
        assert tokens.shape == (grid.num_tokens, *channels)
        assert isinstance(tokens, type(raster))
        np.testing.assert_array_equal(grid.to_grid(tokens), raster)


@pytest.mark.parametrize("grid", GRIDS)
def test_rows_and_columns_follow_the_index_formula(grid):
    """index = tile * P + row * side + col."""
    expected = []
    for tile in range(grid.tiles**2):
        for patch in range(grid.side**2):
            row = tile // grid.tiles * grid.side + patch // grid.side
            expected.append([row, tile % grid.tiles * grid.side + patch % grid.side])
    np.testing.assert_array_equal(grid.rows_and_cols(), expected)
    assert grid.rows_and_cols().dtype == np.int32


def test_scale_coordinates_are_normalised_centres_x_first():
    coordinates = GRID.coordinates("scale")
    assert coordinates.dtype == np.float32
    assert coordinates[:4].tolist() == [[0.125, 0.125], [0.375, 0.125], [0.125, 0.375], [0.375, 0.375]]
    assert coordinates[4].tolist() == [0.625, 0.125], "the second tile lies to the right"
    assert coordinates[-1].tolist() == [0.875, 0.875]
    assert len(np.unique(coordinates, axis=0)) == 16


def test_tile_coordinates_repeat_in_every_tile_from_corner_to_corner():
    coordinates = GRID.coordinates("tile")
    assert coordinates.dtype == np.float32
    assert coordinates.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]] * 4
    thirds = TokenGrid(1, 4).coordinates("tile")[:4, 0]
    np.testing.assert_array_equal(thirds, np.arange(4, dtype=np.float32) / np.float32(3))
    assert TokenGrid(3, 1).coordinates("tile").tolist() == [[0, 0]] * 9, "one token a tile: no division by zero"


def test_sizes_of_the_largest_view():
    largest = TokenGrid(tiles=12, side=24)
    assert (largest.num_tokens, largest.full_side) == (82944, 288)
    assert hash(largest) == hash(TokenGrid(12, 24))
