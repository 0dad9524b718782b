"""The half that depends on the image alone: read, tile, tower, projector, scale embedding, partition, anchor prefix.

`SceneEncoder.encode` takes an image through these stages once; what it returns serves every question (SceneData). Its
two steps stand apart for grids of settings: `encode_views` runs the networks of the image, `make_scene` the rest.
Tiles go through the tower in micro-batches of one fixed size, so memory does not grow with the image.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax import model as bat
from bat_jax.compress.compressor import ScaleTokens, initial_centres, partition_scale
from bat_jax.compress.partition import ALONE, LabelRegions, cluster_rows, label_regions
from bat_jax.config import BatConfig, CompressorConfig, ScaleSpec
from bat_jax.engine.stages import Stages
from bat_jax.io.birch import birch_labels
from bat_jax.io.images import SourceImage, fill_nodata, read_image
from bat_jax.io.label_maps import token_labels
from bat_jax.io.prompts import chatml, tokenize
from bat_jax.io.views import is_padding_tile, make_tiles, normalisation_table, token_valid_mask, view_arguments
from bat_jax.nn.decoder import KVCache
from bat_jax.ops.bicubic import ViewTiles, view_tiles
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Array, Params

TILE_BATCH = 8

ImageLike = str | pathlib.Path | np.ndarray | SourceImage


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneData:
    """An encoded image: everything that does not depend on the question.

    Attributes:
      scales_px: side of every view. scales: tokens, regions and masks of every scale. grids: their token grids.
      region_capacity: static R of every scale. region_labels: the label map's label of each region id, or None.
      cache: the decoder over [prefix, anchor tokens]. prefix_ids: that prefix.
      init_index: first centres of every scale (empty where there is no clustering).
      image_size: (width, height) in pixels of the file; `pixels` is what was read of it, for pictures.
      pad_colour: of the margins that made it square.
      intermediates: named arrays per stage when `encode(keep_intermediates=True)`.
    """

    scales_px: tuple[int, ...]
    scales: tuple[ScaleTokens, ...]
    grids: tuple[TokenGrid, ...]
    region_capacity: tuple[int, ...]
    region_labels: tuple[np.ndarray | None, ...]
    cache: KVCache
    prefix_ids: np.ndarray
    init_index: tuple[np.ndarray, ...]
    image_size: tuple[int, int]
    pixels: np.ndarray
    pad_colour: tuple[int, ...]
    note: str
    run_seconds: dict[str, float]
    compile_seconds: dict[str, float]
    intermediates: dict[str, np.ndarray]

    @property
    def num_regions(self) -> tuple[int, ...]:
        """Regions of every scale that hold a token; a token that is a region of its own counts as one."""
        counts = []
        for scale in self.scales:
            ids = np.asarray(scale.region_id)[np.asarray(scale.valid)]
            counts.append(np.unique(ids[ids != ALONE]).size + int(np.sum(ids == ALONE)))
        return tuple(counts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedViews:
    """What no setting of the compressor but its views' sizes changes: `source`, and each view's tiles and features."""

    source: SourceImage
    sizes_px: tuple[int, ...]
    tiles: tuple[Array, ...]
    features: tuple[bat.TileFeatures, ...]


class SceneEncoder:
    """Runs the image half of a model; shares its stages (compiled programs and clocks) with the question half."""

    def __init__(
        self,
        cfg: BatConfig,
        params: Params,
        tokenizer: Any,
        stages: Stages,
        tile_batch: int = TILE_BATCH,
        views_on_device: bool | None = None,
    ):
        """Wrap loaded parts; `views_on_device` says who resizes, None chooses the device unless it is a CPU.

        On a CPU Pillow needs 2.1 s of one core for the paper's views of 8192 x 8192 pixels, the program 7.5 s.
        """
        self.cfg = cfg
        self.params = params
        self.tokenizer = tokenizer
        self.stages = stages
        self.tile_batch = tile_batch
        self.views_on_device = jax.default_backend() != "cpu" if views_on_device is None else views_on_device
        self._table = jnp.asarray(normalisation_table(cfg.vision))

    def encode(self, image: ImageLike, *, label_map: np.ndarray | None = None, **options: Any) -> SceneData:
        """Encode a file, an (H, W, 3) uint8 array, or what `io.images.read_image` returned; options as `make_scene`."""
        self.stages.reset_clocks()
        source = self._source(image)
        # Before the networks run: a label map that does not fit should cost nothing.
        regions = self._label_regions(label_map, source)
        return self._make_scene(self.encode_views(source), regions, **options)

    def encode_views(self, image: ImageLike) -> EncodedViews:
        """Run the tower and the projector over all views of an image; for `make_scene`."""
        cfg, source = self.cfg, self._source(image)
        views = self._views(source.pixels)
        return EncodedViews(
            source=source,
            sizes_px=cfg.compressor.sizes_px,
            tiles=tuple(view.tiles for view in views),
            features=tuple(self._encode_view(view) for view in views),
        )

    def make_scene(self, views: EncodedViews, *, label_map: np.ndarray | None = None, **options: Any) -> SceneData:
        """Make of encoded views what `encode` returns, under this encoder's settings.

        Args:
          label_map: (H, W) integer region labels for partition "sam", 0 = background.
          kmeans_init: first centres per scale (token indices), instead of drawing them from `seed`.
          prefix_ids: the prompt's text before the image; the template's by default.
          keep_intermediates: also return pixels, features and embeddings as NumPy arrays.
          max_clusters: compile for as many; any number of clusters up to it then shares the programs.

        Raises:
          ValueError: the views have other sizes than the settings', or an argument does not fit the image.
        """
        if views.sizes_px != self.cfg.compressor.sizes_px:
            raise ValueError(
                f"views: have sizes {list(views.sizes_px)}, the settings {list(self.cfg.compressor.sizes_px)}"
            )
        self.stages.reset_clocks()
        return self._make_scene(views, self._label_regions(label_map, views.source), **options)

    def _make_scene(
        self,
        views: EncodedViews,
        regions: tuple[LabelRegions, ...] | None,
        *,
        kmeans_init: Mapping[int, np.ndarray] | None = None,
        seed: int = 0,
        prefix_ids: np.ndarray | None = None,
        keep_intermediates: bool = False,
        max_clusters: int | None = None,
    ) -> SceneData:
        cfg, settings, source = self.cfg, self.cfg.compressor, views.source
        if prefix_ids is None:
            prefix_ids = tokenize(self.tokenizer, chatml("<image>", cfg.prompt), cfg.prompt).pieces[0]
        scales, grids, capacity, centres = [], [], [], []
        kept: dict[str, np.ndarray] = {}
        for index, (spec, tiles, features) in enumerate(zip(settings.scales, views.tiles, views.features, strict=True)):
            grid = bat.token_grid(cfg, spec.size_px)
            tokens = self._with_embedding(spec, "answer", features.projected)
            valid = self._valid_tokens(source, spec.size_px, grid)
            if regions is None:
                clustered = features.vision if settings.cluster_features == "vision" else tokens
                init = self._first_centres(spec, valid, kmeans_init, seed)
                room = max(init.size, max_clusters or 1)
                region_id = self._partition(spec, grid, clustered, valid, init, room)
                capacity.append(room)
            else:
                init = np.zeros(0, np.int32)
                region_id = jnp.asarray(regions[index].region_id)
                capacity.append(regions[index].capacity)
            if keep_intermediates:
                kept |= self._kept_arrays(spec, tiles, features, init)
            scales.append(ScaleTokens(tokens, region_id, jnp.asarray(valid), features.attention))
            grids.append(grid)
            centres.append(init)
        cache = self.stages.run(
            "anchor_prefix",
            bat.anchor_cache,
            (cfg.networks,),
            self.params,
            jnp.asarray(prefix_ids),
            self._with_embedding(settings.scales[0], "attention", views.features[0].projected),
            scales[0].valid,
        )
        return SceneData(
            scales_px=settings.sizes_px,
            scales=tuple(scales),
            grids=tuple(grids),
            region_capacity=tuple(capacity),
            region_labels=tuple(region.label for region in regions) if regions else (None,) * len(scales),
            cache=cache,
            prefix_ids=np.asarray(prefix_ids),
            init_index=tuple(centres),
            image_size=source.full_size,
            pixels=source.pixels,
            pad_colour=cfg.vision.pad_colour,
            note=source.note,
            run_seconds=dict(self.stages.run_seconds),
            compile_seconds=dict(self.stages.compile_seconds),
            intermediates=kept,
        )

    def _source(self, image: ImageLike) -> SourceImage:
        """Read a file, or take an array as it is."""
        colour = self.cfg.vision.pad_colour
        if isinstance(image, SourceImage):
            return fill_nodata(image, colour)
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(image.shape[:2]) < 2:
                raise ValueError(f"image: need (H, W, 3) uint8 of at least 2 x 2, got {image.shape} {image.dtype}")
            return SourceImage(pixels=image, valid=None, full_size=(image.shape[1], image.shape[0]), note="")
        return fill_nodata(read_image(image, largest_view=max(self.cfg.compressor.sizes_px)), colour)

    def _label_regions(self, label_map: np.ndarray | None, source: SourceImage) -> tuple[LabelRegions, ...] | None:
        """Return each scale's regions under partition "sam", None under the others."""
        cfg, settings = self.cfg, self.cfg.compressor
        if settings.partition != "sam":
            if label_map is not None:
                raise ValueError(f"partition={settings.partition!r}: a label map is used by partition 'sam' only")
            return None
        if label_map is None and settings.without_label_map == "error":
            raise ValueError("partition='sam': needs a label map (label_map); only the release's preset goes without")
        if label_map is not None and label_map.shape != (source.full_size[1], source.full_size[0]):
            raise ValueError(f"label_map: has shape {label_map.shape}, the image is (width, height) {source.full_size}")
        regions = []
        for size in settings.sizes_px:
            grid = bat.token_grid(cfg, size)
            if label_map is None:
                # Every token a region of its own, ordered by score: the release's plain top-B_s.
                regions.append(label_regions(np.zeros(grid.num_tokens, np.int32), "tokens"))
            else:
                labels = grid.to_tiles(token_labels(label_map, size, cfg.vision.patch_size_px))
                regions.append(label_regions(labels, settings.background))
        return tuple(regions)

    def _views(self, pixels: np.ndarray) -> tuple[ViewTiles, ...]:
        """Make the tiles of all views, on the device or by Pillow: the same bytes."""
        vision, sizes = self.cfg.vision, self.cfg.compressor.sizes_px
        if self.views_on_device:
            arguments = view_arguments(pixels, sizes, vision)
            return self.stages.run("views", view_tiles, (vision.image_size_px,), *arguments)
        tiles = make_tiles(pixels, sizes, vision)
        return tuple(ViewTiles(view, is_padding_tile(view, vision.pad_colour)) for view in tiles)

    def _encode_view(self, view: ViewTiles) -> bat.TileFeatures:
        """Run a view's tiles through the tower in micro-batches of one size: (M, ...) each, tile-major.

        Tiles of nothing but padding all give the same features: one of them is encoded for all.
        """
        tiles, is_padding = view.tiles, np.asarray(view.is_padding)
        wanted = np.flatnonzero(~is_padding)
        if is_padding.any():
            wanted = np.append(wanted, np.flatnonzero(is_padding)[0])
        position = np.zeros(len(tiles), np.int32)
        position[wanted] = np.arange(wanted.size)
        position[is_padding] = wanted.size - 1
        encode = bat.encode_tiles
        if self.cfg.compressor.reads_tower_attention:
            encode = bat.encode_tiles_with_attention
        batches = []
        for start in range(0, wanted.size, self.tile_batch):
            picked = wanted[start : start + self.tile_batch]
            batch = tiles[np.pad(picked, (0, self.tile_batch - len(picked)))]
            batches.append(
                self.stages.run("vision_tower", encode, (self.cfg.networks,), self.params, batch, self._table)
            )
        return _in_order(position, *batches)

    def _with_embedding(self, spec: ScaleSpec, path: Literal["answer", "attention"], projected: Array) -> jax.Array:
        repeats = self.cfg.compressor.embedding_repeats(path)
        static = (self.cfg.networks_with("scale_embedding_extent"), spec.size_px, repeats)
        return self.stages.run("scale_embedding", bat.with_scale_embedding, static, self.params, projected)

    def _valid_tokens(self, source: SourceImage, scale_px: int, grid: TokenGrid) -> np.ndarray:
        """Return (M,) bool: False for padding and nodata tokens where the settings mask them."""
        if not self.cfg.compressor.mask_padding:
            return np.ones(grid.num_tokens, bool)
        size = (source.pixels.shape[1], source.pixels.shape[0])
        return grid.to_tiles(token_valid_mask(size, scale_px, self.cfg.vision.patch_size_px, source.valid))

    def _first_centres(
        self, spec: ScaleSpec, valid: np.ndarray, kmeans_init: Mapping[int, np.ndarray] | None, seed: int
    ) -> np.ndarray:
        """Return the tokens that start as centres: given ones checked, or drawn from the seed."""
        settings = self.cfg.compressor
        count = settings.clusters_of(spec, valid.size)
        if settings.partition != "kmeans":
            return np.zeros(count, np.int32)
        if kmeans_init is None:
            return np.asarray(initial_centres(jax.random.key(seed), jnp.asarray(valid), spec.size_px, count))
        if spec.size_px not in kmeans_init:
            raise ValueError(f"kmeans_init: holds no centres for scale {spec.size_px}")
        init = np.asarray(kmeans_init[spec.size_px])
        is_index = init.ndim == 1 and np.issubdtype(init.dtype, np.integer)
        if not is_index or init.size != count or init.min() < 0 or init.max() >= valid.size:
            raise ValueError(
                f"kmeans_init: scale {spec.size_px} needs {count} token indices in [0, {valid.size}), "
                f"got shape {init.shape} of {init.dtype}; num_clusters sets how many"
            )
        return init.astype(np.int32)

    def _partition(
        self, spec: ScaleSpec, grid: TokenGrid, features: Array, valid: np.ndarray, init: np.ndarray, room: int
    ) -> jax.Array:
        """Return (M,) region ids of a scale by K-means, BIRCH, a regular grid or as one, with `room` ids."""
        settings = self.cfg.compressor
        if settings.partition == "birch":
            rows = self.stages.run(
                "region_partition",
                cluster_rows,
                (),
                features,
                grid.coordinates(settings.coordinates),
                jnp.float32(settings.feature_scale),
                jnp.float32(settings.coord_scale),
            )
            start = time.perf_counter()
            region_id = birch_labels(np.asarray(rows), valid, init.size, settings.birch_threshold)
            self.stages.run_seconds["region_partition"] += time.perf_counter() - start
            return jnp.asarray(region_id)
        # Only the rules that partitioning reads; budgets and the like must not compile it anew.
        rules = CompressorConfig.release(
            partition=settings.partition,
            coordinates=settings.coordinates,
            feature_scale=settings.feature_scale,
            coord_scale=settings.coord_scale,
        )
        return self.stages.run(
            "region_partition",
            partition_scale,
            (rules, grid),
            features,
            jnp.asarray(valid),
            jnp.asarray(np.pad(init, (0, room - init.size))),
            jnp.int32(init.size),
            jnp.int32(settings.kmeans_iterations),
        )

    def _kept_arrays(
        self, spec: ScaleSpec, tiles: Array, features: bat.TileFeatures, init: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return a scale's intermediates by the names that `experiments.trace` writes, float32."""
        size, num_tiles = spec.size_px, len(tiles)

        def per_tile(array):
            return np.asarray(array, np.float32).reshape(num_tiles, self.cfg.vision.num_patches, -1)

        kept = {
            f"pixels_{size}": np.asarray(self._table)[np.asarray(tiles), np.arange(3)],
            f"vision_{size}": per_tile(features.vision),
            f"projected_{size}": per_tile(features.projected),
        }
        if self.cfg.scale_embedding.form != "none":
            embedding = self.stages.run("scale_embedding", bat.scale_embedding, (self.cfg, size), self.params)
            kept[f"scale_embedding_{size}"] = np.asarray(embedding, np.float32)
        if self.cfg.compressor.partition == "kmeans":
            kept[f"kmeans_init_{size}"] = init
        return kept


@jax.jit
def _in_order(position: Array, *batches: bat.TileFeatures) -> bat.TileFeatures:
    """Join micro-batches and take their tiles at `position`: (tiles, tokens, ...) becomes (M, ...)."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[position].reshape(-1, *parts[0].shape[2:]), *batches)
