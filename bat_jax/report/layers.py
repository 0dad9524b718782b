"""What lies over an image in a report: importance, the fate of every token, regions, frames; and the image below it.

A layer is (Q, Q, 4) RGBA in [0, 1], one cell a token of a Q x Q grid. Grids cover the padded square; `Backdrop` paints
them over the image and cuts the square to it. Nothing is written here.
"""

import functools
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import matplotlib
import numpy as np
from matplotlib.colors import LogNorm, hsv_to_rgb
from PIL import Image, ImageDraw, ImageFont

from bat_jax.compress.compressor import ScaleTokens
from bat_jax.compress.partition import ALONE
from bat_jax.compress.preserve_merge import Selection
from bat_jax.encoding import SceneData
from bat_jax.typing import Bool, Float, Int, UInt8

# Side of a panel's padded square: a whole multiple of the usual grids (16, 32, 48, 64, 96, 192, 288).
PANEL_PX = 576
# A long, narrow image is painted on a larger square, up to four times, so that its short side shows something.
_SHORT_PX, _MOST_SQUARES = 320, 4
KEPT, MERGED, DROPPED, PADDING = 0, 1, 2, 3
FATE_NAMES = ("kept", "merged", "dropped", "padding")
FATE_COLOURS = np.array(
    [(0.16, 0.86, 0.42, 0.55), (1.0, 0.70, 0.08, 0.52), (0.04, 0.05, 0.09, 0.70), (0.5, 0.5, 0.5, 0.9)]
)
IMPORTANCE_MAP = "magma"
FRAME_RGB = (255, 255, 255)
_FRAME_EDGE = (0, 0, 0)

UnitBox = tuple[float, float, float, float]
ALL: UnitBox = (0.0, 0.0, 1.0, 1.0)


class TokenFate(NamedTuple):
    """fate (M,) of KEPT, MERGED, DROPPED, PADDING; counts of each; num_merged_rows: rows that hold merged tokens."""

    fate: np.ndarray
    counts: tuple[int, ...]
    num_merged_rows: int


def token_fate(tokens: ScaleTokens, selection: Selection) -> TokenFate:
    """Say of every token of a scale whether it reached the decoder by itself, inside a merged row, or not at all."""
    region_id, valid = np.asarray(tokens.region_id), np.asarray(tokens.valid)
    selection = jax.tree.map(np.asarray, selection)
    is_merged_row = selection.mask & (selection.keep_index < 0)
    fate = np.full(region_id.shape, DROPPED)
    group = region_id if selection.group is None else selection.group
    is_redundant = valid & ~selection.is_kept & (group != ALONE)
    fate[is_redundant & np.isin(group, selection.region[is_merged_row])] = MERGED
    fate[selection.keep_index[selection.mask & (selection.keep_index >= 0)]] = KEPT
    fate[~valid] = PADDING
    counts = tuple(int(np.sum(fate == kind)) for kind in range(4))
    return TokenFate(fate, counts, int(is_merged_row.sum()))


def importance_layer(scene: SceneData, importance: np.ndarray, scale: int = 0) -> Float[np.ndarray, "Q Q 4"]:
    """Colour the tokens of a scale, the anchor unless another is named, by their importance (M,).

    Logarithmic between the 2nd and the 99.8th percentile of the image's tokens, since a softmax row spans orders of
    magnitude.
    """
    valid = np.asarray(scene.scales[scale].valid)
    positive = importance[valid & (importance > 0)]
    low, high = np.percentile(positive, [2, 99.8]) if positive.size else (1e-9, 1.0)
    norm = LogNorm(max(low, 1e-12), max(high, low * 1.001, 2e-12), clip=True)
    colours = matplotlib.colormaps[IMPORTANCE_MAP](norm(np.maximum(importance, 1e-12)))
    colours[:, 3] = np.where(valid, 0.68, 0.0)
    return scene.grids[scale].to_grid(colours)


def fate_layer(scene: SceneData, scale: int, fate: TokenFate) -> Float[np.ndarray, "Q Q 4"]:
    """Colour the tokens of a scale by their fate."""
    return FATE_COLOURS[scene.grids[scale].to_grid(fate.fate)]


