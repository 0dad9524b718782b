"""The training pictures of the mini model: rendered once, cut into tiles, with what every token shows.

    DIR/tiles.npy    (N, I, t, t, 3) uint8, the tiles of all views, coarse to fine
    DIR/labels.npy   (N, M, C) uint8, tile-major, see TokenTruth
    DIR/done.npy     (N,) uint8, 1 for a picture that is whole; a killed run goes on with the others

Letters: N pictures, I tiles and M tokens of all views together (228 and 14,592).
"""

import concurrent.futures
import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bat_jax.config import BatConfig
from bat_jax.io.output_files import staged_file, write_json
from bat_jax.io.views import make_tiles
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.masks import label_tokens
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.render import NATIVE_PX, render
from bat_jax.mini.world.shapes import MARKER_WIDTH_DM
from bat_jax.mini.world.world import SIDE_DM, Marker, WorldScene
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.progress import Progress
from bat_jax.typing import Array

_RING = 1
# Stands for a scene's one event among the ids of its objects.
EVENT_ID = 255


class TokenTruth(NamedTuple):
    """What tokens show, each (...,) uint8, 0 where none; `mini.world.masks.TokenLabels` and the red circle's ring."""

    land_use: np.ndarray | Array
    site_kind: np.ndarray | Array
    object_kind: np.ndarray | Array
    colour: np.ndarray | Array
    state: np.ndarray | Array
    event: np.ndarray | Array
    site_id: np.ndarray | Array
    object_id: np.ndarray | Array
    ring: np.ndarray | Array

    @classmethod
    def of(cls, labels: np.ndarray | Array) -> "TokenTruth":
        """Split the last axis of stored labels."""
        return cls(*(labels[..., index] for index in range(len(cls._fields))))

    def shown_id(self) -> np.ndarray:
        """Return the id of the object that each token shows, EVENT_ID on the event's other tokens, 0 elsewhere."""
        return np.where((self.event > 0) & (self.object_id == 0), np.uint8(EVENT_ID), self.object_id)


class LabelledPicture(NamedTuple):
    """A scene as it is painted for training: with a red circle or without, at 1344 pixels a side or twice that."""

    scene: WorldScene
    marker: Marker | None
    side_px: int


def picture(index: int) -> LabelledPicture:
    """Return training picture `index`: scene seed `index`, every other one with a circle, every fourth at 2688 pixels.

    The circle is that of one of the scene's own questions; from larger pictures the tower learns views that were
    resized as a user's are.
    """
    scene = generate_scene(index)
    marker = None
    if index % 2:
        asked = [question for question in generate_questions(scene) if question.marker]
        marker = asked[(index // 2) % len(asked)].marker
    return LabelledPicture(scene, marker, NATIVE_PX * (2 if index % 4 >= 2 else 1))


def grids(cfg: BatConfig) -> tuple[TokenGrid, ...]:
    """Return every view's token grid."""
    return tuple(TokenGrid(px // cfg.vision.image_size_px, cfg.vision.side) for px in cfg.compressor.sizes_px)


def ring_tokens(marker: Marker | None, num_side: int) -> np.ndarray:
    """Return (n, n) uint8: 1 where the circle's line passes through the token."""
    if marker is None:
        return np.zeros((num_side, num_side), np.uint8)
    edges = np.arange(num_side + 1) * (SIDE_DM / num_side)
    x, y = edges - marker.x, edges - marker.y
    nearest = [
        np.where((axis[:-1] <= 0) & (axis[1:] >= 0), 0, np.minimum(abs(axis[:-1]), abs(axis[1:]))) for axis in (x, y)
    ]
    farthest = [np.maximum(abs(axis[:-1]), abs(axis[1:])) for axis in (x, y)]
    low = np.hypot(nearest[0][None, :], nearest[1][:, None])
    high = np.hypot(farthest[0][None, :], farthest[1][:, None])
    return ((low <= marker.radius) & (high >= marker.radius - MARKER_WIDTH_DM)).astype(np.uint8) * _RING


def picture_arrays(cfg: BatConfig, item: LabelledPicture) -> tuple[np.ndarray, np.ndarray]:
    """Paint and label a picture.

    Returns:
      tiles (I, t, t, 3) uint8, labels (M, 9) uint8, both over all views from coarse to fine.
    """
    pixels = render(item.scene, item.side_px, item.marker)
    tiles = np.concatenate(make_tiles(pixels, cfg.compressor.sizes_px, cfg.vision))
    labels = []
    for size, grid in zip(cfg.compressor.sizes_px, grids(cfg), strict=True):
        truth = label_tokens(item.scene, size, cfg.vision.patch_size_px)
        layers = TokenTruth(**truth._asdict(), ring=ring_tokens(item.marker, grid.full_side))
        labels.append(grid.to_tiles(np.stack(layers, axis=-1)))
    return tiles, np.concatenate(labels)


class PictureStore:
    """Training pictures on disk; `fill` makes those that are missing."""

    def __init__(self, directory: pathlib.Path, cfg: BatConfig, num_pictures: int):
        """Open or create the arrays.

        Raises:
          ValueError: the directory holds pictures of another config or another number.
        """
        self.directory, self.cfg, self.num_pictures = directory, cfg, num_pictures
        tile = cfg.vision.image_size_px
        num_tiles = sum(cfg.num_tiles(px) for px in cfg.compressor.sizes_px)
        num_tokens = sum(cfg.num_tokens(px) for px in cfg.compressor.sizes_px)
        directory.mkdir(parents=True, exist_ok=True)
        facts = {"num_pictures": num_pictures, "sizes_px": list(cfg.compressor.sizes_px), "tile": tile}
        stored = directory / "pictures.json"
        if not stored.exists():
            write_json(stored, facts)
        if json.loads(stored.read_text()) != facts:
            raise ValueError(f"{directory}: holds pictures made as {json.loads(stored.read_text())}, wanted {facts}")
        self.tiles = open_array(directory / "tiles.npy", (num_pictures, num_tiles, tile, tile, 3), np.uint8)
        self.labels = open_array(
            directory / "labels.npy", (num_pictures, num_tokens, len(TokenTruth._fields)), np.uint8
        )
        self.done = open_array(directory / "done.npy", (num_pictures,), np.uint8)

    def fill(self, pool: concurrent.futures.Executor | None = None) -> None:
        """Make the missing pictures, in the processes of a pool if there is one."""
        missing = np.flatnonzero(self.done == 0).tolist()
        wanted = [(self.directory, self.cfg, self.num_pictures, index) for index in missing]
        made = pool.map(_make, wanted, chunksize=8) if pool else map(_make, wanted)
        for _ in Progress(made, total=len(missing), unit="picture", disable=not missing):
            pass

    def truth(self, indices: int | Sequence[int] | np.ndarray) -> TokenTruth:
        """Return what all tokens of some pictures show, (N, M) each, or of one, (M,)."""
        return TokenTruth.of(np.asarray(self.labels[indices]))


def _make(job: tuple[pathlib.Path, BatConfig, int, int]) -> None:
    directory, cfg, num_pictures, index = job
    store = PictureStore(directory, cfg, num_pictures)
    store.tiles[index], store.labels[index] = picture_arrays(cfg, picture(index))
    store.done[index] = 1


def open_array(path: pathlib.Path, shape: tuple[int, ...], dtype: type) -> np.memmap:
    """Open a file as an array, or create it full of zeros (a sparse file: it takes room as it fills)."""
    if not path.exists():
        with staged_file(path) as stage:
            np.lib.format.open_memmap(stage, "w+", dtype, shape).flush()
    return np.lib.format.open_memmap(path, "r+")
