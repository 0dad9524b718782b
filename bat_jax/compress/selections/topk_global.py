"""The sum of all B_s best tokens of all scales together; how many each scale gets is its tokens' doing."""

from collections.abc import Sequence

import jax.numpy as jnp

from bat_jax.compress.candidates import Candidates
from bat_jax.compress.preserve_merge import Selection
from bat_jax.config import SelectionRule
from bat_jax.typing import Array, Bool, Float, Int


def global_shares(
    importance: Sequence[Float[Array, "_"]], valid: Sequence[Bool[Array, "_"]], budget: Int[Array, ""] | int
) -> tuple[Int[Array, ""], ...]:
    """Return how many of the `budget` best tokens of all scales together lie in each scale."""
    scores = [jnp.where(is_valid, score, -jnp.inf) for score, is_valid in zip(importance, valid, strict=True)]
    scale = jnp.concatenate([jnp.full(score.shape, index) for index, score in enumerate(scores)])
    order = jnp.argsort(-jnp.concatenate(scores), stable=True)
    is_best = jnp.arange(order.size) < budget
    return tuple(jnp.sum(is_best & (scale[order] == index)).astype(jnp.int32) for index in range(len(scores)))


def _choose(scales: tuple[Candidates, ...]) -> tuple[Selection, ...]:
    total = sum(scale.budget for scale in scales)
    shares = global_shares([scale.importance for scale in scales], [scale.valid for scale in scales], total)
    return tuple(scale.keep_top(budget=share) for scale, share in zip(scales, shares, strict=True))


SELECTION = SelectionRule(
    name="topk_global",
    title="top-K over all views",
    source="the same over all scales together",
    difference="shares the sum of all budgets",
    choose=_choose,
    shares_budget=True,
    shown_in=("grids", "coverage"),
    place=2,
)
