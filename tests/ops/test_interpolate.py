"""Bilinear resizing against literal matrices and torch's interpolate(align_corners=False)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.ops import interpolate
from bat_jax.ops.interpolate import bilinear_matrix

# One program a shape takes a fraction of the time of its operations one by one.
resize_bilinear = jax.jit(interpolate.resize_bilinear, static_argnums=1)
resize_bilinear_masked = jax.jit(interpolate.resize_bilinear_masked, static_argnums=2)
SIZES = [(1, 1), (1, 5), (2, 4), (3, 3), (3, 7), (4, 8), (5, 2), (24, 24), (24, 64), (48, 7), (12, 36)]


def test_doubling_two_cells_is_the_matrix_of_half_pixel_centres():
    np.testing.assert_array_equal(bilinear_matrix(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])


def test_halving_four_cells_reads_between_the_middle_ones_without_antialias():
    np.testing.assert_array_equal(bilinear_matrix(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


def test_tripling_two_cells_clamps_at_the_edges():
    rows = bilinear_matrix(2, 6)
    # centres at -1/3, 0, 1/3, 2/3, 1, 4/3, clamped to [0, 1]
    np.testing.assert_allclose(rows[:, 1], [0, 0, 1 / 3, 2 / 3, 1, 1], atol=1e-7)
    np.testing.assert_allclose(rows[:, 0], [1, 1, 2 / 3, 1 / 3, 0, 0], atol=1e-7)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_the_matrix_is_the_identity_on_its_own_size_and_always_averages(source, target):
    matrix = bilinear_matrix(source, target)
    np.testing.assert_array_equal(bilinear_matrix(source, source), np.eye(source))
    assert matrix.min() >= 0
    assert np.all((matrix > 0).sum(axis=1) <= 2)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_resize_equals_torch_bilinear_without_align_corners(source, target):
    torch = pytest.importorskip("torch")
    grid = np.random.default_rng(source * 100 + target).normal(size=(source, source, 2)).astype(np.float32)
    # float64, because torch computes the places where it reads in the image's precision
    image = torch.from_numpy(grid).double().permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(image, (target, target), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(resize_bilinear(grid, target), expected[0].permute(1, 2, 0).numpy(), atol=2e-6)


def test_rows_and_columns_are_not_exchanged():
    """Columns hold 0 and 4: values rise along a row and stay along a column."""
    resized = np.asarray(resize_bilinear(np.array([[0, 4], [0, 4]], np.float32), 4))
    np.testing.assert_array_equal(resized, np.tile([0, 1, 3, 4], (4, 1)))


def test_resizing_yields_float32_from_bfloat16():
    assert resize_bilinear(jnp.ones((2, 2, 3), jnp.bfloat16), 4).dtype == np.float32


def random_mask(seed, source):
    rng = np.random.default_rng(seed)
    return rng.random((source, source)).astype(np.float32), rng.random((source, source)) < 0.6


@pytest.mark.parametrize(("source", "target"), [(4, 8), (6, 18), (5, 5), (6, 4)])
def test_masked_constant_stays_constant_where_any_neighbour_is_valid(source, target):
    for seed in range(5):
        _, valid = random_mask(seed, source)
        resized = np.asarray(resize_bilinear_masked(np.full((source, source), 0.3, np.float32), valid, target))
        matrix = bilinear_matrix(source, target)
        reaches = matrix @ valid.astype(np.float32) @ matrix.T > 0
        np.testing.assert_allclose(resized[reaches], 0.3, rtol=1e-5)
        np.testing.assert_array_equal(resized[~reaches], 0)


@pytest.mark.parametrize(("source", "target"), [(4, 8), (5, 5), (6, 4)])
def test_masked_resize_is_the_weighted_mean_of_valid_neighbours(source, target):
    matrix = bilinear_matrix(source, target).astype(np.float64)
    for seed in range(5):
        grid, valid = random_mask(seed, source)
        expected = np.zeros((target, target))
        for i in range(target):
            for j in range(target):
                weight = np.outer(matrix[i], matrix[j]) * valid
                expected[i, j] = (weight * grid).sum() / weight.sum() if weight.sum() else 0
        np.testing.assert_allclose(resize_bilinear_masked(grid, valid, target), expected, rtol=1e-5, atol=1e-6)
        huge = np.where(valid, grid, 1e30).astype(np.float32)
        np.testing.assert_array_equal(
            resize_bilinear_masked(huge, valid, target), resize_bilinear_masked(grid, valid, target)
        )


def test_masked_with_everything_valid_is_plain_and_with_nothing_valid_is_zero():
    grid, _ = random_mask(0, 4)
    everything = resize_bilinear_masked(grid, np.ones((4, 4), bool), 8)
    np.testing.assert_allclose(everything, resize_bilinear(grid, 8), rtol=1e-6)
    np.testing.assert_array_equal(resize_bilinear_masked(grid, np.zeros((4, 4), bool), 8), np.zeros((8, 8)))
