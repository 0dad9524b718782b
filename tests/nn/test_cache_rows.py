"""Rows written into a cache: a training batch's samples get what each would get alone, without a scatter."""

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax.nn.decoder import _write


def test_samples_of_a_batch_write_the_rows_that_each_writes_alone_and_scatter_none():
    """Three samples from their own slots on, one of which begins too late and is moved back, as a slice is.

    Over several GPUs XLA's compiler ended the process at a scatter with a batch of its own behind a transposition.
    """
    rng = np.random.default_rng(0)
    cached, rows = (jnp.asarray(rng.normal(size=(3, 1, n, 2, 4)), jnp.float32) for n in (9, 4))
    start = jnp.array([[0], [3], [7]])
    alone = [_write(*sample) for sample in zip(cached, rows, start, strict=True)]
    np.testing.assert_array_equal(jax.vmap(_write)(cached, rows, start), jnp.stack(alone))
    np.testing.assert_array_equal(alone[1][0, 3:7], rows[1, 0])
    np.testing.assert_array_equal(jax.vmap(_write, (None, 0, None))(cached[0], rows, start[1])[2, 0, 3:7], rows[2, 0])
    assert "scatter" not in str(jax.make_jaxpr(jax.vmap(_write))(cached, rows, start))
