"""The best of a set of targets for every row, by inner product, without all products in memory at once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bat_jax.ops.segment import row_blocks
from bat_jax.typing import Array, Bool, Float, Int

# Rows shorter than this are divided by it instead of by their length.
SMALLEST_LENGTH = 1e-12


class Match(NamedTuple):
    """target (M,) int32: each row's best target; score (M,) float32, -inf where there is no target at all."""

    target: Int[jax.Array, "M"]
    score: Float[jax.Array, "M"]


def unit_rows(rows: Float[Array, "*M C"]) -> Float[Array, "*M C"]:
    """Return rows of length 1 in float32, so that inner products are cosines; a row of zeros stays zero."""
    rows = rows.astype(jnp.float32)
    return rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), SMALLEST_LENGTH)


def first_best(score: Float[Array, "M R"]) -> Match:
    """Return the largest score of every row and the first target that has it.

    Two plain reductions, which XLA vectorises on a CPU; argmax with its pair of values took as long as the product.
    """
    best = jnp.max(score, axis=-1, keepdims=True)
    number = jnp.arange(score.shape[1], dtype=jnp.int32)
    # A score of NaN equals nothing; the last target stands for it.
    return Match(jnp.min(jnp.where(score == best, number, number[-1]), axis=-1), best[:, 0])


def best_match(
    rows: Float[Array, "M C"],
    targets: Float[Array, "R C"],
    is_target: Bool[Array, "R"],
    bias: Float[Array, "R"] | float = 0.0,
) -> Match:
    """Return for each row i the target j of largest <row_i, target_j> + bias_j; exact ties go to the lower j.

    Products are float32 at full precision and go block by block, so that memory grows with M and not with M * R.

    Args:
      is_target: False for targets that are left out.
    """

    def match(block):
        score = jnp.einsum("mc,rc->mr", block, targets, precision="highest") + bias
        return first_best(jnp.where(is_target, score, -jnp.inf))

    num_rows, width = rows.shape
    block, padding = row_blocks(num_rows)
    if block == num_rows:
        return match(rows)
    padded = jnp.pad(rows, ((0, padding), (0, 0))).reshape(-1, block, width)
    return jax.tree.map(lambda part: part.reshape(-1)[:num_rows], jax.lax.map(match, padded))
