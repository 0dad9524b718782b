"""Dense decoder of the Llama family (Qwen2 in LongVA-7B): GQA, RoPE, SwiGLU, RMSNorm, a fixed-size key-value cache.

Shapes: embeddings (B, T, D) enter, of which the first `length` (B,) rows are tokens; they take the slots of the cache
behind what it holds, and their positions are their slots. Rows behind them are padding: what they leave in the cache is
never attended to and is written over by the next rows. `model.py` calls it three times per question: over the prompt
prefix and the anchor tokens (once an image), over the question to read importance, and over the compressed sequence.

Parameters of the layers are stacked, (L, ...) a leaf under "layers", for one compiled layer that is scanned: quick to
compile, and what is stored and trained. Or they are apart, under "layers_0", "layers_1", ... (`layers_apart`): compiled
for an H200, a scan copies each layer's weights out of the stack before it multiplies, three times what decoding needs.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from bat_jax.config import DecoderConfig
from bat_jax.nn.int8 import Int8Dense, Int8Embed
from bat_jax.ops.attention import attention_behind, causal_attention, weighted_attention_row
from bat_jax.ops.fused_attention import PLAIN, fused_attention
from bat_jax.ops.on_mesh import HEADS, on_mesh
from bat_jax.ops.rope import apply_rope
from bat_jax.typing import Array, Bool, Float, Int, Params, Shaped

# A loop over fewer layers than this costs more in copies than it saves in compiling.
MAX_UNROLLED_LAYERS = 6
# Caches have a multiple of this many slots: products over others are padded, in a copy of the cache at each token.
SLOT_MULTIPLE = 64
_STACK = "layers"


def unstacked(path: str, leaf: Any) -> list[tuple[str, Any]]:
    """Return a leaf of a model's parameters, by its path with slashes, as the leaves of the layers that it stacks."""
    stack = f"decoder/{_STACK}/"
    if not path.startswith(stack):
        return [(path, leaf)]
    return [(f"decoder/{_STACK}_{i}/{path.removeprefix(stack)}", leaf[i]) for i in range(leaf.shape[0])]


def layers_apart(params: Params) -> dict[str, Any]:
    """Return a model's parameters with each decoder layer's arrays apart; they may already be."""
    flat = traverse_util.flatten_dict(dict(params), sep="/")
    return traverse_util.unflatten_dict(dict(pair for item in flat.items() for pair in unstacked(*item)), sep="/")


def first_layers(params: Params, num_layers: int) -> dict[str, Any]:
    """Return a decoder's parameters, stacked or apart, without the layers from `num_layers` on."""
    if _STACK in params:
        return {**params, _STACK: jax.tree.map(lambda leaf: leaf[:num_layers], params[_STACK])}
    kept = {f"{_STACK}_{layer}" for layer in range(num_layers)}
    return {name: part for name, part in params.items() if name in kept or not name.startswith(f"{_STACK}_")}


class KVCache(NamedTuple):
    """Keys and values of all layers in S slots.

    key, value: keys already rotated; (L, B, S, K, H), or L arrays (B, S, K, H) beside parameters that are apart.
    length (B,): slots of each sequence that hold a token, the first ones.
    """

    key: Float[Array, "L B S K H"] | tuple[Float[Array, "B S K H"], ...]
    value: Float[Array, "L B S K H"] | tuple[Float[Array, "B S K H"], ...]
    length: Int[Array, "B"]

    @property
    def num_slots(self) -> int:
        return jax.tree.leaves(self.key)[0].shape[-3]

    @property
    def dtype(self) -> Any:
        return jax.tree.leaves(self.key)[0].dtype

    def grown(self, num_slots: int) -> "KVCache":
        """Return the same cache with `num_slots` more empty slots at the end."""

        def grow(array):
            return jnp.pad(array, [(0, 0)] * (array.ndim - 3) + [(0, num_slots), (0, 0), (0, 0)])

        return KVCache(jax.tree.map(grow, self.key), jax.tree.map(grow, self.value), self.length)


class DecoderOutput(NamedTuple):
    """hidden (B, T, D): after the final norm; (B, 1, D) of the last rows alone. cache: with the new rows written.

    importance (L, B, S): each layer's weighted attention row, float32, or None. hidden_states (L + 1, B, T, D): the
    embeddings and every layer's output before the final norm, or None.
    """

    hidden: Float[Array, "B T D"]
    cache: KVCache
    importance: Float[Array, "L B S"] | None
    hidden_states: Float[Array, "L1 B T D"] | None


