"""Background pruning with anchor tokens, in the manner of GeoLLaVA-8K (Wang et al. 2025, arXiv:2505.21375).

As the paper describes it, per tile and without the question: background, which fills most of a satellite picture, is
gathered by letting every token point to its most affine neighbour (3 x 3); pointers are followed to their roots, the
tokens of a root are averaged, the averages are scored by the class token, and the best few of every tile (24) go on.

What differs here:
  affinity   a trained head there; here, training-free, the cosine of the tower's keys. A token is nearest to itself, so
             the token itself is left out, and of two tokens that point to each other the earlier one is the root
  jumps      followed to the end; the paper stops after a fixed number
  score      <q, mean of v> / sqrt(E), q and v the class token's query and the tokens' values in the tower's selected
             layer; the description does not say which layer's
  budget     the scale's, spread over its tiles: the best root of every tile first, then the second of every tile, ...;
             of the last round the highest scores
  means      of projected tokens; the paper averages before the projector
"""

import math

import jax
import jax.numpy as jnp

from bat_jax.compress.candidates import by_scale
from bat_jax.compress.groups import rank_of
from bat_jax.config import SelectionRule
from bat_jax.nn.clip_vit import TowerAttention
from bat_jax.ops.nearest import unit_rows
from bat_jax.ops.segment import segment_sum
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Array, Bool, Float, Int

# Row by row, so that of equal neighbours the first found is the one of lowest index.
_OFFSETS = tuple((row, col) for row in (-1, 0, 1) for col in (-1, 0, 1) if (row, col) != (0, 0))


def tile_roots(key: Float[Array, "I P H"], valid: Bool[Array, "I P"], side: int) -> Int[Array, "I P"]:
    """Return the root of every token inside its tile: where the pointers to the most affine neighbour lead.

    A token without a valid neighbour is its own root; what is returned for tokens that are not valid means nothing.
    """
    num_tiles, num_patches = valid.shape
    unit = unit_rows(key).reshape(num_tiles, side, side, -1)
    padded = jnp.pad(unit, ((0, 0), (1, 1), (1, 1), (0, 0)))
    is_inside = jnp.pad(valid.reshape(num_tiles, side, side), ((0, 0), (1, 1), (1, 1)))
    affinity = []
    for row, col in _OFFSETS:
        window = (slice(None), slice(1 + row, 1 + row + side), slice(1 + col, 1 + col + side))
        cosine = jnp.sum(unit * padded[window], axis=-1)
        affinity.append(jnp.where(is_inside[window], cosine, -jnp.inf))
    best = jnp.stack(affinity).reshape(len(_OFFSETS), num_tiles, num_patches)
    step = jnp.array([row * side + col for row, col in _OFFSETS], jnp.int32)[jnp.argmax(best, axis=0)]
    place = jnp.arange(num_patches, dtype=jnp.int32)
    pointer = jnp.where(valid & (jnp.max(best, axis=0) > -jnp.inf), place + step, place)
    back = jnp.take_along_axis(pointer, pointer, axis=1)
    # Affinity never falls along a chain, so chains end in two tokens that point to each other.
    pointer = jnp.where((back == place) & (place < pointer), place, pointer)
    for _ in range(math.ceil(math.log2(max(num_patches, 2)))):
        pointer = jnp.take_along_axis(pointer, pointer, axis=1)
    return pointer


def background_groups(
    grid: TokenGrid, attention: TowerAttention, valid: Bool[Array, "M"], budget: Int[Array, ""]
) -> Int[Array, "M"]:
    """Return the row of every token, in [0, budget): its root's place among the chosen roots; -1 in no row.

    Args:
      attention: (M,), (M, H) of the scale's tokens. budget: may be traced.
    """
    with jax.named_scope("background"):
        num_patches = grid.side**2
        per_tile = valid.reshape(-1, num_patches)
        root = tile_roots(attention.key.reshape(*per_tile.shape, -1), per_tile, grid.side)
        value = attention.class_value.reshape(per_tile.shape)
        columns = jnp.stack([value, jnp.ones_like(value)], axis=-1)
        segment = jnp.where(per_tile, root, -1)
        sums = jax.vmap(lambda rows, ids: segment_sum(rows, ids, num_patches))(columns, segment)
        is_root = sums[..., 1] > 0
        score = jnp.where(is_root, sums[..., 0] / jnp.maximum(sums[..., 1], 1), -jnp.inf)
        round_ = jax.vmap(rank_of)(jnp.argsort(-score, axis=1, stable=True))
        # lexsort is stable, so equal scores fall by place.
        order = jnp.lexsort((-score.reshape(-1), jnp.where(is_root, round_, num_patches).reshape(-1)))
        is_chosen = is_root.reshape(-1) & (rank_of(order) < budget)
        row = jnp.where(is_chosen, jnp.cumsum(is_chosen) - 1, -1).astype(jnp.int32).reshape(per_tile.shape)
        return jnp.where(per_tile, jnp.take_along_axis(row, root, axis=1), -1).reshape(-1)


SELECTION = SelectionRule(
    name="background",
    title="text-agnostic pruning",
    source="in the manner of GeoLLaVA-8K, Wang et al. 2025, arXiv:2505.21375",
    difference="no trained head: a token points to the neighbour of most similar key, of a mutual pair the earlier "
    "token is the root; pointers are followed to the end; the budget is spread evenly over tiles (there 24 a tile); "
    "means of projected tokens, there before the projector",
    needs=("tower",),
    choose=by_scale(lambda scale: scale.merge(background_groups(scale.grid, scale.tower, scale.valid, scale.budget))),
    place=7,
)
