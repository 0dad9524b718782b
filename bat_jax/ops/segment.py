"""Sums of rows by segment, deterministic on every device."""

import jax
import jax.numpy as jnp

from bat_jax.typing import Array, Float, Int

LARGEST_BLOCK, SMALLEST_BLOCK = 4096, 512


def row_blocks(num_rows: int) -> tuple[int, int]:
    """Return (rows at once, rows of padding) for going through many rows block by block.

    A block that divides the rows needs no padded copy of them; the paper's four scales all have one.
    """
    if num_rows <= LARGEST_BLOCK:
        return num_rows, 0
    for block in range(LARGEST_BLOCK, SMALLEST_BLOCK - 1, -1):
        if num_rows % block == 0:
            return block, 0
    return LARGEST_BLOCK, -num_rows % LARGEST_BLOCK


def segment_sum(values: Float[Array, "M C"], segment_id: Int[Array, "M"], num_segments: int) -> Float[Array, "R C"]:
    """Add the rows of each segment, in float32. Rows with an id outside [0, num_segments) are left out.

    On a CPU a scatter-add visits the rows in order. On an accelerator its order is not fixed, which would make centres
    differ between two runs of the same seed; there the sum is a one-hot matrix product, block by block.
    """
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
    total = jnp.zeros((num_segments + 1, values.shape[1]), jnp.float32)
    return total.at[row].add(values.astype(jnp.float32))[:num_segments]


def _one_hot_sum(values, segment_id, num_segments):
    num_rows, width = values.shape
    block, padding = row_blocks(num_rows)
    # A row outside may hold NaN, and 0 * NaN would spread it to every segment.
    is_inside = (segment_id >= 0) & (segment_id < num_segments)
    values = jnp.where(is_inside[:, None], values, 0)
    values = jnp.pad(values, ((0, padding), (0, 0))).reshape(-1, block, width)
    segment_id = jnp.pad(segment_id, (0, padding), constant_values=-1).reshape(-1, block)

    def add(total, rows):
        block_values, block_id = rows
        one_hot = jax.nn.one_hot(block_id, num_segments, dtype=jnp.float32)
        # Cast here, not before: a float32 copy of all bf16 tokens of a 7B model would take 1.2 GB.
        sums = jnp.einsum("mr,mc->rc", one_hot, block_values.astype(jnp.float32), precision="highest")
        return total + sums, None

    return jax.lax.scan(add, jnp.zeros((num_segments, width), jnp.float32), (values, segment_id))[0]
