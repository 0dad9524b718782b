"""The order of rows against NumPy's lexsort."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bat_jax.ops.order_by import by_all_at_once, by_one_after_the_other, order_by

VALUES = np.float32([-np.inf, -2.5, -1e-37, -0.0, 0.0, 1e-37, 1.0, np.nextafter(np.float32(1), 2), 3.5, np.inf])


@pytest.mark.parametrize("form", [order_by, by_all_at_once, by_one_after_the_other])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_values=st.integers(1, VALUES.size))
def test_rows_come_by_the_first_key_then_the_next_and_ties_as_they_stood(form, seed, num_values):
    draw = np.random.default_rng(seed)
    first, last = (draw.choice(VALUES[:num_values], 50) for _ in range(2))
    middle = draw.integers(-2, 3, 50, dtype=np.int32) * np.int32(2**30 - 1)
    expected = np.lexsort((last, middle, first))
    np.testing.assert_array_equal(jax.jit(form)(first, middle, last), expected)
