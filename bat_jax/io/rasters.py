"""Read the rasters of map software with rasterio: TIFF, GeoTIFF, COG, JPEG 2000, NITF, HFA, and PNG of 16 bits.

rasterio is imported where a file needs it: models on arrays run without it.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
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
    stretch,
    take_bands,
)

# A picture without map coordinates is nothing to warn about here. A filter for this one message is set once, because
# warnings.catch_warnings is not safe in the worker threads that read images.
warnings.filterwarnings("ignore", message="Dataset has no geotransform")
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
        check_size(path, window[2:], options.max_pixels)
        factor = decimation(window[2:], options.largest_view)
        width, height = (max(MIN_SIDE, round(side / factor)) for side in window[2:])
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
        opaque = _read_opaque(raster, alpha, window, (height, width))
        if is_palette:
            read = _read_palette(raster, window, (height, width), opaque)
        else:
            read = _read_bands(path, raster, chosen, window, (height, width), opaque)
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


def _read_opaque(raster: Any, alpha: Sequence[int], window: Window, shape: tuple[int, int]) -> np.ndarray | None:
    """Return (H, W) bool, False where a band of alpha is 0; None without such bands."""
    if not alpha:
        return None
    return (raster.read(alpha, out_shape=(len(alpha), *shape), **_how(window, shape)) > 0).all(axis=0)


def _both(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    """Return where two masks hold, None standing for everywhere."""
    return b if a is None else a if b is None else a & b


def _read_palette(raster: Any, window: Window, shape: tuple[int, int], opaque: np.ndarray | None) -> Bands:
    from rasterio.enums import Resampling

    colors = np.zeros((1 << 16, 4), np.uint8)
    for index, color in raster.colormap(1).items():
        colors[index] = color
    # Indices cannot be averaged, so a decimated read takes the nearest.
    how = {"window": _ranges(window), "resampling": Resampling.nearest}
    indices = raster.read(1, out_shape=shape, **how)
    valid = _band_valid(raster, 1, indices, how)
    valid = _both(valid, opaque)
    if np.any(colors[:, 3] == 0):
        valid = _both(valid, (colors[:, 3] > 0)[indices])
    return Bands(pixels=colors[:, :3][indices], valid=valid, window=window)


def _read_bands(
    path: Path, raster: Any, chosen: tuple[int, ...], window: Window, shape: tuple[int, int], opaque: np.ndarray | None
) -> Bands:
    how = _how(window, shape)
    dtypes = {np.dtype(raster.dtypes[i - 1]) for i in chosen}
    if any(dtype.kind not in "uif" for dtype in dtypes):
        raise ImageError(f"{path}: bands {chosen} are {sorted(map(str, dtypes))}, want real numbers: change --bands")
    is_bytes = dtypes == {np.dtype(np.uint8)}
    pixels = np.empty((*shape, len(chosen)), np.uint8)
    if is_bytes:
        # Reading straight into the interleaved array saves a pass over a large image.
        raster.read(list(chosen), out=np.moveaxis(pixels, 2, 0), **how)
        data = np.moveaxis(pixels, 2, 0)
    else:
        data = raster.read(list(chosen), out_shape=(len(chosen), *shape), **how)
    masks = [_both(_band_valid(raster, i, band, how), opaque) for i, band in zip(chosen, data, strict=True)]
    # One band with data is enough: with nodata 0, pure red stays a colour.
    without_data = [mask for mask in masks if mask is not None]
    valid = np.logical_or.reduce(without_data) if len(without_data) == len(masks) else None
    spreads = []
    if is_bytes:
        bits = int(raster.tags(chosen[0], ns="IMAGE_STRUCTURE").get("NBITS", 8))
        if bits < 8:
            pixels = (pixels.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    else:
        for c, (band, mask) in enumerate(zip(data, masks, strict=True)):
            pixels[:, :, c], spread = stretch(band, mask)
            spreads.append(spread)
    if chosen == (1,) and raster.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
        pixels = 255 - pixels
    pixels = pixels if len(chosen) == 3 else np.repeat(pixels, 3, axis=2)
    return Bands(pixels=pixels, valid=valid, window=window, spreads=spreads)


def _how(window: Window, shape: tuple[int, int]) -> dict[str, Any]:
    """Return rasterio's arguments for a window that is averaged to `shape` (H, W)."""
    from rasterio.enums import Resampling

    is_full = shape == (window[3], window[2])
    return {"window": _ranges(window), "resampling": Resampling.nearest if is_full else Resampling.average}


def _ranges(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return rows and columns of a window as rasterio takes them."""
    col, row, width, height = window
    return (row, row + height), (col, col + width)


def _band_valid(raster: Any, index: int, band: np.ndarray, how: Mapping[str, Any]) -> np.ndarray | None:
    """Mark the pixels of one band that hold data: (H, W) bool, or None for all; `how` the band was read."""
    from rasterio.enums import MaskFlags

    flags, nodata = raster.mask_flag_enums[index - 1], raster.nodatavals[index - 1]
    valid = None
    if MaskFlags.nodata in flags and nodata is not None and not math.isnan(nodata):
        if band.dtype.kind == "f":
            valid = band != band.dtype.type(nodata)
        elif float(nodata).is_integer():
            # A value that the type cannot hold, such as -9999 in bytes, equals nothing.
            valid = band != int(nodata)
    elif MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        valid = raster.read_masks(index, out_shape=band.shape, **how) > 0
    if band.dtype.kind == "f":
        finite = np.isfinite(band)
        valid = finite if valid is None else valid & finite
    return None if valid is None or valid.all() else valid
