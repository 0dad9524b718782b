"""Read the rasters of map software with rasterio: TIFF, GeoTIFF, COG, JPEG 2000, NITF, HFA, and PNG of 16 bits.

rasterio is imported where a file needs it: models on arrays run without it.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bat_jax.io.band_roles import band_roles
from bat_jax.io.bands import (
    MIN_SIDE,
    Bands,
    ImageError,
    ReadOptions,
    Size,
    Window,
    check_bands,
    check_page,
    check_size,
    check_window,
    decimation,
    inside_mask,
    stretch,
    take_bands,
)
from bat_jax.io.nodata import all_of, any_of, differs, fill_remark
from bat_jax.io.overviews import overview_level, shows_the_same
from bat_jax.io.raster_bands import BandRules, read_averaged, read_full, rules_of

# A picture without map coordinates is nothing to warn about here. A filter for this one message is set once, because
# warnings.catch_warnings is not safe in the worker threads that read images.
warnings.filterwarnings("ignore", message="Dataset has no geotransform")
# Smaller windows are averaged from the data itself: overviews were made by whatever means.
OVERVIEWS_FROM = 1 << 24
CACHE_BYTES = 1 << 28
_PAGES = {"GTiff": "GTIFF_DIR:{page}:{path}", "NITF": "NITF_IM:{index}:{path}"}


def raster_name(path: Path, driver: str, page: int) -> str:
    """Return GDAL's name of a page: of a TIFF's directory or a NITF's image, from 1."""
    if page == 1 or driver not in _PAGES:
        return str(path.absolute())
    return _PAGES[driver].format(page=page, index=page - 1, path=path.absolute())


def raster_size(name: str, driver: str) -> Size:
    """Return (width, height) of what GDAL calls so; see `raster_name`."""
    import rasterio

    with rasterio.open(name, driver=driver) as raster:
        return raster.width, raster.height


def read_raster(path: Path, driver: str, page: int, options: ReadOptions) -> Bands:
    """Read three bands as `io.images.read_image` says.

    Args:
      driver: GDAL's name of the format. page: a TIFF's directory or a NITF's image, from 1; others have one.

    Raises:
      ImageError, or one of rasterio's errors for a broken file.
    """
    import rasterio
    from rasterio.enums import ColorInterp

    num_pages = 1
    if driver == "NITF":
        with rasterio.open(str(path.absolute()), driver=driver) as first:
            num_pages = max(1, len(first.subdatasets))
    if driver != "GTiff":
        check_page(path, page, num_pages)
    with rasterio.open(raster_name(path, driver, page), driver=driver) as raster:
        if raster.count == 0:
            raise ImageError(f"{path}: the file holds no bands of its own: extract one image and give that to --image")
        window = check_window(path, options.window, (raster.width, raster.height))
        factor = decimation(window[2:], options.largest_view)
        width, height = (max(MIN_SIDE, round(side / factor)) for side in window[2:])
        check_size(path, window[2:], options.max_pixels, (width, height) if factor > 1 else None)
        roles = band_roles([band.name for band in raster.colorinterp], [_band_name(raster, i) for i in raster.indexes])
        # GDAL gives greys of few bits in which 0 is white a palette.
        is_palette = raster.colorinterp[0] == ColorInterp.palette and len(roles.alpha) == raster.count - 1
        count = 3 if is_palette else raster.count
        bands = options.bands
        check_bands(path, bands, count)
        if roles.is_other and bands is None:
            kinds = ", ".join(band.name for band in raster.colorinterp)
            raise ImageError(
                f"{path}: the bands are {kinds}: convert them to red, green and blue, or choose with --bands"
            )
        chosen = bands or roles.colours
        # Alpha that was chosen as a band is a colour.
        alpha = [i for i in roles.alpha if is_palette or i not in chosen]
        _check_real(path, raster, (1,) if is_palette else chosen)
        if factor > 1:
            _bound_cache()
        rules = rules_of(raster, (1,) if is_palette else chosen, tuple(alpha), options.nodata)
        if is_palette:
            # Whatever overviews of indices were made by: the nearest are in the data.
            with rasterio.open(raster.name, driver=driver, OVERVIEW_LEVEL="NONE") as indices:
                read = _read_palette(indices, rules, window, (height, width))
        else:
            inside = inside_mask(options, window, (height, width))
            read = _read_colours(raster, rules, window, (height, width), inside)
    if is_palette and bands is not None:
        read.pixels = take_bands(read.pixels, bands)
    if bands is not None or chosen != tuple(i for i in raster.indexes if i not in roles.alpha):
        how = f" {roles.how}" if bands is None and roles.how else ""
        read.choice = f"bands {','.join(map(str, chosen))} of {count}{how}"
    if driver == "NITF":
        read.num_pages, read.name = num_pages, raster_name(path, driver, page)
    return read


