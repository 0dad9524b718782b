"""B_s tokens of each scale drawn at random; the draw differs from question to question and is repeatable."""

import jax
import jax.numpy as jnp

from bat_jax.compress.candidates import Candidates
from bat_jax.compress.preserve_merge import Selection
from bat_jax.config import SelectionRule
from bat_jax.typing import Array, Float, Key


def random_scores(key: Key[Array, ""], importance: Float[Array, "M1"], num_tokens: int) -> Float[Array, "M"]:
    """Return scores in [0, 1) that have nothing to do with importance but change with it, as a hash does."""
    bits = jax.lax.bitcast_convert_type(importance.astype(jnp.float32), jnp.uint32)
    odd = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1  # places count: the same values elsewhere are another draw
    return jax.random.uniform(jax.random.fold_in(key, jnp.sum(bits * odd, dtype=jnp.uint32)), (num_tokens,))


def _choose(scales: tuple[Candidates, ...]) -> tuple[Selection, ...]:
    anchor = scales[0].importance
    keys = [jax.random.fold_in(jax.random.key(0), index) for index in range(len(scales))]
    draws = [random_scores(key, anchor, scale.valid.size) for key, scale in zip(keys, scales, strict=True)]
    return tuple(scale.keep_top(score) for scale, score in zip(scales, draws, strict=True))


SELECTION = SelectionRule(
    name="random",
    title="random tokens",
    difference="the question is a seed: the draw differs from question to question and is repeatable",
    choose=_choose,
    place=9,
)
