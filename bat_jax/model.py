"""The vision-language model as pure functions of (config, params, arrays), in two halves.

What depends on the image alone (once an image; UHR-BAT, arXiv:2604.13565, Sec. 3.2-3.3):

    encode_tiles      tiles uint8 (B, t, t, 3) -> vision (B, P, E), projected (B, P, D)
    scale_embedding   one scale's embedding: (P, D) for a tile, or (M, D) for the whole view
    with_scale_embedding  projected (M, D) -> tokens as the answering or the attention path wants them
    anchor_cache      prompt prefix + anchor tokens -> key-value cache
    (compress.partition_scale: region ids)

What depends on the question:

    anchor_importance question rows over that cache -> importance of the anchor's tokens, every decoder layer
    (compress.select: aligned importance -> preserve and merge -> budget)
    visual_tokens     selected rows of all scales, through the token MLP where set -> (U, D) and mask
    splice            text ids and visual tokens -> one sequence of embeddings, its valid rows in front
    prefill, all_logits   decoder over the spliced sequence

What both halves and training are made of:

    embed, run_decoder, logits   text ids -> embeddings -> final hidden states -> vocabulary

`pipeline.py` compiles these and holds what the first half returns.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bat_jax.compress.preserve_merge import Selection
from bat_jax.config import BatConfig
from bat_jax.nn import decoder
from bat_jax.nn.clip_vit import TowerAttention, VisionOutput
from bat_jax.nn.decoder import DecoderOutput, KVCache
from bat_jax.nn.int8 import held_params
from bat_jax.ops.fused_attention import PLAIN
from bat_jax.ops.on_mesh import on_mesh
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.ops.valid_first import valid_first, valid_slots
from bat_jax.typing import Array, Bool, Float, Int, Key, Params, UInt8


class TileFeatures(NamedTuple):
    """vision (B, P, E): the tower's selected layer. projected (B, P, D): in the decoder's width.

    attention: the selected layer's, where a selection reads it.
    """

    vision: Float[Array, "B P E"]
    projected: Float[Array, "B P D"]
    attention: TowerAttention | None = None


class Spliced(NamedTuple):
    """Whole prompts with their visual tokens: embeddings (B, T, D), and of each the first `length` (B,) rows valid."""

    embeddings: Float[Array, "B T D"]
    length: Int[Array, "B"]


def modules(cfg: BatConfig) -> dict[str, nn.Module]:
    """Return the networks of a config by the name of their parameters; parts the checkpoint lacks are left out."""
    parts: dict[str, nn.Module] = {
        "vision_tower": cfg.vision.build(**_kernel_field(cfg.attention.tower)),
        "projector": cfg.projector.build(),
        "decoder": cfg.decoder.build(),
    }
    if cfg.scale_embedding.form != "none":
        parts["scale_embedding"] = cfg.scale_embedding.build()
    if cfg.has_token_mlp:
        parts["token_mlp"] = cfg.token_mlp.build()
    return parts


def _kernel_field(kernel: str) -> dict[str, str]:
    """Return the field of a network that says how it attends; one that knows the plain form alone needs none."""
    return {} if kernel == PLAIN else {"kernel": kernel}


def init_part(name: str, module: Any, key: Key[Array, ""]) -> Params:
    """Return random float32 parameters of one network; `name` is its key in `modules`."""
    cfg = module.cfg
    match name:
        case "vision_tower":
            variables = module.init(key, jnp.zeros((1, cfg.image_size_px, cfg.image_size_px, 3)))
        case "projector" | "token_mlp":
            variables = module.init(key, jnp.zeros((1, cfg.in_dim)))
        case "decoder":
            variables = module.init(key, jnp.zeros((1, 1), jnp.int32), method="everything")
        case _:
            variables = module.init(key, method="all_scales")
    return variables["params"]


@functools.partial(jax.jit, static_argnums=0)
def init_params(cfg: BatConfig, key: Key[Array, ""]) -> Params:
    """Return random float32 parameters of a whole model (used by training, tests and jax.eval_shape)."""
    parts = enumerate(modules(cfg).items())
    return {name: init_part(name, module, jax.random.fold_in(key, index)) for index, (name, module) in parts}


def loaded_shapes(cfg: BatConfig) -> Params:
    """Return the shapes and dtypes of a model's weights as loaded, from a checkpoint stored in the config's dtype."""

    def load(key):
        stored = init_params(cfg.with_weights("stored"), key)
        return held_params(cfg.decoder.weights, jax.tree.map(lambda leaf: leaf.astype(cfg.compute_dtype), stored))

    return jax.eval_shape(load, jax.random.key(0))


def _apply(cfg: BatConfig, params: Params, part: str, *args, **kwargs):
    return modules(cfg)[part].apply({"params": params[part]}, *args, **kwargs)


def embed(cfg: BatConfig, params: Params, ids: Int[Array, "*B T"], dtype: Any) -> Float[Array, "*B T D"]:
    """Look token ids up in the decoder's table."""
    return on_mesh(_apply(cfg, params, "decoder", ids, method="embed").astype(dtype))


