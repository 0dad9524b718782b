"""The flags that name a part of a picture, by pixels or on the map."""

import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags

from bat_jax.config import BatConfig
from bat_jax.io.areas import Area, box_area, cells, read_area
from bat_jax.io.bands import ImageError, Window
from bat_jax.io.georeference import WGS84
from bat_jax.io.images import SourceImage, file_place, read_image
from . import compressor_flags as compressor

WINDOW = flags.DEFINE_string(
    "window", None, "Read only this part, COL,ROW,WIDTH,HEIGHT in pixels of the file as stored."
)
BBOX = flags.DEFINE_string("bbox", None, "Read only this part, WEST,SOUTH,EAST,NORTH in --bbox_crs.")
BBOX_CRS = flags.DEFINE_string("bbox_crs", WGS84, "Reference system of --bbox; by default longitudes and latitudes.")
AOI = flags.DEFINE_string(
    "aoi", None, "Read only the polygons of this GeoJSON file: the window around them, without data outside."
)

GRID = flags.DEFINE_string(
    "grid", None, "Answer cell by cell, ROWSxCOLS of the picture or of its part; the cells share one picture's budget."
)
GRID_OVERLAP = flags.DEFINE_float(
    "grid_overlap",
    0.0,
    "How far cells of --grid overlap: a share of a cell's side, or pixels from 1 up.",
    lower_bound=0,
)


def area_of_flags() -> Area | None:
    """Return the area on the map that --bbox or --aoi names.

    Raises:
      ValueError: several flags name a part, or one is not understood.
    """
    given = [flag.name for flag in (WINDOW, BBOX, AOI) if flag.value is not None]
    if len(given) > 1:
        raise ValueError(f"--{given[0]}, --{given[1]}: give one of them")
    if BBOX_CRS.present and BBOX.value is None:
        raise ValueError("--bbox_crs: is of --bbox; leave it out")
    if given and compressor.LABEL_MAP.value:
        raise ValueError(f"--label_map: is of a whole picture; leave out --{given[0]}")
    if AOI.value is not None:
        return read_area(AOI.value)
    if BBOX.value is None:
        return None
    try:
        corners = [float(number) for number in BBOX.value.split(",")]
    except ValueError:
        raise ValueError(f"--bbox={BBOX.value}: want four numbers, west, south, east, north") from None
    return box_area(corners, BBOX_CRS.value)


def read_part(path: str, cfg: BatConfig, area: Area | None) -> SourceImage:
    """Read what the flags name of an image, with the flags for bands, pages and size.

    Args:
      area: of `area_of_flags`.

    Raises:
      ValueError: the file has no such part, or cannot be read.
    """
    window, inside = _place(path, area)
    return read_image(path, window=window, inside=inside, **compressor.read_options(cfg))


def cells_of_flags(
    path: str, cfg: BatConfig, area: Area | None
) -> dict[tuple[int, int], tuple[Window, Callable[[], SourceImage]]]:
    """Return the cells of --grid in the part that the flags name: (row, column) from 1 -> window, what reads it.

    Raises:
      ValueError: as `read_part`, or --grid and --grid_overlap do not fit the picture.
    """
    rows, cols = grid_of_flag()
    window, inside = _place(path, area)
    options = compressor.read_options(cfg)
    try:
        windows = cells(window or (0, 0, *file_place(path, compressor.PAGE.value)[0]), rows, cols, GRID_OVERLAP.value)
    except ImageError:
        raise
    except ValueError as error:
        raise ValueError(f"--grid={GRID.value}: {path}: {error}") from None
    numbers = [(row, col) for row in range(1, rows + 1) for col in range(1, cols + 1)]
    return {
        number: (cell, functools.partial(read_image, path, window=cell, inside=inside, **options))
        for number, cell in zip(numbers, windows, strict=True)
    }


def grid_of_flag() -> tuple[int, int]:
    """Return --grid as (rows, columns).

    Raises:
      ValueError: it is not understood.
    """
    rows, _, cols = GRID.value.lower().partition("x")
    if not (rows.isdecimal() and cols.isdecimal() and int(rows) and int(cols)):
        raise ValueError(f"--grid={GRID.value}: write ROWSxCOLS, such as 3x4")
    return int(rows), int(cols)


def settings_of_flags() -> dict[str, Any]:
    """Return what of these flags decides results, ready for JSON: files by their content."""
    aoi = AOI.value and hashlib.sha256(pathlib.Path(AOI.value).read_bytes()).hexdigest()
    named = {flag.name: flag.value for flag in (WINDOW, BBOX, BBOX_CRS, GRID, GRID_OVERLAP)}
    return named | {"aoi": aoi}


def _place(path: str, area: Area | None) -> tuple[Window | None, Any]:
    """Return the window that the flags name, None for all, and the shape outside of which there is no data."""
    if WINDOW.value is not None:
        numbers = compressor.whole_numbers(WINDOW.value, "window")
        if len(numbers) != 4:
            raise ValueError(f"--window={WINDOW.value}: want COL,ROW,WIDTH,HEIGHT")
        col, row, width, height = numbers
        return (col, row, width, height), None
    if area is None:
        return None, None
    window, shape = area.in_file(path, compressor.PAGE.value)
    return window, None if AOI.value is None else shape
