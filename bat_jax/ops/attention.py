"""Grouped-query causal attention over slots with a validity mask, and the weighted attention row that importance reads.

A sequence lives in slots 0..S-1 of a fixed-size key-value cache. A slot may be empty (a budget row without a token,
padding of the prompt): `key_valid` is False there and no query sees it. Causality goes by slot.

      keys ->  0 1 2 3 4        1 = attends; slot 2 is empty, queries stand in slots 2, 3, 4
   slot 2      1 1 0 0 0
   slot 3      1 1 0 1 0
   slot 4      1 1 0 1 1

Called by `nn/qwen2.py`; the vision tower has no mask and calls `full_attention`.
"""

import jax
import jax.numpy as jnp

from bat_jax.typing import Array, Bool, Float, Int

# Queries handled at once: scores are (B, N, block, S) in float32, 0.7 GB for 28 heads and 12,000 keys.
QUERY_BLOCK = 512
_MASKED = -1e30  # finite, so that a row whose every key is masked gives a uniform row and not NaN


def full_attention(
    query: Float[Array, "B T N H"], key: Float[Array, "B S N H"], value: Float[Array, "B S N H"]
) -> Float[Array, "B T N H"]:
    """Attend from every query to every key: softmax(q k / sqrt(H)) v, softmax in float32."""
    scores = jnp.einsum("BTNH,BSNH->BNTS", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1)
    return jnp.einsum("BNTS,BSNH->BTNH", weights.astype(value.dtype), value)


def _attention_weights(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    key_valid: Bool[Array, "B S"],
    query_slot: Int[Array, "T"],
) -> Float[Array, "B K G T S"]:
    """Return the softmax rows in float32 (bf16 would round small importances away); G query heads share a kv head."""
    batch, length, _, head_dim = query.shape
    num_slots, num_kv_heads = key.shape[1:3]
    # One matrix product a kv head, in the order that needs no transposes inside: on a CPU about twice as fast as an
    # einsum over the arrays as they come.
    grouped = query.reshape(batch, length, num_kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4)
    rows = grouped.reshape(batch, num_kv_heads, -1, head_dim)
    scores = jnp.matmul(rows, key.transpose(0, 2, 3, 1), preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, num_kv_heads, -1, length, num_slots)
    mask = (jnp.arange(num_slots) <= query_slot[:, None]) & key_valid[:, None, :]
    bias = jnp.where(mask, 0.0, _MASKED)[:, None, None]
    return jax.nn.softmax(scores * head_dim**-0.5 + bias, axis=-1)


def causal_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    key_valid: Bool[Array, "B S"],
    query_slot: Int[Array, "T"],
    block: int = QUERY_BLOCK,
) -> Float[Array, "B T N H"]:
    """Attend from queries in slots `query_slot` to all valid keys in the same or an earlier slot.

    Long query sequences go block by block, so that memory grows with T and not with T * S.

    Args:
      query: rotated queries. key, value: rotated keys and values of all S slots. key_valid: False for empty slots.
      query_slot: the slot of each query.
      block: queries at once.
    """

    def attend(queries, slots):
        weights = _attention_weights(queries, key, key_valid, slots).astype(value.dtype)
        batch, num_kv_heads, num_groups, length, num_slots = weights.shape
        rows = weights.reshape(batch, num_kv_heads, num_groups * length, num_slots)
        mixed = jnp.matmul(rows, value.transpose(0, 2, 1, 3))
        mixed = mixed.reshape(batch, num_kv_heads, num_groups, length, -1).transpose(0, 3, 1, 2, 4)
        return mixed.reshape(queries.shape)

    num_queries = query.shape[1]
    if num_queries <= block:
        return attend(query, query_slot)
    num_blocks = -(-num_queries // block)
    padding = num_blocks * block - num_queries
    query = jnp.pad(query, ((0, 0), (0, padding), (0, 0), (0, 0)))
    query = query.reshape(query.shape[0], num_blocks, block, *query.shape[2:]).swapaxes(0, 1)
    slots = jnp.pad(query_slot, (0, padding), mode="edge").reshape(num_blocks, block)
    # Recomputing a block in the backward pass keeps training memory at one block, too.
    mixed = jax.lax.map(jax.checkpoint(lambda args: attend(*args)), (query, slots))
    mixed = mixed.swapaxes(0, 1).reshape(mixed.shape[1], num_blocks * block, *mixed.shape[3:])
    return mixed[:, :num_queries]


def weighted_attention_row(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    key_valid: Bool[Array, "B S"],
    query_slot: Int[Array, "T"],
    row_weight: Float[Array, "B T"],
) -> Float[Array, "B S"]:
    """Return sum_t row_weight_t * mean over heads of the softmax row of query t, in float32.

    UHR-BAT (arXiv:2604.13565), Sec. 3.2, Eq. 2 with weights 1/M on the query's text tokens; the authors' release puts
    weight 1 on the last text token. The softmax runs over the whole sequence and is not renormalised over image tokens.
    """
    weights = _attention_weights(query, key, key_valid, query_slot)
    return jnp.einsum("BKGTS,BT->BS", weights, row_weight.astype(jnp.float32)) / query.shape[2]
