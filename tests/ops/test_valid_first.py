"""Moving valid rows to the front, against a stable sort."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bat_jax.ops.valid_first import valid_first, valid_slots


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.booleans(), min_size=6, max_size=6))
def test_valid_rows_come_first_and_both_groups_keep_their_order(valid):
    valid = np.array(valid)
    order = np.asarray(valid_first(valid))
    np.testing.assert_array_equal(order, np.argsort(~valid, kind="stable"))
    np.testing.assert_array_equal(np.asarray(valid_slots(valid))[order], np.arange(valid.size))
