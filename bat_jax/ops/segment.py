"""Sums of rows by segment, deterministic on every device."""

import functools

import jax
import jax.numpy as jnp

from bat_jax.ops.float32_product import float32_product
from bat_jax.ops.on_mesh import over_rows
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
    differ between two runs of the same seed; there the sum is a product with a one-hot matrix, block by block.
    """
    return jax.lax.platform_dependent(
        values,
        segment_id,
        cpu=lambda v, i: _scatter_sum(v, i, num_segments),
        default=lambda v, i: _one_hot_sum(v, i, num_segments),
    )


def segment_sum_of_tokens(
    values: Float[Array, "M C"], segment_id: Int[Array, "M"], num_segments: int
) -> Float[Array, "R C"]:
    """Return `segment_sum` of rows that may be shared out over a mesh of devices (`ops.on_mesh.rows_on_mesh`)."""

    def of_part(rows):
        part, part_id = rows
        return (), segment_sum(part, part_id, num_segments)

    return over_rows(of_part, (values, segment_id))[1]


def _scatter_sum(values, segment_id, num_segments):
    # Ids outside the range go to an extra row that is cut off: negative ids would count from the end.
    row = jnp.where(_is_inside(segment_id, num_segments), segment_id, num_segments)
    total = jnp.zeros((num_segments + 1, values.shape[1]), jnp.float32)
    return total.at[row].add(values.astype(jnp.float32))[:num_segments]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _one_hot_sum(values, segment_id, num_segments):
    num_rows, width = values.shape
    block, padding = row_blocks(num_rows)
    # A row outside may hold NaN, and 0 * NaN would spread it to every segment.
    values = jnp.where(_is_inside(segment_id, num_segments)[:, None], values, 0)
    values = jnp.pad(values, ((0, padding), (0, 0))).reshape(-1, block, width)
    segment_id = jnp.pad(segment_id, (0, padding), constant_values=-1).reshape(-1, block)

    def add(total, rows):
        block_values, block_id = rows
        one_hot = jax.nn.one_hot(block_id, num_segments, dtype=jnp.bfloat16)
        return total + float32_product("mr,mc->rc", one_hot, block_values), None

    return jax.lax.scan(add, jnp.zeros((num_segments, width), jnp.float32), (values, segment_id))[0]


def _one_hot_sum_forward(values, segment_id, num_segments):
    # An empty array carries the values' type, which the gradient must have.
    return _one_hot_sum(values, segment_id, num_segments), (segment_id, jnp.zeros((0,), values.dtype))


def _one_hot_sum_backward(num_segments, saved, gradient):
    """Give each row its segment's gradient: through the products' pieces it would be rounded to bfloat16."""
    segment_id, like = saved
    rows = jnp.where(_is_inside(segment_id, num_segments)[:, None], gradient.at[segment_id].get(mode="clip"), 0)
    return rows.astype(like.dtype), None


_one_hot_sum.defvjp(_one_hot_sum_forward, _one_hot_sum_backward)


def _is_inside(segment_id, num_segments):
    return (segment_id >= 0) & (segment_id < num_segments)
