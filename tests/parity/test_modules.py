"""Module by module against transformers: tiny random CLIP towers and decoders, float32, full matmul precision.

Parameters are carried over by the few lines of `tree` below, not by the converter under bat_jax/io.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import model
from bat_jax.config import BatConfig, CompressorConfig, DecoderConfig, ScaleSpec, VisionConfig
from bat_jax.engine.generate import generate
from bat_jax.nn.clip_vit import ClipVit
from bat_jax.nn.decoder import Decoder, layers_apart
from bat_jax.ops.valid_first import valid_first
from tests.parity.transformers_decoder import transformers_decoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MODULE = {"rtol": 1e-5, "atol": 1e-5}  # values of size 1 to 10 after a layer
LOGITS = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield


def randomise(module, seed):
    """Give every parameter a size at which a mistake shows; transformers starts biases at 0 and norms at 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_norm else noise * parameter.shape[-1] ** -0.5)
    return module.eval()


def tree(module, num_layers, rename):
    """Return a state_dict as nested parameters: layers stacked, linear and convolution kernels in Flax's layout."""
    flat = {}
    for name, tensor in module.state_dict().items():
        array = tensor.numpy()
        for old, new in rename.items():
            name = name.replace(old, new)
        parts = name.split(".")
        if parts[-1] == "weight":
            if "embed_tokens" in parts:
                parts[-1] = "embedding"
            elif "position_embedding" in parts:
                parts.pop()
            elif array.ndim == 1:
                parts[-1] = "scale"
            else:
                parts[-1] = "kernel"
                array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        if parts[0] == "layers":
            if int(parts.pop(1)) >= num_layers:
                continue
            flat.setdefault(tuple(parts), []).append(array)
        else:
            flat[tuple(parts)] = array
    nested = {}
    for path, array in flat.items():
        branch = functools.reduce(lambda node, part: node.setdefault(part, {}), path[:-1], nested)
        branch[path[-1]] = np.stack(array) if isinstance(array, list) else array
    return nested


VISION = VisionConfig(
    width=32, num_layers=3, num_heads=4, mlp_dim=48, image_size_px=12, patch_size_px=3, select_layer=-1
)
CLIP_NAMES = {"vision_model.": "", "embeddings.": "", "encoder.": "", "pre_layrnorm": "pre_layernorm"}


def clip_pair(cfg, seed=0):
    sizes = {"hidden_size": cfg.width, "intermediate_size": cfg.mlp_dim, "num_hidden_layers": cfg.num_layers}
    patches = {"image_size": cfg.image_size_px, "patch_size": cfg.patch_size_px}
    settings = transformers.CLIPVisionConfig(
        **sizes, **patches, num_attention_heads=cfg.num_heads, hidden_act=cfg.activation
    )
    theirs = randomise(transformers.CLIPVisionModel(settings), seed)
    params = tree(theirs, cfg.num_run_layers, CLIP_NAMES)
    del params["post_layernorm"]  # of the pooled output, which nothing here uses
    return theirs, params


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_vision_hidden_states_of_every_layer_equal_transformers(activation):
    cfg = dataclasses.replace(VISION, activation=activation)
    theirs, params = clip_pair(cfg)
    pixels = np.random.default_rng(1).normal(size=(2, 12, 12, 3)).astype(np.float32)
    expected = theirs(torch.from_numpy(pixels).permute(0, 3, 1, 2), output_hidden_states=True).hidden_states
    expected_tree = jax.eval_shape(ClipVit(cfg).init, jax.random.key(0), pixels)["params"]
    assert jax.tree.structure(params) == jax.tree.structure(expected_tree)
    output = jax.jit(ClipVit(cfg).apply, static_argnames="return_hidden")(
        {"params": params}, pixels, return_hidden=True
    )
    assert output.hidden_states.shape[0] == len(expected) == 4
    for ours, one in zip(output.hidden_states, expected, strict=True):
        np.testing.assert_allclose(ours, one.numpy(), **MODULE)
    np.testing.assert_allclose(output.patches, expected[-1].numpy()[:, 1:], **MODULE)


@pytest.mark.parametrize("select_layer", [-2, 0])
def test_the_selected_layer_is_that_entry_of_transformers_hidden_states(select_layer):
    cfg = dataclasses.replace(VISION, select_layer=select_layer)
    theirs, params = clip_pair(cfg)
    if select_layer == 0:
        params.pop("layers", None)
    pixels = np.random.default_rng(2).normal(size=(1, 12, 12, 3)).astype(np.float32)
    hidden = theirs(torch.from_numpy(pixels).permute(0, 3, 1, 2), output_hidden_states=True).hidden_states
    patches = jax.jit(ClipVit(cfg).apply)({"params": params}, pixels).patches
    np.testing.assert_allclose(patches, hidden[select_layer].numpy()[:, 1:], **MODULE)


