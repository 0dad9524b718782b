"""Rotary embedding against complex multiplication in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.ops.rope import apply_rope

HEAD_DIM = 16


def twin(x, position, theta):
    """Rotate (x_i, x_{i + H/2}) as a complex number by exp(i * position * theta^(-2i/H))."""
    half = x.shape[-1] // 2
    pairs = x[..., :half].astype(np.float64) + 1j * x[..., half:]
    angle = position[..., None, None] * theta ** (-2.0 * np.arange(half) / x.shape[-1])
    turned = pairs * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def case(seed=0, length=9):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, length, 3, HEAD_DIM)).astype(np.float32)


@pytest.mark.parametrize("theta", [1e4, 1e6, 1e9])
def test_rotation_equals_complex_multiplication(theta):
    x = case()
    position = np.random.default_rng(1).integers(0, 60, x.shape[:2]).astype(np.int32)
    np.testing.assert_allclose(apply_rope(x, position, theta), twin(x, position, theta), atol=3e-5)


def test_position_zero_is_the_identity_and_lengths_never_change():
    x = case()
    np.testing.assert_array_equal(apply_rope(x, np.zeros((2, 9), np.int32), 1e6), x)
    turned = np.asarray(apply_rope(x, np.full((2, 9), 5000, np.int32), 1e6))
    half = HEAD_DIM // 2
    np.testing.assert_allclose(
        turned[..., :half] ** 2 + turned[..., half:] ** 2, x[..., :half] ** 2 + x[..., half:] ** 2, rtol=1e-5, atol=1e-6
    )


def test_products_depend_on_the_distance_alone():
    query, key = case(2, length=1), case(3, length=1)
    products = []
    for start in (0, 7, 100):
        at = [np.full((2, 1), start + shift, np.int32) for shift in (0, 11)]
        products.append(np.sum(apply_rope(query, at[0], 1e4) * apply_rope(key, at[1], 1e4), axis=-1))
    np.testing.assert_allclose(products[1], products[0], atol=2e-4)
    np.testing.assert_allclose(products[2], products[0], atol=2e-4)


def test_bfloat16_inputs_are_turned_with_float32_angles():
    """As bfloat16 numbers the positions 256 and 257 are the same; the first pair turns by one radian between them."""
    x = jnp.zeros((1, 2, 1, HEAD_DIM), jnp.bfloat16).at[..., 0].set(1)
    turned = apply_rope(x, np.array([[256, 257]], np.int32), 1e6)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_allclose(turned[0, :, 0, 0].astype(np.float32), np.cos([256, 257]), atol=2**-8)
