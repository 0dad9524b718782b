"""Dense decoder of the Llama family (Qwen2 in LongVA-7B): GQA, RoPE, SwiGLU, RMSNorm, a fixed-size key-value cache.

Shapes: embeddings (B, T, D) with a validity mask (B, T) enter; rows that are not valid take a slot in the cache, but no
query attends to them and positions count valid rows only. `model.py` calls it three times per question: over the prompt
prefix and the anchor tokens (once an image), over the question to read importance, and over the compressed sequence.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bat_jax.config import DecoderConfig
from bat_jax.ops.attention import causal_attention, weighted_attention_row
from bat_jax.ops.rope import apply_rope
from bat_jax.typing import Array, Bool, Float, Int

# A loop over fewer layers than this costs more in copies than it saves in compiling.
MAX_UNROLLED_LAYERS = 6


class KVCache(NamedTuple):
    """Keys and values of all layers in S slots.

    key, value (L, B, S, K, H), keys already rotated. valid (B, S): slots that hold a token. length (): slots used.
    """

    key: Float[Array, "L B S K H"]
    value: Float[Array, "L B S K H"]
    valid: Bool[Array, "B S"]
    length: Int[Array, ""]

    @classmethod
    def empty(cls, cfg: DecoderConfig, batch: int, num_slots: int, dtype) -> "KVCache":
        shape = (cfg.num_layers, batch, num_slots, cfg.num_kv_heads, cfg.head_dim)
        valid = jnp.zeros((batch, num_slots), bool)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), valid, jnp.int32(0))

    def grown(self, num_slots: int) -> "KVCache":
        """Return the same cache with `num_slots` more empty slots at the end."""
        pad = ((0, 0), (0, 0), (0, num_slots), (0, 0), (0, 0))
        valid = jnp.pad(self.valid, ((0, 0), (0, num_slots)))
        return KVCache(jnp.pad(self.key, pad), jnp.pad(self.value, pad), valid, self.length)


class DecoderOutput(NamedTuple):
    """hidden (B, T, D): after the final norm. cache: with the new rows written.

    importance (L, B, S): each layer's weighted attention row, float32, or None. hidden_states (L + 1, B, T, D): the
    embeddings and every layer's output before the final norm, or None.
    """

    hidden: Float[Array, "B T D"]
    cache: KVCache
    importance: Float[Array, "L B S"] | None
    hidden_states: Float[Array, "L1 B T D"] | None


class _Rows(NamedTuple):
    """What every layer shares about the new rows. slot: None if row t stands in slot t."""

    position: Int[Array, "B T"]
    slot: Int[Array, "T"] | None
    key_valid: Bool[Array, "B S"]
    row_weight: Float[Array, "B T"] | None
    keep_hidden: Bool[Array, ""] | None  # None or not decides while tracing; the value is never read


def _rms_norm(cfg: DecoderConfig, name: str) -> nn.RMSNorm:
    return nn.RMSNorm(epsilon=cfg.norm_eps, name=name)  # statistics in float32 by default


class DecoderAttention(nn.Module):
    """Grouped-query attention that writes the new keys and values into the layer's cache."""

    cfg: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], layer_cache: tuple, rows: _Rows):
        cfg = self.cfg
        batch, length = x.shape[:2]
        query, key, value = (
            nn.Dense(heads * cfg.head_dim, cfg.qkv_bias, name=f"{n}_proj")(x).reshape(batch, length, heads, -1)
            for n, heads in (("q", cfg.num_heads), ("k", cfg.num_kv_heads), ("v", cfg.num_kv_heads))
        )
        if cfg.qk_norm:
            query, key = _rms_norm(cfg, "q_norm")(query), _rms_norm(cfg, "k_norm")(key)
        query = apply_rope(query, rows.position, cfg.rope_theta)
        key = apply_rope(key, rows.position, cfg.rope_theta)
        start = (0, 0 if rows.slot is None else rows.slot[0], 0, 0)
        keys = jax.lax.dynamic_update_slice(layer_cache[0], key.astype(layer_cache[0].dtype), start)
        values = jax.lax.dynamic_update_slice(layer_cache[1], value.astype(layer_cache[1].dtype), start)
        mixed = causal_attention(query, keys, values, rows.key_valid, rows.slot)
        importance = None
        if rows.row_weight is not None:
            with jax.named_scope("importance"):
                importance = weighted_attention_row(query, keys, rows.key_valid, rows.slot, rows.row_weight)
        mixed = mixed.reshape(batch, length, -1).astype(x.dtype)
        return nn.Dense(cfg.width, use_bias=False, name="o_proj")(mixed), (keys, values), importance