@pytest.mark.parametrize("select_layer", [-1, -2])
def test_the_towers_attention_is_that_of_the_selected_layer_in_transformers(select_layer):
    cfg = dataclasses.replace(VISION, select_layer=select_layer)
    theirs, params = clip_pair(cfg)
    theirs.set_attn_implementation("eager")
    projected = {}
    attention = dict(theirs.named_modules())[
        next(name for name, _ in theirs.named_modules() if name.endswith(f"layers.{cfg.num_run_layers - 1}.self_attn"))
    ]
    for name in ("q_proj", "k_proj", "v_proj"):
        getattr(attention, name).register_forward_hook(lambda _, __, out, name=name: projected.update({name: out}))
    pixels = np.random.default_rng(3).normal(size=(2, 12, 12, 3)).astype(np.float32)
    output = theirs(torch.from_numpy(pixels).permute(0, 3, 1, 2), output_attentions=True)
    query, key, value = (projected[name].detach().numpy() for name in ("q_proj", "k_proj", "v_proj"))
    ours = jax.jit(functools.partial(ClipVit(cfg).apply, return_attention=True))({"params": params}, pixels).attention
    weights = output.attentions[cfg.num_run_layers - 1].detach().numpy()
    np.testing.assert_allclose(ours.class_attention, weights[:, :, 0, 1:].mean(axis=1), **MODULE)
    np.testing.assert_allclose(ours.class_value, (query[:, :1] * value[:, 1:]).sum(axis=-1) / cfg.width**0.5, **MODULE)
    np.testing.assert_allclose(ours.key, key[:, 1:].reshape(2, 16, cfg.num_heads, -1).mean(axis=2), **MODULE)


def test_embeddings_have_no_attention_to_read():
    cfg = dataclasses.replace(VISION, select_layer=0)
    _, params = clip_pair(cfg)
    params.pop("layers", None)
    with pytest.raises(ValueError, match="select_layer=0"):
        ClipVit(cfg).apply({"params": params}, np.zeros((1, 12, 12, 3), np.float32), return_attention=True)


DECODERS = {
    "theta 1e6": DecoderConfig(
        width=48, num_layers=3, num_heads=6, num_kv_heads=2, head_dim=8, mlp_dim=64, vocab_size=97, rope_theta=1e6
    )
}
DECODERS["theta 1e9, tied"] = dataclasses.replace(DECODERS["theta 1e6"], rope_theta=1e9, tie_word_embeddings=True)
DECODERS["Llama"] = dataclasses.replace(DECODERS["theta 1e6"], qkv_bias=False, rope_theta=1e4)
# Heads of 12, which is not 48 / 6.
DECODERS["Qwen3"] = dataclasses.replace(DECODERS["theta 1e6"], qkv_bias=False, qk_norm=True, head_dim=12)
VIEW = CompressorConfig.release(scales=(ScaleSpec(size_px=12, budget=4),), num_clusters=0, token_mlp=False)


@functools.cache
def decoder_pair(name):
    """Return (transformers' model with eager attention, our whole config, our parameters)."""
    cfg = DECODERS[name]
    theirs = randomise(transformers_decoder(cfg), seed=3)
    half = cfg.head_dim // 2
    np.testing.assert_allclose(theirs.model.rotary_emb.inv_freq, cfg.rope_theta ** -(np.arange(half) / half), rtol=1e-5)
    params = tree(theirs, cfg.num_layers, {"model.": ""})
    if cfg.tie_word_embeddings:
        params.pop("lm_head", None)
    vision = dataclasses.replace(VISION, select_layer=-2)
    return theirs, BatConfig(vision=vision, decoder=cfg, compressor=VIEW), {"decoder": params}


def random_ids(seed, length=23, batch=2):
    return np.random.default_rng(seed).integers(0, 97, (batch, length)).astype(np.int32)


def run_theirs(theirs, ids):
    tensor = torch.from_numpy(ids.astype(np.int64))
    return theirs(tensor, output_hidden_states=True, output_attentions=True)


@functools.partial(jax.jit, static_argnames="cfg")
def run_ours(cfg, params, embeddings, length, row_weight):
    """Return (DecoderOutput with every layer's hidden states and importance, logits)."""
    decoder, variables = Decoder(cfg, apart="layers" not in params), {"params": params}
    output = decoder.apply(variables, embeddings, length, row_weight=row_weight, return_hidden=True)
    return output, decoder.apply(variables, output.hidden, method="logits")


def embed(params, ids):
    return params["decoder"]["embed_tokens"]["embedding"][ids]


def uniform_rows(shape, rows):
    weight = np.zeros(shape, np.float32)
    weight[:, rows] = 1 / len(rows)
    return weight


