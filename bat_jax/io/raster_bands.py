"""Read bands of a raster in full, or averaged to fewer pixels in bounded memory, with what holds no data kept out.

An average is over the area of a cell that holds data, with pixels cut by cells' edges counted by their share; a cell
holds data if any of its area does. So what is read at 1/f is what a full read averages to, in colour and in mask.

Letters: H, W height and width of what is read, C bands.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from bat_jax.io.bands import Size, Window
from bat_jax.io.nodata import NoDataValue, Number, all_of, differs, fill_values, holds, is_fill, reaching_the_border

# Numbers of a raster that are held while it is averaged.
_TILE_NUMBERS = 1 << 23
# Columns of the border are read whole up to this height, and in tiled files.
_WHOLE_COLUMNS = 1 << 13
_COLUMN_SAMPLES = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandRules:
    """Which bands of a raster are read, and what of them holds no data.

    Attributes:
      bands, alpha: numbers from 1. nodata: by band, the value that is none; None without one.
      masked: by band, whether the file keeps a mask for it.
      fills: values that are no data where they reach the border, in all bands at once.
    """

    bands: tuple[int, ...]
    alpha: tuple[int, ...]
    nodata: tuple[Number | None, ...]
    masked: tuple[bool, ...]
    fills: tuple[Number, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandData:
    """What was read.

    Attributes:
      data: (C, H, W) in the file's type; any number where there is no data.
      masks: by band, (H, W) bool, False = no data; None for all. fills: the fill values that were found.
    """

    data: np.ndarray
    masks: tuple[np.ndarray | None, ...]
    fills: tuple[Number, ...]


def rules_of(raster: Any, bands: tuple[int, ...], alpha: tuple[int, ...], nodata: NoDataValue) -> BandRules:
    """Return what an open raster says of some bands' data; `nodata` overrides its values. See `BandRules`.

    Fill is looked for along the raster's border where neither the file nor the caller says what is no data.
    """
    from rasterio.enums import MaskFlags

    dtypes = [np.dtype(raster.dtypes[band - 1]) for band in bands]
    flags = [raster.mask_flag_enums[band - 1] for band in bands]
    masked = tuple(
        not {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha} & set(band_flags) for band_flags in flags
    )
    values: tuple[Number | None, ...]
    if nodata is None:
        values = tuple(
            raster.nodatavals[band - 1] if MaskFlags.nodata in band_flags else None
            for band, band_flags in zip(bands, flags, strict=True)
        )
    else:
        values = (None if nodata == "none" else nodata,) * len(bands)
    rules = BandRules(bands=bands, alpha=alpha, nodata=values, masked=masked)
    # A value that the type cannot hold says nothing; NaN says something in a float.
    told = any(
        value is not None and (holds(dtype, value) or dtype.kind == "f")
        for dtype, value in zip(dtypes, values, strict=True)
    )
    if told or alpha or any(masked) or nodata is not None or any(dtype.itemsize == 1 for dtype in dtypes):
        return rules
    return dataclasses.replace(rules, fills=fill_values(_read_border(raster, bands)))


def _read_border(raster: Any, bands: tuple[int, ...]) -> np.ndarray:
    """Read the outermost pixels of some bands, (C, N); of large files in strips not every row of the columns."""
    height, width = raster.shape
    is_tiled = raster.block_shapes[bands[0] - 1][1] < width
    rows = range(height)
    parts = [((row, row + 1), (0, width)) for row in (0, height - 1)]
    if height <= _WHOLE_COLUMNS or is_tiled:
        parts += [((0, height), (col, col + 1)) for col in (0, width - 1)]
    else:
        rows = range(0, height, height // _COLUMN_SAMPLES)
        parts += [((row, row + 1), (col, col + 1)) for row in rows for col in (0, width - 1)]
    edges = [raster.read(list(bands), window=part) for part in parts]
    return np.concatenate([edge.reshape(len(bands), -1) for edge in edges], axis=1)


def read_full(raster: Any, rules: BandRules, window: Window, out: np.ndarray | None = None) -> BandData:
    """Read every pixel of a window; `out` (C, H, W) is where to."""
    col, row, width, height = window
    data, masks = _read_part(raster, rules, ((row, row + height), (col, col + width)), out)
    found = {}
    for value in rules.fills:
        fill = reaching_the_border(is_fill(data, value))
        if fill.any():
            found[value] = ~fill
    outside = all_of(tuple(found.values()))
    return BandData(data=data, masks=tuple(all_of((mask, outside)) for mask in masks), fills=tuple(found))


def _read_part(
    raster: Any, rules: BandRules, part: tuple[tuple[int, int], tuple[int, int]], out: np.ndarray | None = None
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Read rows and columns of a raster: the numbers, (C, H, W), and by band where it has data, fill counted so."""
    data = raster.read(list(rules.bands), window=part, out=out)
    opaque = None
    if rules.alpha:
        opaque = (raster.read(list(rules.alpha), window=part) > 0).all(axis=0)
    masks = []
    for band, index, value, masked in zip(data, rules.bands, rules.nodata, rules.masked, strict=True):
        mask = raster.read_masks(index, window=part) > 0 if masked else None
        finite = np.isfinite(band) if band.dtype.kind == "f" else None
        mask = all_of((opaque, mask, differs(band, value), finite))
        masks.append(None if mask is None or mask.all() else mask)
    return data, masks


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Cells:
    """Equal cells along one axis of a raster, which may be a smaller version of the file.

    Attributes:
      edges: (cells + 1,) where they begin and end, in pixels of the raster times `unit`.
      size: of the raster along the axis, in pixels.
    """

    edges: np.ndarray
    unit: int
    size: int

    @classmethod
    def of(cls, start: int, length: int, count: int, size: int, full: int) -> "_Cells":
        """Cut `length` pixels of the file's `full`, from `start` on, into `count` cells; the raster has `size`."""
        return cls(edges=(start * count + np.arange(count + 1) * length) * size, unit=count * full, size=size)

    @functools.cached_property
    def first(self) -> np.ndarray:
        return self.edges[:-1] // self.unit

    @functools.cached_property
    def stop(self) -> np.ndarray:
        return np.minimum(-(-self.edges[1:] // self.unit), self.size)

    def weights(self, cells: slice) -> Any:
        """Return how much of each pixel is in each cell: sparse (cells, pixels from the first of `cells` on)."""
        from scipy import sparse

        first, count = self.first[cells], self.stop[cells] - self.first[cells]
        cell = np.repeat(np.arange(len(first)), count)
        pixel = np.arange(count.sum()) - np.repeat(count.cumsum() - count - first, count)
        low, high = self.edges[:-1][cells][cell], self.edges[1:][cells][cell]
        shared = np.minimum((pixel + 1) * self.unit, high) - np.maximum(pixel * self.unit, low)
        shape = (len(first), self.stop[cells][-1] - first[0])
        return sparse.csr_matrix(((shared / self.unit).astype(np.float32), (cell, pixel - first[0])), shape=shape)

    def groups(self, pixels: int) -> Iterator[slice]:
        """Yield runs of cells that cover about as many pixels, one cell at least."""
        count = len(self.first)
        step = max(1, int(pixels * count * self.unit // max(1, int(self.edges[-1] - self.edges[0]))))
        yield from (slice(at, min(at + step, count)) for at in range(0, count, step))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellSums:
    """A window's cells.

    Attributes:
      means: (C, H, W) of what is data and no fill, in the file's type.
      shares: (C, H, W) float16, how much of a cell the means are of, or bool, whether there is any; (1, H, W) where
        it is the same for all bands.
      fills: (values, H, W) float16, how much of a cell is fill.
    """

    means: np.ndarray
    shares: np.ndarray
    fills: np.ndarray


def cell_sums(
    raster: Any,
    rules: BandRules,
    window: Window,
    shape: tuple[int, int],
    size: Size,
    *,
    out: np.ndarray | None = None,
    with_shares: bool = True,
) -> CellSums:
    """Average a window to `shape` (H, W), each cell over its area with data, reading a part at a time.

    Args:
      raster: the file, or an overview of it. window: in pixels of the file, which has `size`.
      out: (C, H, W) where the means go to. with_shares: else whether there is any.
    """
    col, row, width, height = window
    rows = _Cells.of(row, height, shape[0], raster.height, size[1])
    cols = _Cells.of(col, width, shape[1], raster.width, size[0])
    num_bands = len(rules.bands)
    dtype = np.result_type(*(raster.dtypes[band - 1] for band in rules.bands))
    means = np.zeros((num_bands, *shape), dtype) if out is None else out
    # Beside fill, nothing but NaN makes bands differ.
    is_shared = bool(rules.fills) and means.dtype.kind != "f"
    shares = np.zeros((1 if is_shared else num_bands, *shape), np.float16 if with_shares else bool)
    fills = np.zeros((len(rules.fills), *shape), np.float16)
    across = max(1, int(cols.stop[-1] - cols.first[0]))
    for r in rows.groups(_TILE_NUMBERS // (across * num_bands)):
        top, bottom = int(rows.first[r][0]), int(rows.stop[r][-1])
        for c in cols.groups(_TILE_NUMBERS // ((bottom - top) * num_bands)):
            data, masks = _read_part(raster, rules, ((top, bottom), (int(cols.first[c][0]), int(cols.stop[c][-1]))))
            in_rows, in_cols = rows.weights(r), cols.weights(c)
            whole = np.outer(in_rows.sum(axis=1), in_cols.sum(axis=1)).astype(np.float32)
            found = [is_fill(data, value) for value in rules.fills]
            for i, fill in enumerate(found):
                fills[i, r, c] = _pooled(in_rows, in_cols, fill) / whole
            for b, (band, mask) in enumerate(zip(data, masks, strict=True)):
                mask = all_of((mask, *(~fill for fill in found)))
                area = whole if mask is None else _pooled(in_rows, in_cols, mask)
                mean = _pooled(in_rows, in_cols, band if mask is None else np.where(mask, band, 0))
                mean /= np.maximum(area, 1e-30)
                means[b, r, c] = np.rint(mean) if band.dtype.kind in "ui" else mean
                if b < len(shares):
                    shares[b, r, c] = area / whole if with_shares else area > 0
    return CellSums(means=means, shares=shares, fills=fills)


def read_averaged(
    raster: Any,
    rules: BandRules,
    window: Window,
    shape: tuple[int, int],
    size: Size,
    out: np.ndarray | None = None,
) -> BandData:
    """Average a window of a file, or of an overview of it, to `shape` (H, W); see `cell_sums`."""
    sums = cell_sums(raster, rules, window, shape, size, out=out, with_shares=bool(rules.fills))
    valid = sums.shares > 0
    found = _give_back_fill(sums, valid, rules.fills, is_overview=(raster.width, raster.height) != size)
    masks = [None if mask.all() else mask for mask in valid]
    return BandData(data=sums.means, masks=tuple(masks * (len(rules.bands) // len(masks))), fills=found)


def _pooled(rows: Any, cols: Any, numbers: np.ndarray) -> np.ndarray:
    """Sum numbers by cells, each pixel by its share."""
    is_small = numbers.dtype.kind == "b" or numbers.dtype.itemsize <= 2 or numbers.dtype == np.float32
    return (cols @ (rows @ numbers.astype(np.float32 if is_small else np.float64)).T).T


def _give_back_fill(
    sums: CellSums, valid: np.ndarray, values: tuple[Number, ...], is_overview: bool
) -> tuple[Number, ...]:
    """Count fill that does not reach the border as data; return the values that do.

    Args:
      sums: written to. valid: as `sums.shares`, whether a cell has data; written to.
    """
    if not values:
        return ()
    from scipy import ndimage

    found = []
    for value, share in zip(values, sums.fills, strict=True):
        # A cell at the border counts with any fill, one further in with half of it and its neighbours with any.
        outer = (share > 0) & np.all(share >= sums.shares, axis=0)
        for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
            outer[edge] = share[edge] > 0
        outer = reaching_the_border(outer)
        if outer.any():
            found.append(value)
        if is_overview:
            # Whoever averaged an overview averaged fill and data at their border.
            valid &= ~ndimage.binary_dilation(outer & ~valid.any(axis=0), np.ones((3, 3)))
        inner = (share > 0) & ~ndimage.binary_dilation(outer, np.ones((3, 3)))
        of_fill, of_others = share[inner].astype(np.float64), sums.shares[:, inner].astype(np.float64)
        part = of_fill / (of_fill + of_others)
        mean = sums.means[:, inner] * (1 - part) + float(value) * part
        sums.means[:, inner] = np.rint(mean) if sums.means.dtype.kind in "ui" else mean
        sums.shares[:, inner] += share[inner]
        valid |= inner
    return tuple(found)
