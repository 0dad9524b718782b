"""UHR-BAT-7B at its real sizes by jax.eval_shape: shapes and dtypes only, no weights and no arithmetic."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import model
from bat_jax.compress.compressor import ScaleTokens, partition_scale, select
from bat_jax.config import DEFAULT_SCALES_PX, PAPER_BUDGETS, BatConfig, CompressorConfig, ScaleSpec
from bat_jax.nn.decoder import SLOT_MULTIPLE

D, E, PREFIX, SUFFIX, QUESTION_SLOTS = 3584, 1024, 14, 40, 64
TOKENS = (2304, 9216, 36864, 82944)
BFLOAT16 = jnp.bfloat16


def shape(*sizes, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(sizes, dtype)


def config(fidelity="release", budgets=PAPER_BUDGETS["default"], **overrides):
    pairs = zip(DEFAULT_SCALES_PX, budgets, strict=True)
    scales = tuple(ScaleSpec(size_px=size, budget=budget) for size, budget in pairs)
    return BatConfig.uhr_bat_7b(fidelity, compressor=CompressorConfig.preset(fidelity, scales=scales, **overrides))


@functools.cache
def params_7b():
    """Return the shapes of all parameters in bfloat16, as a converted checkpoint holds them."""
    tree = jax.eval_shape(lambda key: model.init_params(config(), key), jax.random.key(0))
    return jax.tree.map(lambda leaf: shape(*leaf.shape), tree)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_the_decoder_has_the_parameters_of_qwen2_7b():
    assert count(params_7b()["decoder"]) == 7_615_616_512


def test_the_tower_holds_the_23_layers_that_run_and_no_more():
    """A ViT-L layer: 4 x (1024^2 + 1024) attention, 2 x 4096 x 1024 + 4096 + 1024 MLP, 2 norms of 2 x 1024."""
    layer = 4 * (1024**2 + 1024) + 2 * 4096 * 1024 + 4096 + 1024 + 2 * 2 * 1024
    around = 14 * 14 * 3 * 1024 + 1024 + 577 * 1024 + 2 * 1024
    assert layer == 12_596_224
    assert count(params_7b()["vision_tower"]) == 23 * layer + around == 290_909_184
    assert params_7b()["vision_tower"]["layers"]["mlp"]["fc1"]["kernel"].shape == (23, 1024, 4096)


def test_projector_token_mlp_and_residual_grids_have_their_sizes():
    assert count(params_7b()["projector"]) == E * D + D + D * D + D
    assert count(params_7b()["token_mlp"]) == 2 * (D * D + D)
    grids = {name: leaf.shape for name, leaf in params_7b()["scale_embedding"].items()}
    assert grids == {
        "residual_672": (48, 48, D),
        "residual_1344": (64, 64, D),
        "residual_2688": (64, 64, D),
        "residual_4032": (64, 64, D),
    }


def test_tiles_become_576_features_each():
    tiles = jax.ShapeDtypeStruct((8, 336, 336, 3), jnp.uint8)
    table = shape(256, 3, dtype=jnp.float32)
    features = jax.eval_shape(functools.partial(model.encode_tiles, config()), params_7b(), tiles, table)
    assert (features.vision.shape, features.vision.dtype) == ((8, 576, E), BFLOAT16)
    assert (features.projected.shape, features.projected.dtype) == ((8, 576, D), BFLOAT16)


def test_four_scales_bring_131328_tokens():
    cfg = config()
    grids = [model.token_grid(cfg, size) for size in DEFAULT_SCALES_PX]
    assert tuple(grid.num_tokens for grid in grids) == TOKENS
    assert sum(TOKENS) == 131_328
    assert [grid.tiles**2 for grid in grids] == [4, 16, 64, 144]


@pytest.mark.parametrize(("extent", "rows"), [("tile", (576,) * 4), ("scale", TOKENS)])
def test_scale_embeddings_fit_a_tile_or_the_whole_view(extent, rows):
    cfg = config(scale_embedding_extent=extent)
    for size, num_rows in zip(DEFAULT_SCALES_PX, rows, strict=True):
        embedding = jax.eval_shape(functools.partial(model.scale_embedding, cfg, size), params_7b())
        assert embedding.shape == (num_rows, D)


@pytest.mark.parametrize("fidelity", ["paper", "release"])
def test_regions_of_the_finest_scale(fidelity):
    cfg = config(fidelity)
    grid = model.token_grid(cfg, 4032)
    width = E if cfg.compressor.cluster_features == "vision" else D
    labels = jax.eval_shape(
        lambda features, valid, init: partition_scale(cfg.compressor, grid, features, valid, init, 600, 10),
        shape(TOKENS[3], width),
        shape(TOKENS[3], dtype=bool),
        shape(600, dtype=jnp.int32),
    )
    assert (labels.shape, labels.dtype) == ((82944,), jnp.int32)


def anchor_cache_shape(cfg):
    return jax.eval_shape(
        functools.partial(model.anchor_cache, cfg),
        params_7b(),
        shape(PREFIX, dtype=jnp.int32),
        shape(TOKENS[0], D),
        shape(TOKENS[0], dtype=bool),
    )


def test_the_anchor_cache_holds_the_prefix_and_2304_tokens_of_28_layers():
    cache = anchor_cache_shape(config())
    assert cache.key.shape == cache.value.shape == (28, 1, PREFIX + 2304, 4, 128)
    assert (cache.key.dtype, cache.length.shape) == (BFLOAT16, (1,))


def test_importance_of_every_layer_is_float32():
    importance = jax.eval_shape(
        functools.partial(model.anchor_importance, config(), False),
        params_7b(),
        anchor_cache_shape(config()),
        shape(TOKENS[0], dtype=bool),
        shape(QUESTION_SLOTS, dtype=jnp.int32),
        shape(QUESTION_SLOTS, dtype=bool),
        shape(QUESTION_SLOTS, dtype=jnp.float32),
    )
    assert (importance.shape, importance.dtype) == ((28, 2304), jnp.float32)


def question_half(cfg, scales, importance, budgets, params, text):
    """Go from importance to the decoder's logits: select, splice, prefill."""
    grids = tuple(model.token_grid(cfg, size) for size in DEFAULT_SCALES_PX)
    selections = select(cfg.compressor, grids, (600,) * 4, scales, importance, budgets)
    visual, mask = model.visual_tokens(cfg, params, selections)
    prefix, suffix = text
    valid = (jnp.ones(PREFIX, bool), jnp.arange(QUESTION_SLOTS) < SUFFIX)
    spliced = model.splice(cfg, params, (prefix, suffix), valid, (visual,), (mask,))
    return selections, spliced, model.prefill(cfg, 63, params, spliced)


