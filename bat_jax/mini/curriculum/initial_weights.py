"""Random weights of all parts, chosen so that words and tokens are still themselves behind an untrained layer."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax import model as bat
from bat_jax.config import BatConfig
from bat_jax.typing import Array, Key

_POSITION_SIZE = 0.1
_BRANCH_SIZE = 0.1


@functools.partial(jax.jit, static_argnums=0)
def init_params(cfg: BatConfig, key: Key[Array, ""]) -> dict[str, Any]:
    """Return random weights.

    What layers add to the residual stream begins small against the embeddings (it would be eight times as large after
    one layer, and a token would hardly resemble its word). Attention begins by looking for its like (the queries of a
    group of heads are its keys) and by copying what it finds (the way out is the way in, transposed). The scale
    embedding's base grid begins as sinusoids.
    """
    params = dict(bat.init_params(cfg, key))
    layers = params["decoder"]["layers"]
    layers["mlp"]["down_proj"]["kernel"] *= _BRANCH_SIZE
    attention, dec = layers["self_attn"], cfg.decoder
    group = dec.num_heads // dec.num_kv_heads
    heads = (dec.num_layers, dec.width, dec.num_kv_heads, dec.head_dim)
    keys = attention["k_proj"]["kernel"].reshape(heads)
    queries = attention["q_proj"]["kernel"].reshape(dec.num_layers, dec.width, dec.num_heads, dec.head_dim)
    alike = queries.at[:, :, :group].set(keys[:, :, :1])
    attention["q_proj"]["kernel"] = alike.reshape(dec.num_layers, dec.width, -1)
    copied = jnp.repeat(attention["v_proj"]["kernel"].reshape(heads), group, axis=2)
    attention["o_proj"]["kernel"] = _BRANCH_SIZE * copied.reshape(dec.num_layers, dec.width, -1).swapaxes(1, 2)
    side, width = cfg.scale_embedding.base_side, cfg.scale_embedding.width
    place = (np.arange(side) + 0.5) / side
    angles = place[:, None] * np.pi * 2.0 ** np.linspace(-1, 3, width // 4)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1) * _POSITION_SIZE
    rows_and_columns = np.broadcast_arrays(waves[:, None], waves[None])
    params["scale_embedding"]["base"] = jnp.asarray(np.concatenate(rows_and_columns, axis=-1), jnp.float32)
    return params
