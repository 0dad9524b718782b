"""Matrices as int8 with a float32 scale for each output channel: half the bytes of bfloat16, read once a token.

A weight w is stored as round(w / s), where s = max |w| / 127 over its output channel, and read as that times s; biases
and norms stay. Activations stay as they are, so only the weights are rounded.

qwix does the same to Linen modules that are already written, but not to a stack of layers under `nn.scan` nor to an
embedding that is the head, too, and it multiplies by a copy of the weights in the activations' type.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from bat_jax.typing import Array, Float, Int, Params

_LARGEST = 127
# What matrices are called as floats, and as int8: (N, D), one row an output channel, which is how a GPU reads
# them fastest.
_NAMES = {"kernel": "rows", "embedding": "embedding"}


def held_as(weights: str, path: str, leaf: Any) -> list[tuple[str, Any]]:
    """Return a leaf of a model's parameters, by its path with slashes, as the leaves that hold it.

    Args:
      weights: see `DecoderConfig.weights`; it is about the decoder's matrices, whose layers may be stacked or apart.
    """
    parent, _, name = path.rpartition("/")
    if weights == "stored" or not path.startswith("decoder/") or name not in _NAMES:
        return [(path, leaf)]
    if weights == "bf16":
        return [(path, leaf.astype(jnp.bfloat16))]
    rows, scale = _rounded(leaf, name == "kernel")
    return [(f"{parent}/{_NAMES[name]}", rows), (f"{parent}/scale", scale)]


def held_params(weights: str, params: Params) -> dict[str, Any]:
    """Return a whole model's parameters with every leaf as `held_as` holds it."""
    flat = traverse_util.flatten_dict(dict(params), sep="/")
    pairs = (pair for item in flat.items() for pair in held_as(weights, *item))
    return traverse_util.unflatten_dict(dict(pairs), sep="/")


@functools.partial(jax.jit, static_argnums=1)
def _rounded(weights: Float[Array, "*L A B"], is_kernel: bool) -> tuple[Int[Array, "*L N D"], Float[Array, "*L N"]]:
    rows = (weights.swapaxes(-1, -2) if is_kernel else weights).astype(jnp.float32)
    scale = jnp.max(jnp.abs(rows), axis=-1) / _LARGEST
    return jnp.round(rows / jnp.where(scale > 0, scale, 1)[..., None]).astype(jnp.int8), scale


def int8_product(x: Float[Array, "*B D"], rows: Int[Array, "N D"], scale: Float[Array, "N"]) -> Float[Array, "*B N"]:
    """Return x @ (rows * scale).T in x's type.

    A GPU multiplies a single x and sums, in one kernel that reads int8; handed to the library for products, the weights
    would be written out as floats first. For many x that copy is a small part of the work.
    """
    if x.size != x.shape[-1]:
        return product_by_library(x, rows, scale)
    return jax.lax.platform_dependent(x, rows, scale, cuda=product_by_sums, default=product_by_library)


def product_by_library(x: Float[Array, "*B D"], rows: Int[Array, "N D"], scale: Float[Array, "N"]):
    # Bound to this x, or XLA would keep the copies of all matrices from one pass over the layers for the next one.
    x, rows = jax.lax.optimization_barrier((x, rows))
    return x @ (rows * scale[:, None]).astype(x.dtype).T


def product_by_sums(x: Float[Array, "*B D"], rows: Int[Array, "N D"], scale: Float[Array, "N"]):
    products = x.astype(jnp.float32)[..., None, :] * rows.astype(jnp.float32)
    return (jnp.sum(products, axis=-1) * scale).astype(x.dtype)


def _rows_and_scale(module: nn.Module, name: str, num_rows: int, width: int) -> tuple[Any, Any]:
    """Return a module's parameters; initialised, they are spread as floats would be, with variance 1 / width."""

    def random_rows(key, shape):
        return jax.random.randint(key, shape, -_LARGEST, _LARGEST + 1, jnp.int8)

    spread = nn.initializers.constant((3 / width) ** 0.5 / _LARGEST, jnp.float32)
    return module.param(name, random_rows, (num_rows, width)), module.param("scale", spread, (num_rows,))


class Int8Dense(nn.Module):
    """`nn.Dense` on int8 rows (N, D), with a scale (N,)."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B N"]:
        y = int8_product(x, *_rows_and_scale(self, _NAMES["kernel"], self.features, x.shape[-1]))
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        return y


class Int8Embed(nn.Module):
    """`nn.Embed` whose table (V, D) is int8, with a scale a token (V,)."""

    num_embeddings: int
    features: int

    def setup(self):
        self.embedding, self.scale = _rows_and_scale(self, "embedding", self.num_embeddings, self.features)

    def __call__(self, ids: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """Look token ids up, float32."""
        return self.embedding[ids] * self.scale[ids][..., None]

    def attend(self, x: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return the product with every token's row."""
        return int8_product(x, self.embedding, self.scale)
