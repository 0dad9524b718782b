"""Rows that count, moved in front of the others, so that a mask becomes a length.

Called for prompts, anchor prefixes and tiles: behind it attention is causal from slot 0 on and positions are a range.
"""

import jax.numpy as jnp

from bat_jax.typing import Array, Bool, Int


def valid_slots(valid: Bool[Array, "T"]) -> Int[Array, "T"]:
    """Return each row's place when the valid rows come first, both groups in their order: a permutation."""
    behind = jnp.sum(valid) + jnp.cumsum(~valid)
    return jnp.where(valid, jnp.cumsum(valid), behind).astype(jnp.int32) - 1


def valid_first(valid: Bool[Array, "T"]) -> Int[Array, "T"]:
    """Return the rows in the order of `valid_slots`, as a stable sort by ~valid would, without sorting."""
    rows = jnp.arange(valid.shape[0], dtype=jnp.int32)
    return jnp.zeros_like(rows).at[valid_slots(valid)].set(rows, unique_indices=True)
