"""Attention of whole sequences by kernels that never write the scores: who offers one, and in what form.

    cudnn    cuDNN's flash attention through jax.nn.dot_product_attention; bfloat16 and float16 on NVIDIA GPUs
    pallas   the Triton kernel that comes with JAX; GPUs, and anywhere in interpret mode

`ops.attention` holds the plain form, which every one of them is compared with. They take sequences from slot 0 on: all
queries and all keys are there, and valid rows stand in front, so that causality alone hides padding.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu import attention as pallas_attention

from bat_jax.typing import Array, Float

PLAIN = "plain"
KERNELS = ("cudnn", "pallas")
_BLOCK = 128  # rows that the Triton kernel takes at once; sequences are padded to a multiple


def fused_attention(
    kernel: str,
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    *,
    is_causal: bool,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """Attend from every query to every key, or to those in its slot and before it.

    Args:
      kernel: one of KERNELS. interpret: run the Triton kernel without a GPU, for tests.
    """
    if kernel == "cudnn":
        return jax.nn.dot_product_attention(query, key, value, is_causal=is_causal, implementation="cudnn")
    if kernel != "pallas":
        raise ValueError(f"attention={kernel!r}: known are {', '.join((PLAIN, *KERNELS))}")
    length, num_groups = query.shape[1], query.shape[2] // key.shape[2]
    padding = ((0, 0), (0, -length % _BLOCK), (0, 0), (0, 0))
    query, key, value = (jnp.pad(x, padding) for x in (query, key, value))
    key, value = (jnp.repeat(x, num_groups, axis=2) for x in (key, value))
    segments = None
    if query.shape[1] != length and not is_causal:
        segments = jnp.broadcast_to(jnp.arange(query.shape[1]) < length, query.shape[:2]).astype(jnp.int32)
    mixed = pallas_attention.mha(
        query, key, value, segments, sm_scale=query.shape[-1] ** -0.5, causal=is_causal, interpret=interpret
    )
    return mixed[:, :length]