@pytest.mark.parametrize("name", PAPER_BUDGETS)
@pytest.mark.parametrize("fidelity", ["paper", "release"])
def test_131328_tokens_leave_as_the_budget_and_reach_the_logits(fidelity, name):
    budgets = PAPER_BUDGETS[name]
    cfg = config(fidelity, budgets)
    scales = tuple(
        ScaleTokens(shape(tokens, D), shape(tokens, dtype=jnp.int32), shape(tokens, dtype=bool)) for tokens in TOKENS
    )
    selections, spliced, (logits, cache) = jax.eval_shape(
        functools.partial(question_half, cfg),
        scales,
        shape(TOKENS[0], dtype=jnp.float32),
        shape(4, dtype=jnp.int32),
        params_7b(),
        (shape(PREFIX, dtype=jnp.int32), shape(QUESTION_SLOTS, dtype=jnp.int32)),
    )
    for selection, budget, tokens in zip(selections, budgets, TOKENS, strict=True):
        assert (selection.tokens.shape, selection.tokens.dtype) == ((budget, D), BFLOAT16)
        assert selection.mask.shape == selection.keep_index.shape == selection.region.shape == (budget,)
        assert selection.importance.dtype == jnp.float32
        assert selection.is_kept.shape == (tokens,)
    length = PREFIX + sum(budgets) + QUESTION_SLOTS
    assert (spliced.embeddings.shape, spliced.embeddings.dtype) == ((1, length, D), BFLOAT16)
    assert spliced.length.shape == (1,)
    assert (logits.shape, logits.dtype) == ((1, 152064), jnp.float32)
    assert cache.key.shape == (28, 1, -(-(length + 63) // SLOT_MULTIPLE) * SLOT_MULTIPLE, 4, 128)


def test_a_decoding_step_keeps_the_caches_shape():
    cfg = config()
    cache = anchor_cache_shape(cfg)
    logits, after = jax.eval_shape(
        functools.partial(model.decode_step, cfg), params_7b(), shape(1, dtype=jnp.int32), cache
    )
    assert logits.shape == (1, 152064)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), cache
    )


def test_the_longest_budget_set_fits_the_decoders_positions():
    longest = max(sum(budgets) for budgets in PAPER_BUDGETS.values())
    assert longest == 11_100
    assert PREFIX + longest + QUESTION_SLOTS + 64 <= config().decoder.max_positions


def test_float32_activations_come_from_float32_weights():
    cfg = dataclasses.replace(config(), compute_dtype="float32")
    params = jax.tree.map(lambda leaf: shape(*leaf.shape, dtype=np.float32), params_7b())
    tiles = jax.ShapeDtypeStruct((1, 336, 336, 3), jnp.uint8)
    features = jax.eval_shape(
        functools.partial(model.encode_tiles, cfg), params, tiles, shape(256, 3, dtype=jnp.float32)
    )
    assert features.projected.dtype == features.vision.dtype == jnp.float32
