"""Products of bfloat16 against float64: as exact as float32, under jit, where XLA may drop casts that look idle."""

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax.ops.float32_product import bfloat16_pieces, float32_product

LENGTH = 16


def operands(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(5, LENGTH)), rng.normal(size=(LENGTH, 6))
    return jnp.asarray(first, jnp.bfloat16), jnp.asarray(second * 10.0 ** rng.integers(-6, 6, (1, 6)), jnp.float32)


def test_three_pieces_sum_to_every_bit_of_a_float32():
    values = operands(0)[1]
    pieces = jax.jit(bfloat16_pieces)(values)
    assert [piece.dtype for piece in pieces] == [jnp.bfloat16] * 3
    np.testing.assert_array_equal(sum(np.asarray(piece, np.float64) for piece in pieces), values)
    assert not np.array_equal(sum(np.asarray(piece, np.float64) for piece in pieces[:2]), values)


def test_bfloat16_is_one_piece():
    values = operands(1)[0]
    (piece,) = bfloat16_pieces(values)
    assert piece is values


def test_products_are_as_exact_as_float32s_whichever_types_meet():
    """Half a unit of float32 is 2^-24 of the sum of magnitudes, and 16 terms lose few; two pieces would lose 2^-19."""
    first, second = operands(2)
    product = jax.jit(lambda a, b: float32_product("mc,cr->mr", a, b))
    for a, b in ((first, second), (first.astype(jnp.float32), second), (first, second.astype(jnp.bfloat16))):
        wide, tall = np.asarray(a, np.float64), np.asarray(b, np.float64)
        result = product(a, b)
        assert result.dtype == jnp.float32
        error = np.abs(result - wide @ tall) / (np.abs(wide) @ np.abs(tall))
        assert error.max() < 2**-22
