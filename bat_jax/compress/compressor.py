"""The compressor: importance and tokens of all scales in, budgeted rows out; one compiled program of fixed shape.

  partition_scale      image only: region ids of one scale                        (kmeans / grid)
  select               question: align -> preserve and merge -> budget, all scales
  compress             both in one program, for use on anyone's tokens, scores and labels

Cluster counts, Lloyd steps and budgets are traced: a grid of them compiles once. Static are the shapes: M tokens, J =
`ScaleSpec.budget` rows and R, the length of `init_index`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bat_jax.compress.alignment import align_importance
from bat_jax.compress.baselines import global_shares, keep_top, pool_grid, random_scores
from bat_jax.compress.partition import grid_regions, kmeans_regions
from bat_jax.compress.preserve_merge import Selection, preserve_merge
from bat_jax.config import CompressorConfig
from bat_jax.ops.kmeans import random_rows
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Array, Bool, Float, Int, Key

# The fields of CompressorConfig that `select` reads.
SELECTION_RULES = ("scales", "mask_padding", "selection", "preserve_equal", "coverage")


class ScaleTokens(NamedTuple):
    """One scale as the question sees it: everything the image alone decides.

    tokens (M, D): projected, with the scale embedding of the answering path. region_id (M,): see compress/partition.py.
    valid (M,): False for padding tokens that are masked out; all True otherwise.
    """

    tokens: Float[Array, "M D"]
    region_id: Int[Array, "M"]
    valid: Bool[Array, "M"]


def initial_centres(key: Key[Array, ""], valid: Bool[Array, "M"], scale_px: int, max_clusters: int) -> Int[Array, "R"]:
    """Draw distinct valid tokens as the first centres of a scale; a function of the key and the scale alone."""
    return random_rows(jax.random.fold_in(key, scale_px), valid, max_clusters)


def partition_scale(
    cfg: CompressorConfig,
    grid: TokenGrid,
    features: Float[Array, "M C"],
    valid: Bool[Array, "M"],
    init_index: Int[Array, "R"],
    num_clusters: Int[Array, ""] | int,
    max_steps: Int[Array, ""] | int,
) -> Int[Array, "M"]:
    """Return region ids of one scale by `cfg.partition`: "kmeans" or "grid" (label maps never come here)."""
    if cfg.partition == "grid":
        return jnp.where(valid, grid_regions(grid, num_clusters), -1)
    return kmeans_regions(cfg, grid, features, valid, init_index, num_clusters, max_steps)


def select(
    cfg: CompressorConfig,
    grids: tuple[TokenGrid, ...],
    region_capacity: tuple[int, ...],
    scales: tuple[ScaleTokens, ...],
    anchor_importance: Float[Array, "M1"],
    budgets: Int[Array, "S"],
) -> tuple[Selection, ...]:
    """Compress every scale under its budget, by `cfg.selection`: UHR-BAT's rule or one of compress/baselines.py.

    Args:
      cfg: rules, and the static J of every scale; under "topk_global" a scale may get all of them together.
      grids: every scale's grid, the anchor first. region_capacity: static R of every scale.
      scales: tokens, regions and masks.
      anchor_importance: a_i of the anchor's tokens.
      budgets: B_s, each at most `cfg.scales[s].budget`; may be traced.
    """
    anchor_valid = scales[0].valid if cfg.mask_padding else None
    scores = [align_importance(anchor_importance, grids[0], grid, anchor_valid) for grid in grids]
    shares, capacities = list(budgets), list(cfg.budgets)
    if cfg.selection == "topk_global":
        shares = list(global_shares(scores, [scale.valid for scale in scales], jnp.sum(budgets)))
        capacities = [min(sum(cfg.budgets), grid.num_tokens) for grid in grids]
    selections = []
    for index, (scale, grid) in enumerate(zip(scales, grids, strict=True)):
        importance, budget, max_budget = scores[index], shares[index], capacities[index]
        if cfg.selection == "random":
            key = jax.random.fold_in(jax.random.key(0), index)
            importance = random_scores(key, anchor_importance, grid.num_tokens)
        if cfg.selection == "uhr_bat":
            selection = preserve_merge(
                scale.tokens,
                importance,
                scale.region_id,
                scale.valid,
                budget,
                num_regions=region_capacity[index],
                max_budget=max_budget,
                preserve_equal=cfg.preserve_equal,
                coverage=cfg.coverage,
            )
        elif cfg.selection == "pooling":
            selection = pool_grid(grid, scale.tokens, importance, scale.valid, budget, max_budget)
        else:
            selection = keep_top(scale.tokens, importance, scale.valid, budget, max_budget)
        selections.append(selection)
    return tuple(selections)


@functools.partial(jax.jit, static_argnames=("cfg", "grids"))
def compress(
    cfg: CompressorConfig,
    grids: tuple[TokenGrid, ...],
    tokens: tuple[Float[Array, "_ D"], ...],
    features: tuple[Float[Array, "_ _"], ...],
    valid: tuple[Bool[Array, "_"], ...],
    anchor_importance: Float[Array, "M1"],
    init_index: tuple[Int[Array, "_"], ...],
    num_clusters: Int[Array, "S"],
    budgets: Int[Array, "S"],
    max_steps: Int[Array, ""] | int = 10,
) -> tuple[Selection, ...]:
    """Partition and compress all scales in one program; usable alone, without tower, decoder or image.

    Args:
      cfg: the rules; `cfg.scales[s].budget` is the static number of rows of scale s.
      grids: every scale's token grid, the anchor first.
      tokens: (M_s, D) embeddings, tile-major. features: (M_s, C) what is clustered. valid: (M_s,) tokens that count.
      anchor_importance: scores of the anchor's tokens.
      init_index: (R_s,) first centres (`initial_centres`); the length is the most clusters that scale can get.
      num_clusters, budgets, max_steps: traced, per scale; at most R_s and `cfg.scales[s].budget`.

    Returns:
      One Selection a scale.
    """
    scales = []
    for scale, (grid, init) in enumerate(zip(grids, init_index, strict=True)):
        region_id = partition_scale(cfg, grid, features[scale], valid[scale], init, num_clusters[scale], max_steps)
        scales.append(ScaleTokens(tokens[scale], region_id, valid[scale]))
    capacity = tuple(init.shape[0] for init in init_index)
    return select(cfg, grids, capacity, tuple(scales), anchor_importance, budgets)
