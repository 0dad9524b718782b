"""The picture as the decoder gets it: what is left of it when a compressor is done.

Views lie over each other, coarse to fine. A token that was kept shows its pixels as its view has them; tokens that went
into one row together show that row's mean colour; what reached the decoder in no view is black. Kept tokens lie above
merged ones.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from bat_jax.compress.preserve_merge import Selection
from bat_jax.encoding import SceneData
from bat_jax.io.views import pad_to_square
from bat_jax.report.layers import ALL, KEPT, MERGED, Backdrop, UnitBox, token_fate
from bat_jax.typing import Float, UInt8


def seen_picture(
    scene: SceneData, backdrop: Backdrop, selections: Sequence[Selection], window: UnitBox = ALL
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the picture, or a window of it, as it reaches the decoder in one prompt."""
    pixels = np.zeros_like(backdrop.crop(window))
    fates = [token_fate(tokens, chosen) for tokens, chosen in zip(scene.scales, selections, strict=True)]
    cells = [backdrop.cells(grid.full_side, window) for grid in scene.grids]
    for scale, grid in enumerate(scene.grids):
        is_merged = fates[scale].fate == MERGED
        if is_merged.any():
            own_group = selections[scale].group
            group = np.asarray(scene.scales[scale].region_id if own_group is None else own_group)
            colours = grid.to_grid(group_colours(token_colours(scene, backdrop, scale), group, is_merged))
            here = grid.to_grid(is_merged)[cells[scale]]
            pixels[here] = colours[cells[scale]][here]
    for scale, grid in enumerate(scene.grids):
        here = grid.to_grid(fates[scale].fate == KEPT)[cells[scale]]
        pixels[here] = backdrop.crop(window, scene.scales_px[scale])[here]
    return pixels


def token_colours(scene: SceneData, backdrop: Backdrop, scale: int) -> Float[np.ndarray, "M 3"]:
    """Return the mean colour of every token of a view, tile-major."""
    grid = scene.grids[scale]
    view = np.asarray(backdrop.view(scene.scales_px[scale]))
    square = Image.fromarray(pad_to_square(view, scene.pad_colour))
    means = square.resize((grid.full_side,) * 2, Image.Resampling.BOX)
    return grid.to_tiles(np.asarray(means, np.float32))


def group_colours(
    colours: Float[np.ndarray, "M 3"], group: np.ndarray, is_member: np.ndarray
) -> UInt8[np.ndarray, "M 3"]:
    """Return for every member the mean colour of its group's members; black for other tokens."""
    ids = group[is_member]
    sizes = np.bincount(ids)
    sums = np.stack([np.bincount(ids, colours[is_member, channel]) for channel in range(3)], axis=1)
    found = np.zeros(colours.shape, np.uint8)
    found[is_member] = np.rint(sums / np.maximum(sizes, 1)[:, None])[ids]
    return found