class _Rows(NamedTuple):
    """What every layer shares about the new rows.

    start: None if row t stands in slot t of a cache without others. prefix_length: of a cache that is only read. only:
    the one row of each sequence that is to leave the layer; None for all.
    """

    position: Int[Array, "B T"]
    start: Int[Array, "B"] | None
    prefix_length: Int[Array, "1"] | None
    row_weight: Float[Array, "B T"] | None
    # None or not decides while tracing; the value is never read.
    is_one_row: Bool[Array, ""] | None
    keep_hidden: Bool[Array, ""] | None
    only: Int[Array, "B"] | None = None


def _one_row(x: Shaped[Array, "B T *D"], row: Int[Array, "B"]) -> Shaped[Array, "B 1 *D"]:
    """Return one row of each sequence."""
    return jnp.take_along_axis(x, row.reshape(-1, *[1] * (x.ndim - 1)), axis=1)


@jax.custom_batching.custom_vmap
def _write_one(cached: Float[Array, "1 S K H"], rows: Float[Array, "1 T K H"], start: Int[Array, "1"]):
    """Put one sequence's rows into its slots from `start` on: one slice, which XLA writes in place."""
    return jax.lax.dynamic_update_slice(cached, rows, (0, start[0], 0, 0))


@_write_one.def_vmap
def _write_samples(axis_size, is_batched, *args):
    """Do so for each sample of a training batch by choosing row by row.

    JAX's own rule makes a scatter, and cut over several GPUs, a scatter before a transposition aborts XLA (0.10.2).
    """

    def write(cached, rows, start):
        num_slots, num_rows = cached.shape[2], rows.shape[2]
        row = jnp.arange(num_slots) - jnp.clip(start, 0, num_slots - num_rows)  # (samples, S)
        moved = jnp.take_along_axis(rows, jnp.clip(row, 0, num_rows - 1)[:, None, :, None, None], axis=2)
        is_new = (row >= 0) & (row < num_rows)
        return jnp.where(is_new[:, None, :, None, None], moved, cached)

    def whole(array, has_samples):
        return array if has_samples else jnp.broadcast_to(array, (axis_size, *array.shape))

    return write(*map(whole, args, is_batched)), True


def _write(cached: Float[Array, "B S K H"], rows: Float[Array, "B T K H"], start: Int[Array, "B"]):
    """Put each sequence's rows into its slots from `start` on."""
    rows = rows.astype(cached.dtype)
    if cached.shape[0] == 1:
        return _write_one(cached, rows, start)
    return jax.vmap(lambda one, new, slot: jax.lax.dynamic_update_slice(one, new, (slot, 0, 0)))(cached, rows, start)


def _rms_norm(cfg: DecoderConfig, name: str) -> nn.RMSNorm:
    return nn.RMSNorm(epsilon=cfg.norm_eps, name=name)  # statistics in float32 by default


def _dense(cfg: DecoderConfig, features: int, name: str | None = None, *, use_bias: bool = False) -> nn.Module:
    kind = Int8Dense if cfg.weights == "int8" else nn.Dense
    return kind(features, use_bias=use_bias, name=name)


