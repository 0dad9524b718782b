"""What one image computes, from its tiles to what questions read of it, as pure functions of arrays.

    encode_views   tower and projector over the tiles of all views
    make_scene     scale embedding -> region ids, scale by scale; then the anchor's prefix

As in engine/question.py both take the way to run a stage; `encode_in_one` is one program of both.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from bat_jax import model as bat
from bat_jax.compress.compressor import ScaleTokens, initial_centres, partition_scale
from bat_jax.config import BatConfig, CompressorConfig
from bat_jax.engine.question import RunStage, SceneArrays, run_inside
from bat_jax.nn.decoder import KVCache
from bat_jax.ops.bicubic import ViewTiles
from bat_jax.ops.on_mesh import ALL, HEADS, cut_over, on_mesh, rows_on_mesh, rows_spec, surrounding_mesh
from bat_jax.ops.valid_first import valid_first
from bat_jax.typing import Array, ArrayOrShape, Bool, Float, Int, Params, UInt32

# What the tower may take for the scores and the MLP of the tiles that go through it at once. An accelerator is fastest
# with many tiles; a CPU's allocator gives larger buffers back to the system and clears them anew in every layer.
TOWER_BYTES = {"cpu": 24 * 2**20, "accelerator": 1_200_000_000}


class Regions(NamedTuple):
    """Where a scale's regions come from, and the tokens that take part.

    valid (M,). region_id (M,): made on the host, or None to partition here. first_centres (k,): of K-means, or None to
    draw them.
    """

    valid: Bool[Array, "M"]
    region_id: Int[Array, "M"] | None = None
    first_centres: Int[Array, "_"] | None = None


class ImageArrays(NamedTuple):
    """prefix_ids (T,): of the prompt before the image. seed (): of the first centres. regions: scale by scale.

    num_clusters: scale by scale, () each; they and kmeans_steps () are traced, so that no number compiles anew.
    """

    prefix_ids: Int[Array, "T"]
    seed: UInt32[Array, ""]
    num_clusters: tuple[Int[Array, ""], ...]
    kmeans_steps: Int[Array, ""]
    regions: tuple[Regions, ...]


def default_tile_batch(cfg: BatConfig, platform: str, num_devices: int = 1) -> int:
    """Return how many tiles to take through the tower at once: as many as fit, all batches and devices alike."""
    vision, item = cfg.vision, jnp.dtype(cfg.compute_dtype).itemsize
    tokens = vision.num_patches + 1
    of_tile = 4 * vision.num_heads * tokens**2 + 2 * item * tokens * vision.mlp_dim
    total = sum(cfg.num_tiles(size) for size in cfg.compressor.sizes_px)
    most = max(1, TOWER_BYTES.get(platform, TOWER_BYTES["accelerator"]) // of_tile) * num_devices
    return -(-total // -(-total // most) // num_devices) * num_devices


def has_views_program(platform: str) -> bool:
    """Tell whether the views of a picture are made by the device; else by Pillow on the host, the same bytes.

    On a CPU Pillow needs 2.1 s of one core for the paper's views of 8192 x 8192 pixels, the program 7.5 s. On a TPU the
    picture would take 8.6 GB, its three channels padded to 128, and XLA minutes to compile the gathers.
    """
    return platform in ("gpu", "cuda")


def view_shapes(cfg: BatConfig, sharding: Any = None) -> tuple[ViewTiles, ...]:
    """Return the shapes of all views' tiles."""

    def shape(dtype: Any, *sizes: int) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)

    tile, counts = cfg.vision.image_size_px, map(cfg.num_tiles, cfg.compressor.sizes_px)
    return tuple(ViewTiles(shape(np.uint8, n, tile, tile, 3), shape(bool, n)) for n in counts)


def encode_views(
    run: RunStage,
    cfg: BatConfig,
    tile_batch: int,
    params: Params,
    table: Float[ArrayOrShape, "256 3"],
    views: tuple[ViewTiles, ...],
) -> tuple[bat.TileFeatures, ...]:
    """Return the features of every view, (M, ...) tile-major; table: `io.views.normalisation_table`."""
    static = (cfg.networks, tile_batch, cfg.compressor.reads_tower_attention)
    return run("vision_tower", encode_all_tiles, static, params, table, views)


