"""The sampling rule on hand-made logits, and the decoding loop on a tiny random model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import model
from bat_jax.config import BatConfig, CompressorConfig, DecoderConfig, ScaleSpec, VisionConfig
from bat_jax.engine.generate import generate, sample_token

VOCAB, PROMPT, NEW_TOKENS, BATCH = 40, 6, 10, 3
NO_STOP = np.array([-1], np.int32)
LOGITS = np.log(np.array([[0.05, 0.4, 0.1, 0.3, 0.15]], np.float32))  # by size: 1, 3, 4, 2, 0

# 4000 draws at once; temperature and top_p are traced.
sample_many = jax.jit(jax.vmap(sample_token, in_axes=(None, 0, None, None)))
KEYS = jax.random.split(jax.random.key(0), 4000)


def draw(temperature, top_p, logits=LOGITS):
    return np.asarray(sample_many(logits, KEYS, jnp.float32(temperature), jnp.float32(top_p)))


def test_temperature_zero_takes_the_best_token_and_the_first_of_equal_ones():
    assert set(draw(0, 1.0)[:, 0].tolist()) == {1}
    tied = np.zeros((1, 5), np.float32)
    assert set(draw(0, 1.0, tied)[:, 0].tolist()) == {0}


def test_a_tiny_top_p_takes_the_best_token_at_any_temperature():
    for temperature in (0.3, 1.0, 5.0):
        assert set(draw(temperature, 1e-6)[:, 0].tolist()) == {1}


@pytest.mark.parametrize(
    ("top_p", "allowed"),
    [(0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 3, 4]), (0.9, [1, 3, 4, 2]), (1.0, [0, 1, 2, 3, 4])],
)
def test_samples_follow_the_renormalised_distribution_of_the_smallest_set_that_reaches_top_p(top_p, allowed):
    """Each count of 4000 draws lies within 5 standard deviations of its expectation; nothing outside is drawn."""
    probability = np.zeros(5)
    probability[allowed] = np.exp(LOGITS[0, allowed])
    probability /= probability.sum()
    counts = np.bincount(draw(1.0, top_p)[:, 0], minlength=5)
    assert np.all(np.abs(counts - 4000 * probability) <= 5 * np.sqrt(4000 * probability * (1 - probability)))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_the_logits(temperature):
    probability = np.exp(LOGITS[0] / temperature)
    probability /= probability.sum()
    counts = np.bincount(draw(temperature, 1.0)[:, 0], minlength=5)
    assert np.all(np.abs(counts - 4000 * probability) <= 5 * np.sqrt(4000 * probability * (1 - probability)))


def test_sequences_of_a_batch_are_drawn_apart():
    both = draw(1.0, 1.0, np.concatenate([LOGITS, LOGITS]))
    agreement = np.mean(both[:, 0] == both[:, 1])
    expected = np.sum(np.exp(LOGITS) ** 2)
    assert abs(agreement - expected) < 5 * np.sqrt(expected * (1 - expected) / 4000)


CFG = BatConfig(
    vision=VisionConfig(width=8, num_layers=2, num_heads=2, mlp_dim=8, image_size_px=4, patch_size_px=2),
    decoder=DecoderConfig(
        width=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4, mlp_dim=24, vocab_size=VOCAB, rope_theta=1e4
    ),
    compressor=CompressorConfig.release(scales=(ScaleSpec(size_px=4, budget=2),), num_clusters=0, token_mlp=False),
)


@functools.cache
def params():
    """Random values in the shapes of init_params, large enough that the tiny model is sure of what it says."""
    shapes = jax.eval_shape(functools.partial(model.init_params, CFG), jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.8, leaf.dtype), shapes)


@jax.jit
def prompt_state(params, ids):
    """Return (logits after the prompts, a cache with one slot for every new token but the last)."""
    decoder = model.modules(CFG)["decoder"]
    variables = {"params": params["decoder"]}
    embeddings = decoder.apply(variables, ids, method="embed")
    output = decoder.apply(variables, embeddings, num_free_slots=NEW_TOKENS - 1)
    return decoder.apply(variables, output.hidden[:, -1], method="logits"), output.cache


run = jax.jit(functools.partial(generate, CFG), static_argnums=0)


def prompts(seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, (BATCH, PROMPT)).astype(np.int32)


def generated(ids=None, stop=NO_STOP, temperature=0.0, top_p=1.0, seed=0, max_new_tokens=NEW_TOKENS):
    logits, cache = prompt_state(params(), prompts() if ids is None else ids)
    stop = np.pad(np.asarray(stop, np.int32), (0, 2 - len(stop)), constant_values=-1)
    return run(
        max_new_tokens,
        params(),
        logits,
        cache,
        stop,
        jnp.float32(temperature),
        jnp.float32(top_p),
        jax.random.key(seed),
    )


@jax.jit
def logits_without_cache(params, ids, length):
    """Return the logits behind the first `length` tokens, from scratch."""
    decoder = model.modules(CFG)["decoder"]
    logits = decoder.apply({"params": params["decoder"]}, ids, method="everything")
    return logits[:, length - 1]


@functools.cache
def greedy_without_cache():
    """Return BATCH rows of NEW_TOKENS greedy tokens, each from a pass over the whole sequence before it."""
    ids = np.pad(prompts(), ((0, 0), (0, NEW_TOKENS)))
    for position in range(PROMPT, PROMPT + NEW_TOKENS):
        ids[:, position] = np.argmax(logits_without_cache(params(), ids, position), axis=-1)
    return ids[:, PROMPT:]


def test_greedy_generation_equals_passes_over_the_whole_sequence():
    result = generated()
    np.testing.assert_array_equal(result.ids, greedy_without_cache())
    assert result.length.tolist() == [NEW_TOKENS] * BATCH
    assert len(np.unique(greedy_without_cache())) > 10


def test_a_stop_token_ends_its_sequence_alone_and_is_neither_counted_nor_written():
    expected = greedy_without_cache()
    stop = [int(expected[0, 4]), int(expected[1, 2])]
    result = generated(stop=stop)
    lengths = []
    for row, ids in zip(expected, result.ids, strict=True):
        ends = np.flatnonzero(np.isin(row, stop))
        length = int(ends[0]) if ends.size else NEW_TOKENS
        assert ids.tolist() == row[:length].tolist() + [0] * (NEW_TOKENS - length)
        lengths.append(length)
    assert result.length.tolist() == lengths
    assert len(set(lengths)) > 1, "the sequences end at different steps"


def test_a_stop_token_at_once_gives_an_empty_answer():
    first = greedy_without_cache()[:, 0]
    ids = np.repeat(prompts()[:1], BATCH, axis=0)
    result = generated(ids, stop=[int(first[0])])
    assert result.length.tolist() == [0] * BATCH
    assert not np.asarray(result.ids).any()


def test_fewer_new_tokens_are_a_prefix():
    for count in (1, 4):
        result = generated(max_new_tokens=count)
        assert result.ids.shape == (BATCH, count)
        np.testing.assert_array_equal(result.ids, greedy_without_cache()[:, :count])
        assert result.length.tolist() == [count] * BATCH


def test_sampling_is_a_function_of_the_key():
    first, again, other = (np.asarray(generated(temperature=1.5, seed=seed).ids) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_sampling_with_a_tiny_top_p_is_greedy():
    np.testing.assert_array_equal(generated(temperature=1.0, top_p=1e-6).ids, greedy_without_cache())


def test_sampled_steps_use_different_draws():
    """Were one draw used for all steps, a uniform model would repeat one token."""
    flat = jax.tree.map(jnp.zeros_like, params())
    logits, cache = prompt_state(flat, prompts())
    stop = np.array([-1, -1], np.int32)
    result = run(NEW_TOKENS, flat, logits, cache, stop, jnp.float32(1), jnp.float32(1), jax.random.key(0))
    for row in np.asarray(result.ids):
        assert len(set(row.tolist())) > 3


def test_temperature_top_p_stop_and_key_share_one_program():
    before = run._cache_size()
    generated()
    after_first = run._cache_size()
    for temperature, top_p, stop, seed in ((0.7, 0.9, [3], 1), (1.3, 0.5, [4, 5], 2)):
        generated(temperature=temperature, top_p=top_p, stop=stop, seed=seed)
    assert run._cache_size() == after_first <= before + 1


def test_free_slots_beside_a_cache_are_refused():
    """The cache has its own, so asking for more would change nothing."""
    _, cache = jax.eval_shape(prompt_state, params(), prompts())
    decoder = model.modules(CFG)["decoder"]
    one_more = functools.partial(decoder.apply, num_free_slots=2)
    rows = jax.ShapeDtypeStruct((BATCH, 1, CFG.decoder.width), jnp.float32)
    with pytest.raises(ValueError, match="num_free_slots=2: only without a cache"):
        jax.eval_shape(one_more, {"params": params()["decoder"]}, rows, None, cache)
