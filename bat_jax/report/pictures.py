"""Pictures of one answer: importance over the image, what became of every token, and the region map.

All take a Scene and, where it matters, an Answer (pipeline.py) and return a matplotlib Figure; nothing is shown or
written here. Grids cover the padded square; pictures are cut to the image.
"""

from typing import NamedTuple

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from bat_jax.compress.compressor import ScaleTokens
from bat_jax.compress.partition import ALONE
from bat_jax.compress.preserve_merge import Selection
from bat_jax.encoding import SceneData

THUMBNAIL_PX = 1400
DPI = 130
KEPT, MERGED, DROPPED, PADDING = 0, 1, 2, 3
FATE_NAMES = ("kept", "merged", "dropped", "padding")
FATE_COLOURS = np.array(
    [(0.13, 0.80, 0.35, 0.62), (1.0, 0.72, 0.10, 0.50), (0.0, 0.0, 0.0, 0.62), (0.5, 0.5, 0.5, 0.9)]
)


class TokenFate(NamedTuple):
    """fate (M,) of KEPT, MERGED, DROPPED, PADDING; counts of each; num_merged_rows: rows that hold merged tokens."""

    fate: np.ndarray
    counts: tuple[int, int, int, int]
    num_merged_rows: int


def token_fate(tokens: ScaleTokens, selection: Selection) -> TokenFate:
    """Say of every token of a scale whether it reached the decoder by itself, inside a merged row, or not at all."""
    region_id, valid = np.asarray(tokens.region_id), np.asarray(tokens.valid)
    selection = jax.tree.map(np.asarray, selection)
    is_merged_row = selection.mask & (selection.index < 0)
    fate = np.full(region_id.shape, DROPPED)
    is_redundant = valid & ~selection.is_kept & (region_id != ALONE)
    fate[is_redundant & np.isin(region_id, selection.region[is_merged_row])] = MERGED
    fate[selection.index[selection.mask & (selection.index >= 0)]] = KEPT
    fate[~valid] = PADDING
    counts = tuple(int(np.sum(fate == kind)) for kind in range(4))
    return TokenFate(fate, counts, int(is_merged_row.sum()))


class _Canvas(NamedTuple):
    """A thumbnail of the image and its place (left, right, bottom, top) in the padded square's [0, 1]^2."""

    thumbnail: np.ndarray
    extent: tuple[float, float, float, float]

    @classmethod
    def of(cls, scene: SceneData) -> "_Canvas":
        height, width = scene.pixels.shape[:2]
        image = Image.fromarray(scene.pixels)
        image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), reducing_gap=2.0)
        side = max(height, width)
        left, top = (side - width) // 2 / side, (side - height) // 2 / side
        return cls(np.asarray(image), (left, left + width / side, top + height / side, top))

    def draw(self, axes, fade: float = 0.0) -> None:
        """Draw the image, faded to grey by `fade`, and cut the axes to it."""
        grey = self.thumbnail.mean(axis=-1, keepdims=True)
        axes.imshow((self.thumbnail * (1 - fade) + grey * fade) / 255, extent=self.extent, interpolation="bilinear")

    def finish(self, axes, title: str) -> None:
        axes.set_xlim(self.extent[0], self.extent[1])
        axes.set_ylim(self.extent[2], self.extent[3])
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(title, fontsize=9)


