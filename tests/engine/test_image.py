"""What an image's program does otherwise on another device comes to the same."""

import numpy as np

from bat_jax.config import VisionConfig
from bat_jax.io.views import normalisation_table
from bat_jax.model import normalised, sum_of_level


def test_a_tpus_sum_over_levels_gives_the_tables_values_to_the_last_bit():
    table = normalisation_table(VisionConfig())
    levels = np.stack([np.arange(256, dtype=np.uint8)] * 3, axis=-1)
    tiles = np.concatenate([levels, levels[::-1]]).reshape(2, 16, 16, 3)
    by_hand = np.stack([np.asarray(table)[tiles[..., channel], channel] for channel in range(3)], axis=-1)
    np.testing.assert_array_equal(sum_of_level(table, tiles), by_hand)
    np.testing.assert_array_equal(normalised(table, tiles), by_hand)