def run_tower(cfg: BatConfig, params: Params, pixels: Float[Array, "B t t 3"], **kwargs: Any) -> VisionOutput:
    """Run the vision tower over normalised tiles; the other arguments are those of `nn.clip_vit.ClipVit`."""
    return _apply(cfg, params, "vision_tower", pixels, **kwargs)


def project(cfg: BatConfig, params: Params, vision: Float[Array, "*B E"]) -> Float[Array, "*B D"]:
    """Bring vision features to the decoder's width (Eq. 1)."""
    return _apply(cfg, params, "projector", vision)


def run_decoder(
    cfg: BatConfig,
    params: Params,
    embeddings: Float[Array, "B T D"],
    length: Int[Array, "B"] | None = None,
    cache: KVCache | None = None,
    *,
    remat: bool = False,
    **kwargs: Any,
) -> DecoderOutput:
    """Run new rows through all decoder layers; the other arguments are those of `nn.decoder.Decoder`."""
    apart = "layers" not in params["decoder"]
    module = cfg.decoder.build(remat=remat, apart=apart, **_kernel_field(cfg.attention.decoder))
    return module.apply({"params": params["decoder"]}, embeddings, length, cache, **kwargs)


def logits(
    cfg: BatConfig, params: Params, hidden: Float[Array, "*B D"], *, after_norm: bool = True
) -> Float[Array, "*B V"]:
    """Project hidden states to the vocabulary, float32; `after_norm` False: of a layer, before the final norm."""
    return on_mesh(_apply(cfg, params, "decoder", hidden, after_norm=after_norm, method="logits"))


def first_layers(cfg: BatConfig, params: Params, num_layers: int) -> tuple[BatConfig, Params]:
    """Return the config's networks and the parameters with the decoder cut to its first layers."""
    cfg = dataclasses.replace(cfg.networks, decoder=dataclasses.replace(cfg.decoder, num_layers=num_layers))
    return cfg, {**params, "decoder": decoder.first_layers(params["decoder"], num_layers)}