def _figure(canvas: _Canvas, num_panels: int, caption: str) -> tuple[Figure, list]:
    """Return a figure of panels in the image's aspect, in two rows unless the image is tall, with a caption on top."""
    width, height = canvas.extent[1] - canvas.extent[0], canvas.extent[2] - canvas.extent[3]
    rows = 1 if num_panels <= 2 or height > 1.3 * width else 2
    columns = -(-num_panels // rows)
    panel_width = 6.0 * max(min(width / height, 1.0), 0.6)
    figure = Figure(
        figsize=(panel_width * columns, (panel_width * height / width + 0.6) * rows + 0.9),
        dpi=DPI,
        layout="constrained",
    )
    panels = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    for spare in panels[num_panels:]:
        spare.axis("off")
    figure.suptitle(caption, fontsize=11, wrap=True)
    return figure, panels[:num_panels]


def importance_picture(scene: SceneData, anchor_importance: np.ndarray, question: str) -> Figure:
    """Draw the anchor's importance over the image, beside the image itself.

    The colour scale is logarithmic between the 2nd and the 99.8th percentile of the image's tokens: a softmax row spans
    orders of magnitude.
    """
    canvas = _Canvas.of(scene)
    figure, (plain, heat) = _figure(canvas, 2, question)
    canvas.draw(plain)
    canvas.finish(plain, f"image, {scene.image_size[0]} x {scene.image_size[1]} px")
    grid = scene.grids[0]
    valid = np.asarray(scene.scales[0].valid)
    positive = anchor_importance[valid & (anchor_importance > 0)]
    low, high = np.percentile(positive, [2, 99.8]) if positive.size else (1e-9, 1.0)
    norm = matplotlib.colors.LogNorm(max(low, 1e-12), max(high, low * 1.001, 2e-12), clip=True)
    scores = np.where(valid, np.maximum(anchor_importance, 1e-12), np.nan)
    canvas.draw(heat, fade=0.8)
    drawn = heat.imshow(
        grid.to_grid(scores), extent=(0, 1, 1, 0), cmap="magma", norm=norm, alpha=0.62, interpolation="nearest"
    )
    canvas.finish(heat, f"query-aware importance at {scene.scales_px[0]} px ({int(valid.sum())} tokens)")
    bar = figure.colorbar(drawn, ax=[plain, heat], fraction=0.03, pad=0.01)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("attention from the question (log scale)", fontsize=8)
    return figure


def tokens_picture(scene: SceneData, selections: tuple[Selection, ...], question: str) -> Figure:
    """Draw, for every scale, which tokens the decoder saw by themselves, merged, or not at all."""
    canvas = _Canvas.of(scene)
    figure, panels = _figure(canvas, len(selections), question)
    has_padding = False
    for scale, (axes, selection) in enumerate(zip(panels, selections, strict=True)):
        fate = token_fate(scene.scales[scale], selection)
        kept, merged, dropped, padding = fate.counts
        canvas.draw(axes)
        colours = FATE_COLOURS[scene.grids[scale].to_grid(fate.fate)]
        axes.imshow(colours, extent=(0, 1, 1, 0), interpolation="nearest")
        has_padding |= padding > 0
        padded = f", {padding} padding" if padding else ""
        title = (
            f"{scene.scales_px[scale]} px: {int(selection.mask.sum())} rows\n"
            f"{kept} tokens kept + {fate.num_merged_rows} merged rows\n"
            f"({merged} tokens merged, {dropped} dropped{padded})"
        )
        canvas.finish(axes, title)
    shown = FATE_NAMES if has_padding else FATE_NAMES[:PADDING]
    handles = [Patch(color=colour, label=name) for colour, name in zip(FATE_COLOURS, shown, strict=False)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def regions_picture(scene: SceneData) -> Figure:
    """Draw the region map of every scale; a token that is a region of its own shows the image."""
    canvas = _Canvas.of(scene)
    figure, panels = _figure(canvas, len(scene.scales), "region partition, independent of the question")
    rng = np.random.default_rng(0)
    for scale, (axes, tokens) in enumerate(zip(panels, scene.scales, strict=True)):
        region_id = np.asarray(tokens.region_id)
        hue = rng.permutation(np.linspace(0, 1, max(int(region_id.max()) + 1, 1), endpoint=False))
        value = rng.uniform(0.55, 1.0, hue.size)
        palette = matplotlib.colors.hsv_to_rgb(np.stack([hue, np.full(hue.size, 0.75), value], axis=1))
        colours = np.zeros((region_id.size, 4))
        is_region = (region_id != ALONE) & np.asarray(tokens.valid)
        colours[is_region, :3] = palette[region_id[is_region]]
        colours[is_region, 3] = 0.55
        canvas.draw(axes, fade=0.5)
        axes.imshow(scene.grids[scale].to_grid(colours), extent=(0, 1, 1, 0), interpolation="nearest")
        count = scene.num_regions[scale]
        canvas.finish(axes, f"{scene.scales_px[scale]} px: {count} regions over {int(np.sum(tokens.valid))} tokens")
    return figure


def save(figure: Figure, path) -> None:
    """Write a figure as PNG."""
    figure.savefig(path)
