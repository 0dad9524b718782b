"""Panels of one answer, and the sheets of panels that are written as PNG files.

A panel is a picture with a line of text: importance over the image, what became of every token of a scale, a region
map, the evidence as one view shows it. The same panels go into the HTML report (answer_page.py).
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from bat_jax.compress.preserve_merge import Selection
from bat_jax.encoding import SceneData
from bat_jax.report.layers import (
    FATE_COLOURS,
    FATE_NAMES,
    IMPORTANCE_MAP,
    Backdrop,
    UnitBox,
    draw_frames,
    fate_layer,
    font,
    importance_layer,
    region_layer,
    token_fate,
    window_in,
    wrap,
)
from bat_jax.typing import Float, UInt8

ZOOM_PX = 420
_WHOLE = 0.9
_GAP, _INK, _PAPER = 18, (28, 36, 32), (255, 255, 255)

Swatch = tuple[str, tuple[int, int, int]]


class Panel(NamedTuple):
    """A picture and what is written below it."""

    pixels: UInt8[np.ndarray, "H W 3"]
    caption: str

    def jpeg(self, quality: int) -> bytes:
        """Return the picture as a JPEG file."""
        file = io.BytesIO()
        Image.fromarray(self.pixels).save(file, "JPEG", quality=quality, optimize=True)
        return file.getvalue()


def _swatches(names: Sequence[str], colours: Float[np.ndarray, "N 4"]) -> tuple[Swatch, ...]:
    rgb = np.rint(colours[:, :3] * 255).astype(int).tolist()
    return tuple((name, (red, green, blue)) for name, (red, green, blue) in zip(names, rgb, strict=True))


FATE_SWATCHES = _swatches(FATE_NAMES, FATE_COLOURS)
# From low to high; the ends have a name.
IMPORTANCE_SWATCHES = _swatches(
    ["less attention", *[""] * 5, "more attention"], matplotlib.colormaps[IMPORTANCE_MAP](np.linspace(0, 1, 7))
)


def importance_panel(
    scene: SceneData, backdrop: Backdrop, anchor_importance: np.ndarray, boxes: Sequence[UnitBox] = ()
) -> Panel:
    """Show the anchor's importance over the image; frames mark the evidence."""
    pixels = backdrop.paint(importance_layer(scene, anchor_importance), fade=0.8)
    num_tokens = int(np.sum(scene.scales[0].valid))
    caption = f"Importance of the {num_tokens:,} tokens of the {scene.scales_px[0]} px view for this question."
    return Panel(draw_frames(pixels, boxes), caption)


def fate_panels(
    scene: SceneData, backdrop: Backdrop, selections: Sequence[Selection], boxes: Sequence[UnitBox] = ()
) -> tuple[Panel, ...]:
    """Show, for every scale, which tokens the decoder saw by themselves, merged, or not at all."""
    panels = []
    for scale, selection in enumerate(selections):
        fate = token_fate(scene.scales[scale], selection)
        kept, merged, dropped, padding = fate.counts
        caption = (
            f"{scene.scales_px[scale]} px view: {kept:,} tokens kept, {merged:,} merged into "
            f"{fate.num_merged_rows:,} rows, {dropped:,} dropped"
        )
        caption += f", {padding:,} padding" if padding else ""
        panels.append(Panel(draw_frames(backdrop.paint(fate_layer(scene, scale, fate)), boxes), caption))
    return tuple(panels)


def fates_in_boxes(
    scene: SceneData, backdrop: Backdrop, selections: Sequence[Selection], boxes: Sequence[UnitBox]
) -> str:
    """Say in words what became of the tokens that boxes touch: "224 px: 1 kept; 448 px: 2 merged"."""
    parts = []
    for scale, selection in enumerate(selections):
        fate = scene.grids[scale].to_grid(token_fate(scene.scales[scale], selection).fate)
        is_touched = backdrop.touched(len(fate), boxes)
        counts = [f"{np.sum(fate[is_touched] == kind):,} {name}" for kind, name in enumerate(FATE_NAMES)]
        shown = ", ".join(text for text in counts if not text.startswith("0 "))
        parts.append(f"{scene.scales_px[scale]} px: {shown}")
    return "; ".join(parts)


def region_panels(scene: SceneData, backdrop: Backdrop) -> tuple[Panel, ...]:
    """Show the region map of every scale; a token that is a region of its own shows the image."""
    counts = zip(scene.scales_px, scene.num_regions, scene.scales, strict=True)
    captions = [f"{px} px view: {num} regions over {int(np.sum(s.valid)):,} tokens" for px, num, s in counts]
    return tuple(
        Panel(backdrop.paint(region_layer(scene, scale), fade=0.5), caption) for scale, caption in enumerate(captions)
    )


def evidence_boxes(boxes: Sequence[UnitBox]) -> tuple[UnitBox, ...]:
    """Return the smallest boxes: of objects rather than of the site they are on. Empty where there are none."""
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in boxes]
    return tuple(box for box, area in zip(boxes, areas, strict=True) if area <= 4 * min(areas))


