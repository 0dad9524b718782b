"""Tiles of a picture at full resolution, for viewers that pan and zoom: a pyramid on the disk, made once a picture.

Level 0 is the picture in one tile, every further one is twice as large, the last one the picture itself; tile (x, y)
counts from the top left. What is shown is what the model's views were made of: bands, stretch and orientation are those
of the reader. A raster that is too large to be read in full is shown as it was read for the model.
"""

import dataclasses
import io
import math
import os
import pathlib
import threading
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio.enums import Resampling
from rasterio.windows import Window

from bat_jax.io.bands import ImageError
from bat_jax.io.images import SourceImage
from bat_jax.io.output_files import staged_file
from bat_jax.serving.client_pictures import ClientPicture, ClientPictures
from bat_jax.serving.errors import ApiError

TILE_PX = 512
_QUALITY = 90


@dataclasses.dataclass(frozen=True, kw_only=True)
class TilePlan:
    """The levels of a picture of width x height pixels."""

    width: int
    height: int

    @property
    def max_level(self) -> int:
        return max(0, math.ceil(math.log2(max(self.width, self.height) / TILE_PX)))

    def window(self, level: int, x: int, y: int) -> tuple[Window, tuple[int, int]]:
        """Return what a tile shows of the picture, and its own (height, width).

        Raises:
          ApiError: there is no such tile.
        """
        factor = 2 ** (self.max_level - level) if 0 <= level <= self.max_level else 0
        side = TILE_PX * factor
        left, top = x * side, y * side
        if not factor or min(x, y) < 0 or left >= self.width or top >= self.height:
            raise ApiError(404, f"tile {level}/{x}/{y}: there is none", code="no_such_tile")
        width, height = min(side, self.width - left), min(side, self.height - top)
        return Window(left, top, width, height), (math.ceil(height / factor), math.ceil(width / factor))

    def record(self) -> dict[str, int]:
        return {"width": self.width, "height": self.height, "tile_size": TILE_PX, "max_level": self.max_level}


class TilePyramids:
    """Pyramids in the folder of uploads, whose limit counts them; safe for threads."""

    def __init__(self, pictures: ClientPictures, read_options: dict[str, Any]):
        """Take the options of `io.images.read_image` that the model's views are read with."""
        self._pictures, self._read_options = pictures, read_options
        self._lock = threading.Lock()

    def plan(self, picture: ClientPicture) -> TilePlan:
        """Return a picture's levels; makes the pyramid when there is none."""
        with rasterio.open(self._path(picture)) as raster:
            return TilePlan(width=raster.width, height=raster.height)

    def tile(self, picture: ClientPicture, level: int, x: int, y: int) -> bytes:
        """Return a tile as a JPEG file.

        Raises:
          ApiError: there is no such tile. ValueError: the picture cannot be read.
        """
        with rasterio.open(self._path(picture)) as raster:
            window, shape = TilePlan(width=raster.width, height=raster.height).window(level, x, y)
            pixels = raster.read(window=window, out_shape=(3, *shape), resampling=Resampling.average)
        file = io.BytesIO()
        Image.fromarray(np.moveaxis(pixels, 0, 2)).save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()

    def _path(self, picture: ClientPicture) -> pathlib.Path:
        path = self._pictures.folder / f"{picture.id}.tif"
        if not path.exists():
            with self._lock:  # one at a time: each holds its picture in memory
                if not path.exists():
                    _write_pyramid(path, self._read(picture).pixels)
                    self._pictures.make_room(picture)
        return path

    def _read(self, picture: ClientPicture) -> SourceImage:
        try:
            return picture.read(**self._read_options | {"largest_view": None})
        except ImageError:
            return picture.read(**self._read_options)


def _write_pyramid(path: pathlib.Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) bytes as tiles with overviews down to one tile."""
    height, width, count = pixels.shape
    plan = TilePlan(width=width, height=height)
    shape = {"width": width, "height": height, "count": count, "dtype": "uint8"}
    layout = {"tiled": True, "blockxsize": TILE_PX, "blockysize": TILE_PX, "BIGTIFF": "IF_SAFER"}
    coding = {"compress": "JPEG", "photometric": "YCBCR", "JPEG_QUALITY": _QUALITY}
    with staged_file(path) as stage, rasterio.Env(GDAL_NUM_THREADS=os.cpu_count() or 1):
        with rasterio.open(stage, "w", driver="GTiff", **shape, **layout, **coding) as raster:
            raster.write(np.moveaxis(pixels, 2, 0))
            if plan.max_level:
                raster.build_overviews([2**level for level in range(1, plan.max_level + 1)], Resampling.average)
