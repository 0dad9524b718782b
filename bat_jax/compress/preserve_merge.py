"""Region-wise preserve and merge with priority serialisation and a hard budget, for one scale.

UHR-BAT (arXiv:2604.13565), Sec. 3.4, Eq. 8-12, App. C.1, Algorithm 1:

    mu_m = mean importance of region m         K_m = tokens with a_i >= mu_m (kept)         R_m = the rest
    e_m  = mean embedding of R_m, if not empty (the merged token)
    regions by mu_m descending; inside a region K_m by importance descending, then e_m; the first B_s rows stay.

All shapes are fixed: M tokens and at most R regions give M + R candidates, of which J = max_budget rows leave with a
mask. The budget B_s <= J may be traced. Ties are broken by region id, then by token index; tokens that are a region of
their own come before regions with the same mean. Gradients flow through the gather and the means, not through scores.

    candidate     sort key (ascending)                                    row
    token i       (-mu, group, -a_i)          kept, valid                 embedding i
    merged m      (-mu, group, +inf)          R_m not empty               mean of R_m
    others        (+inf, ...)                                             never in the mask
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bat_jax.ops.order_by import as_whole, order_by
from bat_jax.ops.segment import segment_sum, segment_sum_of_tokens
from bat_jax.typing import Array, Bool, Float, Int

_FEWEST_SORTED_BY_KEYS = 2**16  # from here on a rank and a place do not fit into 32 bits


class Selection(NamedTuple):
    """The rows kept of a scale, in the order in which the decoder sees them.

    tokens (J, D): embeddings, zeros outside the mask. keep_index (J,): the token's index, -1 for a merged row and
    outside the mask. region (J,): region id, -1 for a token that is a region of its own and outside the mask. mask
    (J,): valid rows, always a prefix. importance (J,): the token's score, for a merged row the mean score of what it
    merges. num_candidates (): rows there would be without a budget. is_kept (M,): tokens preserved by the rule of the
    region, in the budget or not. group (M,): what `region` counts where a selection makes its own groups of tokens
    (-1: in none); None where they are the scale's regions.
    """

    tokens: Float[Array, "J D"]
    keep_index: Int[Array, "J"]
    region: Int[Array, "J"]
    mask: Bool[Array, "J"]
    importance: Float[Array, "J"]
    num_candidates: Int[Array, ""]
    is_kept: Bool[Array, "M"]
    group: Int[Array, "M"] | None = None


class UnsortedRows(NamedTuple):
    """The C = M + R rows to serialise, of tokens and then of what regions merge, and which are candidates."""

    importance: Float[Array, "M"]
    region_id: Int[Array, "M"]
    mean: Float[Array, "R"]
    group: Int[Array, "C"]
    is_candidate: Bool[Array, "C"]


def region_mean(
    importance: Float[Array, "M"], region_id: Int[Array, "M"], valid: Bool[Array, "M"], num_regions: int
) -> Float[Array, "R"]:
    """Return mu_m of every region (Eq. 8), 0 for an empty one.

    A mean lies between the region's smallest and largest score; rounding can push the float sum outside, which would
    leave K_m empty against Lemma 1 when all scores are equal. The mean is therefore clipped to that range.
    """
    segment = jnp.where(valid, region_id, -1)
    total = segment_sum(jnp.stack([importance, jnp.ones_like(importance)], axis=1), segment, num_regions)
    mean = total[:, 0] / jnp.maximum(total[:, 1], 1)
    # Ids outside the regions go to an extra row, since a negative index would count from the end.
    row = jnp.where(segment >= 0, segment, num_regions)
    high = jnp.full((num_regions + 1,), -jnp.inf).at[row].max(importance)[:num_regions]
    low = jnp.full((num_regions + 1,), jnp.inf).at[row].min(importance)[:num_regions]
    return jnp.where(total[:, 1] > 0, jnp.clip(mean, low, high), 0.0)


def _serialised_order(
    importance: Float[Array, "M"],
    region_id: Int[Array, "M"],
    mean: Float[Array, "R"],
    is_kept: Bool[Array, "M"],
    is_merged: Bool[Array, "R"],
) -> tuple[Int[Array, "C"], Int[Array, "C"], Int[Array, ""]]:
    """Sort the M + R candidates as the table above says: (candidate, group, number of candidates)."""
    num_tokens, num_regions = importance.shape[0], mean.shape[0]
    token_group = jnp.where(region_id < 0, jnp.arange(num_tokens), num_tokens + region_id)
    group = jnp.concatenate([token_group, num_tokens + jnp.arange(num_regions)]).astype(jnp.int32)
    is_candidate = jnp.concatenate([is_kept, is_merged])
    rows = UnsortedRows(importance, region_id, mean, group, is_candidate)
    if group.size < _FEWEST_SORTED_BY_KEYS:
        candidate = jax.lax.platform_dependent(rows, cpu=order_by_ranks, default=order_by_keys)
    else:
        candidate = order_by_keys(rows)
    return candidate, group[candidate], jnp.sum(is_candidate)


def order_by_keys(rows: UnsortedRows) -> Int[Array, "C"]:
    """Return the candidates, and behind them the others, sorted by the three keys of the table above."""
    token_mean = jnp.where(rows.region_id < 0, rows.importance, rows.mean[rows.region_id])
    # Last in its group is what it merges.
    score = jnp.concatenate([-rows.importance, jnp.full_like(rows.mean, jnp.inf)])
    mean = jnp.where(rows.is_candidate, -jnp.concatenate([token_mean, rows.mean]), jnp.inf)
    return order_by(mean, rows.group, score)


def order_by_ranks(rows: UnsortedRows) -> Int[Array, "C"]:
    """Return the candidates in the same order, the others behind them in any, for fewer than 2^16 in all.

    On a CPU whole numbers without anything beside them sort eight times as fast as rows by three keys. So scores and
    means become ranks in one order, and a rank and a place are sorted as one number, once for the scores inside the
    groups, once for the groups. A token alone has its score's rank for a mean, and its place in the group's stead.
    """
    num_tokens, num_candidates = rows.importance.size, rows.group.size
    value = as_whole(-jnp.concatenate([rows.importance, rows.mean]))
    ascending = jnp.sort(value)
    rank = jnp.searchsorted(ascending, value)
    bits = num_candidates.bit_length()
    place = jnp.arange(num_candidates, dtype=jnp.uint32)

    def with_place(rank):
        return rank.astype(jnp.uint32) << bits | place[: rank.size]

    # Regions of equal means have the last of that value's ranks, by their ids.
    of_mean, numbered = value[num_tokens:], with_place(rank[num_tokens:])
    up_to = jnp.searchsorted(jnp.sort(of_mean), of_mean, side="right")
    before = jnp.searchsorted(jnp.sort(numbered), numbered)
    region_rank = jnp.searchsorted(ascending, of_mean, side="right") - (up_to - before)
    token_rank = jnp.where(rows.region_id < 0, rank[:num_tokens], region_rank[rows.region_id])
    group_rank = jnp.where(rows.is_candidate, jnp.concatenate([token_rank, region_rank]), num_candidates)
    score_rank = rank.at[num_tokens:].set(num_candidates)

    def sorted_places(rank):
        return (jnp.sort(with_place(rank)) & (2**bits - 1)).astype(jnp.int32)

    by_score = sorted_places(score_rank)
    return by_score[sorted_places(group_rank[by_score])]


def _cover_every_group(
    group: Int[Array, "C"], num_candidates: Int[Array, ""], budget: Int[Array, ""]
) -> Int[Array, "C"]:
    """Return positions in the serialised order such that the first `budget` of them hold a row of every group.

    The first row of each group comes first, then the others fill the budget; what is chosen keeps the serialised order.
    """
    slot = jnp.arange(group.shape[0])
    is_candidate = slot < num_candidates
    is_first = is_candidate & jnp.concatenate([jnp.ones(1, bool), group[1:] != group[:-1]])
    num_first = jnp.minimum(jnp.sum(is_first), budget)
    rank = jnp.where(is_first, jnp.cumsum(is_first) - 1, num_first + jnp.cumsum(~is_first) - 1)
    is_chosen = is_candidate & (rank < budget)
    return jnp.argsort(~is_chosen, stable=True)


def preserve_merge(
    tokens: Float[Array, "M D"],
    importance: Float[Array, "M"],
    region_id: Int[Array, "M"],
    valid: Bool[Array, "M"],
    budget: Int[Array, ""] | int,
    *,
    num_regions: int,
    max_budget: int,
    preserve_equal: bool = True,
    coverage: str = "off",
) -> Selection:
    """Compress a scale's tokens to at most `budget` rows.

    Args:
      tokens: embeddings h_i with the scale embedding as the decoder shall see it.
      importance: a_i >= 0, aligned to this scale.
      region_id: 0..num_regions-1, or -1 for a token that is a region of its own (always kept).
      valid: tokens that take part.
      budget: B_s <= max_budget, may be traced.
      num_regions: static R. max_budget: static J, rows of the result.
      preserve_equal: True keeps a_i >= mu_m (paper, Eq. 9), False a_i > mu_m (release: with equal scores the whole
        region merges).
      coverage: "off": Algorithm 1, which cuts off whole regions when the budget ends; "guaranteed": every region gets
        its first row before the rest is filled in order, so budget >= regions leaves none without a row.
    """
    num_tokens = tokens.shape[0]
    importance = jax.lax.stop_gradient(importance.astype(jnp.float32))
    budget = jnp.asarray(budget, jnp.int32)
    with jax.named_scope("preserve"):
        mean = region_mean(importance, region_id, valid, num_regions)
        threshold = mean[region_id]
        is_above = importance >= threshold if preserve_equal else importance > threshold
        is_kept = valid & ((region_id < 0) | is_above)
    with jax.named_scope("merge"):
        redundant = jnp.where(valid & ~is_kept, region_id, -1)
        scores = jnp.stack([importance, jnp.ones_like(importance)], axis=1)
        sums = segment_sum(scores, redundant, num_regions)
        size = jnp.maximum(sums[:, 1], 1)
        merged = segment_sum_of_tokens(tokens, redundant, num_regions) / size[:, None]
        is_merged = sums[:, 1] > 0
    with jax.named_scope("serialise"):
        candidate, group, num_candidates = _serialised_order(importance, region_id, mean, is_kept, is_merged)
        if coverage == "guaranteed":
            candidate = candidate[_cover_every_group(group, num_candidates, budget)]
    with jax.named_scope("budget"):
        num_rows = candidate.shape[0]
        if num_rows < max_budget:
            candidate = jnp.pad(candidate, (0, max_budget - num_rows))
        candidate = candidate[:max_budget]
        mask = jnp.arange(max_budget) < jnp.minimum(budget, num_candidates)
        is_token = candidate < num_tokens
        token = jnp.where(is_token, candidate, 0)
        region = jnp.where(is_token, 0, candidate - num_tokens)
        rows = jnp.where(is_token[:, None], tokens[token], merged[region].astype(tokens.dtype))
        score = jnp.where(is_token, importance[token], (sums[:, 0] / size)[region])
        return Selection(
            tokens=jnp.where(mask[:, None], rows, 0),
            keep_index=jnp.where(mask & is_token, token, -1),
            region=jnp.where(mask, jnp.where(is_token, region_id[token], region), -1),
            mask=mask,
            importance=jnp.where(mask, score, 0.0),
            num_candidates=num_candidates,
            is_kept=is_kept,
        )
