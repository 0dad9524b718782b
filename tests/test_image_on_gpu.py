"""What an image's programs become on a GPU that is not here, at the real sizes of the 7B model: views and K-means."""

import re

import jax
import jax.numpy as jnp

from bat_jax.compress.compressor import partition_scale
from bat_jax.config import CompressorConfig
from bat_jax.engine.absent import compile_for
from bat_jax.ops.bicubic import Taps, num_taps, view_tiles
from bat_jax.ops.token_grid import TokenGrid
from tests.absent_compiler import needs_gpu_compiler

SIDE, TILE, SCALES = 8192, 336, (672, 1344, 2688, 4032)
GRID, WIDTH, NUM_CLUSTERS = TokenGrid(12, 24), 3584, 600


def shape(*sizes, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(sizes, dtype)


@needs_gpu_compiler
def test_views_hold_no_copy_of_the_picture():
    """In int32 it would take 0.8 GB; the widest sums of one pass take 0.13."""
    taps = [Taps(shape(scale), shape(num_taps(SIDE, scale), scale), shape(scale)) for scale in SCALES]
    arguments = shape(SIDE, SIDE, 3, dtype=jnp.uint8), tuple((axis, axis) for axis in taps), shape(3)
    program = compile_for("h200", view_tiles, *arguments, static=(TILE,))
    assert program.memory_analysis().temp_size_in_bytes < 0.15e9
    # Column by column, as XLA lays a gather of columns out, neighbouring threads would read rows apart.
    assert re.search(rf"= u8\[{SIDE},4032,3\]\{{2,1,0\}} fusion", program.as_text())


@needs_gpu_compiler
def test_kmeans_of_the_largest_view_writes_no_rows():
    """Written out in float32 they would take 1.19 GB; two copies were held, 2.46 with the rest."""
    tokens = shape(GRID.num_tokens, WIDTH, dtype=jnp.bfloat16), shape(GRID.num_tokens, dtype=jnp.bool_)
    limits = shape(NUM_CLUSTERS), shape(), shape()
    program = compile_for("h200", partition_scale, *tokens, *limits, static=(CompressorConfig.release(), GRID))
    assert program.memory_analysis().temp_size_in_bytes < 0.1e9
    # One product of each kind, with the three pieces side by side.
    products = re.findall(r"= \(f32\[(\d+,\d+)\].*__cublas\$lt\$matmul", program.as_text())
    assert {"3456,1800", "1800,3584"} <= set(products)
