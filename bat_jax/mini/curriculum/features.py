"""What the frozen parts make of every training picture, computed once and kept on disk.

DIR/vision.npy   (N, M, E) float16, the tower's features of all views, coarse to fine, tile-major
DIR/regions.npy  (N, M) uint8, region ids, by the model's own K-means
DIR/tokens.npy   (N, M, D) float16, projected and with the scale embedding, once the projector is trained
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax.compress.compressor import initial_centres, partition_scale
from bat_jax.config import BatConfig
from bat_jax.mini.curriculum.packed import position_embeddings
from bat_jax.mini.curriculum.picture_store import PictureStore, grids, open_array
from bat_jax.mini.curriculum.tower import patch_features
from bat_jax.mini.curriculum.word_bag import project
from bat_jax.progress import Progress
from bat_jax.typing import Array, Float, Int, Key, Params

_TILES_AT_ONCE = 38


def encode_pictures(
    cfg: BatConfig, params: Params, store: PictureStore, num_pictures: int, directory: pathlib.Path
) -> None:
    """Fill vision.npy and regions.npy of the first pictures; those done already stay."""
    num_tokens = store.labels.shape[1]
    vision = open_array(directory / "vision.npy", (num_pictures, num_tokens, cfg.vision.width), np.float16)
    regions = open_array(directory / "regions.npy", (num_pictures, num_tokens), np.uint8)
    done = open_array(directory / "done.npy", (num_pictures,), np.uint8)
    tower = jax.jit(lambda params, tiles: patch_features(cfg, params, tiles).reshape(-1, cfg.vision.width))
    cluster = [jax.jit(functools.partial(_regions, cfg, index)) for index in range(len(cfg.compressor.scales))]
    bounds = np.cumsum([0, *(grid.num_tokens for grid in grids(cfg))])

    def encoded(index: int) -> tuple[int, jax.Array, jax.Array]:
        tiles = store.tiles[index]
        parts = [tower(params, tiles[start : start + _TILES_AT_ONCE]) for start in range(0, len(tiles), _TILES_AT_ONCE)]
        features = jnp.concatenate(parts)
        key = jax.random.key(index)
        labels = [part(key, features[bounds[i] : bounds[i + 1]]) for i, part in enumerate(cluster)]
        return index, features.astype(jnp.float16), jnp.concatenate(labels).astype(jnp.uint8)

    def keep(index: int, features: jax.Array, labels: jax.Array) -> None:
        vision[index], regions[index] = np.asarray(features), np.asarray(labels)
        done[index] = 1

    # A device works on the next picture while the last one is written.
    waiting = None
    for index in Progress(np.flatnonzero(done == 0).tolist(), unit="picture", desc="features"):
        begun = encoded(index)
        if waiting:
            keep(*waiting)
        waiting = begun
    if waiting:
        keep(*waiting)


def project_pictures(cfg: BatConfig, params: Params, vision: np.ndarray, directory: pathlib.Path) -> None:
    """Write tokens.npy anew from the vision features."""
    tokens = open_array(directory / "tokens.npy", (*vision.shape[:2], cfg.decoder.width), np.float16)
    position = position_embeddings(cfg, params)
    embed = jax.jit(lambda rows: (project(cfg, params, rows) + position).astype(jnp.float16))
    for index in range(vision.shape[0]):
        tokens[index] = np.asarray(embed(np.asarray(vision[index])))


def _regions(cfg: BatConfig, scale: int, key: Key[Array, ""], features: Float[Array, "M E"]) -> Int[Array, "M"]:
    settings = cfg.compressor
    spec, grid = settings.scales[scale], grids(cfg)[scale]
    valid = jnp.ones(grid.num_tokens, bool)
    init = initial_centres(key, valid, spec.size_px, settings.num_clusters)
    return partition_scale(settings, grid, features, valid, init, settings.num_clusters, settings.kmeans_iterations)
