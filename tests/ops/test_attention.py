"""Attention against a NumPy twin of loops over heads, queries and slots."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.ops import attention

BATCH, QUERIES, SLOTS, HEADS, KV_HEADS, HEAD_DIM = 2, 7, 11, 4, 2, 8
# One program a shape takes a fraction of the time of its operations one by one.
causal_attention = jax.jit(attention.causal_attention, static_argnames="block")
weighted_attention_row = jax.jit(attention.weighted_attention_row, static_argnames="is_one_row")
full_attention = jax.jit(attention.full_attention)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def case(seed, num_queries=QUERIES, num_slots=SLOTS):
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(BATCH, num_queries, HEADS, HEAD_DIM)).astype(np.float32)
    key = rng.normal(size=(BATCH, num_slots, KV_HEADS, HEAD_DIM)).astype(np.float32)
    value = rng.normal(size=(BATCH, num_slots, KV_HEADS, HEAD_DIM)).astype(np.float32)
    start = rng.permutation(num_slots - num_queries + 1)[:BATCH].astype(np.int32)
    return query, key, value, start


def twin_weights(query, key, start):
    """Return (B, N, T, S) softmax rows in float64; query head n reads kv head n // (N / K)."""
    weights = np.zeros((BATCH, HEADS, query.shape[1], key.shape[1]))
    for b in range(BATCH):
        for n in range(HEADS):
            for t in range(query.shape[1]):
                seen = range(start[b] + t + 1)
                scores = [
                    np.dot(query[b, t, n].astype(np.float64), key[b, s, n // (HEADS // KV_HEADS)]) / np.sqrt(HEAD_DIM)
                    for s in seen
                ]
                row = np.exp(np.array(scores) - max(scores))
                weights[b, n, t, seen] = row / row.sum()
    return weights


def twin_attention(query, key, value, start):
    weights = twin_weights(query, key, start)
    return np.einsum("bnts,bsnh->btnh", weights, np.repeat(value, HEADS // KV_HEADS, axis=2).astype(np.float64))


@pytest.mark.parametrize("seed", range(4))
def test_causal_attention_equals_the_twin(seed):
    arrays = case(seed)
    np.testing.assert_allclose(causal_attention(*arrays), twin_attention(*arrays), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix_length", [0, 1, 4, 5])
def test_rows_behind_a_prefix_that_sequences_share_attend_as_if_each_had_a_copy(prefix_length):
    query, key, value, _ = case(prefix_length, num_slots=QUERIES)
    _, prefix_key, prefix_value, _ = case(9, num_queries=1, num_slots=5)
    prefix = (prefix_key[:1], prefix_value[:1])
    row_weight = np.random.default_rng(3).random((BATCH, QUERIES)).astype(np.float32)
    both = [
        np.concatenate([np.repeat(old[:, :prefix_length], BATCH, axis=0), new], axis=1)
        for old, new in zip(prefix, (key, value), strict=True)
    ]
    start = np.full(BATCH, prefix_length)
    behind = jax.jit(attention.attention_behind, static_argnames="is_one_row")
    for weights, is_one_row in ((row_weight, False), (np.eye(QUERIES, dtype=np.float32)[[2, 6]], True)):
        length = np.full(1, prefix_length)
        mixed, row = behind(prefix, length, query, key, value, weights, is_one_row=is_one_row)
        np.testing.assert_allclose(mixed, twin_attention(query, *both, start), rtol=1e-5, atol=1e-6)
        twin = np.einsum("bnts,bt->bs", twin_weights(query, both[0], start), weights) / HEADS
        of_copy = np.concatenate([row[:, :prefix_length], row[:, 5:]], axis=1)
        np.testing.assert_allclose(of_copy, twin, rtol=1e-5, atol=1e-6)
        assert not np.any(row[:, prefix_length:5])
    assert behind(prefix, length, query, key, value)[1] is None


def test_rows_behind_a_shared_prefix_have_the_gradient_of_rows_behind_copies():
    query, key, value, _ = case(1, num_slots=QUERIES)
    _, prefix_key, prefix_value, _ = case(9, num_queries=1, num_slots=5)
    weights = np.random.default_rng(3).random((BATCH, QUERIES)).astype(np.float32)

    def total(mixed, row):
        return jnp.sum(jnp.sin(mixed)) + jnp.sum(row**2)

    def shared(prefix, query, new):
        return total(*attention.attention_behind(prefix, np.array([5]), query, *new, weights))

    def copied(prefix, query, new):
        pairs = zip(prefix, new, strict=True)
        key, value = (jnp.concatenate([jnp.repeat(old, BATCH, axis=0), own], axis=1) for old, own in pairs)
        start = np.full(BATCH, 5)
        return total(causal_attention(query, key, value, start), weighted_attention_row(query, key, start, weights))

    arguments = (prefix_key[:1], prefix_value[:1]), query, (key, value)
    found, expected = (jax.jit(jax.grad(function, argnums=(0, 1, 2)))(*arguments) for function in (shared, copied))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [1, 2, 3, 6, 7, 8])
def test_blocks_of_queries_change_nothing(block):
    arrays = case(seed=5)
    blocked = causal_attention(*arrays, block=block)
    np.testing.assert_allclose(blocked, causal_attention(*arrays), rtol=1e-6, atol=1e-7)


def test_the_blocked_path_has_the_same_gradient():
    query, key, value, start = case(seed=6)

    def loss(query, key, value, block):
        return jnp.sum(causal_attention(query, key, value, start, block) ** 2)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnums=3)
    whole, blocked = gradient(query, key, value, 100), gradient(query, key, value, 3)
    for first, second in zip(whole, blocked, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_queries", [1, 127, 128, 133])
def test_a_sequence_from_slot_0_on_equals_the_twin(num_queries):
    """In spans from 128 queries on; two free slots behind."""
    *arrays, _ = case(seed=11, num_queries=num_queries, num_slots=num_queries + 2)
    expected = twin_attention(*arrays, np.zeros(BATCH, int))
    np.testing.assert_allclose(causal_attention(*arrays), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(causal_attention(*arrays, block=15), expected, rtol=1e-5, atol=1e-6)


def test_spans_have_the_same_gradient_and_read_no_key_behind_their_end():
    query, key, value, _ = case(seed=12, num_queries=160, num_slots=161)

    def loss(query, key, value, start, block):
        return jnp.sum(causal_attention(query, key, value, start, block) ** 2)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnums=4)
    whole = gradient(query, key, value, jnp.zeros(BATCH, jnp.int32), 160)
    for block in (159, 20):
        for first, second in zip(whole, gradient(query, key, value, None, block), strict=True):
            np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)
    value[:, 120:] = np.nan  # of no weight, which NaN survives
    assert np.isfinite(causal_attention(query, key, value)[:, :120]).all()
    assert np.isnan(causal_attention(query, key, value, np.zeros(BATCH, np.int32))).all()


def test_sequences_that_go_together_take_the_memory_of_one():
    """Scores of both would stand side by side."""

    def temporary_bytes(batch):
        arrays = (jax.ShapeDtypeStruct((batch, 320, heads, HEAD_DIM), jnp.float32) for heads in (HEADS, 2, 2))
        return causal_attention.lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(1) > 4 * HEADS * 320**2 / 2 and temporary_bytes(3) < 1.5 * temporary_bytes(1)


def test_a_cpu_divides_what_is_summed_and_not_each_weight():
    """Of a row of S weights the H numbers that it mixes, or the row's own weight in an importance."""
    query, key = (jax.ShapeDtypeStruct((1, 64, heads, HEAD_DIM), jnp.float32) for heads in (HEADS, KV_HEADS))
    mixed, num_rows = 64 * HEADS * HEAD_DIM, 64 * HEADS
    row_weight = jax.ShapeDtypeStruct((1, 64), jnp.float32)
    cases = (
        (causal_attention, (query, key, key), mixed),
        (full_attention, (query, query, query), mixed),
        (weighted_attention_row, (query, key, None, row_weight), num_rows),
    )
    for function, arrays, size in cases:
        quotients = re.findall(r"stablehlo.divide .*: tensor<([\dx]+)xf32>", function.lower(*arrays).as_text())
        assert [math.prod(map(int, sizes.split("x"))) for sizes in quotients] == [size]


def test_later_slots_are_never_attended_to():
    """What a longer sequence, or padding, left in them does not matter."""
    query, key, value, start = case(seed=7)
    is_later = np.arange(SLOTS) > start[:, None] + QUERIES - 1
    assert is_later.any()
    other_key = np.where(is_later[..., None, None], 1e4, key).astype(np.float32)
    other_value = np.where(is_later[..., None, None], 1e4, value).astype(np.float32)
    first = causal_attention(query, key, value, start)
    second = causal_attention(query, other_key, other_value, start)
    np.testing.assert_array_equal(first, second)
    row = weighted_attention_row(query, other_key, start, np.ones((BATCH, QUERIES), np.float32))
    np.testing.assert_array_equal(np.asarray(row)[is_later], 0)


def test_a_query_sees_its_own_slot_and_no_later_one():
    """One head, all keys alike: each query's output is the mean of the values up to its slot."""
    value = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1) * np.ones((1, 1, 1, 2), np.float32)
    zeros = np.zeros((1, 4, 1, 2), np.float32)
    mixed = causal_attention(zeros[:, :3], zeros, value, np.ones(1, np.int32))
    np.testing.assert_allclose(mixed[0, :, 0, 0], [0.5, 1, 1.5], rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_weighted_row_is_the_mean_over_heads_and_chosen_rows(seed):
    query, key, _, start = case(seed + 20)
    weights = twin_weights(query, key, start)
    for chosen in ([QUERIES - 1], [2, 3, 4], list(range(QUERIES))):
        row_weight = np.zeros((BATCH, QUERIES), np.float32)
        row_weight[:, chosen] = 1 / len(chosen)
        got = weighted_attention_row(query, key, start, row_weight)
        np.testing.assert_allclose(got, weights.mean(axis=1)[:, chosen].mean(axis=1), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-5)
    from_slot_0 = weighted_attention_row(query, key, None, row_weight)
    stated = weighted_attention_row(query, key, np.zeros(BATCH, np.int32), row_weight)
    np.testing.assert_array_equal(from_slot_0, stated)


@pytest.mark.parametrize("chosen", [0, 3, QUERIES - 1])
def test_one_row_alone_is_the_same_row_without_the_scores_of_the_others(chosen):
    """Sequences differ in their row; a weight of 0 everywhere, as a record without an image has, gives 0."""
    query, key, _, start = case(seed=30 + chosen)
    row_weight = np.zeros((BATCH, QUERIES), np.float32)
    row_weight[0, chosen], row_weight[1, QUERIES // 2] = 1, 1
    for first in (start, None):
        whole = weighted_attention_row(query, key, first, row_weight)
        alone = weighted_attention_row(query, key, first, row_weight, is_one_row=True)
        np.testing.assert_allclose(alone, whole, rtol=1e-6, atol=1e-9)
    nothing = weighted_attention_row(query, key, start, np.zeros_like(row_weight), is_one_row=True)
    np.testing.assert_array_equal(nothing, 0)


def test_importance_rows_are_float32_for_bfloat16_queries():
    query, key, _, start = (jnp.asarray(array) for array in case(seed=9))
    row_weight = jnp.full((BATCH, QUERIES), 1 / QUERIES)
    row = weighted_attention_row(query.astype(jnp.bfloat16), key.astype(jnp.bfloat16), start, row_weight)
    assert row.dtype == jnp.float32
    # A row rounded to bfloat16 would sum to 1 only within 2^-8.
    np.testing.assert_allclose(row.sum(axis=1), 1, rtol=1e-6)


def test_full_attention_equals_the_twin_without_any_mask():
    rng = np.random.default_rng(10)
    query, key, value = (rng.normal(size=(BATCH, 6, 3, HEAD_DIM)).astype(np.float32) for _ in range(3))
    scores = np.einsum("btnh,bsnh->bnts", query, key).astype(np.float64) / np.sqrt(HEAD_DIM)
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    expected = np.einsum("bnts,bsnh->btnh", weights, value)
    np.testing.assert_allclose(full_attention(query, key, value), expected, rtol=1e-5, atol=1e-6)
