"""CLIP vision tower (ViT-L/14-336 in UHR-BAT-7B): tiles in, patch features of the selected layer out."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bat_jax.config import VisionConfig
from bat_jax.ops.attention import full_attention
from bat_jax.ops.fused_attention import PLAIN, fused_attention
from bat_jax.typing import Array, Float

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


class TowerAttention(NamedTuple):
    """What the selected layer's attention says of the patches of each tile, float32.

    class_attention (..., P): softmax row of the class token over all tokens of the tile, mean over heads.
    class_value (..., P): <q, v_i> / sqrt(E) of the class token's query and the patch's value, heads side by side.
    key (..., P, H): the patch's key, mean over heads.
    """

    class_attention: Float[Array, "*B P"]
    class_value: Float[Array, "*B P"]
    key: Float[Array, "*B P H"]


class VisionOutput(NamedTuple):
    """What the tower computes.

    patches (B, P, E): features of the selected layer, class token dropped.
    hidden_states (L + 1, B, P + 1, E): embeddings and every layer run, or None unless asked for.
    attention: the selected layer's, or None unless asked for.
    """

    patches: Float[Array, "B P E"]
    hidden_states: Float[Array, "L B T E"] | None
    attention: TowerAttention | None


def _tower_attention(
    query: Float[Array, "B T N H"], key: Float[Array, "B T N H"], value: Float[Array, "B T N H"]
) -> TowerAttention:
    """Read a layer's attention at the class token, which stands first."""
    query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    num_heads, head_dim = query.shape[2:]
    scores = jnp.einsum("BNH,BSNH->BNS", query[:, 0], key) * head_dim**-0.5
    values = jnp.einsum("BNH,BSNH->BS", query[:, 0], value) * (num_heads * head_dim) ** -0.5
    return TowerAttention(
        class_attention=jnp.mean(jax.nn.softmax(scores, axis=-1), axis=1)[:, 1:],
        class_value=values[:, 1:],
        key=jnp.mean(key, axis=2)[:, 1:],
    )


class VisionAttention(nn.Module):
    """Unmasked multi-head attention with biases; also returns what `TowerAttention` holds if asked for."""

    cfg: VisionConfig
    emit_attention: bool = False
    kernel: str = PLAIN

    @nn.compact
    def __call__(self, x: Float[Array, "B T E"]) -> tuple[Float[Array, "B T E"], TowerAttention | None]:
        heads = (*x.shape[:2], self.cfg.num_heads, -1)
        query, key, value = (nn.Dense(self.cfg.width, name=f"{n}_proj")(x).reshape(heads) for n in "qkv")
        if self.kernel == PLAIN:
            mixed = full_attention(query, key, value)
        else:
            mixed = fused_attention(self.kernel, query, key, value, is_causal=False)
        attention = _tower_attention(query, key, value) if self.emit_attention else None
        return nn.Dense(self.cfg.width, name="out_proj")(mixed.reshape(x.shape)), attention


class VisionMlp(nn.Module):
    """fc2(act(fc1(x)))."""

    cfg: VisionConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T E"]) -> Float[Array, "B T E"]:
        x = ACTIVATIONS[self.cfg.activation](nn.Dense(self.cfg.mlp_dim, name="fc1")(x))
        return nn.Dense(self.cfg.width, name="fc2")(x)


def _layer_norm(cfg: VisionConfig, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=cfg.norm_eps, use_fast_variance=False, name=name)


class VisionBlock(nn.Module):
    """Pre-norm transformer block, in the form that nn.scan wants: (carry, out) for a carry."""

    cfg: VisionConfig
    emit_hidden: bool = False
    emit_attention: bool = False
    kernel: str = PLAIN

    @nn.compact
    def __call__(self, x: Float[Array, "B T E"], _: None):
        mixed, attention = VisionAttention(self.cfg, self.emit_attention, self.kernel, name="self_attn")(
            _layer_norm(self.cfg, "layer_norm1")(x)
        )
        x = x + mixed
        x = x + VisionMlp(self.cfg, name="mlp")(_layer_norm(self.cfg, "layer_norm2")(x))
        return x, (x if self.emit_hidden else None, attention)


class ClipVit(nn.Module):
    """The tower up to `cfg.select_layer`; later layers of a checkpoint have no parameters here.

    kernel: form of attention (`ops.fused_attention`).
    """

    cfg: VisionConfig
    kernel: str = PLAIN

    @nn.compact
    def __call__(
        self, pixels: Float[Array, "B H W 3"], return_hidden: bool = False, return_attention: bool = False
    ) -> VisionOutput:
        """Encode normalised tiles.

        Args:
          pixels: (B, t, t, 3) tiles, normalised by CLIP's mean and standard deviation; each goes through alone.
          return_hidden: also return all hidden states. return_attention: also the selected layer's attention.

        Raises:
          ValueError: attention is asked for and the selected layer is the embeddings, which have none.
        """
        cfg = self.cfg
        if return_attention and not cfg.num_run_layers:
            raise ValueError(f"select_layer={cfg.select_layer}: takes the embeddings, which have no attention to read")
        patch = (cfg.patch_size_px, cfg.patch_size_px)
        x = nn.Conv(cfg.width, patch, patch, padding="VALID", use_bias=False, name="patch_embedding")(pixels)
        x = x.reshape(x.shape[0], -1, cfg.width)
        class_token = self.param("class_embedding", nn.initializers.normal(0.02), (cfg.width,)).astype(x.dtype)
        position = self.param("position_embedding", nn.initializers.normal(0.02), (cfg.num_patches + 1, cfg.width))
        x = jnp.concatenate([jnp.broadcast_to(class_token, (x.shape[0], 1, cfg.width)), x], axis=1)
        x = _layer_norm(cfg, "pre_layernorm")(x + position.astype(x.dtype))
        embeddings = x
        hidden, attention = None, None
        if cfg.num_run_layers:
            layers = nn.scan(
                VisionBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=cfg.num_run_layers
            )
            run = layers(cfg, return_hidden, return_attention, self.kernel, name="layers")
            x, (hidden, attention) = run(x, None)
        if return_hidden:
            hidden = embeddings[None] if hidden is None else jnp.concatenate([embeddings[None], hidden])
        attention = jax.tree.map(lambda layer: layer[-1], attention)
        return VisionOutput(x[:, 1:], hidden if return_hidden else None, attention)
