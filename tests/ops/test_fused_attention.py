"""Kernels that never write the scores, in interpret mode, against the plain form."""

import jax
import numpy as np
import pytest

from bat_jax.ops.attention import causal_attention, full_attention
from bat_jax.ops.fused_attention import fused_attention


def arrays(length, num_heads, num_kv_heads, head_dim):
    keys = jax.random.split(jax.random.key(length), 3)
    heads = (num_heads, num_kv_heads, num_kv_heads)
    return [jax.random.normal(k, (1, length, n, head_dim)) for k, n in zip(keys, heads, strict=True)]


def test_the_triton_kernel_is_causal_attention_with_shared_key_heads():
    """With the heads of LongVA-7B."""
    query, key, value = arrays(145, 28, 4, 128)
    mixed = fused_attention("pallas", query, key, value, is_causal=True, interpret=True)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(mixed, causal_attention(query, key, value), rtol=2e-3, atol=2e-3)


def test_the_triton_kernel_is_attention_of_a_tile_whatever_its_length():
    """The tower's 577 rows are no multiple of a block: what pads them has no weight."""
    query, key, value = arrays(145, 2, 2, 64)
    mixed = fused_attention("pallas", query, key, value, is_causal=False, interpret=True)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(mixed, full_attention(query, key, value), rtol=2e-3, atol=2e-3)


def test_an_unknown_kernel_is_named():
    with pytest.raises(ValueError, match="attention='fast': known are plain, cudnn, pallas"):
        fused_attention("fast", *arrays(4, 1, 1, 8), is_causal=True)
