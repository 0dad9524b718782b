"""Cut an image into the multi-scale views the vision tower sees.

UHR-BAT (arXiv:2604.13565), Sec. 3.1: the image is padded to a square and resized to every scale directly from the full
resolution; every view is cut into tiles that go through the tower alone.

Letters: H, W height and width of the image; L = max(H, W) side of the padded square; I tiles of a scale, row-major;
P patches (tokens) of a tile. A token's index inside a scale is `tile * P + row * side + col`, with row, col and side
counted in tokens of one tile.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from bat_jax.config import VisionConfig
from bat_jax.ops.bicubic import Taps, bicubic_taps, num_taps

# A picture is padded on its way to an accelerator, so that one program serves many sizes: sides are rounded up to a
# multiple of this, and to four steps an octave.
SMALLEST_STEP_PX = 256

# Pillow's default, which the release resizes with: bicubic, antialiased where it shrinks.
RESAMPLING = Image.Resampling.BICUBIC


def normalisation_table(cfg: VisionConfig) -> np.ndarray:
    """Return the tower's input of every byte value and channel, (256, 3) float32; about -1.8 to 2.2 for CLIP.

    `table[tiles, np.arange(3)]` is the normalised (I, tile, tile, 3) input, with the release's bits: it rescales in
    float64, rounds to float32, and subtracts the mean and divides in float32.
    """
    rescaled = (np.arange(256, dtype=np.float64) * cfg.rescale).astype(np.float32)
    mean = np.asarray(cfg.pixel_mean, np.float32)
    std = np.asarray(cfg.pixel_std, np.float32)
    return (rescaled[:, None] - mean) / std


def pad_to_square(pixels: np.ndarray, fill: int | Sequence[int]) -> np.ndarray:
    """Centre an (H, W, ...) image or map in a square of its long side, (L, L, ...); a square is returned uncopied.

    The margin before the image is (long - short) // 2 wide, the one after it takes the rest; `fill` is its value.
    """
    height, width = pixels.shape[:2]
    if height == width:
        return pixels
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.empty((side, side, *pixels.shape[2:]), pixels.dtype)
    # Only the margins are filled: a full fill would write the image's part of the memory twice.
    square[:top] = fill
    square[top + height :] = fill
    square[top : top + height, :left] = fill
    square[top : top + height, left + width :] = fill
    square[top : top + height, left : left + width] = pixels
    return square


def make_tiles(pixels: np.ndarray, scales: Sequence[int], cfg: VisionConfig) -> tuple[np.ndarray, ...]:
    """Resize the padded (H, W, 3) uint8 image to every scale (sides in pixels) and cut each view into tiles.

    Every scale is resized from the full resolution with Pillow's default filter (bicubic with antialias), as the
    release does: the bytes are equal to its own.

    Returns:
      One array a scale, in their order: (I, tile, tile, 3) uint8, I = (scale / tile) ** 2, tiles row-major.

    Raises:
      ValueError: the image is not (H, W, 3) uint8, or a scale is not a positive multiple of the tile side.
    """
    _check(pixels, scales, cfg)
    tile = cfg.image_size_px
    square = Image.fromarray(np.ascontiguousarray(pad_to_square(pixels, cfg.pad_colour)))

    def view(scale: int) -> np.ndarray:
        grid = scale // tile
        resized = np.asarray(square.resize((scale, scale), RESAMPLING))
        tiles = resized.reshape(grid, tile, grid, tile, 3).transpose(0, 2, 1, 3, 4)
        return np.ascontiguousarray(tiles.reshape(grid * grid, tile, tile, 3))

    # Pillow lets go of the interpreter lock while it resizes. The largest view starts first, being the longest.
    order = sorted(range(len(scales)), key=lambda i: -scales[i])
    workers = max(1, min(len(order), os.cpu_count() or 1, 4))
    with ThreadPoolExecutor(workers) as pool:
        views = dict(zip(order, pool.map(lambda i: view(scales[i]), order), strict=True))
    return tuple(views[i] for i in range(len(scales)))


def view_arguments(
    pixels: np.ndarray, scales: Sequence[int], cfg: VisionConfig
) -> tuple[np.ndarray, tuple[tuple[Taps, Taps], ...], np.ndarray]:
    """Return what `ops.bicubic.view_tiles` takes after the tile's side to give the tiles that `make_tiles` gives.

    Shapes depend on nothing but the picture's sides rounded up, so that pictures of nearly one size share a program.

    Raises:
      ValueError: as `make_tiles`.
    """
    _check(pixels, scales, cfg)
    height, width = pixels.shape[:2]
    room = rounded_side(height), rounded_side(width)
    picture = pixels
    if (height, width) != room:
        # What stands behind the picture's edges is never read: its weights are 0.
        picture = np.empty((*room, 3), np.uint8)
        picture[:height, :width] = pixels

    def taps(extent: int, scale: int) -> Taps:
        return bicubic_taps(extent, max(height, width), scale, num_taps(max(room), scale))

    pairs = tuple((taps(height, scale), taps(width, scale)) for scale in scales)
    return picture, pairs, np.asarray(cfg.pad_colour, np.int32)


def rounded_side(side: int) -> int:
    """Return the side of the room that a picture's side is padded to on an accelerator, in pixels."""
    step = max(SMALLEST_STEP_PX, 1 << max((side - 1).bit_length() - 3, 0))
    return -(-side // step) * step


def _check(pixels: np.ndarray, scales: Sequence[int], cfg: VisionConfig) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise ValueError(
            f"pixels: got shape {pixels.shape} of {pixels.dtype}, want a non-empty (H, W, 3) of uint8: "
            "read the image with bat_jax.io.images.read_image"
        )
    tile = cfg.image_size_px
    for scale in scales:
        if scale <= 0 or scale % tile:
            raise ValueError(f"scales: got {scale}, want a positive multiple of the tile side {tile}: change scales")


def is_padding_tile(tiles: np.ndarray, pad_colour: Sequence[int]) -> np.ndarray:
    """Mark the tiles of nothing but margin, (I, tile, tile, 3) uint8 -> (I,) bool; one is encoded for all."""
    color = np.asarray(pad_colour, tiles.dtype)
    # Two opposite corners rule out nearly every tile with image in it, so that few are compared in full.
    is_padding = np.all((tiles[:, 0, 0] == color) & (tiles[:, -1, -1] == color), axis=-1)
    for index in np.flatnonzero(is_padding):
        is_padding[index] = np.all(tiles[index] == color)
    return is_padding


def nearest_index(source: int, target: int) -> np.ndarray:
    """Return which of `source` pixels Pillow's NEAREST picks for each target pixel along one axis: (target,) int32."""
    # Pillow accumulates coordinates in floating point; a closed formula would differ at a few pixels.
    ramp = Image.fromarray(np.arange(source, dtype=np.int32)[None])
    return np.asarray(ramp.resize((target, 1), Image.Resampling.NEAREST))[0]


def resize_nearest_padded(label_map: np.ndarray, scale: int) -> np.ndarray:
    """Pad an (H, W) map with zeros like the image and resize it by nearest neighbour to (scale, scale).

    Equal to Pillow's NEAREST on the padded map, for every dtype and without building the padded map.
    """
    height, width = label_map.shape
    side = max(height, width)
    index = nearest_index(side, scale)
    rows, cols = index - (side - height) // 2, index - (side - width) // 2
    has_row, has_col = (rows >= 0) & (rows < height), (cols >= 0) & (cols < width)
    resized = np.zeros((scale, scale), label_map.dtype)
    # Both masks are one unbroken run (the image's place in the square), so slices do.
    top, left = int(has_row.argmax()), int(has_col.argmax())
    inside = label_map.take(rows[has_row], axis=0).take(cols[has_col], axis=1)
    resized[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return resized


def token_valid_mask(size: tuple[int, int], scale: int, patch: int, valid: np.ndarray | None = None) -> np.ndarray:
    """Mark the tokens of a view whose patch holds image: (scale // patch, scale // patch) bool, laid out as the image.

    On the padded square, L pixels wide, the image takes [o, o + short) along the short axis, o = (L - short) // 2, and
    token k takes [k, k + 1) * patch * L / scale: valid where the two share more than an end point. (Bicubic smoothing
    carries colour up to two pixels past the edge; a token that gets no more than that is padding.)

    Args:
      size: (W, H) of the image in pixels. scale, patch: sides of the view and of a token in pixels.
      valid: (h, w) bool, False = nodata, in any resolution; used instead of `size`, padded to a square likewise. A
        token is valid where any of its area is.
    """
    side = tokens_per_side(scale, patch)
    if valid is not None:
        long = max(valid.shape)
        edges = np.arange(side + 1, dtype=np.int64) * patch * long
        rows, cols = (edges - (long - extent) // 2 * scale for extent in valid.shape)
        return any_in_cells(valid, rows, cols, scale)
    long = max(size)
    token = np.arange(side, dtype=np.int64)
    masks = []
    for extent in size:
        offset = (long - extent) // 2
        # Whole numbers on both sides (everything times scale): no rounding at the edge.
        starts_before_end = token * patch * long < (offset + extent) * scale
        ends_after_start = (token + 1) * patch * long > offset * scale
        masks.append(starts_before_end & ends_after_start)
    has_col, has_row = masks
    return has_row[:, None] & has_col[None, :]


def any_in_cells(mask: np.ndarray, rows: np.ndarray, cols: np.ndarray, unit: int) -> np.ndarray:
    """Return which cells of a grid hold any area of an (H, W) mask: (R, C) bool.

    Args:
      rows, cols: (R + 1,) and (C + 1,) whole numbers, the cells' edges in pixels of the mask times `unit`.
    """
    for edges in (rows, cols):
        first = np.clip(edges[:-1] // unit, 0, len(mask))
        stop = np.clip(-(-edges[1:] // unit), 0, len(mask))
        cells = [mask[a:b].any(axis=0) for a, b in zip(first, stop, strict=True)]
        # The other axis comes first next; twice, the two are as they were.
        mask = np.stack(cells).T
    return mask


def tokens_per_side(scale: int, patch: int) -> int:
    """Return scale / patch, the tokens along one side of a view.

    Raises:
      ValueError: `scale` is not a positive multiple of `patch`.
    """
    if patch <= 0 or scale <= 0 or scale % patch:
        raise ValueError(f"scale: got {scale}, want a positive multiple of the patch side {patch}: change scales")
    return scale // patch
