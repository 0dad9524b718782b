"""Segment sums: the CPU's scatter and the accelerator's one-hot product against NumPy."""

import functools

import jax
import numpy as np
import pytest

from bat_jax.ops import segment

NUM_SEGMENTS = 7
PATHS = {
    "scatter": segment._scatter_sum,
    "one_hot": segment._one_hot_sum,
    "chosen by platform": segment.segment_sum,
}


def brute_force(values, segment_id):
    total = np.zeros((NUM_SEGMENTS, values.shape[1]))
    inside = (segment_id >= 0) & (segment_id < NUM_SEGMENTS)
    np.add.at(total, segment_id[inside], values[inside].astype(np.float64))
    return total


@pytest.mark.parametrize("num_rows", [1, 5, 16, 53])
@pytest.mark.parametrize("path", PATHS)
def test_sums_equal_numpy_and_ids_outside_the_range_are_left_out(path, num_rows, monkeypatch):
    monkeypatch.setattr(segment, "LARGEST_BLOCK", 16)  # 53 rows: three whole blocks and a part of one
    monkeypatch.setattr(segment, "SMALLEST_BLOCK", 4)
    summed = jax.jit(functools.partial(PATHS[path], num_segments=NUM_SEGMENTS))
    rng = np.random.default_rng(num_rows)
    for _ in range(20):
        # Integers: every order of summation gives the same float32.
        values = rng.integers(-1000, 1000, (num_rows, 3)).astype(np.float32)
        segment_id = rng.integers(-2, NUM_SEGMENTS + 2, num_rows).astype(np.int32)
        np.testing.assert_array_equal(summed(values, segment_id), brute_force(values, segment_id))


def test_no_row_inside_the_range_gives_zeros():
    for function in PATHS.values():
        total = function(np.ones((4, 2), np.float32), np.array([-1, -5, 7, 100], np.int32), NUM_SEGMENTS)
        np.testing.assert_array_equal(total, np.zeros((NUM_SEGMENTS, 2)))


def test_rows_outside_the_range_may_hold_nan():
    for function in PATHS.values():
        total = function(np.array([[1.0], [np.nan]], np.float32), np.array([0, -1], np.int32), 2)
        np.testing.assert_array_equal(total, [[1.0], [0.0]])


def test_blocks_divide_the_rows_of_the_papers_scales():
    assert [segment.row_blocks(rows) for rows in (2304, 9216, 36864, 82944)] == [
        (2304, 0),
        (3072, 0),
        (4096, 0),
        (3456, 0),
    ]
    assert segment.row_blocks(2 * 4099) == (4096, 4090)


def test_both_paths_agree_on_floats_to_rounding():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 4)).astype(np.float32)
    segment_id = rng.integers(-1, NUM_SEGMENTS, 300).astype(np.int32)
    expected = brute_force(values, segment_id)
    for function in PATHS.values():
        np.testing.assert_allclose(function(values, segment_id, NUM_SEGMENTS), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_rows_are_summed_in_float32():
    """In bfloat16 a sum of ones stops at 256."""
    values = np.ones((600, 1), jax.numpy.bfloat16)
    for function in (segment.segment_sum, segment._one_hot_sum):
        total = function(jax.numpy.asarray(values), np.zeros(600, np.int32), 1)
        assert total.dtype == np.float32
        assert total[0, 0] == 600


def test_derivative_by_the_values_is_one_inside_the_range_and_zero_outside():
    segment_id = np.array([0, 3, -1, 6, 7, 3], np.int32)
    weight = np.random.default_rng(0).normal(size=(NUM_SEGMENTS, 2)).astype(np.float32)  # no bfloat16
    expected = np.where((segment_id >= 0) & (segment_id < 7), 1, 0)[:, None] * weight[segment_id % 7]
    for function in PATHS.values():
        gradient = jax.grad(lambda v, f=function: (f(v, segment_id, NUM_SEGMENTS) * weight).sum())(
            np.ones((6, 2), np.float32)
        )
        np.testing.assert_array_equal(gradient, expected)