@pytest.mark.parametrize(("name", "apart"), [*((name, False) for name in DECODERS), ("theta 1e6", True)])
def test_decoder_hidden_states_and_logits_equal_transformers(name, apart):
    theirs, cfg, params = decoder_pair(name)
    expected_tree = jax.eval_shape(lambda key: model.init_params(cfg, key), jax.random.key(0))["decoder"]
    assert jax.tree.structure(params["decoder"]) == jax.tree.structure(expected_tree)
    ids = random_ids(4)
    expected = run_theirs(theirs, ids)
    if apart:
        params = layers_apart(params)
    output, logits = run_ours(cfg.decoder, params["decoder"], embed(params, ids), None, uniform_rows(ids.shape, [22]))
    assert len(output.hidden_states) == len(expected.hidden_states) == 4
    for ours, one in zip(output.hidden_states[:-1], expected.hidden_states[:-1], strict=True):
        np.testing.assert_allclose(ours, one.numpy(), **MODULE)
    # transformers' last entry stands behind the final norm
    np.testing.assert_allclose(output.hidden, expected.hidden_states[-1].numpy(), **MODULE)
    np.testing.assert_allclose(logits, expected.logits.numpy(), **LOGITS)


@pytest.mark.parametrize(
    ("name", "rows"),
    [("theta 1e6", [22]), ("theta 1e6", [15, 16, 17, 18, 19]), ("Qwen3", [15, 16, 17, 18, 19])],
    ids=["last token", "question", "question, normed queries and keys"],
)
def test_importance_is_the_mean_over_heads_and_rows_of_transformers_attentions(name, rows):
    theirs, cfg, params = decoder_pair(name)
    ids = random_ids(5)
    expected = run_theirs(theirs, ids).attentions
    output, _ = run_ours(cfg.decoder, params["decoder"], embed(params, ids), None, uniform_rows(ids.shape, rows))
    for ours, attention in zip(output.importance, expected, strict=True):
        np.testing.assert_allclose(ours, attention.mean(dim=1)[:, rows].mean(dim=1).numpy(), rtol=1e-4, atol=1e-6)


def test_rows_that_are_not_valid_change_nothing_wherever_they_stand():
    """The same 23 tokens among 7 rows of rubbish: hidden states, logits and importance at the tokens are the same."""
    length = np.array([23])
    theirs, cfg, params = decoder_pair("theta 1e6")
    ids, rng = random_ids(6, batch=1), np.random.default_rng(6)
    expected = run_theirs(theirs, ids)
    for _ in range(3):
        place = np.sort(rng.choice(30, 23, replace=False))
        embeddings = (rng.normal(size=(1, 30, 48)) * 10).astype(np.float32)
        embeddings[:, place] = embed(params, ids)
        embeddings = embeddings[:, valid_first(np.isin(np.arange(30), place))]
        output, logits = run_ours(cfg.decoder, params["decoder"], embeddings, length, uniform_rows((1, 30), [22]))
        np.testing.assert_allclose(output.hidden[:, :23], expected.hidden_states[-1].numpy(), **MODULE)
        np.testing.assert_allclose(logits[:, :23], expected.logits.numpy(), **LOGITS)
        for ours, attention in zip(output.importance, expected.attentions, strict=True):
            np.testing.assert_array_equal(ours[:, 23:], 0)
            np.testing.assert_allclose(ours[:, :23], attention.mean(dim=1)[:, -1].numpy(), rtol=1e-4, atol=1e-6)


NEW_TOKENS = 12
prefill = jax.jit(model.prefill, static_argnums=(0, 1))
generated = jax.jit(generate, static_argnums=(0, 1))


@pytest.mark.parametrize("name", DECODERS)
def test_cached_greedy_generation_writes_transformers_ids(name):
    theirs, cfg, params = decoder_pair(name)
    place = np.array([0, 1, 2, 4, 5, 9, 10, 11])  # the prompt's tokens among empty budget rows
    said = set()
    for seed in (7, 8, 9):
        ids = random_ids(seed, length=len(place), batch=1)
        tensor = torch.from_numpy(ids.astype(np.int64))
        expected = theirs.generate(
            tensor,
            attention_mask=torch.ones_like(tensor),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=None,
            pad_token_id=0,
        )
        embeddings = np.full((1, 12, 48), 7, np.float32)
        embeddings[:, place] = embed(params, ids)
        embeddings = embeddings[:, valid_first(np.isin(np.arange(12), place))]
        spliced = model.Spliced(jnp.asarray(embeddings), jnp.array([len(place)]))
        logits, cache = prefill(cfg, NEW_TOKENS - 1, params, spliced)
        np.testing.assert_allclose(logits[0], run_theirs(theirs, ids).logits[0, -1].numpy(), **LOGITS)
        zero, one = jnp.float32(0), jnp.float32(1)
        ours = generated(cfg, NEW_TOKENS, params, logits, cache, jnp.array([-1]), zero, one, jax.random.key(0))
        assert ours.ids[0].tolist() == expected[0, len(place) :].tolist()
        said |= set(ours.ids[0].tolist())
    assert len(said) > 5, "the model says more than one thing"


