"""LLaVA-PruMerge (Shang et al. 2024, arXiv:2403.15388, Sec. 3): outliers of class attention kept, the rest merged in.

  kept     tokens whose class attention lies above Q3 + 1.5 (Q3 - Q1), Q1 and Q3 the quartiles over the scale's tokens
  merged   every other token goes to the kept token j of largest <key_i, key_j>; the row is the group's mean, weighted
           by class attention

The paper lets the outliers decide how many rows there are. Here the budget does: more outliers are cut to those of
most attention, and fewer are filled up by tokens drawn evenly over the others, as the paper's PruMerge+ does. The paper
merges a kept token's k nearest, so that a token may count in several rows or in none; here each counts once. Quartiles
run over all tiles of a scale, keys are means over heads.
"""

import jax
import jax.numpy as jnp

from bat_jax.compress.candidates import Candidates, by_scale
from bat_jax.compress.groups import evenly_over, first_true, rank_of
from bat_jax.compress.preserve_merge import Selection
from bat_jax.config import SelectionRule
from bat_jax.nn.clip_vit import TowerAttention
from bat_jax.ops.nearest import best_match
from bat_jax.typing import Array, Bool, Float, Int


def outlier_threshold(scores: Float[Array, "M"], valid: Bool[Array, "M"]) -> Float[Array, ""]:
    """Return Q3 + 1.5 (Q3 - Q1) of the valid scores, quartiles interpolated linearly."""
    ordered = jnp.sort(jnp.where(valid, scores, jnp.inf))
    last = jnp.maximum(jnp.sum(valid) - 1, 0)

    def quantile(share):
        position = share * last
        low = jnp.floor(position).astype(jnp.int32)
        fraction = position - low
        return ordered[low] * (1 - fraction) + ordered[jnp.minimum(low + 1, last)] * fraction

    first, third = quantile(0.25), quantile(0.75)
    return third + 1.5 * (third - first)


def prumerge_groups(
    attention: TowerAttention, valid: Bool[Array, "M"], budget: Int[Array, ""], max_budget: int
) -> Int[Array, "M"]:
    """Return the row of every token: its nearest kept token's place among the kept ones; -1 where it is not valid.

    Args:
      attention: (M,), (M, H) of the scale's tokens. budget: at most `max_budget`, may be traced.
    """
    with jax.named_scope("prumerge"):
        score = attention.class_attention
        rank = rank_of(jnp.argsort(-jnp.where(valid, score, -jnp.inf), stable=True))
        is_outlier = jnp.logical_and(valid, score > outlier_threshold(score, valid)) & (rank < budget)
        fill, is_fill = evenly_over(valid & ~is_outlier, budget - jnp.sum(is_outlier), max_budget)
        is_kept = is_outlier.at[jnp.where(is_fill, fill, is_outlier.size)].set(True, mode="drop")
        kept = first_true(is_kept, max_budget)
        is_row = jnp.arange(max_budget) < jnp.sum(is_kept)
        match = best_match(attention.key, attention.key[kept], is_row).target
        row = jnp.where(is_kept, jnp.cumsum(is_kept) - 1, match)
        return jnp.where(valid & jnp.any(is_row), row, -1).astype(jnp.int32)


def _choose(scale: Candidates) -> Selection:
    group = prumerge_groups(scale.tower, scale.valid, scale.budget, scale.max_budget)
    return scale.merge(group, scale.tower.class_attention)


SELECTION = SelectionRule(
    name="prumerge",
    title="PruMerge",
    source="LLaVA-PruMerge, Shang et al. 2024, arXiv:2403.15388",
    difference="outliers are cut to the budget, or filled up evenly over the others (as its PruMerge+); each dropped "
    "token goes to one kept token, there to several or none; quartiles over a whole scale",
    needs=("tower",),
    choose=by_scale(_choose),
    shown_in=("grids",),
    place=5,
)
