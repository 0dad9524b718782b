"""Region labels per pixel, read from files, and per token: the SAM partition of UHR-BAT (arXiv:2604.13565), Sec. 3.2.

Label 0 is background.

Letters: H, W height and width of the image in pixels.
"""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bat_jax.io.images import one_line
from bat_jax.io.pillow_images import DECODE_ERRORS, open_pillow
from bat_jax.io.views import resize_nearest_padded, tokens_per_side
from bat_jax.text_files import read_json

_MAX_MASK_PIXELS = 1_000_000_000
_READ_ERRORS: tuple[type[Exception], ...] = (*DECODE_ERRORS, zipfile.BadZipFile)
_INT32_MAX = np.iinfo(np.int32).max
# Sorting this many blocks at a time stays inside the processor's cache.
_BLOCK_CHUNK = 4096


class LabelMapError(ValueError):
    """A label map that cannot be used; the message names the file and says what to change."""


def read_label_map(path: str | os.PathLike, size: tuple[int, int]) -> np.ndarray:
    """Read the label map of an image of `size` (W, H) as displayed (`SourceImage.full_size`).

    Forms, by suffix:
      .png         one band of 1, 8 or 16 bits, or a palette (its indices are the labels, its colours are not looked at)
      .tif, .tiff  one band of whole numbers, up to 32 bits
      .npz         an array `label_map` (H, W) of whole numbers
      .json        SAM or COCO annotations {"annotations": [{"segmentation": {"size": [h, w], "counts": ...}, "area":
                   n}]} of one image: run lengths down the columns, beginning with the zeros, as a list of numbers or as
                   COCO's compressed string; `area` may be left out. Masks of another size than the image are resized by
                   nearest neighbour, as in the release. Ids are those of `paint_windows`.

    Returns:
      (H, W) int32, labels >= 0, 0 = background.

    Raises:
      LabelMapError: missing, broken, another size than the image, more than one band, negative or fractional labels.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise LabelMapError(f"{path}: {what}: point --label_map at a .png, .tif, .npz or .json file")
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _read_annotations(path, size)
    if suffix not in _READERS:
        raise LabelMapError(
            f"{path}: suffix {suffix!r} is not a label map's: give --label_map .png, .tif, .npz or .json"
        )
    form, read = _READERS[suffix]
    try:
        label_map = read(path)
    except LabelMapError:
        raise
    except _READ_ERRORS as error:
        raise LabelMapError(
            f"{path}: not a readable {form} ({one_line(error)}): give --label_map an intact file"
        ) from error
    if label_map.ndim != 2:
        raise LabelMapError(f"{path}: shape {label_map.shape} is not (H, W): give --label_map one label a pixel")
    if label_map.shape != (size[1], size[0]):
        raise LabelMapError(
            f"{path}: {label_map.shape[1]} x {label_map.shape[0]} pixels, the image is {size[0]} x {size[1]}:"
            " give --label_map a map of the image's full size"
        )
    if label_map.dtype.kind not in "uib":
        raise LabelMapError(f"{path}: labels are {label_map.dtype}: store whole numbers for --label_map")
    low, high = int(label_map.min()), int(label_map.max())
    if low < 0 or high > _INT32_MAX:
        raise LabelMapError(
            f"{path}: labels run from {low} to {high}, allowed are 0 (background) to {_INT32_MAX}:"
            " relabel the file given to --label_map"
        )
    return label_map.astype(np.int32)


def paint_windows(
    shape: tuple[int, int], windows: Sequence[tuple[int, int, np.ndarray]], areas: Sequence[int | float]
) -> np.ndarray:
    """Paint overlapping masks into one (H, W) int32 label map: smaller masks on top, 0 where none lies.

    Args:
      windows: (left, top, (h, w) bool) of each mask; boxes lie inside the map.
      areas: one number a mask, in any unit; ids 1.. go by them, descending. Equal areas keep the order of `windows`.
    """
    label_map = np.zeros(shape, np.int32)
    for label, index in enumerate(_largest_first(areas), start=1):
        left, top, mask = windows[index]
        label_map[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = label
    return label_map


def token_labels(label_map: np.ndarray, scale: int, patch: int) -> np.ndarray:
    """Give every token of a view the label of most of its pixels (UHR-BAT, arXiv:2604.13565, Eq. 15).

    As in the release: the map is padded with 0, resized by nearest neighbour, and each patch x patch block takes its
    most frequent label; equal counts go to the smallest label, so background wins its ties.

    Args:
      label_map: (H, W) whole numbers >= 0 of the image, at any resolution.
      scale, patch: sides of the view and of a token in pixels.

    Returns:
      (scale // patch, scale // patch) int32, laid out as the image; `TokenGrid.to_tiles` puts it into token order.

    Raises:
      ValueError: `scale` is not a positive multiple of `patch`, or the map is not (H, W) of whole numbers.
    """
    side = tokens_per_side(scale, patch)
    if label_map.ndim != 2 or label_map.dtype.kind not in "uib":
        raise ValueError(f"label_map: got shape {label_map.shape} of {label_map.dtype}, want (H, W) of whole numbers")
    pixels = resize_nearest_padded(label_map.astype(np.int32, copy=False), scale)
    blocks = pixels.reshape(side, patch, side, patch).swapaxes(1, 2).reshape(-1, patch * patch)
    labels = blocks.min(axis=1)
    # Most blocks lie inside one region; only the others need counting.
    mixed = np.flatnonzero(labels != blocks.max(axis=1))
    for start in range(0, len(mixed), _BLOCK_CHUNK):
        chunk = mixed[start : start + _BLOCK_CHUNK]
        labels[chunk] = _smallest_mode(blocks[chunk])
    return labels.reshape(side, side)


def _smallest_mode(blocks: np.ndarray) -> np.ndarray:
    """Find the most frequent value of each row, the smallest of equals: (n, k) -> (n,)."""
    ordered = np.sort(blocks, axis=1)
    position = np.arange(ordered.shape[1], dtype=np.int32)
    starts = np.zeros(ordered.shape, np.int32)
    starts[:, 1:] = np.where(ordered[:, 1:] != ordered[:, :-1], position[1:], 0)
    run_length = position - np.maximum.accumulate(starts, axis=1)
    # Rows are ascending, so the first place where the longest run ends belongs to the smallest such value.
    longest = run_length.argmax(axis=1)
    return np.take_along_axis(ordered, longest[:, None], axis=1)[:, 0]


def _largest_first(areas: Sequence[int | float]) -> np.ndarray:
    return np.argsort(-np.asarray(areas, np.float64), kind="stable")


def _read_png(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        image = open_pillow(file, path, "PNG")
        bands = image.getbands()
        if len(bands) != 1:
            raise LabelMapError(
                f"{path}: PNG of {len(bands)} bands ({image.mode}) is a picture, not labels:"
                " give --label_map one grey or palette band"
            )
        return np.asarray(image)


def _read_tiff(path: Path) -> np.ndarray:
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path, driver="GTiff") as raster:
            if raster.count != 1:
                raise LabelMapError(f"{path}: TIFF of {raster.count} bands: give --label_map a single band")
            return raster.read(1)
    except RasterioError as error:
        raise OSError(one_line(error)) from error


def _read_npz(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        names = list(getattr(arrays, "files", []))
        if "label_map" not in names:
            raise LabelMapError(
                f"{path}: holds the arrays {names}, none is label_map:"
                " save --label_map with np.savez(..., label_map=...)"
            )
        return arrays["label_map"]


# suffix -> (name of the form, its reader)
_READERS = {
    ".png": ("PNG", _read_png),
    ".tif": ("TIFF", _read_tiff),
    ".tiff": ("TIFF", _read_tiff),
    ".npz": (".npz", _read_npz),
}
SUFFIXES = (*_READERS, ".json")


def _read_annotations(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Paint the annotations of a SAM file; `paint_windows` on run lengths."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise LabelMapError(f"{one_line(error)}: give --label_map an intact file") from error
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list) or not annotations:
        raise LabelMapError(
            f'{path}: has no list "annotations" with masks in it: give --label_map a SAM annotation file'
        )
    parsed = [_parse_annotation(path, i, annotation) for i, annotation in enumerate(annotations)]
    images = {annotation["image_id"] for annotation in annotations if isinstance(annotation.get("image_id"), int | str)}
    if len(images) > 1:
        raise LabelMapError(f"{path}: has annotations of {len(images)} images: give --label_map a file of one image")
    width, height = size
    # Columns first, like the run lengths, so that painting costs the mask's area and not the image's.
    columns = np.zeros(width * height, np.int32)
    order = _largest_first([area for _, _, area in parsed])
    for label, index in enumerate(order, start=1):
        (mask_height, mask_width), counts, _ = parsed[index]
        ends = np.cumsum(counts)
        starts, lengths = (ends - counts)[1::2], counts[1::2]
        inside = np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
        inside += np.arange(len(inside))
        if (mask_width, mask_height) == size:
            columns[inside] = label
            continue
        mask = np.zeros(mask_width * mask_height, np.uint8)
        mask[inside] = 1
        rows = np.ascontiguousarray(mask.reshape(mask_width, mask_height).T)
        resized = np.asarray(Image.fromarray(rows).resize(size, Image.Resampling.NEAREST))
        columns[resized.T.reshape(-1) != 0] = label
    return np.ascontiguousarray(columns.reshape(width, height).T)


def decode_run_lengths(text: str) -> list[int] | None:
    """Decode COCO's compressed run lengths; None where the text is none.

    Every character holds six bits, its code minus 48: five bits of a number, lowest first, and one (32) that says that
    more follow; the highest bit of the last five is the sign. From the fourth number on, a number is the difference
    from the run two places before, which is of the same kind.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs if shift == 0 else None


def _parse_annotation(path: Path, index: int, annotation) -> tuple[tuple[int, int], np.ndarray, float]:
    """Check one annotation: ((h, w), run lengths as int64, area)."""

    def wrong(what: str) -> LabelMapError:
        return LabelMapError(f"{path}: annotation {index}: {what}: correct the file of --label_map")

    segmentation = annotation.get("segmentation") if isinstance(annotation, dict) else None
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise wrong('want "segmentation": {"size": [h, w], "counts": [...]}')
    mask_size, counts = segmentation.get("size"), segmentation["counts"]
    if isinstance(counts, str):
        counts = decode_run_lengths(counts)
        if counts is None:
            raise wrong("counts are no compressed run lengths of COCO")
    if (
        not isinstance(mask_size, list)
        or len(mask_size) != 2
        or not all(type(side) is int and side > 0 for side in mask_size)
        or mask_size[0] * mask_size[1] > _MAX_MASK_PIXELS
    ):
        raise wrong(f"size is {mask_size!r}, want [h, w] of at most {_MAX_MASK_PIXELS} pixels")
    if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
        raise wrong("counts are not a list of whole numbers >= 0")
    if sum(counts) != mask_size[0] * mask_size[1]:
        raise wrong(f"counts sum to {sum(counts)}, size {mask_size} needs their product")
    runs = np.asarray(counts, np.int64)
    area = annotation.get("area", int(runs[1::2].sum()))
    if isinstance(area, bool) or not isinstance(area, int | float) or not np.isfinite(area):
        raise wrong(f"area is {area!r}, want a number")
    return (mask_size[0], mask_size[1]), runs, float(area)