class DecoderAttention(nn.Module):
    """Grouped-query attention that writes the new keys and values into the layer's cache, if there is one.

    With `rows.only`, all rows give keys and values, and one of each sequence attends.
    """

    cfg: DecoderConfig
    kernel: str = PLAIN

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], layer_cache: tuple | None, rows: _Rows):
        cfg = self.cfg
        asking, position, start = x, rows.position, rows.start
        if rows.only is not None:
            asking, position = _one_row(x, rows.only), _one_row(position, rows.only)
            start = rows.only if start is None else start + rows.only
        query, key, value = (
            _dense(cfg, heads * cfg.head_dim, f"{n}_proj", use_bias=cfg.qkv_bias)(of).reshape(*of.shape[:2], heads, -1)
            for n, of, heads in (("q", asking, cfg.num_heads), ("k", x, cfg.num_kv_heads), ("v", x, cfg.num_kv_heads))
        )
        if cfg.qk_norm:
            query, key = _rms_norm(cfg, "q_norm")(query), _rms_norm(cfg, "k_norm")(key)
        query = apply_rope(query, position, cfg.rope_theta)
        key = apply_rope(key, rows.position, cfg.rope_theta)
        query, key, value = (on_mesh(array, None, None, HEADS) for array in (query, key, value))
        is_one_row = rows.is_one_row is not None
        if layer_cache is not None and rows.prefix_length is not None:
            with jax.named_scope("attention_behind"):
                mixed, importance = attention_behind(
                    layer_cache, rows.prefix_length, query, key, value, rows.row_weight, is_one_row=is_one_row
                )
        else:
            if layer_cache is not None and rows.start is not None:
                key, value = (_write(old, new, rows.start) for old, new in zip(layer_cache, (key, value), strict=True))
            if layer_cache is None and rows.only is None and self.kernel != PLAIN:
                mixed = fused_attention(self.kernel, query, key, value, is_causal=True)
            else:
                mixed = causal_attention(query, key, value, start)
            importance = None
            if rows.row_weight is not None:
                with jax.named_scope("importance"):
                    importance = weighted_attention_row(query, key, rows.start, rows.row_weight, is_one_row=is_one_row)
        mixed = mixed.reshape(*asking.shape[:2], -1).astype(x.dtype)
        return _dense(cfg, cfg.width, "o_proj")(mixed), (key, value), importance


class DecoderMlp(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    cfg: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        gate = _dense(self.cfg, self.cfg.mlp_dim, "gate_proj")(x)
        up = _dense(self.cfg, self.cfg.mlp_dim, "up_proj")(x)
        return _dense(self.cfg, self.cfg.width, "down_proj")(nn.silu(gate) * up)


class DecoderBlock(nn.Module):
    """Pre-norm decoder layer for nn.scan: the carry is x, the scanned input and output is the layer's cache."""

    cfg: DecoderConfig
    kernel: str = PLAIN

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], layer_cache: tuple | None, rows: _Rows):
        attended, layer_cache, importance = DecoderAttention(self.cfg, self.kernel, name="self_attn")(
            _rms_norm(self.cfg, "input_layernorm")(x), layer_cache, rows
        )
        x = (x if rows.only is None else _one_row(x, rows.only)) + attended
        x = x + DecoderMlp(self.cfg, name="mlp")(_rms_norm(self.cfg, "post_attention_layernorm")(x))
        return x, (layer_cache, importance, None if rows.keep_hidden is None else x)


