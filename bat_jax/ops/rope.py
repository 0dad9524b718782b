"""Rotary position embedding in the half-split layout of Qwen2."""

import jax.numpy as jnp

from bat_jax.typing import Array, Float, Int


def apply_rope(x: Float[Array, "B T N H"], position: Int[Array, "B T"], theta: float) -> Float[Array, "B T N H"]:
    """Rotate the pairs (x_i, x_{i+H/2}) by position * theta^(-2i/H).

    Angles, sines and cosines are float32: bfloat16 cannot tell position 257 from 256.
    """
    half = x.shape[-1] // 2
    frequency = theta ** -(jnp.arange(half, dtype=jnp.float32) / half)
    angle = position[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)
