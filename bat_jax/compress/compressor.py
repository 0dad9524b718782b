"""The compressor: importance and tokens of all scales in, budgeted rows out; one compiled program of fixed shape.

  partition_scale      image only: region ids of one scale                        (kmeans / grid / one)
  select               question: align -> choose under the budgets, all scales; `CompressorConfig.selection` says how
  compress             both in one program, for use on anyone's tokens, scores and labels

Cluster counts, Lloyd steps and budgets are traced: a grid of them compiles once. Static are the shapes: M tokens, J =
`ScaleSpec.budget` rows and R, the length of `init_index`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bat_jax.compress.alignment import align_importance
from bat_jax.compress.candidates import Candidates
from bat_jax.compress.partition import grid_regions, kmeans_regions
from bat_jax.compress.preserve_merge import Selection
from bat_jax.config import CompressorConfig
from bat_jax.nn.clip_vit import TowerAttention
from bat_jax.ops.kmeans import random_rows
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Array, Bool, Float, Int, Key


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


@functools.partial(jax.jit, static_argnames=("scale_px", "max_clusters"))
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
      cfg: rules, and the static J of every scale; where scales share one budget, each has room for all of it. Nothing
        but `cfg.for_select` is read.
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
    rooms = cfg.budgets
    if cfg.rule.shares_budget:
        rooms = tuple(min(sum(cfg.budgets), grid.num_tokens) for grid in grids)
    parts = zip(grids, scales, budgets, rooms, region_capacity, strict=True)
    candidates = tuple(
        Candidates(
            grid=grid,
            importance=align_importance(anchor_importance, grids[0], grid, anchor_valid),
            budget=budget,
            max_budget=room,
            num_regions=num_regions,
            **scale._asdict(),
        )
        for grid, scale, budget, room, num_regions in parts
    )
    return cfg.rule.choose(candidates, **{name: getattr(cfg, name) for name in cfg.rule.settings})


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
