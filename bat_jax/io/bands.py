"""What the readers of images share: the bands of a file as RGB bytes, and the stretch of wide values to bytes.

Letters: H, W height and width of the image in pixels, C bands.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bat_jax.io.nodata import NoDataValue

MIN_SIDE = 2
PERCENTILES = (2, 98)
# Percentiles of larger bands are taken over every n-th valid pixel, n the smallest that gives at most this many.
PERCENTILE_SAMPLES = 1 << 24

Size = tuple[int, int]
Window = tuple[int, int, int, int]
Spread = tuple[float, float]


class ImageError(ValueError):
    """An image that cannot be used; the message names the file and says what to change."""


class NoDataError(ImageError):
    """A picture, or the part of it that is wanted, without a single pixel that holds data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What of a file is wanted, as the arguments of `io.images.read_image` say."""

    bands: tuple[int, ...] | None = None
    max_pixels: int = 300_000_000
    largest_view: int | None = None
    window: Window | None = None
    page: int = 1
    nodata: NoDataValue = None
    inside: Any = None


@dataclasses.dataclass(kw_only=True)
class Bands:
    """Three bands of a file in its own orientation.

    Attributes:
      pixels: (H, W, 3) uint8. valid: (H, W) bool, False = no data; None for all.
      window: (col, row, width, height) of the file that the pixels cover; larger than they after a decimated read.
      choice: which bands these are, "" if they are all. spreads: the values that were stretched to 0 and 255, by band.
      num_pages: pages or frames in the file. orientation: as in EXIF, 1 to 8.
      name: GDAL's of the page, None for the file's path. remarks: what else the note says.
    """

    pixels: np.ndarray
    valid: np.ndarray | None
    window: Window
    choice: str = ""
    spreads: Sequence[Spread] = ()
    num_pages: int = 1
    orientation: int = 1
    name: str | None = None
    remarks: Sequence[str] = ()


def check_size(path: Path, size: Size, max_pixels: int, held: Size | None = None) -> None:
    """Raise an ImageError if a file has too few pixels, or if more would be held at once; `held`: by default all."""
    width, height = size
    if min(size) < MIN_SIDE:
        raise ImageError(
            f"{path}: {width} x {height} pixels, the smallest image is {MIN_SIDE} x {MIN_SIDE}: give a larger --image"
        )
    width, height = held or size
    if width * height > max_pixels:
        raise ImageError(
            f"{path}: {width} x {height} = {width * height} pixels, the limit is {max_pixels}:"
            " raise --max_pixels or cut the image into parts"
        )


def check_window(path: Path, window: Window | None, size: Size) -> Window:
    """Return the part of a file of `size` that is wanted, by default all; raise an ImageError if the file lacks it."""
    if window is None:
        return (0, 0, *size)
    col, row, width, height = window
    if min(col, row) < 0 or min(width, height) < MIN_SIDE or col + width > size[0] or row + height > size[1]:
        raise ImageError(
            f"{path}: window {','.join(map(str, window))} (col, row, width, height), want at least {MIN_SIDE} x"
            f" {MIN_SIDE} of the file's {size[0]} x {size[1]} pixels: change --window"
        )
    return window


def check_page(path: Path, page: int, count: int) -> None:
    """Raise an ImageError if a wanted page is beyond the last of the file."""
    if page > count:
        raise ImageError(f"{path}: page {page} asked for, the file has pages 1 to {count}: change --page")


def inside_mask(options: ReadOptions, window: Window, shape: tuple[int, int]) -> np.ndarray | None:
    """Return which pixels of a window, read at (H, W), have their middle in what is wanted; None for all."""
    if options.inside is None:
        return None
    from affine import Affine
    from rasterio.features import geometry_mask

    col, row, width, height = window
    to_file = Affine.translation(col, row) @ Affine.scale(width / shape[1], height / shape[0])
    return geometry_mask([options.inside], shape, to_file, invert=True)


def check_bands(path: Path, bands: tuple[int, ...] | None, count: int) -> None:
    """Raise an ImageError if a wanted band is beyond the last of the file."""
    if bands is not None and max(bands) > count:
        raise ImageError(f"{path}: band {max(bands)} asked for, the file has bands 1 to {count}: change --bands")


def decimation(size: Size, largest_view: int | None) -> int:
    """Return f where an image may be read at 1/f of its size: twice the largest view remains."""
    return 1 if largest_view is None else max(1, max(size) // (2 * largest_view))


def take_bands(pixels: np.ndarray, bands: tuple[int, ...]) -> np.ndarray:
    """Take one band three times, or three bands, of (H, W, C); bands count from 1."""
    return pixels[:, :, [band - 1 for band in (bands if len(bands) == 3 else bands * 3)]]


def stretch(band: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, Spread]:
    """Map percentiles 2 and 98 of the valid pixels to 0 and 255, in a straight line, clipped.

    A band whose percentiles coincide is stretched from its minimum to its maximum, a constant one becomes 128. A pixel
    that is NaN in this band alone becomes 0. Returns (H, W) uint8 and the two values that became 0 and 255.
    """
    if valid is None and band.dtype.kind == "f":
        valid = np.isfinite(band)
    values = band.reshape(-1) if valid is None else band[valid]
    if values.size == 0:
        return np.zeros(band.shape, np.uint8), (0.0, 0.0)
    sample = values[:: math.ceil(values.size / PERCENTILE_SAMPLES)]
    low, high = (float(value) for value in np.percentile(sample.astype(np.float64), PERCENTILES))
    if low >= high:
        low, high = float(values.min()), float(values.max())

    def to_bytes(numbers: np.ndarray) -> np.ndarray:
        if low == high:
            return np.full_like(numbers, 128, np.uint8)
        share = np.nan_to_num((numbers.astype(np.float64) - low) / (high - low), nan=0.0)
        return np.rint(share.clip(0, 1) * 255).astype(np.uint8)

    if band.dtype.kind in "ui" and band.dtype.itemsize <= 2:
        # Every value the type can hold, once: a gather is many times faster than arithmetic on every pixel.
        codes = np.dtype(f"=u{band.dtype.itemsize}")
        native = band.astype(band.dtype.newbyteorder("="), copy=False)
        every_value = np.arange(2 ** (8 * codes.itemsize), dtype=codes).view(native.dtype)
        return to_bytes(every_value)[native.view(codes)], (low, high)
    stretched = np.empty(band.shape, np.uint8)
    rows = max(1, (1 << 20) // band.shape[1])
    for start in range(0, band.shape[0], rows):
        stretched[start : start + rows] = to_bytes(band[start : start + rows])
    return stretched, (low, high)
