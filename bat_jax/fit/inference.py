"""The path from a picture to an answer as an `AbstractRun`: what encoding.py and pipeline.py do, on shapes.

One call of `run.stage` a program, under the name that it has in `BatModel.stages`; what those files hold on to is held
here, and what they let go is dropped.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bat_jax import model as bat
from bat_jax.compress.compressor import ScaleTokens, initial_centres, partition_scale, select
from bat_jax.config import BatConfig, ScaleSpec
from bat_jax.encoding import _in_order
from bat_jax.engine.cost import Text
from bat_jax.engine.generate import generate
from bat_jax.fit.abstract_run import AbstractRun
from bat_jax.io.views import view_arguments
from bat_jax.ops.bicubic import view_tiles
from bat_jax.train.sharding import sharded


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractScene:
    """The shapes of what an image leaves for its questions; see `encoding.SceneData`."""

    scales: tuple[ScaleTokens, ...]
    region_capacity: tuple[int, ...]
    cache: Any


def shape(*sizes: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of an array from the host."""
    return jax.ShapeDtypeStruct(sizes, dtype)


def abstract_params(cfg: BatConfig, mesh: Mesh) -> Any:
    """Return the shapes of a model's weights in the config's dtype.

    Every leaf is cut over the mesh along its longest axis that divides, as in training's ZeRO-3 (train/sharding.py).
    """
    tree = jax.eval_shape(functools.partial(bat.init_params, cfg), jax.random.key(0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(cfg.compute_dtype), sharding=sharding),
        tree,
        sharded(mesh, tree),
    )


def encode(run: AbstractRun, cfg: BatConfig, params: Any, text: Text, image_px: int, tile_batch: int) -> AbstractScene:
    """Run what depends on the image alone; leaves held what a scene holds."""
    settings, networks = cfg.compressor, cfg.networks
    picture = np.broadcast_to(np.uint8(0), (image_px, image_px, 3))
    views = run.stage(
        "views", view_tiles, (cfg.vision.image_size_px,), *view_arguments(picture, settings.sizes_px, cfg.vision)
    )
    table = run.hold(shape(256, 3, dtype=jnp.float32))
    tower = bat.encode_tiles_with_attention if settings.reads_tower_attention else bat.encode_tiles
    features = []
    for view in views:
        batch = shape(tile_batch, *view.tiles.shape[1:], dtype=jnp.uint8)
        num_tiles = view.tiles.shape[0]
        parts = [
            run.stage("vision_tower", tower, (networks,), params, batch, table)
            for _ in range(-(-num_tiles // tile_batch))
        ]
        features.append(run.stage("tiles in order", _in_order, (), shape(num_tiles), *parts))
        run.drop(parts)
    scales, capacity = [], []
    for spec, feature in zip(settings.scales, features, strict=True):
        tokens = _embedded(run, cfg, spec, "answer", params, feature.projected)
        valid = run.hold(shape(cfg.num_tokens(spec.size_px), dtype=bool))
        clustered = feature.vision if settings.cluster_features == "vision" else tokens
        room = max(settings.clusters_of(spec, valid.shape[0]), 1)
        scales.append(ScaleTokens(tokens, _regions(run, cfg, spec, clustered, valid, room), valid, feature.attention))
        capacity.append(room)
    anchor = _embedded(run, cfg, settings.scales[0], "attention", params, features[0].projected)
    cache = run.stage(
        "anchor_prefix", bat.anchor_cache, (networks,), params, shape(text.prefix), anchor, scales[0].valid
    )
    run.drop(views, features, anchor, table)
    return AbstractScene(scales=tuple(scales), region_capacity=tuple(capacity), cache=cache)


def _embedded(run: AbstractRun, cfg: BatConfig, spec: ScaleSpec, path: Any, params: Any, projected: Any) -> Any:
    static = (cfg.networks_with("scale_embedding_extent"), spec.size_px, cfg.compressor.embedding_repeats(path))
    return run.stage("scale_embedding", bat.with_scale_embedding, static, params, projected)


def _regions(run: AbstractRun, cfg: BatConfig, spec: ScaleSpec, features: Any, valid: Any, room: int) -> Any:
    settings, scalar = cfg.compressor, shape()
    if settings.partition not in ("kmeans", "grid", "one"):  # made on the host
        return run.hold(valid.update(dtype=jnp.int32))
    init = shape(room)
    if settings.partition == "kmeans":
        init = run.stage("first centres", _centres, (spec.size_px, room), _key(), valid)
    rules = settings.only("partition", "coordinates", "feature_scale", "coord_scale")
    static = (rules, bat.token_grid(cfg, spec.size_px))
    regions = run.stage("region_partition", partition_scale, static, features, valid, init, scalar, scalar)
    run.drop(init)
    return regions


def _centres(scale_px: int, room: int, key: Any, valid: Any) -> Any:
    return initial_centres(key, valid, scale_px, room)


def _key() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.key(0))


def ask(run: AbstractRun, cfg: BatConfig, params: Any, scene: AbstractScene, text: Text) -> None:
    """Run what one question costs, its answer included; what it made is dropped at its end."""
    settings, networks = cfg.compressor, cfg.networks
    grids = tuple(bat.token_grid(cfg, size) for size in settings.sizes_px)
    ids, valid = shape(text.question), shape(text.question, dtype=bool)
    importance = run.stage(
        "anchor_importance",
        bat.anchor_importance,
        (networks, grids[0].num_tokens),
        params,
        scene.cache,
        ids,
        valid,
        shape(text.question, dtype=jnp.float32),
    )
    row = run.hold(shape(grids[0].num_tokens, dtype=jnp.float32))
    static = (settings.for_select, grids, scene.region_capacity)
    selections = run.stage("preserve_merge", select, static, scene.scales, row, shape(len(grids)))
    kept = run.stage("token_mlp", bat.visual_tokens, (cfg.networks_with("scales", "token_mlp"),), params, selections)
    tokens, mask = kept
    prefix = shape(text.prefix), shape(text.prefix, dtype=bool)
    spliced = run.stage(
        "splice", bat.splice, (networks,), params, (prefix[0], ids), (prefix[1], valid), (tokens,), (mask,)
    )
    logits, cache = run.stage("prefill", bat.prefill, (networks, text.answer), params, spliced)
    options = shape(2), shape(dtype=jnp.float32), shape(dtype=jnp.float32), _key()
    answer = run.stage("generate", generate, (networks, text.answer), params, logits, cache, *options)
    run.drop(importance, row, selections, kept, spliced, logits, cache, answer)