class Decoder(nn.Module):
    """The decoder. Apply with method "embed", "__call__" (embeddings to final hidden states) or "logits".

    Attributes:
      remat: compute the inside of every layer again in the backward pass, so that training keeps one row a layer.
      apart: the layers' parameters are those of `layers_apart`.
      kernel: form of attention over a sequence that starts afresh (`ops.fused_attention`).
    """

    cfg: DecoderConfig
    remat: bool = False
    apart: bool = False
    kernel: str = PLAIN

    def setup(self):
        cfg = self.cfg
        self.embed_tokens = (Int8Embed if cfg.weights == "int8" else nn.Embed)(cfg.vocab_size, cfg.width)
        # Inside a scan nothing can be merged with the recomputation, so guarding against it only costs.
        block = nn.remat(DecoderBlock, prevent_cse=self.apart) if self.remat else DecoderBlock
        if self.apart:
            self.layers: Any = [block(cfg, self.kernel) for _ in range(cfg.num_layers)]
        else:
            self.layers = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(0, nn.broadcast),
                length=cfg.num_layers,
                unroll=cfg.num_layers if cfg.num_layers <= MAX_UNROLLED_LAYERS else 1,
            )(cfg, self.kernel)
        self.norm = nn.RMSNorm(epsilon=cfg.norm_eps)
        if not cfg.tie_word_embeddings:
            self.lm_head = _dense(cfg, cfg.vocab_size)

    def embed(self, ids: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
        """Look token ids up."""
        return self.embed_tokens(ids)

    def logits(self, hidden: Float[Array, "*B D"], *, after_norm: bool = True) -> Float[Array, "*B V"]:
        """Project hidden states to the vocabulary, float32; those of a layer before the final norm go through it."""
        hidden = hidden if after_norm else self.norm(hidden)
        head = self.embed_tokens.attend if self.cfg.tie_word_embeddings else self.lm_head
        return head(hidden).astype(jnp.float32)

    def __call__(
        self,
        embeddings: Float[Array, "B T D"],
        length: Int[Array, "B"] | None = None,
        cache: KVCache | None = None,
        *,
        prefix: KVCache | None = None,
        num_free_slots: int = 0,
        row_weight: Float[Array, "B T"] | None = None,
        is_one_row: bool = False,
        return_hidden: bool = False,
        only_last: bool = False,
    ) -> DecoderOutput:
        """Run the new rows through all layers.

        Args:
          embeddings: the new rows. length: how many of them are tokens, the first ones; None for all.
          cache: what came before, with at least T free slots; None starts afresh, which costs less than an empty cache.
          prefix: instead, what came before in all B sequences alike: the cache of one, which is only read. The cache
            that is returned holds the new rows alone; the importance is of the prefix's slots and the new rows.
          num_free_slots: without a cache, slots behind the T new rows in the one that is returned, or a few more
            (`SLOT_MULTIPLE`).
          row_weight: weight of each new row in the importance that every layer then returns (Eq. 2).
          is_one_row: no sequence has more than one row of weight, see `ops.attention.weighted_attention_row`.
          return_hidden: also return the hidden states of all layers.
          only_last: return of each sequence the hidden state of its last token alone, (B, 1, D). Of the last layer keys
            and values are then all that is computed of the other rows, where the layers' parameters stand apart.

        Raises:
          ValueError: free slots are asked for beside a cache, which has its own (`KVCache.grown`); or only_last beside
            what other rows of the last layer are needed for, or a prefix.
        """
        if cache is not None and num_free_slots:
            raise ValueError(f"num_free_slots={num_free_slots}: only without a cache; grow the cache instead")
        if only_last and not (prefix is None and row_weight is None and not return_hidden):
            raise ValueError("only_last: not with prefix, row_weight or return_hidden")
        earlier = cache if prefix is None else prefix
        batch, num_rows = embeddings.shape[:2]
        length = jnp.full(batch, num_rows, jnp.int32) if length is None else length
        before = jnp.zeros(batch, jnp.int32) if earlier is None else jnp.broadcast_to(earlier.length, batch)
        rows = _Rows(
            position=before[:, None] + jnp.arange(num_rows),
            start=None if cache is None else before,
            prefix_length=None if prefix is None else prefix.length,
            row_weight=row_weight,
            is_one_row=jnp.bool_(True) if is_one_row else None,
            keep_hidden=jnp.bool_(True) if return_hidden else None,
        )
        only = length - 1 if only_last else None
        x, ((keys, values), importance, hidden) = self._run_layers(embeddings, earlier, rows, only)
        new_cache = KVCache(keys, values, length if prefix is not None else before + length)
        if num_free_slots:
            new_cache = new_cache.grown(num_free_slots + -(num_rows + num_free_slots) % SLOT_MULTIPLE)
        if return_hidden:
            hidden = jnp.concatenate([embeddings[None], hidden])
        return DecoderOutput(self.norm(x), new_cache, importance, hidden)

    def _run_layers(self, x, cache: KVCache | None, rows: _Rows, only: Int[Array, "B"] | None):
        """Return the last layer's rows, all or `only` one, and (keys and values, importance, hidden) of all layers."""
        if not self.apart:
            x, kept = self.layers(x, None if cache is None else (cache.key, cache.value), rows)
            return (x if only is None else _one_row(x, only)), kept
        kept = []
        for index, layer in enumerate(self.layers):
            if index == self.cfg.num_layers - 1:
                rows = rows._replace(only=only)
            x, of_layer = layer(x, None if cache is None else (cache.key[index], cache.value[index]), rows)
            kept.append(of_layer)
        layer_caches, importance, hidden = zip(*kept, strict=True)
        stacked = [None if parts[0] is None else jnp.stack(parts) for parts in (importance, hidden)]
        return x, (tuple(zip(*layer_caches, strict=True)), *stacked)

    def everything(self, ids: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Return the logits of plain text; touches every parameter, so `init` uses it."""
        embeddings = self.embed(ids)
        return self.logits(self(embeddings).hidden)