def is_local(box: UnitBox) -> bool:
    """Return whether a box is a place in the picture and not nearly all of it, where a frame marks nothing."""
    return box[2] - box[0] < _WHOLE


def evidence_frame(boxes: Sequence[UnitBox], shortest: float = 0.04) -> UnitBox:
    """Return a square around all boxes, of 4 % of the picture's side at least, so that it can be found."""
    return _square(boxes, 0.0, shortest)


def evidence_window(boxes: Sequence[UnitBox]) -> UnitBox:
    """Return a square around all boxes and what is near: by the first box's side, at most 6 % of the picture's."""
    return _square(boxes, min(boxes[0][2] - boxes[0][0], 0.06), 0.0)


def _square(boxes: Sequence[UnitBox], margin: float, shortest: float) -> UnitBox:
    left, top = (min(box[i] for box in boxes) for i in (0, 1))
    right, bottom = (max(box[i] for box in boxes) for i in (2, 3))
    side = min(max(right - left + 2 * margin, bottom - top + 2 * margin, shortest), 1.0)
    x, y = (min(max(middle / 2 - side / 2, 0.0), 1.0 - side) for middle in (left + right, top + bottom))
    return x, y, x + side, y + side


def zoom_panels(scene: SceneData, backdrop: Backdrop, boxes: Sequence[UnitBox]) -> tuple[Panel, ...]:
    """Show the place of the evidence, framed, as the coarsest view, the finest view and the file have it."""
    window = evidence_window(boxes)
    width = max(boxes[0][2] - boxes[0][0], boxes[0][3] - boxes[0][1])
    file_px = max(scene.image_size)
    names = {scene.scales_px[0]: "Coarsest view", scene.scales_px[-1]: "Finest view", None: "The picture itself"}
    panels = []
    for size_px, name in names.items():
        crop = backdrop.crop(window, size_px, (ZOOM_PX, ZOOM_PX))
        pixels = width * (size_px or file_px)
        caption = f"{name}, {size_px or file_px} px"
        if width < _WHOLE:
            caption += f": the frame is {pixels:.{0 if pixels >= 10 else 1}f} px wide"
        panels.append(Panel(draw_frames(crop, window_in(boxes, window)), caption))
    return tuple(panels)


def sheet(
    title: str, panels: Sequence[Panel], columns: int, swatches: Sequence[Swatch] = (), letters: int = 14
) -> Image.Image:
    """Return panels in columns under a title, each with its caption of `letters` pixels, and a legend at the foot."""
    height, width = panels[0].pixels.shape[:2]
    line, title_line, legend = round(letters * 10 / 7), 2 * letters, round(letters * 22 / 7)
    title_lines = wrap(title, columns * (width + _GAP) - _GAP, font(line))
    captions = [wrap(panel.caption, width, font(letters)) for panel in panels]
    tops = [2 * _GAP + title_line * len(title_lines)]
    for first in range(0, len(panels), columns):
        tops.append(tops[-1] + height + line * max(map(len, captions[first : first + columns])) + 8 + _GAP)
    image = Image.new("RGB", (columns * (width + _GAP) + _GAP, tops[-1] + (legend if swatches else 0)), _PAPER)
    draw = ImageDraw.Draw(image)
    for i, text in enumerate(title_lines):
        draw.text((_GAP, _GAP + title_line * i), text, fill=_INK, font=font(line))
    for i, (panel, lines) in enumerate(zip(panels, captions, strict=True)):
        x, y = _GAP + (i % columns) * (width + _GAP), tops[i // columns]
        image.paste(Image.fromarray(panel.pixels), (x, y))
        for number, text in enumerate(lines):
            draw.text((x, y + height + 8 + line * number), text, fill=_INK, font=font(letters))
    _draw_legend(draw, _GAP, image.height - legend, swatches, letters)
    return image


def stack(images: Sequence[Image.Image], columns: int = 1) -> Image.Image:
    """Return images of one size, or of any in a single column, row by row from the top left."""
    width, rows = max(image.width for image in images), range(0, len(images), columns)
    heights = [max(image.height for image in images[first : first + columns]) for first in rows]
    whole = Image.new("RGB", (width * min(columns, len(images)), sum(heights)), _PAPER)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        whole.paste(image, (column * width, sum(heights[:row])))
    return whole


def _draw_legend(draw: ImageDraw.ImageDraw, x: int, y: int, swatches: Sequence[Swatch], letters: int) -> None:
    """Draw swatches in a row, each before its name; where some have none, a scale between the first and last name."""
    is_scale = any(not name for name, _ in swatches)
    middle, half, width = y + round(letters * 13 / 14), round(letters * 9 / 14), round(letters * 26 / 14)

    def write(text: str) -> int:
        draw.text((x, middle), text, fill=_INK, font=font(letters), anchor="lm")
        return round(draw.textlength(text, font(letters))) + 10

    for number, (name, colour) in enumerate(swatches):
        if is_scale and number == 0:
            x += write(name)
        draw.rectangle((x, middle - half, x + width, middle + half), fill=colour)
        x += width + (1 if is_scale else 8)
        if name and not (is_scale and number == 0):
            x += 8 * is_scale
            x += write(name) + 16
