"""Choose the overview that a large raster is averaged from, if it shows what the raster shows."""

import dataclasses
from typing import Any

import numpy as np

from bat_jax.io.bands import Window
from bat_jax.io.raster_bands import BandRules, cell_sums

# Of so many blocks those that take most room in the file are compared: of a sparse raster those that hold something.
_BLOCKS_LOOKED_UP, _BLOCKS_COMPARED = 4096, 24
_CELLS = 4
_LARGEST_SAMPLE = 1024


def overview_level(raster: Any, factor: float) -> int | None:
    """Return which overview of a raster is the coarsest that is not coarser than 1/factor; None for none."""
    levels = [i for i, decimation in enumerate(raster.overviews(1)) if decimation <= factor]
    return max(levels, key=lambda i: raster.overviews(1)[i], default=None)


def shows_the_same(raster: Any, overview: Any, rules: BandRules, window: Window) -> bool:
    """Whether an overview agrees with its raster in some blocks of a window, in colour and in what holds data.

    One that was built before the data is black or empty where the raster is not; one that averaged NaN has more of it.
    """
    size = (raster.width, raster.height)
    pairs = []
    rules = dataclasses.replace(rules, fills=())
    for part in _samples(raster, rules.bands[0], window, raster.width / overview.width):
        pairs.append(tuple(cell_sums(source, rules, part, (_CELLS, _CELLS), size) for source in (raster, overview)))
    shares = np.array([[sums.shares.astype(np.float64) for sums in pair] for pair in pairs])
    means = np.array([[sums.means.astype(np.float64) for sums in pair] for pair in pairs])
    if np.mean(np.abs(shares[:, 0] - shares[:, 1])) > 0.05:
        return False
    both = (shares[:, 0] > 0) & (shares[:, 1] > 0)
    theirs, ours = means[:, 0][both], means[:, 1][both]
    if theirs.size == 0:
        return True
    # An overview of nothing but 0 is wrong by as much as the data is; one that took the nearest pixel by its noise.
    rounding = 1.0 if np.dtype(raster.dtypes[rules.bands[0] - 1]).kind in "ui" else 0.0
    allowed = 0.25 * np.var(theirs) + 0.01 * np.mean(theirs**2) + rounding
    return bool(np.mean((theirs - ours) ** 2) <= allowed)


def _samples(raster: Any, band: int, window: Window, factor: float) -> list[Window]:
    """Return windows of some pixels of an overview, in pixels of its raster, each about the middle of a block."""
    col, row, width, height = window
    tall, wide = raster.block_shapes[band - 1]
    across, down = (range(col // wide, -(-(col + width) // wide)), range(row // tall, -(-(row + height) // tall)))
    random = np.random.default_rng(0)
    count = len(across) * len(down)
    numbers = range(count) if count <= _BLOCKS_LOOKED_UP else np.unique(random.integers(0, count, _BLOCKS_LOOKED_UP))
    blocks = [(across[int(i) % len(across)], down[int(i) // len(across)]) for i in numbers]
    random.shuffle(blocks)
    # GDAL tells a TIFF's; all others are equal.
    blocks.sort(key=lambda at: -int(raster.get_tag_item(f"BLOCK_SIZE_{at[0]}_{at[1]}", "TIFF", bidx=band) or 0))
    side = max(int(_CELLS * factor), min(int(_CELLS * _CELLS * factor), _LARGEST_SAMPLE))
    samples = []
    for x, y in blocks[:_BLOCKS_COMPARED]:
        # A block may be a row of the whole width.
        middle = x * wide + (wide // 2 if wide < 4 * side else int(random.integers(0, wide)))
        left = int(np.clip(middle - side // 2, col, max(col, col + width - side)))
        top = int(np.clip(y * tall + tall // 2 - side // 2, row, max(row, row + height - side)))
        samples.append((left, top, min(side, width), min(side, height)))
    return samples