class DecoderMlp(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    cfg: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        gate = nn.Dense(self.cfg.mlp_dim, use_bias=False, name="gate_proj")(x)
        up = nn.Dense(self.cfg.mlp_dim, use_bias=False, name="up_proj")(x)
        return nn.Dense(self.cfg.width, use_bias=False, name="down_proj")(nn.silu(gate) * up)


class DecoderBlock(nn.Module):
    """Pre-norm decoder layer for nn.scan: the carry is x, the scanned input and output is the layer's cache."""

    cfg: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], layer_cache: tuple, rows: _Rows):
        attended, layer_cache, importance = DecoderAttention(self.cfg, name="self_attn")(
            _rms_norm(self.cfg, "input_layernorm")(x), layer_cache, rows
        )
        x = x + attended
        x = x + DecoderMlp(self.cfg, name="mlp")(_rms_norm(self.cfg, "post_attention_layernorm")(x))
        return x, (layer_cache, importance, None if rows.keep_hidden is None else x)


class Decoder(nn.Module):
    """The decoder. Apply with method "embed", "__call__" (embeddings to final hidden states) or "logits".

    `remat` computes the inside of every layer again in the backward pass, so that training keeps one row a layer.
    """

    cfg: DecoderConfig
    remat: bool = False

    def setup(self):
        cfg = self.cfg
        self.embed_tokens = nn.Embed(cfg.vocab_size, cfg.width)
        self.layers = nn.scan(
            # Inside a scan nothing can be merged with the recomputation, so guarding against it only costs.
            nn.remat(DecoderBlock, prevent_cse=False) if self.remat else DecoderBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=cfg.num_layers,
            unroll=cfg.num_layers if cfg.num_layers <= MAX_UNROLLED_LAYERS else 1,
        )(cfg)
        self.norm = nn.RMSNorm(epsilon=cfg.norm_eps)
        if not cfg.tie_word_embeddings:
            self.lm_head = nn.Dense(cfg.vocab_size, use_bias=False)

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
        valid: Bool[Array, "B T"],
        cache: KVCache | None = None,
        *,
        num_free_slots: int = 0,
        row_weight: Float[Array, "B T"] | None = None,
        return_hidden: bool = False,
    ) -> DecoderOutput:
        """Run the new rows through all layers.

        Args:
          embeddings: the new rows. valid: rows that are tokens; the others are never attended to.
          cache: what came before, with at least T free slots; None starts afresh, which costs less than an empty cache.
          num_free_slots: without a cache, slots behind the T new rows in the one that is returned.
          row_weight: weight of each new row in the importance that every layer then returns (Eq. 2).
          return_hidden: also return the hidden states of all layers.

        Raises:
          ValueError: free slots are asked for beside a cache, which has its own (`KVCache.grown`).
        """
        if cache is not None and num_free_slots:
            raise ValueError(f"num_free_slots={num_free_slots}: only without a cache; grow the cache instead")
        batch, length = embeddings.shape[:2]
        slot = None if cache is None else cache.length + jnp.arange(length)
        if cache is None:
            cache = KVCache.empty(self.cfg, batch, length + num_free_slots, embeddings.dtype)
        key_valid = jax.lax.dynamic_update_slice(cache.valid, valid, (0, cache.length))
        count_before = jnp.sum(cache.valid, axis=1, keepdims=True)
        rows = _Rows(
            # Rows that are not valid repeat the position before them; nothing reads what they compute.
            position=jnp.maximum(count_before + jnp.cumsum(valid, axis=1) - 1, 0),
            slot=slot,
            key_valid=key_valid,
            row_weight=row_weight,
            keep_hidden=jnp.bool_(True) if return_hidden else None,
        )
        x, ((keys, values), importance, hidden) = self.layers(embeddings, (cache.key, cache.value), rows)
        cache = KVCache(keys, values, key_valid, cache.length + length)
        if return_hidden:
            hidden = jnp.concatenate([embeddings[None], hidden])
        return DecoderOutput(self.norm(x), cache, importance, hidden)

    def everything(self, ids: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Return the logits of plain text; touches every parameter, so `init` uses it."""
        embeddings = self.embed(ids)
        return self.logits(self(embeddings, jnp.ones(ids.shape, bool)).hidden)