def token_grid(cfg: BatConfig, scale_px: int) -> TokenGrid:
    """Return the grid of a scale's tokens."""
    return TokenGrid(scale_px // cfg.vision.image_size_px, cfg.vision.side)


def encode_tiles(
    cfg: BatConfig, params: Params, tiles: UInt8[Array, "B t t 3"], table: Float[Array, "256 3"]
) -> TileFeatures:
    """Run the vision tower and the projector over tiles; F = V(I), E = phi(F) (Eq. 1).

    Args:
      tiles: RGB values. table: the normalised value of each of the 256 levels per channel, so that pixels travel as
        bytes and are normalised exactly as on the host.
    """
    return _encode_tiles(cfg, params, tiles, table, return_attention=False)


def encode_tiles_with_attention(
    cfg: BatConfig, params: Params, tiles: UInt8[Array, "B t t 3"], table: Float[Array, "256 3"]
) -> TileFeatures:
    """Run `encode_tiles` and also return the selected layer's attention (`CompressorConfig.reads_tower_attention`)."""
    return _encode_tiles(cfg, params, tiles, table, return_attention=True)


def normalised(table: Float[Array, "256 3"], tiles: UInt8[Array, "*B 3"]) -> Float[Array, "*B 3"]:
    """Return the table's value of every RGB level, to the last bit."""

    def look_up(table, tiles):
        return table[tiles.astype(jnp.int32), jnp.arange(3)]

    # XLA's compiler for TPUs takes minutes over a gather of so many numbers, and pads the three channels to 128.
    return jax.lax.platform_dependent(table, tiles, tpu=sum_of_level, default=look_up)


def sum_of_level(table: Float[Array, "256 3"], tiles: UInt8[Array, "*B 3"]) -> Float[Array, "*B 3"]:
    """Return what a lookup in the table would, as a sum over the levels of which one counts."""
    is_level = tiles[..., None] == jnp.arange(256, dtype=jnp.uint8)
    return jnp.sum(jnp.where(is_level, table.T, 0), axis=-1)


def _encode_tiles(cfg, params, tiles, table, *, return_attention: bool) -> TileFeatures:
    with jax.named_scope("vision_tower"):
        pixels = normalised(table, tiles).astype(cfg.compute_dtype)
        output = run_tower(cfg, params, pixels, return_attention=return_attention)
    with jax.named_scope("projector"):
        return TileFeatures(output.patches, project(cfg, params, output.patches), output.attention)


def scale_embedding(cfg: BatConfig, scale_px: int, params: Params) -> Float[Array, "_ D"]:
    """Return a scale's embedding in tile-major order: (P, D) with extent "tile", (M, D) with extent "scale" (Eq. 5)."""
    grid = token_grid(cfg, scale_px)
    if cfg.compressor.scale_embedding_extent == "tile":
        grid = TokenGrid(1, grid.side)
    return grid.to_tiles(_apply(cfg, params, "scale_embedding", scale_px, grid.full_side))


def with_scale_embedding(
    cfg: BatConfig, scale_px: int, repeats: int, params: Params, projected: Float[Array, "M D"]
) -> Float[Array, "M D"]:
    """Add a scale's embedding `repeats` times to its projected tokens: h = e + p + q (Eq. 5).

    `CompressorConfig.embedding_repeats` says how often on which path: the paper adds it once on both; the release twice
    on the answering path if enabled and not at all otherwise, but always once on the attention path.
    """
    if not repeats or cfg.scale_embedding.form == "none":
        return projected
    embedding = scale_embedding(cfg, scale_px, params)
    repeated = jnp.tile(embedding, (projected.shape[0] // embedding.shape[0], 1))
    return (projected + repeats * repeated).astype(projected.dtype)


def anchor_cache(
    cfg: BatConfig,
    params: Params,
    prefix_ids: Int[Array, "T"],
    anchor_tokens: Float[Array, "M D"],
    anchor_valid: Bool[Array, "M"],
) -> KVCache:
    """Return the decoder's cache over [prompt prefix, anchor tokens], which every question of the image shares.

    The anchor's tokens stand row-major by tile, inside a tile row-major by patch; masked ones are left out.
    """
    with jax.named_scope("anchor_prefix"):
        prefix = embed(cfg, params, prefix_ids[None], anchor_tokens.dtype)
        anchor = anchor_tokens[valid_first(anchor_valid)]
        embeddings = jnp.concatenate([prefix, anchor[None]], axis=1)
        length = (prefix_ids.shape[0] + jnp.sum(anchor_valid))[None]
        return run_decoder(cfg, params, embeddings, length).cache


def anchor_importance(
    cfg: BatConfig,
    is_one_row: bool,
    params: Params,
    cache: KVCache,
    anchor_valid: Bool[Array, "M"],
    suffix_ids: Int[Array, "T"],
    suffix_valid: Bool[Array, "T"],
    row_weight: Float[Array, "T"],
) -> Float[Array, "L M"]:
    """Return each decoder layer's importance of the anchor's tokens, a_i = sum_t w_t A_ti (Eq. 2), float32.

    Args:
      cache: from `anchor_cache`. anchor_valid: as there; a token that was left out has importance 0.
      suffix_ids: the text after the image, padded at its end; suffix_valid: its real tokens.
      row_weight, is_one_row: see compress/importance.py.
    """
    with jax.named_scope("anchor_importance"):
        suffix = embed(cfg, params, suffix_ids[None], cache.dtype)
        first_slot = cache.num_slots - anchor_valid.shape[0]
        length = jnp.sum(suffix_valid)[None]
        weights = row_weight[None]
        output = run_decoder(cfg, params, suffix, length, prefix=cache, row_weight=weights, is_one_row=is_one_row)
        importance = output.importance
        assert importance is not None  # it is there where rows have weights
        return jnp.where(anchor_valid, importance[:, 0, first_slot + valid_slots(anchor_valid)], 0.0)


def visual_tokens(
    cfg: BatConfig, params: Params, selections: tuple[Selection, ...]
) -> tuple[Float[Array, "U D"], Bool[Array, "U"]]:
    """Concatenate the scales from coarse to fine and apply the token MLP where set (release).

    Returns:
      U = sum of the static budgets rows, zeros where the mask is False, and the mask.
    """
    tokens = jnp.concatenate([selection.tokens for selection in selections])
    mask = jnp.concatenate([selection.mask for selection in selections])
    total = sum(cfg.compressor.budgets)
    if mask.size > total:  # scales that share one budget have room for all of it each
        order = valid_first(mask)[:total]
        tokens, mask = tokens[order], mask[order]
    if cfg.compressor.token_mlp:
        with jax.named_scope("token_mlp"):
            tokens = _apply(cfg, params, "token_mlp", tokens)
    return jnp.where(mask[:, None], tokens, 0), mask


def splice(
    cfg: BatConfig,
    params: Params,
    texts: tuple[Int[Array, "_"], ...],
    text_valid: tuple[Bool[Array, "_"], ...],
    visuals: tuple[Float[Array, "_ D"], ...],
    visual_masks: tuple[Bool[Array, "_"], ...],
) -> Spliced:
    """Put each image's visual tokens in its place: text 0, image 0, text 1, image 1, ..., last text.

    Padding and rows that a budget leaves empty go behind the valid rows.
    """
    embeddings, valid = [], []
    dtype = visuals[0].dtype
    for index, (ids, is_text) in enumerate(zip(texts, text_valid, strict=True)):
        embeddings.append(embed(cfg, params, ids, dtype))
        valid.append(is_text)
        if index < len(visuals):
            embeddings.append(visuals[index])
            valid.append(visual_masks[index])
    is_row = jnp.concatenate(valid)
    return Spliced(jnp.concatenate(embeddings)[valid_first(is_row)][None], jnp.sum(is_row)[None])


def prefill(
    cfg: BatConfig, num_new_slots: int, params: Params, spliced: Spliced
) -> tuple[Float[Array, "B V"], KVCache]:
    """Run spliced prompts through the decoder.

    Returns:
      The logits after each one's last valid row, and a cache with `num_new_slots` free slots for generation.
    """
    with jax.named_scope("prefill"):
        output = run_decoder(cfg, params, *spliced, num_free_slots=num_new_slots, only_last=True)
        return logits(cfg, params, output.hidden[:, 0]), output.cache


def all_logits(cfg: BatConfig, params: Params, spliced: Spliced) -> Float[Array, "B T V"]:
    """Return the logits at every row of spliced prompts (rows that are not valid hold nothing of meaning)."""
    return logits(cfg, params, run_decoder(cfg, params, *spliced).hidden)


def decode_step(
    cfg: BatConfig, params: Params, ids: Int[Array, "B"], cache: KVCache
) -> tuple[Float[Array, "B V"], KVCache]:
    """Feed one token per sequence and return the logits that follow it."""
    output = run_decoder(cfg, params, embed(cfg, params, ids[:, None], cache.dtype), None, cache)
    return logits(cfg, params, output.hidden[:, 0]), output.cache
