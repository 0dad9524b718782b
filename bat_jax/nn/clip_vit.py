"""CLIP vision tower (ViT-L/14-336 in UHR-BAT-7B): tiles in, patch features of the selected layer out."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bat_jax.config import VisionConfig
from bat_jax.ops.attention import full_attention
from bat_jax.typing import Array, Float

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


class VisionOutput(NamedTuple):
    """What the tower computes.

    patches (B, P, E): features of the selected layer, class token dropped. class_token (B, E): the same layer's.
    hidden_states (L + 1, B, P + 1, E): embeddings and every layer run, or None unless asked for.
    """

    patches: Float[Array, "B P E"]
    class_token: Float[Array, "B E"]
    hidden_states: Float[Array, "L B T E"] | None


class SelfAttention(nn.Module):
    """Unmasked multi-head attention with biases."""

    cfg: VisionConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T E"]) -> Float[Array, "B T E"]:
        heads = (*x.shape[:2], self.cfg.num_heads, -1)
        query, key, value = (nn.Dense(self.cfg.width, name=f"{n}_proj")(x).reshape(heads) for n in "qkv")
        mixed = full_attention(query, key, value)
        return nn.Dense(self.cfg.width, name="out_proj")(mixed.reshape(x.shape))


class Mlp(nn.Module):
    """fc2(act(fc1(x)))."""

    cfg: VisionConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T E"]) -> Float[Array, "B T E"]:
        x = ACTIVATIONS[self.cfg.activation](nn.Dense(self.cfg.mlp_dim, name="fc1")(x))
        return nn.Dense(self.cfg.width, name="fc2")(x)


def _layer_norm(cfg: VisionConfig, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=cfg.norm_eps, use_fast_variance=False, name=name)


class Block(nn.Module):
    """Pre-norm transformer block, in the form that nn.scan wants: (carry, out) for a carry."""

    cfg: VisionConfig
    emit_hidden: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B T E"], _: None):
        x = x + SelfAttention(self.cfg, name="self_attn")(_layer_norm(self.cfg, "layer_norm1")(x))
        x = x + Mlp(self.cfg, name="mlp")(_layer_norm(self.cfg, "layer_norm2")(x))
        return x, x if self.emit_hidden else None


class ClipVit(nn.Module):
    """The tower up to `cfg.select_layer`; later layers of a checkpoint have no parameters here."""

    cfg: VisionConfig

    @nn.compact
    def __call__(self, pixels: Float[Array, "B H W 3"], return_hidden: bool = False) -> VisionOutput:
        """Encode normalised tiles.

        Args:
          pixels: (B, t, t, 3) tiles, normalised by CLIP's mean and standard deviation; each goes through alone.
          return_hidden: also return all hidden states.
        """
        cfg = self.cfg
        patch = (cfg.patch_size_px, cfg.patch_size_px)
        x = nn.Conv(cfg.width, patch, patch, padding="VALID", use_bias=False, name="patch_embedding")(pixels)
        x = x.reshape(x.shape[0], -1, cfg.width)
        class_token = self.param("class_embedding", nn.initializers.normal(0.02), (cfg.width,)).astype(x.dtype)
        position = self.param("position_embedding", nn.initializers.normal(0.02), (cfg.num_patches + 1, cfg.width))
        x = jnp.concatenate([jnp.broadcast_to(class_token, (x.shape[0], 1, cfg.width)), x], axis=1)
        x = _layer_norm(cfg, "pre_layernorm")(x + position.astype(x.dtype))
        embeddings = x
        hidden = None
        if cfg.num_run_layers:
            layers = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=cfg.num_run_layers)
            x, hidden = layers(cfg, emit_hidden=return_hidden, name="layers")(x, None)
        if return_hidden:
            hidden = embeddings[None] if hidden is None else jnp.concatenate([embeddings[None], hidden])
        return VisionOutput(x[:, 1:], x[:, 0], hidden if return_hidden else None)