def encode_all_tiles(
    cfg: BatConfig,
    tile_batch: int,
    return_attention: bool,
    params: Params,
    table: Float[Array, "256 3"],
    views: tuple[ViewTiles, ...],
) -> tuple[bat.TileFeatures, ...]:
    """Run the tiles of all views through the tower in micro-batches of one size, so that memory stays with them.

    Tiles of nothing but padding all give the same features: one of them is encoded for all.
    """
    # Under jit, so that it is traced once for its shapes and for the loop.
    encode = jax.jit(bat.encode_tiles_with_attention if return_attention else bat.encode_tiles, static_argnums=0)
    tiles, is_padding = (jnp.concatenate(parts) for parts in zip(*views, strict=True))
    counts = [view.tiles.shape[0] for view in views]
    num_tiles, firsts = sum(counts), [sum(counts[:view]) for view in range(len(counts))]
    order = valid_first(~is_padding)
    num_seen = jnp.sum(~is_padding)
    num_wanted = num_seen + jnp.any(is_padding)
    # Behind the last tile stands none: what is computed for it is dropped.
    order_and_none = jnp.concatenate([order, num_tiles + jnp.arange(tile_batch, dtype=jnp.int32)])

    def batch(index):
        some = on_mesh(jnp.asarray(tiles).at[index].get(mode="clip"), ALL)
        return jax.tree.map(on_mesh, encode(cfg, params, some, table))

    def step(number, state):
        features, of_padding = state
        index = jax.lax.dynamic_slice_in_dim(order_and_none, number * tile_batch, tile_batch)
        place = num_seen - number * tile_batch  # where the tile of padding stands in this batch, if it does
        is_here = (place >= 0) & (place < tile_batch)

        def write(of_view, new, first):
            local = index - first
            # A negative index would count from the end.
            local = jnp.where(local < 0, local + 2 * (num_tiles + tile_batch), local)
            return rows_on_mesh(of_view.at[local].set(new, mode="drop", unique_indices=True))

        new = batch(index)
        pairs = zip(features, firsts, strict=True)
        written = [jax.tree.map(functools.partial(write, first=first), of_view, new) for of_view, first in pairs]
        kept = jax.tree.map(lambda old, new: jnp.where(is_here, new.at[place].get(mode="clip"), old), of_padding, new)
        return written, kept

    shapes = jax.eval_shape(batch, order_and_none[:tile_batch])

    def zeros(*lead):
        return jax.tree.map(lambda leaf: jnp.zeros((*lead, *leaf.shape[1:]), leaf.dtype), shapes)

    start = [jax.tree.map(rows_on_mesh, zeros(count)) for count in counts], zeros()
    features, of_padding = jax.lax.fori_loop(0, -(-num_wanted // tile_batch), step, start)

    def finish(leaf, padding, view):
        mask = view.is_padding.reshape(-1, *[1] * (leaf.ndim - 1))
        return rows_on_mesh(jnp.where(mask, padding, leaf).reshape(-1, *leaf.shape[2:]))

    pairs = zip(features, views, strict=True)
    return tuple(jax.tree.map(functools.partial(finish, view=view), of_view, of_padding) for of_view, view in pairs)


def make_scene(
    run: RunStage,
    cfg: BatConfig,
    capacity: tuple[int, ...] | None,
    params: Params,
    features: tuple[bat.TileFeatures, ...],
    image: ImageArrays,
    cluster_on_host: Callable[..., Array] | None = None,
) -> tuple[SceneArrays, tuple[Int[ArrayOrShape, "_"] | None, ...]]:
    """Return what questions read, and each scale's first centres where K-means drew them.

    Args:
      capacity: each scale's most regions; None where all region ids are given.
      cluster_on_host: (grid, rows (M, C), valid (M,), clusters) -> region ids, for a partition that no program makes.
    """
    settings = cfg.compressor
    scales, centres = [], []
    for index, (spec, of_view, regions) in enumerate(zip(settings.scales, features, image.regions, strict=True)):
        grid = bat.token_grid(cfg, spec.size_px)
        tokens = with_embedding(run, cfg, spec.size_px, "answer", params, of_view.projected)
        region_id, init = regions.region_id, regions.first_centres
        if region_id is None:
            count = settings.clusters_of(spec, grid.num_tokens)
            rows = of_view.vision if settings.cluster_features == "vision" else tokens
            if cluster_on_host is not None:
                region_id = cluster_on_host(grid, rows, regions.valid, count)
            else:
                # Only the rules that partitioning reads; budgets and the like must not compile it anew.
                rules = CompressorConfig.release(
                    partition=settings.partition,
                    coordinates=settings.coordinates,
                    feature_scale=settings.feature_scale,
                    coord_scale=settings.coord_scale,
                )
                assert capacity is not None
                start: ArrayOrShape = np.zeros(capacity[index], np.int32)  # partitions but K-means read none
                if settings.partition == "kmeans":
                    static = (spec.size_px, count, capacity[index])
                    init, start = run("first_centres", _first_centres, static, image.seed, regions.valid, init)
                args = (rows, regions.valid, start, image.num_clusters[index], image.kmeans_steps)
                region_id = run("region_partition", partition_scale, (rules, grid), *args)
        centres.append(init)
        scales.append(ScaleTokens(tokens, region_id, regions.valid, of_view.attention))
    anchor = with_embedding(run, cfg, settings.sizes_px[0], "attention", params, features[0].projected)
    of_anchor = (image.prefix_ids, anchor, scales[0].valid)
    cache = run("anchor_prefix", bat.anchor_cache, (cfg.networks,), params, *of_anchor)
    return SceneArrays(tuple(scales), cache), tuple(centres)


def encode_in_one(
    cfg: BatConfig,
    tile_batch: int,
    capacity: tuple[int, ...] | None,
    params: Params,
    table: Float[Array, "256 3"],
    views: tuple[ViewTiles, ...],
    image: ImageArrays,
) -> tuple[SceneArrays, tuple[Int[Array, "_"] | None, ...]]:
    """Return `make_scene` of `encode_views` as one program."""
    features = encode_views(run_inside, cfg, tile_batch, params, table, views)
    made = make_scene(run_inside, cfg, capacity, params, features, image)
    mesh = surrounding_mesh()
    return made if mesh is None else jax.lax.with_sharding_constraint(made, scene_at(mesh, made))


def scene_at(mesh: Mesh | AbstractMesh, made: tuple[SceneArrays, tuple[Any, ...]]) -> Any:
    """Return the sharding of every array of what `make_scene` returns, computed or read (arrays or shapes).

    The devices share the rows of the scales' tokens, where they divide them, and the cache's heads; the rest is whole.
    """
    scene, centres = made

    def at(spec: PartitionSpec) -> Any:
        return NamedSharding(mesh, spec)

    def rows(leaf: Any) -> Any:
        return at(rows_spec(mesh, leaf.shape[0]))

    def heads(leaf: Any) -> Any:
        return at(cut_over(mesh, leaf.ndim - 2, [HEADS]))

    whole = at(PartitionSpec())
    scales = tuple(
        ScaleTokens(rows(scale.tokens), whole, whole, jax.tree.map(rows, scale.attention)) for scale in scene.scales
    )
    cache = KVCache(jax.tree.map(heads, scene.cache.key), jax.tree.map(heads, scene.cache.value), whole)
    return SceneArrays(scales, cache), jax.tree.map(lambda _: whole, centres)


def with_embedding(
    run: RunStage,
    cfg: BatConfig,
    scale_px: int,
    path: Literal["answer", "attention"],
    params: Params,
    projected: Float[ArrayOrShape, "M D"],
) -> Float[ArrayOrShape, "M D"]:
    """Return a scale's tokens as the answering or the attention path wants them (Eq. 5)."""
    static = (cfg.networks_with("scale_embedding_extent"), scale_px, cfg.compressor.embedding_repeats(path))
    return run("scale_embedding", bat.with_scale_embedding, static, params, projected)


def _first_centres(
    scale_px: int,
    count: int,
    capacity: int,
    seed: UInt32[Array, ""],
    valid: Bool[Array, "M"],
    given: Int[Array, "_"] | None,
) -> tuple[Int[Array, "_"], Int[Array, "R"]]:
    """Return the first centres, drawn unless they are given, and the same with as many slots as a scale has."""
    init = initial_centres(jax.random.key(seed), valid, scale_px, count) if given is None else jnp.asarray(given)
    return init, jnp.pad(init, (0, capacity - count))
