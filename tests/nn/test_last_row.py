"""A decoder whose last layer computes one row of each sequence, beside one that computes all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import model
from bat_jax.nn.decoder import KVCache, layers_apart
from tests.tiny_model import tiny_config

CFG = tiny_config().networks
LENGTH = jnp.array([3, 7])


@pytest.fixture(scope="module")
def params():
    return model.init_params(CFG, jax.random.key(0))


def rows(seed, num_rows):
    return jax.random.normal(jax.random.key(seed), (2, num_rows, CFG.decoder.width))


@functools.partial(jax.jit, static_argnames="only_last")
def run(params, embeddings, length, cache=None, only_last=False):
    return model.run_decoder(CFG, params, embeddings, length, cache, only_last=only_last)


@pytest.mark.parametrize("apart", [False, True])
def test_the_last_row_alone_and_the_cache_are_those_of_all_rows_behind_a_cache_too(params, apart):
    """Behind 4 and 2 slots; the rows of a cache behind the sequence are padding's."""
    params = layers_apart(params) if apart else params
    before = run(params, rows(1, 5), jnp.array([4, 2])).cache.grown(8)
    for cache in (None, before):
        whole, alone = (run(params, rows(2, 8), LENGTH, cache, only_last) for only_last in (False, True))
        last = jnp.take_along_axis(whole.hidden, LENGTH[:, None, None] - 1, axis=1)
        np.testing.assert_allclose(alone.hidden, last, rtol=1e-5, atol=1e-5)
        assert alone.hidden.shape == (2, 1, CFG.decoder.width) and isinstance(alone.cache, KVCache)
        for one, other in zip(jax.tree.leaves(alone.cache), jax.tree.leaves(whole.cache), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("other", [{"return_hidden": True}, {"row_weight": jnp.ones((2, 8))}, {"prefix": True}])
def test_the_last_row_alone_is_refused_beside_what_needs_others(params, other):
    if "prefix" in other:
        other = {"prefix": run(params, rows(1, 5)[:1], None).cache}
    with pytest.raises(ValueError, match="only_last: not with prefix, row_weight or return_hidden"):
        model.run_decoder(CFG, params, rows(2, 8), LENGTH, only_last=True, **other)