@pytest.mark.parametrize(("name", "apart"), [("theta 1e6", False), ("theta 1e6", True), ("Qwen3", True)])
def test_prompts_of_different_lengths_are_read_together_as_transformers_reads_and_continues_each(name, apart):
    theirs, cfg, params = decoder_pair(name)
    prompts = [random_ids(seed, length=length, batch=1) for seed, length in ((11, 8), (12, 5), (13, 11))]
    embeddings = np.full((3, 12, 48), 7, np.float32)
    for row, ids in zip(embeddings, prompts, strict=True):
        row[: ids.shape[1]] = embed(params, ids)[0]
    spliced = model.Spliced(jnp.asarray(embeddings), jnp.array([8, 5, 11]))
    params = layers_apart(params) if apart else params
    logits, cache = prefill(cfg, 1, params, spliced)
    step, cache = jax.jit(model.decode_step, static_argnums=0)(cfg, params, jnp.array([4, 5, 6]), cache)
    assert cache.length.tolist() == [9, 6, 12]
    for ids, token, ours, after in zip(prompts, (4, 5, 6), logits, step, strict=True):
        expected = run_theirs(theirs, np.append(ids, np.array([[token]], ids.dtype), axis=1)).logits[0].numpy()
        np.testing.assert_allclose([ours, after], expected[-2:], **LOGITS)


def test_importance_of_the_anchor_over_a_shared_cache_equals_one_pass_of_transformers():
    """Prefix and 16 anchor tokens go into a cache once; two questions of different lengths, padded alike, read it."""
    theirs, cfg, params = decoder_pair("theta 1e6")
    rng = np.random.default_rng(10)
    prefix = rng.integers(0, 97, 5).astype(np.int32)
    anchor = rng.normal(size=(16, 48)).astype(np.float32)
    cache = jax.jit(model.anchor_cache, static_argnums=0)(cfg, params, prefix, anchor, np.ones(16, bool))
    read = jax.jit(model.anchor_importance, static_argnums=(0, 1))
    for length, rows in ((9, [1, 2, 3, 4]), (6, [5])):
        suffix = rng.integers(0, 97, length).astype(np.int32)
        padded = np.pad(suffix, (0, 12 - length))
        weight = uniform_rows((1, 12), rows)[0]
        ours = read(cfg, len(rows) == 1, params, cache, np.ones(16, bool), padded, np.arange(12) < length, weight)
        whole = np.concatenate([embed(params, prefix), anchor, embed(params, suffix)])[None]
        attentions = theirs(inputs_embeds=torch.from_numpy(whole), output_attentions=True).attentions
        for layer, attention in zip(ours, attentions, strict=True):
            expected = attention[0].mean(dim=0)[21:][rows].mean(dim=0)[5:21].numpy()
            np.testing.assert_allclose(layer, expected, rtol=1e-4, atol=1e-6)


# Largest difference between the decoder in bfloat16 and in float32 over the cases below, measured on a CPU, times 2.
# Logits have a standard deviation of 0.97 there, importances of 0.017.
BFLOAT16_LOGITS = 2 * 0.0615
BFLOAT16_IMPORTANCE = 2 * 0.00149


def test_bfloat16_stays_near_float32():
    _, cfg, params = decoder_pair("theta 1e6")
    half = jax.tree.map(lambda array: jnp.asarray(array, jnp.bfloat16), params)
    largest_logit = largest_importance = 0.0
    for seed in range(4):
        ids = random_ids(seed + 20)
        row_weight = uniform_rows(ids.shape, [22])
        # Both start from the same weights: those that bfloat16 can hold.
        full = jax.tree.map(lambda array: np.asarray(array, np.float32), half)
        exact, exact_logits = run_ours(cfg.decoder, full["decoder"], embed(full, ids), None, row_weight)
        ours, logits = run_ours(cfg.decoder, half["decoder"], embed(half, ids), None, row_weight)
        assert ours.hidden.dtype == jnp.bfloat16
        assert logits.dtype == ours.importance.dtype == jnp.float32
        largest_logit = max(largest_logit, float(jnp.abs(logits - exact_logits).max()))
        largest_importance = max(largest_importance, float(jnp.abs(ours.importance - exact.importance).max()))
    assert largest_logit < BFLOAT16_LOGITS
    assert largest_importance < BFLOAT16_IMPORTANCE
