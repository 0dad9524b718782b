"""Which form of attention a device should use: every one is tried once on arrays of the real size, for right and fast.

A form is right if its error against float32 is at most twice the plain form's; the fastest right one is taken. On a
CPU the plain form is the only one.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bat_jax.config import AttentionKernels, BatConfig
from bat_jax.ops.attention import causal_attention, full_attention
from bat_jax.ops.fused_attention import KERNELS, PLAIN, fused_attention
from bat_jax.typing import Array, Float

_REPEATS = 5
_REFERENCE_ROWS = 128  # of the float32 result, the last ones
_MOST_ERROR = 2.0  # of the plain form's


def choose_attention(cfg: BatConfig, tile_batch: int, kernel: str = "auto") -> AttentionKernels:
    """Return the forms for a config on this device: "auto" measures, another word is taken for both networks.

    Raises:
      ValueError: no such form.
    """
    if kernel not in ("auto", PLAIN, *KERNELS):
        raise ValueError(f"attention={kernel!r}: known are auto, {', '.join((PLAIN, *KERNELS))}")
    if kernel != "auto":
        return AttentionKernels(tower=kernel, decoder=kernel)
    if jax.default_backend() != "gpu":
        return AttentionKernels()
    rows = cfg.num_tokens(cfg.compressor.sizes_px[0])
    return AttentionKernels(
        tower=fastest(measure_tower_attention(cfg, tile_batch)), decoder=fastest(measure_decoder_attention(cfg, rows))
    )


def fastest(found: dict[str, Any]) -> str:
    """Return the fastest right form of what `measure_*` found."""
    limit = _MOST_ERROR * found[PLAIN]["max_error"]
    right = {name: item["run_s"] for name, item in found.items() if item.get("max_error", limit + 1) <= limit}
    return min(right, key=lambda name: right[name])


def measure_decoder_attention(cfg: BatConfig, rows: int) -> dict[str, Any]:
    """Time every form of one layer's causal attention over `rows` rows; see `_measured`."""
    dec = cfg.decoder
    query, key = _normal(cfg, (1, rows, dec.num_heads, dec.head_dim), (1, rows, dec.num_kv_heads, dec.head_dim))

    def reference(query, key, value):
        last = query[:, -_REFERENCE_ROWS:]
        return causal_attention(last, key, value, jnp.array([rows - last.shape[1]]))

    return _measured(causal_attention, reference, query, key, is_causal=True)


def measure_tower_attention(cfg: BatConfig, tiles: int) -> dict[str, Any]:
    """Time every form of one layer's attention over `tiles` tiles; see `_measured`."""
    vision = cfg.vision
    shape = (tiles, vision.num_patches + 1, vision.num_heads, vision.width // vision.num_heads)

    def reference(query, key, value):
        return full_attention(query[:, -_REFERENCE_ROWS:], key, value)

    return _measured(full_attention, reference, *_normal(cfg, shape, shape), is_causal=False)


def _normal(cfg: BatConfig, *shapes: tuple[int, ...]) -> list[Float[Array, "B T N H"]]:
    dtype = jnp.dtype(cfg.compute_dtype)
    return [jax.random.normal(jax.random.key(i), shape, dtype) for i, shape in enumerate(shapes)]


def _measured(
    plain: Callable[..., Array], reference: Callable[..., Array], query: Array, key: Array, *, is_causal: bool
) -> dict[str, Any]:
    """Return run_s, compile_s and max_error of every form, or why it failed; the key serves as value, too.

    Args:
      reference: (query, key, value) in float32 -> the last rows, which every form is compared with.
    """
    forms = {PLAIN: plain}
    forms |= {name: functools.partial(fused_attention, name, is_causal=is_causal) for name in KERNELS}
    value = key[:, ::-1]
    with jax.default_matmul_precision("highest"):
        wanted = jax.jit(reference)(*(array.astype(jnp.float32) for array in (query, key, value)))
    found: dict[str, Any] = {}
    for name, form in forms.items():
        try:
            start = time.perf_counter()
            compiled = jax.jit(form).lower(query, key, value).compile()
            mixed = jax.block_until_ready(compiled(query, key, value))
            compile_s, start = time.perf_counter() - start, time.perf_counter()
            jax.block_until_ready([compiled(query, key, value) for _ in range(_REPEATS)])
            seconds = (time.perf_counter() - start) / _REPEATS
            error = jnp.max(jnp.abs(mixed[:, -wanted.shape[1] :].astype(jnp.float32) - wanted))
            found[name] = {"run_s": seconds, "compile_s": compile_s, "max_error": float(error)}
        except Exception as error:  # whatever a library says about what it does not support
            if name == PLAIN:
                raise
            found[name] = {"failed": reason(error)}
    return found


def reason(error: Exception) -> str:
    """Return an error's kind and what it says, in one line of a bearable length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