def region_layer(scene: SceneData, scale: int) -> Float[np.ndarray, "Q Q 4"]:
    """Colour the regions of a scale; a token that is a region of its own is left clear."""
    region_id = np.asarray(scene.scales[scale].region_id)
    rng = np.random.default_rng(scale)
    hue = rng.permutation(np.linspace(0, 1, max(int(region_id.max()) + 1, 1), endpoint=False))
    value = rng.uniform(0.55, 1.0, hue.size)
    palette = hsv_to_rgb(np.stack([hue, np.full(hue.size, 0.75), value], axis=1))
    colours = np.zeros((region_id.size, 4))
    is_region = (region_id != ALONE) & np.asarray(scene.scales[scale].valid)
    colours[is_region, :3] = palette[region_id[is_region]]
    colours[is_region, 3] = 0.6
    return scene.grids[scale].to_grid(colours)


class Backdrop:
    """An image made small once, for many panels; paints layers over it."""

    def __init__(self, scene: SceneData):
        """Take the image from an encoded scene."""
        self._image = Image.fromarray(scene.pixels)
        self._views: dict[tuple[tuple[int, int], float | None], Image.Image] = {}
        width, height = self._image.size
        self._side = max(width, height)
        squares = -(-_SHORT_PX * self._side // (PANEL_PX * min(width, height)))
        self.square_px = PANEL_PX * min(max(squares, 1), _MOST_SQUARES)
        columns, rows = (max(round(length * self.square_px / self._side), 1) for length in (width, height))
        self.size = (columns, rows)

    def picture(self, times: int = 1) -> UInt8[np.ndarray, "H W 3"]:
        """Return the image at a panel's size, or `times` that."""
        # Averaged to three times the size first: a third of the time, and nothing that is seen.
        return np.asarray(self._resized((self.size[0] * times, self.size[1] * times), reducing_gap=3.0))

    def crop(
        self, window: UnitBox = ALL, size_px: int | None = None, size: tuple[int, int] | None = None
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Return a window of the image as the view of `size_px` has it, or as it was read, at `size` (W, H)."""
        if window == ALL and size_px is None and size is None:
            return self.picture()
        size = size or self.size
        view = self.view(size_px)
        x0, y0, x1, y1 = (window[i] * view.size[i % 2] for i in range(4))
        # The window's own pixels stay visible as squares where it has few of them.
        few = Image.Resampling.NEAREST if x1 - x0 < size[0] / 2 else Image.Resampling.BICUBIC
        return np.asarray(view.resize(size, few, box=(x0, y0, x1, y1)))

    def cells(self, grid_side: int, window: UnitBox = ALL) -> tuple[Int[np.ndarray, "H 1"], Int[np.ndarray, "W"]]:
        """Return the row and the column in a grid over the padded square that each pixel of a panel lies in."""
        found = []
        for axis, pixels in enumerate(self.size):
            first, last = window[axis], window[axis + 2]
            place = self._place(first + (np.arange(pixels) + 0.5) / pixels * (last - first), axis, grid_side)
            found.append(np.floor(place).astype(int).clip(0, grid_side - 1))
        return found[1][:, None], found[0]

    def touched(self, grid_side: int, boxes: Sequence[UnitBox]) -> Bool[np.ndarray, "Q Q"]:
        """Return which cells of a grid over the padded square boxes of the image touch."""
        is_touched = np.zeros((grid_side, grid_side), bool)
        for box in boxes:
            (x0, x1), (y0, y1) = (self._place(np.array((box[i], box[i + 2])), i, grid_side) for i in (0, 1))
            is_touched[int(y0) : math.ceil(y1), int(x0) : math.ceil(x1)] = True
        return is_touched

    def _place(self, share: Float[np.ndarray, "P"], axis: int, grid_side: int) -> Float[np.ndarray, "P"]:
        """Return where shares of the image's width (axis 0) or height lie in a grid over the padded square."""
        length = self._image.size[axis]
        return (share * (length / self._side) + (self._side - length) // 2 / self._side) * grid_side

    def paint(
        self, layer: Float[np.ndarray, "Q Q 4"], fade: float = 0.0, window: UnitBox = ALL
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Return a panel: the image or a window of it, faded to grey by `fade`, under a layer."""
        below = self.crop(window).astype(np.float32) / 255
        below += (below.mean(axis=-1, keepdims=True) - below) * fade
        above = layer[self.cells(len(layer), window)].astype(np.float32)
        alpha = above[..., 3:]
        return np.rint((below * (1 - alpha) + above[..., :3] * alpha) * 255).astype(np.uint8)

    def view(self, size_px: int | None) -> Image.Image:
        """Return the image as a view of this size has it (without the padding), or as it was read."""
        if size_px is None:
            return self._image
        width, height = (max(round(length * size_px / self._side), 1) for length in self._image.size)
        return self._resized((width, height))

    def _resized(self, size: tuple[int, int], reducing_gap: float | None = None) -> Image.Image:
        if (size, reducing_gap) not in self._views:
            resized = self._image.resize(size, Image.Resampling.BICUBIC, reducing_gap=reducing_gap)
            self._views[size, reducing_gap] = resized
        return self._views[size, reducing_gap]


def window_in(boxes: Sequence[UnitBox], window: UnitBox) -> tuple[UnitBox, ...]:
    """Return boxes as fractions of a window instead of the picture; those wholly outside are left out."""
    x, y, width, height = window[0], window[1], window[2] - window[0], window[3] - window[1]
    moved = (((a - x) / width, (b - y) / height, (c - x) / width, (d - y) / height) for a, b, c, d in boxes)
    return tuple(box for box in moved if box[0] < 1 and box[1] < 1 and box[2] > 0 and box[3] > 0)


def draw_frames(
    pixels: UInt8[np.ndarray, "H W 3"], boxes: Sequence[UnitBox], labels: Sequence[str] = (), thickness: int = 2
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the picture with white frames, edged in black, around boxes given as fractions of its sides.

    `labels` are written at the frames; `thickness` is the white line's, in pixels.
    """
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    places = []
    for left, top, right, bottom in boxes:
        x0, y0 = round(left * image.width), round(top * image.height)
        x1, y1 = max(round(right * image.width), x0 + 2), max(round(bottom * image.height), y0 + 2)
        for grow in range(thickness + 2):
            colour = FRAME_RGB if 0 < grow <= thickness else _FRAME_EDGE
            draw.rectangle((x0 - grow, y0 - grow, x1 + grow, y1 + grow), outline=colour)
        places.append((x0, y0, y1))
    letters = font(max(image.width // 48, 13))
    for text, (x, top, bottom) in zip(labels, places, strict=False):
        height = round(letters.size * 1.4)
        y = top - height - 4 if top > height + 4 else min(bottom + 5, image.height - height)
        x = min(max(x - 3, 0), image.width - round(draw.textlength(text, letters)) - height // 2)
        plate = (x, y, x + draw.textlength(text, letters) + height // 2, y + height)
        draw.rounded_rectangle(plate, radius=height // 4, fill=FRAME_RGB, outline=_FRAME_EDGE)
        draw.text((x + height // 4, y + height / 2), text, fill=_FRAME_EDGE, font=letters, anchor="lm")
    return np.asarray(image)


@functools.cache
def font(size: int, is_bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font of all pictures (DejaVu Sans, which comes with matplotlib)."""
    name = "DejaVuSans-Bold.ttf" if is_bold else "DejaVuSans.ttf"
    return ImageFont.truetype(pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def wrap(text: str, width: int, letters: ImageFont.FreeTypeFont) -> list[str]:
    """Break a text at blanks into lines of at most `width` pixels; line breaks stay, a word too long stays whole."""
    lines = []
    for part in text.splitlines():
        lines.append("")
        for word in part.split(" "):
            longer = f"{lines[-1]} {word}" if lines[-1] else word
            if lines[-1] and letters.getlength(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return lines
