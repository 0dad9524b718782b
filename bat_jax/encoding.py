"""The half that depends on the image alone: read, tile, tower, projector, scale embedding, partition, anchor prefix.

`SceneEncoder.encode` takes an image through these stages once; what it returns serves every question (SceneData). Its
two steps stand apart for grids of settings: `encode_views` runs the networks of the image, `make_scene` the rest.
engine/image.py says what they compute; here is what the host does: files, label maps, masks, what goes to the device.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax import model as bat
from bat_jax.compress.compressor import ScaleTokens
from bat_jax.compress.partition import ALONE, LabelRegions, cluster_rows, label_regions
from bat_jax.config import BatConfig, ScaleSpec
from bat_jax.engine.image import (
    ImageArrays,
    Regions,
    default_tile_batch,
    encode_in_one,
    encode_views,
    has_views_program,
    make_scene,
    scene_at,
    view_shapes,
)
from bat_jax.engine.question import SceneArrays, SceneLayout
from bat_jax.engine.stages import Stages
from bat_jax.io.bands import ImageError
from bat_jax.io.birch import birch_labels
from bat_jax.io.georeference import Georeference
from bat_jax.io.images import SourceImage, fill_nodata, read_image
from bat_jax.io.label_maps import token_labels
from bat_jax.io.prompts import chatml, tokenize
from bat_jax.io.token_places import TokenPlaces
from bat_jax.io.views import is_padding_tile, make_tiles, normalisation_table, token_valid_mask, view_arguments
from bat_jax.nn.decoder import KVCache
from bat_jax.ops.bicubic import ViewTiles, view_tiles
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.scene_store import SceneStore
from bat_jax.typing import Array, Params

ImageLike = str | pathlib.Path | np.ndarray | SourceImage


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneData:
    """An encoded image: everything that does not depend on the question.

    Attributes:
      scales_px: side of every view. scales: tokens, regions and masks of every scale. grids: their token grids.
      region_capacity: static R of every scale. region_labels: the label map's label of each region id, or None.
      cache: the decoder over [prefix, anchor tokens]. prefix_ids: that prefix.
      init_index: first centres of every scale, None where K-means did not run.
      image_size: (width, height) in pixels of the file; `pixels` is what was read of it, for pictures.
      georeference: where the picture lies in its file and on the map.
      pad_colour: of the margins that made it square.
      from_cache: read from a scene cache, so that no network ran.
      intermediates: named arrays per stage when `encode(keep_intermediates=True)`.
    """

    scales_px: tuple[int, ...]
    scales: tuple[ScaleTokens, ...]
    grids: tuple[TokenGrid, ...]
    region_capacity: tuple[int, ...]
    region_labels: tuple[np.ndarray | None, ...]
    cache: KVCache
    prefix_ids: np.ndarray
    init_index: tuple[Array | None, ...]
    image_size: tuple[int, int]
    georeference: Georeference
    pixels: np.ndarray
    pad_colour: tuple[int, ...]
    note: str
    from_cache: bool
    run_seconds: dict[str, float]
    compile_seconds: dict[str, float]
    intermediates: dict[str, np.ndarray]

    @property
    def arrays(self) -> SceneArrays:
        """What a question reads."""
        return SceneArrays(self.scales, self.cache)

    @property
    def layout(self) -> SceneLayout:
        """What a question's programs are specialised to."""
        return SceneLayout(self.grids, self.region_capacity)

    @property
    def num_regions(self) -> tuple[int, ...]:
        """Regions of every scale that hold a token; a token that is a region of its own counts as one."""
        counts = []
        for scale in self.scales:
            ids = np.asarray(scale.region_id)[np.asarray(scale.valid)]
            counts.append(np.unique(ids[ids != ALONE]).size + int(np.sum(ids == ALONE)))
        return tuple(counts)

    @property
    def token_places(self) -> tuple[TokenPlaces, ...]:
        """Where the tokens of every scale lie in the picture, in its file and on the map."""
        read = {"read_size": (self.pixels.shape[1], self.pixels.shape[0]), "full_size": self.image_size}
        return tuple(TokenPlaces(grid=grid, georeference=self.georeference, **read) for grid in self.grids)


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
        tile_batch: int | None = None,
        views_on_device: bool | None = None,
        stages_apart: bool = False,
        scene_store: SceneStore | None = None,
    ):
        """Wrap loaded parts.

        Args:
          tile_batch: tiles that go through the tower at once; None chooses by sizes and device.
          views_on_device: who makes the views; None chooses by the device (`engine.image.has_views_program`).
          stages_apart: run stage by stage, each clocked, and each shared by settings that differ in another.
          scene_store: where `encode` looks first, and what it puts there.
        """
        self.cfg = cfg
        self.params = params
        self.tokenizer = tokenizer
        self.stages = stages
        platform = jax.default_backend()
        self.tile_batch = default_tile_batch(cfg, platform, stages.num_devices) if tile_batch is None else tile_batch
        self.views_on_device = has_views_program(platform) if views_on_device is None else views_on_device
        self.stages_apart = stages_apart
        self.scene_store = scene_store
        self._table = stages.put(normalisation_table(cfg.vision))

    def encode(
        self,
        image: ImageLike,
        *,
        label_map: np.ndarray | None = None,
        keep_intermediates: bool = False,
        max_clusters: int | None = None,
        **options: Any,
    ) -> SceneData:
        """Encode a file, an (H, W, 3) uint8 array, or what `io.images.read_image` returned; options as `make_scene`.

        What can be one program is one: BIRCH runs on the host, `stages_apart` and `keep_intermediates` look inside. The
        intermediates are in no scene cache.
        """
        self.stages.reset_clocks()
        source = self._source(image)
        # Before the networks run: a label map that does not fit should cost nothing.
        labels = self._label_regions(label_map, source)
        arrays = self._image_arrays(source, labels, **options)
        capacity = self._capacity(arrays, labels, max_clusters)
        store = self.scene_store
        if store is None or keep_intermediates:
            return self._encode(source, labels, arrays, capacity, keep_intermediates)
        start = time.perf_counter()
        program = (self.tile_batch, capacity, self.stages_apart)
        key = store.key(self.cfg, self.params, source.pixels, arrays, program)
        found = store.read(key, self.cfg, self.params)
        if found is not None:
            found = jax.block_until_ready(self.stages.put(found, scene_at))
        self.stages.run_seconds["scene_cache"] += time.perf_counter() - start
        if found is not None:
            scene, centres = found
            return self._scene_data(source, labels, capacity, arrays, scene, centres, {}, from_cache=True)
        data = self._encode(source, labels, arrays, capacity, keep_intermediates)
        start = time.perf_counter()
        store.write(key, SceneArrays(data.scales, data.cache), data.init_index)
        self.stages.run_seconds["scene_cache"] += time.perf_counter() - start
        return dataclasses.replace(data, run_seconds=dict(self.stages.run_seconds))

    def _encode(
        self,
        source: SourceImage,
        labels: tuple[LabelRegions, ...] | None,
        arrays: ImageArrays,
        capacity: tuple[int, ...],
        keep_intermediates: bool,
    ) -> SceneData:
        """Run the networks and what follows, in one program where that can be."""
        if self.stages_apart or keep_intermediates or self.cfg.compressor.partition == "birch":
            encoded = self._encode_views(source, self._views(source.pixels))
            return self._make_scene(encoded, arrays, labels, capacity, keep_intermediates)
        # Label maps' regions are arrays; their number must not compile the tower anew.
        static = (self.cfg, self.tile_batch, None if labels else capacity)
        stage = ("image", encode_in_one, static, self.params, self._table)
        on_device = self.stages.put(arrays)
        if self.views_on_device:
            views = self._views(source.pixels)
        else:
            # Pillow resizes without the interpreter's lock: the program is compiled meanwhile.
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(self._views, source.pixels)
                self.stages.compile(*stage, view_shapes(self.cfg, self._table.sharding), on_device)
                views = waiting.result()
        scene, centres = self.stages.run(*stage, self.stages.put(views), on_device)
        return self._scene_data(source, labels, capacity, arrays, scene, centres, {})

    def encode_views(self, image: ImageLike) -> EncodedViews:
        """Run the tower and the projector over all views of an image; for `make_scene`."""
        source = self._source(image)
        return self._encode_views(source, self._views(source.pixels))

    def _encode_views(self, source: SourceImage, views: tuple[ViewTiles, ...]) -> EncodedViews:
        features = encode_views(
            self.stages.run, self.cfg, self.tile_batch, self.params, self._table, self.stages.put(views)
        )
        return EncodedViews(
            source=source,
            sizes_px=self.cfg.compressor.sizes_px,
            tiles=tuple(view.tiles for view in views),
            features=features,
        )

    def make_scene(
        self,
        views: EncodedViews,
        *,
        label_map: np.ndarray | None = None,
        keep_intermediates: bool = False,
        max_clusters: int | None = None,
        **options: Any,
    ) -> SceneData:
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
        labels = self._label_regions(label_map, views.source)
        arrays = self._image_arrays(views.source, labels, **options)
        capacity = self._capacity(arrays, labels, max_clusters)
        return self._make_scene(views, arrays, labels, capacity, keep_intermediates)

    def _make_scene(
        self,
        views: EncodedViews,
        arrays: ImageArrays,
        labels: tuple[LabelRegions, ...] | None,
        capacity: tuple[int, ...],
        keep_intermediates: bool,
    ) -> SceneData:
        on_host = self._birch if self.cfg.compressor.partition == "birch" else None
        stages = (self.stages.run, self.cfg, capacity, self.params)
        scene, centres = make_scene(*stages, views.features, self.stages.put(arrays), on_host)
        kept: dict[str, np.ndarray] = {}
        if keep_intermediates:
            of_views = zip(self.cfg.compressor.scales, views.tiles, views.features, centres, strict=True)
            for spec, tiles, features, init in of_views:
                kept |= self._kept_arrays(spec, tiles, features, init)
        return self._scene_data(views.source, labels, capacity, arrays, scene, centres, kept)

    def _scene_data(
        self,
        source: SourceImage,
        labels: tuple[LabelRegions, ...] | None,
        capacity: tuple[int, ...],
        arrays: ImageArrays,
        scene: SceneArrays,
        centres: tuple[Array | None, ...],
        intermediates: dict[str, np.ndarray],
        from_cache: bool = False,
    ) -> SceneData:
        sizes = self.cfg.compressor.sizes_px
        return SceneData(
            scales_px=sizes,
            scales=scene.scales,
            grids=tuple(bat.token_grid(self.cfg, size) for size in sizes),
            region_capacity=capacity,
            region_labels=tuple(region.label for region in labels) if labels else (None,) * len(sizes),
            cache=scene.cache,
            prefix_ids=np.asarray(arrays.prefix_ids),
            init_index=centres,
            image_size=source.full_size,
            georeference=source.georeference,
            pixels=source.pixels,
            pad_colour=self.cfg.vision.pad_colour,
            note=source.note,
            from_cache=from_cache,
            run_seconds=dict(self.stages.run_seconds),
            compile_seconds=dict(self.stages.compile_seconds),
            intermediates=intermediates,
        )

    def _image_arrays(
        self,
        source: SourceImage,
        labels: tuple[LabelRegions, ...] | None,
        *,
        kmeans_init: Mapping[int, Array] | None = None,
        seed: int = 0,
        prefix_ids: np.ndarray | None = None,
    ) -> ImageArrays:
        """Return what programs read of an image beside its tiles, on the host."""
        cfg, settings = self.cfg, self.cfg.compressor
        if prefix_ids is None:
            prefix_ids = tokenize(self.tokenizer, chatml("<image>", cfg.prompt), cfg.prompt).pieces[0]
        counts = [settings.clusters_of(spec, cfg.num_tokens(spec.size_px)) for spec in settings.scales]
        regions = []
        for index, (spec, count) in enumerate(zip(settings.scales, counts, strict=True)):
            valid = self._valid_tokens(source, spec.size_px, bat.token_grid(cfg, spec.size_px))
            init = None
            if kmeans_init is not None and settings.partition == "kmeans":
                init = self._given_centres(kmeans_init, spec, count)
            regions.append(Regions(valid, labels[index].region_id if labels else None, init))
        return ImageArrays(
            prefix_ids=np.asarray(prefix_ids),
            seed=np.array(seed % 2**32, np.uint32),
            num_clusters=tuple(np.array(count, np.int32) for count in counts),
            kmeans_steps=np.array(settings.kmeans_iterations, np.int32),
            regions=tuple(regions),
        )

    def _capacity(
        self, arrays: ImageArrays, labels: tuple[LabelRegions, ...] | None, max_clusters: int | None
    ) -> tuple[int, ...]:
        """Return each scale's static number of regions."""
        if labels:
            return tuple(region.capacity for region in labels)
        return tuple(max(int(count), max_clusters or 1) for count in arrays.num_clusters)

    def _source(self, image: ImageLike) -> SourceImage:
        """Read a file, or take an array as it is."""
        colour = self.cfg.vision.pad_colour
        if isinstance(image, SourceImage):
            if image.valid is not None and not image.valid.any():
                raise ImageError("image: no pixel holds data: give another image, or change which pixels are valid")
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
            return self.stages.run("views", view_tiles, (vision.image_size_px,), *self.stages.put(arguments))
        tiles = make_tiles(pixels, sizes, vision)
        return tuple(ViewTiles(view, is_padding_tile(view, vision.pad_colour)) for view in tiles)

    def _valid_tokens(self, source: SourceImage, scale_px: int, grid: TokenGrid) -> np.ndarray:
        """Return (M,) bool: False for padding and nodata tokens where the settings mask them."""
        if not self.cfg.compressor.mask_padding:
            return np.ones(grid.num_tokens, bool)
        size = (source.pixels.shape[1], source.pixels.shape[0])
        return grid.to_tiles(token_valid_mask(size, scale_px, self.cfg.vision.patch_size_px, source.valid))

    def _given_centres(self, kmeans_init: Mapping[int, Array], spec: ScaleSpec, count: int) -> np.ndarray:
        """Return a scale's given first centres, checked."""
        if spec.size_px not in kmeans_init:
            raise ValueError(f"kmeans_init: holds no centres for scale {spec.size_px}")
        init, num_tokens = np.asarray(kmeans_init[spec.size_px]), self.cfg.num_tokens(spec.size_px)
        is_index = init.ndim == 1 and np.issubdtype(init.dtype, np.integer)
        if not is_index or init.size != count or init.min() < 0 or init.max() >= num_tokens:
            raise ValueError(
                f"kmeans_init: scale {spec.size_px} needs {count} token indices in [0, {num_tokens}), "
                f"got shape {init.shape} of {init.dtype}; num_clusters sets how many"
            )
        return init.astype(np.int32)

    def _birch(self, grid: TokenGrid, features: Array, valid: Array, count: int) -> jax.Array:
        """Return (M,) region ids of a scale by BIRCH."""
        settings = self.cfg.compressor
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
        region_id = birch_labels(np.asarray(rows), np.asarray(valid), count, settings.birch_threshold)
        self.stages.run_seconds["region_partition"] += time.perf_counter() - start
        return self.stages.put(region_id)

    def _kept_arrays(
        self, spec: ScaleSpec, tiles: Array, features: bat.TileFeatures, init: Array | None
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
        if init is not None:
            kept[f"kmeans_init_{size}"] = np.asarray(init)
        return kept
