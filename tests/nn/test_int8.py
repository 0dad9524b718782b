"""int8 matrices against NumPy, and the decoder on them against itself on the floats that they stand for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from bat_jax.config import DecoderConfig
from bat_jax.nn.decoder import Decoder
from bat_jax.nn.int8 import held_as, held_params, product_by_library, product_by_sums

CONFIG = DecoderConfig(
    width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48, vocab_size=64, max_positions=64
)


def dequantised(params):
    """Return int8 parameters as the floats that they stand for, in NumPy, under the names that floats have."""
    flat, found = traverse_util.flatten_dict(jax.tree.map(np.asarray, params), sep="/"), {}
    for path, leaf in flat.items():
        parent, _, name = path.rpartition("/")
        if name == "rows":
            found[f"{parent}/kernel"] = (leaf * flat[f"{parent}/scale"][..., None]).swapaxes(-1, -2)
        elif name == "embedding":
            found[path] = leaf * flat[f"{parent}/scale"][:, None]
        elif name != "scale" or parent.endswith("norm"):
            found[path] = leaf
    return traverse_util.unflatten_dict(found, sep="/")


def test_a_channels_largest_weight_is_127_steps_and_every_weight_is_the_nearest_step():
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(3, 40, 7)) * 10.0 ** rng.integers(-3, 3, 7)).astype(np.float32)
    weights[1, :, 2] = 0
    (path, rows), (scale_path, scale) = held_as("int8", "decoder/layers/mlp/up_proj/kernel", weights)
    assert (path, scale_path) == ("decoder/layers/mlp/up_proj/rows", "decoder/layers/mlp/up_proj/scale")
    assert (rows.dtype, scale.dtype) == (jnp.int8, jnp.float32)
    np.testing.assert_allclose(scale, np.abs(weights).max(axis=1) / 127, rtol=1e-6)
    steps, scale = np.asarray(rows, np.float64).swapaxes(1, 2), np.asarray(scale)[:, None]
    assert (np.abs(steps).max(axis=1) == np.where(np.arange(21).reshape(3, 7) == 9, 0, 127)).all()
    assert (np.abs(steps * scale - weights) <= scale * 0.50001).all()


def test_only_the_decoders_matrices_change():
    leaf = np.ones((4, 4), np.float32)
    for path in ("vision_tower/layers/mlp/fc1/kernel", "decoder/norm/scale", "decoder/layers/self_attn/q_proj/bias"):
        assert held_as("int8", path, leaf) == [(path, leaf)]
    assert held_as("stored", "decoder/lm_head/kernel", leaf) == [("decoder/lm_head/kernel", leaf)]
    ((_, half),) = held_as("bf16", "decoder/lm_head/kernel", leaf)
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize(("is_tied", "is_apart"), [(False, False), (True, False), (True, True)])
def test_the_decoder_on_int8_is_the_decoder_on_the_floats_that_they_stand_for(is_tied, is_apart):
    """Twelve rows, and then one behind them."""
    cfg = dataclasses.replace(CONFIG, tie_word_embeddings=is_tied)
    ids = jnp.arange(12)[None]
    int8 = Decoder(dataclasses.replace(cfg, weights="int8"), apart=is_apart)
    floats = Decoder(cfg, apart=is_apart)
    params = jax.jit(lambda key: floats.init(key, ids, method="everything")["params"])(jax.random.key(0))
    held = held_params("int8", {"decoder": params})["decoder"]
    matrices = [leaf for path, leaf in traverse_util.flatten_dict(held).items() if path[-1] in ("rows", "embedding")]
    assert {leaf.dtype.name for leaf in matrices} == {"int8"}

    @jax.jit(static_argnums=0)
    def answered(module, params):
        def run(decoder):
            before = decoder(decoder.embed(ids), num_free_slots=4)
            after = decoder(decoder.embed(ids[:, :1]), cache=before.cache)
            return decoder.logits(before.hidden), decoder.logits(after.hidden[:, 0])

        return module.apply({"params": params}, method=run)

    for ours, expected in zip(answered(int8, held), answered(floats, dequantised(held)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(answered(floats, params)[0] - answered(int8, held)[0]).max() > 1e-3, "something was rounded"


def test_random_int8_parameters_have_the_shapes_of_converted_ones_and_the_spread_of_floats():
    cfg, ids = dataclasses.replace(CONFIG, weights="int8"), jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(lambda key: Decoder(cfg).init(key, ids, method="everything")["params"])(jax.random.key(0))
    floats = jax.eval_shape(
        lambda key: Decoder(CONFIG).init(key, ids, method="everything")["params"], jax.random.key(0)
    )
    held = jax.eval_shape(lambda tree: held_params("int8", {"decoder": tree}), floats)["decoder"]
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), held
    )
    kernel = dequantised(params)["layers"]["mlp"]["up_proj"]["kernel"]
    assert kernel.std() == pytest.approx(32**-0.5, rel=0.05)


def test_sums_are_the_librarys_product():
    rng = np.random.default_rng(1)
    rows = rng.integers(-127, 128, (50, 300)).astype(np.int8)
    x, scale = rng.normal(size=(1, 300)).astype(np.float32), rng.uniform(0.001, 0.1, 50).astype(np.float32)
    expected = x.astype(np.float64) @ (rows * scale.astype(np.float64)[:, None]).T
    for product in (product_by_sums, product_by_library):
        np.testing.assert_allclose(product(x, rows, scale), expected, rtol=1e-4, atol=1e-4)
        half = product(jnp.bfloat16(x), rows, scale)
        assert half.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(half), expected, rtol=0.02, atol=0.3)
