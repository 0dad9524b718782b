"""Token Merging (ToMe; Bolya et al. 2023, arXiv:2210.09461, Sec. 3): bipartite soft matching down to a budget.

One step, over the n rows that are left:

  1. rows 0, 2, 4, ... are set A, rows 1, 3, 5, ... set B
  2. each row of A points to the row of B of most similar key (cosine)
  3. the r pairs of highest similarity are merged by size-weighted means; r = min(n - budget, |B|)

The paper merges r tokens in every layer of the tower, where later layers see the merged ones; here the steps follow
each other after the tower, until the budget is met, on the keys of the selected layer (means over heads). A merged row
stays in its B row's place, so that rows keep the order of the picture; the paper leaves the order open. Its
proportional attention has no part here: the decoder weighs a merged row as any other.
"""

import jax
import jax.numpy as jnp

from bat_jax.compress.candidates import by_scale
from bat_jax.compress.groups import first_true, rank_of
from bat_jax.config import SelectionRule
from bat_jax.ops.nearest import best_match, unit_rows
from bat_jax.ops.segment import segment_sum
from bat_jax.typing import Array, Bool, Float, Int


def _matching_step(
    key_sum: Float[jax.Array, "M H"], num_rows: Int[Array, ""], budget: Int[Array, ""]
) -> tuple[Float[jax.Array, "M H"], Int[Array, "M"], Int[Array, ""]]:
    """Merge once: (sums of keys of the rows left, the new row of every old row, number of rows left).

    A size-weighted mean of means points where the sum of all keys points, and cosines ask for no more than that.
    """
    num_slots = key_sum.shape[0]
    first, second = key_sum[0::2], key_sum[1::2]
    slot_of_first, slot_of_second = jnp.arange(0, num_slots, 2), jnp.arange(1, num_slots, 2)
    is_first = slot_of_first < num_rows
    match = best_match(unit_rows(first), unit_rows(second), slot_of_second < num_rows)
    rank = rank_of(jnp.argsort(-jnp.where(is_first, match.score, -jnp.inf), stable=True))
    num_merged = jnp.minimum(num_rows - budget, num_rows // 2)
    is_merged = is_first & (rank < num_merged)
    added = segment_sum(first, jnp.where(is_merged, match.target, -1), second.shape[0])
    key_sum = key_sum.at[1::2].add(added)
    parent = jnp.arange(num_slots).at[0::2].set(jnp.where(is_merged, slot_of_second[match.target], slot_of_first))
    is_left = (parent == jnp.arange(num_slots)) & (jnp.arange(num_slots) < num_rows)
    new_row = (jnp.cumsum(is_left) - 1)[parent].astype(jnp.int32)
    return key_sum[first_true(is_left, num_slots)], new_row, num_rows - num_merged


def tome_groups(key: Float[Array, "M H"], valid: Bool[Array, "M"], budget: Int[Array, ""]) -> Int[Array, "M"]:
    """Return the row of every token, in [0, budget); -1 where it is not valid.

    A row's tokens weigh alike in its mean, which is what size-weighted means of means come to.

    Args:
      key: of the scale's tokens. budget: may be traced.
    """
    with jax.named_scope("tome"):
        least = jnp.maximum(budget, 1)  # the last row has nothing left to merge with
        row = jnp.where(valid, jnp.cumsum(valid) - 1, 0).astype(jnp.int32)
        start = (key.astype(jnp.float32)[first_true(valid, valid.size)], row, jnp.sum(valid))

        def step(state):
            key_sum, row, num_rows = state
            key_sum, new_row, num_rows = _matching_step(key_sum, num_rows, least)
            return key_sum, new_row[row], num_rows

        _, row, _ = jax.lax.while_loop(lambda state: state[2] > least, step, start)
        return jnp.where(valid & (row < budget), row, -1)


SELECTION = SelectionRule(
    name="tome",
    title="ToMe",
    source="ToMe, Bolya et al. 2023, arXiv:2210.09461",
    difference="steps follow each other after the tower until the budget is met, there r tokens in every layer of it; "
    "no proportional attention; rows keep the picture's order",
    needs=("tower",),
    choose=by_scale(lambda scale: scale.merge(tome_groups(scale.tower.key, scale.valid, scale.budget))),
    shown_in=("grids",),
    place=6,
)
