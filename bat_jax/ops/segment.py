"""Sums of rows by segment, deterministic on every device."""

import jax
import jax.numpy as jnp

from bat_jax.typing import Array, Float, Int

TOKEN_BLOCK = 4096


def segment_sum(values: Float[Array, "M C"], segment_id: Int[Array, "M"], num_segments: int) -> Float[Array, "R C"]:
    """Add the rows of each segment, in float32. Rows with an id outside [0, num_segments) are left out.

    On a CPU a scatter-add visits the rows in order. On an accelerator its order is not fixed, which would make centres
    differ between two runs of the same seed; there the sum is a one-hot matrix product, block by block.
    """
    values = values.astype(jnp.float32)
    return jax.lax.platform_dependent(
        values,
        segment_id,
        cpu=lambda v, i: _scatter_sum(v, i, num_segments),
        default=lambda v, i: _one_hot_sum(v, i, num_segments),
    )


def _scatter_sum(values, segment_id, num_segments):
    # Ids outside the range go to an extra row that is cut off: negative ids would count from the end.
    is_inside = (segment_id >= 0) & (segment_id < num_segments)
    row = jnp.where(is_inside, segment_id, num_segments)
    return jnp.zeros((num_segments + 1, values.shape[1]), jnp.float32).at[row].add(values)[:num_segments]


def _one_hot_sum(values, segment_id, num_segments):
    num_rows, width = values.shape
    block = min(TOKEN_BLOCK, num_rows)
    num_blocks = -(-num_rows // block)
    padding = num_blocks * block - num_rows
    values = jnp.pad(values, ((0, padding), (0, 0))).reshape(num_blocks, block, width)
    segment_id = jnp.pad(segment_id, (0, padding), constant_values=-1).reshape(num_blocks, block)

    def add(total, rows):
        block_values, block_id = rows
        one_hot = jax.nn.one_hot(block_id, num_segments, dtype=jnp.float32)
        return total + jnp.einsum("mr,mc->rc", one_hot, block_values, precision="highest"), None

    return jax.lax.scan(add, jnp.zeros((num_segments, width), jnp.float32), (values, segment_id))[0]