def _band_name(raster: Any, index: int) -> str | None:
    """Return what a file calls one of its bands, in its description or in a tag."""
    tags = {key.lower(): value for key, value in raster.tags(index).items()}
    return raster.descriptions[index - 1] or tags.get("bandname") or tags.get("name")


def _read_palette(raster: Any, rules: BandRules, window: Window, shape: tuple[int, int]) -> Bands:
    from rasterio.enums import Resampling

    colors = np.zeros((1 << 16, 4), np.uint8)
    for index, color in raster.colormap(1).items():
        colors[index] = color
    # Indices cannot be averaged, so a decimated read takes the nearest.
    col, row, width, height = window
    how = {"window": ((row, row + height), (col, col + width)), "resampling": Resampling.nearest}
    indices = raster.read(1, out_shape=shape, **how)
    masks = [differs(indices, rules.nodata[0]), (colors[:, 3] > 0)[indices]]
    masks += [raster.read(band, out_shape=shape, **how) > 0 for band in rules.alpha]
    if rules.masked[0]:
        masks.append(raster.read_masks(1, out_shape=shape, **how) > 0)
    return Bands(pixels=colors[:, :3][indices], valid=all_of(masks), window=window)


def _check_real(path: Path, raster: Any, chosen: tuple[int, ...]) -> None:
    dtypes = {np.dtype(raster.dtypes[band - 1]) for band in chosen}
    if any(dtype.kind not in "uif" for dtype in dtypes):
        raise ImageError(f"{path}: bands {chosen} are {sorted(map(str, dtypes))}, want real numbers: change --bands")


def _read_colours(
    raster: Any, rules: BandRules, window: Window, shape: tuple[int, int], inside: np.ndarray | None
) -> Bands:
    """Read bands to bytes, stretched if they are wider, by what is `inside`."""
    remarks: list[str] = []
    is_bytes = all(raster.dtypes[band - 1] == "uint8" for band in rules.bands)
    pixels = np.empty((*shape, len(rules.bands)), np.uint8)
    # Reading straight into the interleaved array saves a pass over a large image.
    out = np.moveaxis(pixels, 2, 0) if is_bytes else None
    if shape == (window[3], window[2]):
        read = read_full(raster, rules, window, out)
    else:
        with _best_version(raster, rules, window, shape, remarks) as version:
            read = read_averaged(version, rules, window, shape, (raster.width, raster.height), out)
    spreads = []
    if is_bytes:
        bits = int(raster.tags(rules.bands[0], ns="IMAGE_STRUCTURE").get("NBITS", 8))
        if bits < 8:
            pixels = (pixels.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    else:
        for c, (band, mask) in enumerate(zip(read.data, read.masks, strict=True)):
            pixels[:, :, c], spread = stretch(band, all_of((mask, inside)))
            spreads.append(spread)
    if rules.bands == (1,) and raster.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
        pixels = 255 - pixels
    remarks += [fill_remark(value) for value in read.fills]
    return Bands(
        pixels=pixels if len(rules.bands) == 3 else np.repeat(pixels, 3, axis=2),
        # One band with data is enough: with nodata 0, pure red stays a colour.
        valid=any_of(read.masks),
        window=window,
        spreads=spreads,
        remarks=remarks,
    )


@functools.cache
def _bound_cache() -> None:
    """Let GDAL keep no more of what it decoded than a large raster's row of blocks takes, unless the user says more.

    It would keep a twentieth of the machine's memory, for all of the process.
    """
    from rasterio.env import set_gdal_config

    if "GDAL_CACHEMAX" not in os.environ:
        set_gdal_config("GDAL_CACHEMAX", CACHE_BYTES)


@contextlib.contextmanager
def _best_version(
    raster: Any, rules: BandRules, window: Window, shape: tuple[int, int], remarks: list[str]
) -> Iterator[Any]:
    """Yield the raster, or the overview of it that a large window is best averaged from; `remarks` gets what is odd."""
    import rasterio

    level = overview_level(raster, window[2] / shape[1])
    if level is None:
        yield raster
        return
    with rasterio.open(raster.name, driver=raster.driver, OVERVIEW_LEVEL=level) as overview:
        is_good = shows_the_same(raster, overview, rules, window)
        if not is_good:
            remarks.append("overviews passed by, they do not show the data")
        yield overview if is_good and window[2] * window[3] > OVERVIEWS_FROM else raster
