"""Which pixels of a file hold no data: a value that the file or the caller names, or constant fill around the picture.

Letters: H, W height and width in pixels, C bands.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

# A value instead of the file's, or "none": no value means no data. None: as the file says.
Number = int | float
NoDataValue = Number | Literal["none"] | None
# What software fills the margin around a scene with when it does not say so in the file; beside integers' extremes.
_COMMON_FILLS = (0, -9999, -99999, -32767, -32768, 65535)
# No measurement is as large; 1e20, 9.97e36 and -3.4e38 are.
_HUGE = 1e19


def differs(band: np.ndarray, value: Number | None) -> np.ndarray | None:
    """Return where an array is not `value`; None for everywhere: no value, or one that the type cannot hold."""
    if value is None or not holds(band.dtype, value):
        return None
    return band != band.dtype.type(value)


def holds(dtype: np.dtype, value: Number) -> bool:
    """Whether numbers of a type can be a value, such as -9999; NaN is never a number."""
    if np.isnan(value):
        return False
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return bool(float(value).is_integer() and limits.min <= value <= limits.max)


def fill_values(border: np.ndarray) -> tuple[Number, ...]:
    """Return the values that pixels of a picture's border, (C, N), have in all bands and that may be fill.

    Types of 8 bits have none: there black and white are colours.
    """
    dtype = border.dtype
    if dtype.itemsize == 1 or border.size == 0:
        return ()
    extremes = () if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    values = np.unique(border[0, np.all(border == border[0], axis=0)])
    common = [value for value in (*_COMMON_FILLS, *extremes) if holds(dtype, value)]
    return tuple(
        value.item() for value in values if np.isfinite(value) and (value in common or abs(float(value)) > _HUGE)
    )


def fill_remark(value: Number) -> str:
    """Say that fill was found."""
    return f"{value:g} around the picture taken as no data (--nodata=none keeps it)"


def border_of(data: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of (C, H, W) as (C, N)."""
    return np.concatenate([data[:, 0], data[:, -1], data[:, :, 0], data[:, :, -1]], axis=1)


def is_fill(data: np.ndarray, value: Number) -> np.ndarray:
    """Return where all bands of (C, H, W) have a value, (H, W)."""
    return np.all(data == data.dtype.type(value), axis=0)


def reaching_the_border(mask: np.ndarray) -> np.ndarray:
    """Return the parts of an (H, W) mask that touch the border, pixels joined by their sides."""
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    outer = np.zeros(count + 1, bool)
    outer[border_of(labels[None])[0]] = True
    outer[0] = False
    # Row by row: an index of many pixels would be copied to 64 bits.
    return np.stack([outer[row] for row in labels])


def all_of(masks: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Return where all masks hold, None standing for everywhere."""
    found = [mask for mask in masks if mask is not None]
    return functools.reduce(np.logical_and, found) if found else None


def any_of(masks: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Return where any of the masks holds, None standing for everywhere."""
    found = [mask for mask in masks if mask is not None]
    return functools.reduce(np.logical_or, found) if len(found) == len(masks) else None
