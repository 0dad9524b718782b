"""Grouped-query causal attention over slots, and the weighted attention row that importance reads.

A sequence lives in slots 0, 1, ... of a fixed-size key-value cache, its valid rows in front. New rows stand in the
slots `start`, `start` + 1, ...; each sees its own slot and those before it. So nothing has to be masked in the middle:
what padding left behind the valid rows stands in later slots, until it is written over.

      keys ->  0 1 2 3 4        1 = attends; queries stand in slots 2, 3, 4
   slot 2      1 1 1 0 0
   slot 3      1 1 1 1 0
   slot 4      1 1 1 1 1

Several sequences may go on behind one prefix that they only read (`attention_behind`): its slots stand in front of
those of each sequence and are not copied for it.

Called by `nn/decoder.py`; the vision tower has no order and calls `full_attention`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from bat_jax.typing import Array, Bool, Float, Int

# Most queries handled at once: scores are (B, N, block, S) in float32, 0.7 GB for 28 heads and 12,000 keys.
QUERY_BLOCK = 512
# A sequence from slot 0 on is cut into so many spans, each of which reads no key behind its end: 5/8 of all pairs. More
# spans come nearer to half but are compiled one by one.
NUM_SPANS = 4
_FEWEST_QUERIES = 128  # to cut; below, a span's matrix products are too small to gain
_MASKED = -1e30


def full_attention(
    query: Float[Array, "B T N H"], key: Float[Array, "B S N H"], value: Float[Array, "B S N H"]
) -> Float[Array, "B T N H"]:
    """Attend from every query to every key: softmax(q k / sqrt(H)) v, softmax in float32."""
    weights, total = _softmax_parts(_products(query, key), query.shape[-1])
    return _by_rows(_mixed(weights, value) / total, value.dtype)


def _causal_parts(
    query: Float[Array, "B T N H"], key: Float[Array, "B S K H"], query_slot: Int[Array, "B T"]
) -> tuple[Float[Array, "B K G T S"], Float[Array, "B K G T 1"]]:
    """Return `_softmax_parts` of each query over the slots up to its own; G query heads share a kv head."""
    is_seen = jnp.arange(key.shape[1]) <= query_slot[..., None]
    return _softmax_parts(_products(query, key) + _bias(is_seen), query.shape[-1])


def _softmax_parts(
    products: Float[Array, "B K G T S"], head_dim: int
) -> tuple[Float[Array, "B K G T S"], Float[Array, "B K G T 1"]]:
    """Return softmax(products / sqrt(H)) as weights and what they, or their sums, have yet to be divided by.

    Both are float32: bfloat16 would round small importances away. On a CPU sums are divided and not each weight, and to
    scale takes no pass of its own; for a GPU, XLA makes one kernel of the whole softmax.
    """

    def divide_later(products):
        largest = jax.lax.stop_gradient(jnp.max(products, axis=-1, keepdims=True))
        # Else XLA computes them twice: for their sum and for what is weighted by them.
        exponential = jax.lax.optimization_barrier(jnp.exp((products - largest) * head_dim**-0.5))
        return exponential, jnp.sum(exponential, axis=-1, keepdims=True)

    def divide(products):
        return jax.nn.softmax(products * head_dim**-0.5, axis=-1), jnp.ones_like(products[..., :1])

    return jax.lax.platform_dependent(products, cpu=divide_later, default=divide)


def _products(query: Float[Array, "B T N H"], key: Float[Array, "B S K H"]) -> Float[Array, "B K G T S"]:
    """Return q k in float32."""
    batch, length, _, head_dim = query.shape
    num_slots, num_kv_heads = key.shape[1:3]
    # One matrix product a kv head, in the order that needs no transposes inside: on a CPU about twice as fast as an
    # einsum over the arrays as they come.
    grouped = query.reshape(batch, length, num_kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4)
    rows = grouped.reshape(batch, num_kv_heads, -1, head_dim)
    products = jnp.matmul(rows, key.transpose(0, 2, 3, 1), preferred_element_type=jnp.float32)
    return products.reshape(batch, num_kv_heads, -1, length, num_slots)


def _bias(is_seen: Bool[Array, "B T S"]) -> Float[Array, "B 1 1 T S"]:
    return jnp.where(is_seen, 0.0, _MASKED)[:, None, None]


def _mixed(weights: Float[Array, "B K G T S"], value: Float[Array, "B S K H"]) -> Float[Array, "B K G T H"]:
    """Return the weighted sums of the values, float32."""
    batch, num_kv_heads, num_groups, length, num_slots = weights.shape
    rows = weights.astype(value.dtype).reshape(batch, num_kv_heads, num_groups * length, num_slots)
    mixed = jnp.matmul(rows, value.transpose(0, 2, 1, 3), preferred_element_type=jnp.float32)
    return mixed.reshape(batch, num_kv_heads, num_groups, length, -1)


def _by_rows(mixed: Float[Array, "B K G T H"], dtype: Any) -> Float[Array, "B T N H"]:
    batch, num_kv_heads, num_groups, length, head_dim = mixed.shape
    mixed = mixed.astype(dtype).transpose(0, 3, 1, 2, 4)
    return mixed.reshape(batch, length, num_kv_heads * num_groups, head_dim)


def _spans(num_queries: int) -> tuple[tuple[int, int], ...]:
    """Return (start, stop) of the spans that queries in slots 0..T-1 are cut into."""
    length = -(-num_queries // NUM_SPANS) if num_queries >= _FEWEST_QUERIES else max(num_queries, 1)
    return tuple((start, min(start + length, num_queries)) for start in range(0, num_queries, length))


def _even_blocks(num_queries: int, block: int) -> tuple[int, int]:
    """Return (number, queries in each) of the fewest blocks of at most `block` queries."""
    number = -(-num_queries // block)
    return number, -(-num_queries // number)


def _query_slots(query: Float[Array, "B T N H"], start: Int[Array, "B"] | None) -> Int[Array, "B T"]:
    first = jnp.zeros(query.shape[0], jnp.int32) if start is None else start
    return first[:, None] + jnp.arange(query.shape[1])


def num_scored_pairs(num_queries: int, num_slots: int | None) -> int:
    """Return how many pairs of query and key `causal_attention` computes; num_slots: None for one from slot 0 on."""
    parts = _spans(num_queries) if num_slots is None else ((0, num_queries),)
    number_and_size = (_even_blocks(stop - start, QUERY_BLOCK) for start, stop in parts)
    seen = (stop if num_slots is None else num_slots for _, stop in parts)
    return sum(number * size * slots for (number, size), slots in zip(number_and_size, seen, strict=True))


def _attend(query, key, value, query_slot):
    """Attend from all queries at once."""
    weights, total = _causal_parts(query, key, query_slot)
    return _by_rows(_mixed(weights, value) / total, value.dtype)


def causal_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    start: Int[Array, "B"] | None = None,
    block: int = QUERY_BLOCK,
) -> Float[Array, "B T N H"]:
    """Attend from the queries in slots `start` + 0..T-1 to all keys in the same or an earlier slot.

    Long query sequences go block by block, so that memory grows with T and not with T * S.

    Args:
      query: rotated queries. key, value: rotated keys and values of all S slots.
      start: slot of each sequence's first query; None if query t stands in slot t, which is then known while compiling,
        so that keys behind a span of queries are not read (`num_scored_pairs`).
      block: most queries at once.
    """
    if query.shape[0] > 1 and query.shape[1] >= _FEWEST_QUERIES:
        # One sequence's scores after the other: less memory, and on a CPU they stay in its caches.
        def of_one(sequence):
            query, key, value, start = jax.tree.map(lambda array: array[None], sequence)
            return causal_attention(query, key, value, start, block)[0]

        return jax.lax.map(of_one, (query, key, value, start))
    # Recomputing a block in the backward pass keeps training memory at one block, too.
    attend = jax.checkpoint(_attend) if query.shape[1] > block else _attend

    def attend_in_blocks(query, key, value, query_slot):
        num_queries = query.shape[1]
        number, size = _even_blocks(num_queries, block)
        if number == 1:
            return attend(query, key, value, query_slot)
        padding = number * size - num_queries
        query = jnp.pad(query, ((0, 0), (0, padding), (0, 0), (0, 0)))
        query = query.reshape(query.shape[0], number, size, *query.shape[2:]).swapaxes(0, 1)
        slots = jnp.pad(query_slot, ((0, 0), (0, padding)), mode="edge")
        slots = slots.reshape(slots.shape[0], number, size).swapaxes(0, 1)
        mixed = jax.lax.map(lambda part: attend(part[0], key, value, part[1]), (query, slots))
        mixed = mixed.swapaxes(0, 1).reshape(mixed.shape[1], number * size, *mixed.shape[3:])
        return mixed[:, :num_queries]

    slots = _query_slots(query, start)
    if start is not None:
        return attend_in_blocks(query, key, value, slots)
    spans = [
        attend_in_blocks(query[:, first:stop], key[:, :stop], value[:, :stop], slots[:, first:stop])
        for first, stop in _spans(query.shape[1])
    ]
    return jnp.concatenate(spans, axis=1)


def weighted_attention_row(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    start: Int[Array, "B"] | None,
    row_weight: Float[Array, "B T"],
    *,
    is_one_row: bool = False,
) -> Float[Array, "B S"]:
    """Return sum_t row_weight_t * mean over heads of the softmax row of query t, in float32.

    UHR-BAT (arXiv:2604.13565), Sec. 3.2, Eq. 2 with weights 1/M on the query's text tokens; the authors' release puts
    weight 1 on the last text token. The softmax runs over the whole sequence and is not renormalised over image tokens.

    Args:
      start: as in `causal_attention`.
      is_one_row: no sequence has more than one row of weight; scores of the others are not computed.
    """
    query_slot = _query_slots(query, start)
    if is_one_row:
        query, query_slot, row_weight = _row_of_weight(row_weight, query, query_slot)
    return _summed(*_causal_parts(query, key, query_slot), row_weight)


def _row_of_weight(row_weight: Float[Array, "B T"], query: Float[Array, "B T N H"], query_slot: Int[Array, "B T"]):
    """Return query, slot and weight of the row with the most weight in each sequence."""
    row = jnp.argmax(row_weight, axis=1)[:, None]
    query = jnp.take_along_axis(query, row[..., None, None], axis=1)
    return query, *(jnp.take_along_axis(x, row, axis=1) for x in (query_slot, row_weight))


def _summed(
    weights: Float[Array, "B K G T S"], total: Float[Array, "B K G T 1"], row_weight: Float[Array, "B T"]
) -> Float[Array, "B S"]:
    """Return the sum of the rows by `row_weight`, mean over heads."""
    batch, num_kv_heads, num_groups, _, num_slots = weights.shape
    share = row_weight.astype(jnp.float32)[:, None, None, :, None] / (total * (num_kv_heads * num_groups))
    # As one matrix product, on a CPU up to four times as fast as an einsum over the axes as they are.
    return jnp.matmul(share.reshape(batch, 1, -1), weights.reshape(batch, -1, num_slots))[:, 0]


def attention_behind(
    prefix: tuple[Float[Array, "1 S K H"], Float[Array, "1 S K H"]],
    prefix_length: Int[Array, "1"],
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    row_weight: Float[Array, "B T"] | None = None,
    *,
    is_one_row: bool = False,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B S+T"] | None]:
    """Attend from the rows of B sequences to a prefix that all share, and to their own rows, causally.

    The prefix is read where it stands: nothing is written behind it, and sequences get no copies of it.

    Args:
      prefix: rotated keys, and values, of S slots; prefix_length: how many of them hold a token, the first ones.
      query, key, value: rotated, of the T new rows.
      row_weight, is_one_row: as in `weighted_attention_row`.

    Returns:
      What the rows take in, and the weighted row over the prefix's slots and then the new rows (None without weights).
    """
    prefix_key, prefix_value = prefix
    num_slots = prefix_key.shape[1]
    in_prefix = _bias((jnp.arange(num_slots) < prefix_length[:, None])[:, None])

    def parts(query, query_slot):
        # The sequences' queries are more rows against one sequence's keys.
        batch, length = query.shape[:2]
        rows = _products(query.reshape(1, batch * length, *query.shape[2:]), prefix_key) + in_prefix
        rows = jnp.moveaxis(rows.reshape(*rows.shape[1:3], batch, length, num_slots), 2, 0)
        own = _products(query, key) + _bias(jnp.arange(key.shape[1]) <= query_slot[..., None])
        return _softmax_parts(jnp.concatenate([rows, own], axis=-1), query.shape[-1])

    query_slot = _query_slots(query, None)
    both, total = parts(query, query_slot)
    of_prefix = jnp.moveaxis(both[..., :num_slots], 0, 2)  # (K, G, B, T, S)
    of_prefix = of_prefix.reshape(1, *of_prefix.shape[:2], -1, num_slots)
    from_prefix = _mixed(of_prefix, prefix_value).reshape(*total.shape[1:3], *query.shape[:2], -1)
    mixed = (jnp.moveaxis(from_prefix, 2, 0) + _mixed(both[..., num_slots:], value)) / total
    mixed = _by_rows(mixed, value.dtype)
    if row_weight is None:
        return mixed, None
    if is_one_row:
        query, query_slot, row_weight = _row_of_weight(row_weight, query, query_slot)
        both, total = parts(query, query_slot)
    return mixed, _summed(both, total, row_weight)
