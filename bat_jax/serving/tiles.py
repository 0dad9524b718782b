"""Tiles of a picture at full resolution, for viewers that pan and zoom: a pyramid on the disk, made once a picture.

Level 0 is the picture in one tile, every further one is twice as large, the last one the picture itself; tile (x, y)
counts from the top left. What is shown is what the model's views were made of: bands, stretch and orientation are those
of the reader. Of a raster that is too large to be read in full the pyramid has what was read for the model; tiles that
show more are read from the file, where its values are colours, and need no stretch that is one for all of it.
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
from bat_jax.io.output_files import staged_file
from bat_jax.serving.client_pictures import ClientPicture, ClientPictures
from bat_jax.serving.errors import ApiError

TILE_PX = 512
_QUALITY = 90
# A pyramid's tags: width and height of the picture, and whether finer tiles than it has come from the file.
_SIZE, _FROM_FILE = "BAT_JAX_SIZE", "BAT_JAX_FROM_FILE"


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
            return _plan_of(raster)

    def tile(self, picture: ClientPicture, level: int, x: int, y: int) -> bytes:
        """Return a tile as a JPEG file.

        Raises:
          ApiError: there is no such tile. ValueError: the picture cannot be read.
        """
        with rasterio.open(self._path(picture)) as raster:
            plan, pixels = _plan_of(raster), None
            window, shape = plan.window(level, x, y)
            across, down = raster.width / plan.width, raster.height / plan.height
            size = (window.width * across, window.height * down)
            if raster.tags()[_FROM_FILE] == "yes" and size[0] < shape[1]:
                pixels = self._from_file(picture, window, shape)
            if pixels is None:
                place = Window(
                    window.col_off * across, window.row_off * down, window.width * across, window.height * down
                )
                read = raster.read(window=place, out_shape=(3, *shape), resampling=Resampling.average)
                pixels = np.moveaxis(read, 0, 2)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()

    def _from_file(self, picture: ClientPicture, window: Window, shape: tuple[int, int]) -> np.ndarray | None:
        """Return (height, width, 3) of a window of the file; None where that alone is no picture."""
        place = (window.col_off, window.row_off, window.width, window.height)
        options = self._read_options | {"window": place, "largest_view": TILE_PX // 2}
        try:
            pixels = picture.read(**options).pixels
        except ImageError:  # a line of pixels, or nothing that holds data
            return None
        return np.asarray(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BOX))

    def _path(self, picture: ClientPicture) -> pathlib.Path:
        path = self._pictures.folder / f"{picture.id}.tif"
        if not path.exists():
            with self._lock:  # one at a time: each holds its picture in memory
                if not path.exists():
                    self._write(path, picture)
                    self._pictures.make_room(picture)
        return path

    def _write(self, path: pathlib.Path, picture: ClientPicture) -> None:
        """Make the pyramid: tiles with overviews down to one tile."""
        try:
            source, is_whole = picture.read(**self._read_options | {"largest_view": None}), True
        except ImageError:  # too large; what is wrong otherwise is said by the second
            source, is_whole = picture.read(**self._read_options), False
        height, width, count = source.pixels.shape
        shape = {"width": width, "height": height, "count": count, "dtype": "uint8"}
        layout = {"tiled": True, "blockxsize": TILE_PX, "blockysize": TILE_PX, "BIGTIFF": "IF_SAFER"}
        coding = {"compress": "JPEG", "photometric": "YCBCR", "JPEG_QUALITY": _QUALITY}
        # Windows are of the file as stored, and each would get a stretch of its own.
        from_file = not is_whole and source.orientation == 1 and not source.is_stretched
        tags = {_SIZE: "{} {}".format(*source.full_size), _FROM_FILE: "yes" if from_file else "no"}
        halvings = TilePlan(width=width, height=height).max_level
        with staged_file(path) as stage, rasterio.Env(GDAL_NUM_THREADS=os.cpu_count() or 1):
            with rasterio.open(stage, "w", driver="GTiff", **shape, **layout, **coding) as raster:
                raster.update_tags(**tags)
                raster.write(np.moveaxis(source.pixels, 2, 0))
                if halvings:
                    raster.build_overviews([2**level for level in range(1, halvings + 1)], Resampling.average)


def _plan_of(pyramid: Any) -> TilePlan:
    width, height = map(int, pyramid.tags()[_SIZE].split())
    return TilePlan(width=width, height=height)
