"""VisionZip (Yang et al. 2024, arXiv:2412.04467, Sec. 3): dominant tokens and contextual tokens.

  dominant     the tokens that the class token of the vision tower attends to most, as they are
  contextual   targets drawn uniformly from the others; the rest is averaged into the target of most similar key each

As there, it does not look at the question. Here it chooses over all tiles of a scale at once, under the scale's budget;
the paper gives every tile a number of its own. Its counts (10 contextual of 64, 20 of 128, 30 of 192) are the ratio
5/32, and ours is that share of any budget, rounded. Keys are the means over heads, similarity is the cosine.
"""

import jax
import jax.numpy as jnp

from bat_jax.compress.candidates import by_scale
from bat_jax.compress.groups import evenly_over, rank_of
from bat_jax.config import SelectionRule
from bat_jax.nn.clip_vit import TowerAttention
from bat_jax.ops.nearest import best_match, unit_rows
from bat_jax.typing import Array, Bool, Int


def contextual_share(budget: Int[Array, "*B"]) -> Int[Array, "*B"]:
    """Return how many rows of a budget are contextual: 5/32 of it, rounded half up."""
    return (5 * budget + 16) // 32


def visionzip_groups(
    attention: TowerAttention, valid: Bool[Array, "M"], budget: Int[Array, ""], max_budget: int
) -> Int[Array, "M"]:
    """Return the row of every token: dominant ones alone in order of place, then contextual groups; -1 in no row.

    Args:
      attention: (M,), (M, H) of the scale's tokens. budget: at most `max_budget`, may be traced.
    """
    with jax.named_scope("visionzip"):
        num_context = contextual_share(budget)
        score = jnp.where(valid, attention.class_attention, -jnp.inf)
        rank = rank_of(jnp.argsort(-score, stable=True))
        is_dominant = valid & (rank < budget - num_context)
        num_dominant = jnp.sum(is_dominant)
        is_rest = valid & ~is_dominant
        target, is_target = evenly_over(is_rest, num_context, max_budget)
        keys = unit_rows(attention.key)
        match = best_match(keys, keys[target], is_target).target
        # A target goes to itself, though another may have the same key.
        match = match.at[jnp.where(is_target, target, match.size)].set(jnp.arange(max_budget), mode="drop")
        contextual = jnp.where(is_rest & jnp.any(is_target), num_dominant + match, -1)
        return jnp.where(is_dominant, jnp.cumsum(is_dominant) - 1, contextual).astype(jnp.int32)


SELECTION = SelectionRule(
    name="visionzip",
    title="VisionZip",
    source="VisionZip, Yang et al. 2024, arXiv:2412.04467",
    difference="over a whole scale instead of tile by tile; 5/32 of any budget is contextual (the papers' counts); "
    "cosine of mean keys",
    needs=("tower",),
    choose=by_scale(
        lambda scale: scale.merge(visionzip_groups(scale.tower, scale.valid, scale.budget, scale.max_budget))
    ),
    shown_in=("grids",),
    place=4,
)
