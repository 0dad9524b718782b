"""The compressor: importance and tokens of all scales in, budgeted rows out; one compiled program of fixed shape.

  partition_scale      image only: region ids of one scale                        (kmeans / grid / one)
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
from bat_jax.compress.background import background_groups
from bat_jax.compress.baselines import (
    each_alone,
    global_shares,
    grid_groups,
    keep_top,
    largest_view_groups,
    random_scores,
)
from bat_jax.compress.groups import merge_groups
from bat_jax.compress.partition import grid_regions, kmeans_regions
from bat_jax.compress.preserve_merge import Selection, preserve_merge
from bat_jax.compress.prumerge import prumerge_groups
from bat_jax.compress.tome import tome_groups
from bat_jax.compress.visionzip import visionzip_groups
from bat_jax.config import CompressorConfig
from bat_jax.nn.clip_vit import TowerAttention
from bat_jax.ops.kmeans import random_rows
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Array, Bool, Float, Int, Key

# The fields of CompressorConfig that `select` reads.
SELECTION_RULES = ("scales", "mask_padding", "selection", "preserve_equal", "coverage")


class ScaleTokens(NamedTuple):
    """One scale as the question sees it: everything the image alone decides.

    tokens (M, D): projected, with the scale embedding of the answering path. region_id (M,): see compress/partition.py.
    valid (M,): False for padding tokens that are masked out; all True otherwise. attention: the tower's attention of
    every token, (M,) and (M, H), for the selections that read it.
    """

    tokens: Float[Array, "M D"]
    region_id: Int[Array, "M"]
    valid: Bool[Array, "M"]
    attention: TowerAttention | None = None


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
    """Return region ids of one scale by `cfg.partition`: "kmeans", "grid" or "one", which is a grid of one cell.

    Raises:
      ValueError: another partition; those are made on the host (encoding.py).
    """
    if cfg.partition in ("grid", "one"):
        return jnp.where(valid, grid_regions(grid, 1 if cfg.partition == "one" else num_clusters), -1)
    if cfg.partition != "kmeans":
        raise ValueError(f"partition={cfg.partition!r}: is made on the host, not in a compiled program")
    return kmeans_regions(cfg, grid, features, valid, init_index, num_clusters, max_steps)


def select(
    cfg: CompressorConfig,
    grids: tuple[TokenGrid, ...],
    region_capacity: tuple[int, ...],
    scales: tuple[ScaleTokens, ...],
    anchor_importance: Float[Array, "M1"],
    budgets: Int[Array, "S"],
) -> tuple[Selection, ...]:
    """Compress every scale under its budget, by `cfg.selection`: UHR-BAT's rule or another one (docs/compressors.md).

    Args:
      cfg: rules, and the static J of every scale; where scales share one budget, each has room for all of it.
      grids: every scale's grid, the anchor first. region_capacity: static R of every scale.
      scales: tokens, regions and masks, and the tower's attention for selections that read it.
      anchor_importance: a_i of the anchor's tokens.
      budgets: B_s, each at most `cfg.scales[s].budget`; may be traced.

    Raises:
      ValueError: the selection reads the tower's attention, and a scale comes without it.
    """
    if cfg.reads_tower_attention and any(scale.attention is None for scale in scales):
        raise ValueError(
            f"selection={cfg.selection!r}: needs the tower's attention; encode the image with this setting"
        )
    anchor_valid = scales[0].valid if cfg.mask_padding else None
    scores = [align_importance(anchor_importance, grids[0], grid, anchor_valid) for grid in grids]
    valid = [scale.valid for scale in scales]
    if cfg.selection in ("topk_global", "largest_view"):
        total = jnp.sum(budgets)
        room = [min(sum(cfg.budgets), grid.num_tokens) for grid in grids]
        if cfg.selection == "largest_view":
            groups = largest_view_groups(grids, valid, total)
            parts = zip(scales, scores, groups, room, strict=True)
            return tuple(merge_groups(scale.tokens, score, group, rows) for scale, score, group, rows in parts)
        parts = zip(scales, scores, global_shares(scores, valid, total), room, strict=True)
        return tuple(keep_top(scale.tokens, score, scale.valid, share, rows) for scale, score, share, rows in parts)
    if cfg.selection == "random":
        keys = [jax.random.fold_in(jax.random.key(0), index) for index in range(len(grids))]
        draws = zip(keys, grids, strict=True)
        scores = [random_scores(key, anchor_importance, grid.num_tokens) for key, grid in draws]
    parts = zip(grids, scales, scores, region_capacity, budgets, cfg.budgets, strict=True)
    return tuple(_select_scale(cfg, *part) for part in parts)


def _select_scale(
    cfg: CompressorConfig,
    grid: TokenGrid,
    scale: ScaleTokens,
    importance: Float[Array, "M"],
    num_regions: int,
    budget: Int[Array, ""],
    max_budget: int,
) -> Selection:
    """Compress one scale under its own budget."""
    tokens, region_id, valid, attention = scale
    if cfg.selection == "uhr_bat":
        return preserve_merge(
            tokens,
            importance,
            region_id,
            valid,
            budget,
            num_regions=num_regions,
            max_budget=max_budget,
            preserve_equal=cfg.preserve_equal,
            coverage=cfg.coverage,
        )
    weight = None
    match cfg.selection:
        case "pooling":
            group = grid_groups(grid, valid, budget)
        case "dense":
            group = each_alone(valid, budget)
        case "visionzip":
            group = visionzip_groups(attention, valid, budget, max_budget)
        case "prumerge":
            group, weight = prumerge_groups(attention, valid, budget, max_budget), attention.class_attention
        case "tome":
            group = tome_groups(attention.key, valid, budget)
        case "background":
            group = background_groups(grid, attention, valid, budget)
        case _:
            return keep_top(tokens, importance, valid, budget, max_budget)
    return merge_groups(tokens, importance, group, max_budget, weight)


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
    attention: tuple[TowerAttention, ...] | None = None,
) -> tuple[Selection, ...]:
    """Partition and compress all scales in one program; usable alone, without tower, decoder or image.

    Args:
      cfg: the rules; `cfg.scales[s].budget` is the static number of rows of scale s.
      grids: every scale's token grid, the anchor first.
      tokens: (M_s, D) embeddings, tile-major. features: (M_s, C) what is clustered. valid: (M_s,) tokens that count.
      anchor_importance: scores of the anchor's tokens.
      init_index: (R_s,) first centres (`initial_centres`); the length is the most clusters that scale can get.
      num_clusters, budgets, max_steps: traced, per scale; at most R_s and `cfg.scales[s].budget`.
      attention: the tower's, per scale, for selections that read it.

    Returns:
      One Selection a scale.
    """
    scales = []
    for scale, (grid, init) in enumerate(zip(grids, init_index, strict=True)):
        region_id = partition_scale(cfg, grid, features[scale], valid[scale], init, num_clusters[scale], max_steps)
        of_tower = None if attention is None else attention[scale]
        scales.append(ScaleTokens(tokens[scale], region_id, valid[scale], of_tower))
    capacity = tuple(init.shape[0] for init in init_index)
    return select(cfg, grids, capacity, tuple(scales), anchor_importance, budgets)
