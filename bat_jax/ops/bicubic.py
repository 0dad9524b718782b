"""Pillow's 8-bit bicubic resize as whole-number arithmetic, bit for bit, and the tiles of all views in one program.

Pillow computes an axis' weights in float64, rounds them to 22 fractional bits and sums in int32; along the width first,
rounded to uint8 in between. Every sum stays below 2^31: the magnitudes of an output's weights sum to less than 1.3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax.typing import Array, Bool, Int, UInt8

FRACTION_BITS = 22
# Pixels at each side of the centre that the bicubic kernel reads, where it does not shrink.
SUPPORT = 2
# Taps that one pass over memory adds; more of them in one expression compile longer than they save.
MOST_TAPS_AT_ONCE = 16


class Taps(NamedTuple):
    """How one axis of a picture, centred in a padded square, becomes the axis of a view of S pixels.

    start (S,): first picture pixel that each output reads; may lie outside. weight (K, S): of the pixels from there on,
    with 22 fractional bits, 0 outside the picture. margin (S,): weight that falls on the square's margins.
    """

    start: Int[Array, "S"]
    weight: Int[Array, "K S"]
    margin: Int[Array, "S"]


class ViewTiles(NamedTuple):
    """tiles (I, t, t, 3) uint8, row-major. is_padding (I,): tiles of nothing but the margins' colour."""

    tiles: UInt8[Array, "I t t 3"]
    is_padding: Bool[Array, "I"]


def num_taps(side: int, target: int) -> int:
    """Return how many pixels, at most, one output of a resize from `side` to `target` reads."""
    return int(np.ceil(SUPPORT * max(side / target, 1.0))) * 2 + 1


def bicubic_taps(extent: int, side: int, target: int, capacity: int) -> Taps:
    """Return the taps that resize an axis of a square of `side` pixels to `target`, as Pillow computes them.

    Args:
      extent: pixels of the picture along the axis; it begins (side - extent) // 2 behind the square's edge.
      capacity: K, at least `num_taps(side, target)`.
    """
    scale = side / target
    filter_scale = max(scale, 1.0)
    support = SUPPORT * filter_scale
    centre = (np.arange(target) + 0.5) * scale
    # Pillow truncates towards zero and clips to the square.
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), side)
    pixel = first + np.arange(capacity)[:, None]
    kernel = np.where(pixel < last, _bicubic((pixel - centre + 0.5) * (1.0 / filter_scale)), 0.0)
    # One after the other, as Pillow's loop adds: another order could round a weight differently.
    fraction = kernel / np.add.accumulate(kernel, axis=0)[-1] * (1 << FRACTION_BITS)
    weight = (fraction + np.where(fraction < 0, -0.5, 0.5)).astype(np.int32)
    offset = (side - extent) // 2
    is_inside = (pixel >= offset) & (pixel < offset + extent)
    return Taps(
        start=(first - offset).astype(np.int32),
        weight=np.where(is_inside, weight, 0),
        margin=np.where(is_inside, 0, weight).sum(axis=0, dtype=np.int32),
    )


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel with a = -0.5, in the order of operations that Pillow has."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < SUPPORT, far, 0.0))


def resize_axis(
    picture: UInt8[Array, "H W 3"], taps: Taps, axis: int, colour: Int[Array, "3"]
) -> UInt8[jax.Array, "H2 W2 3"]:
    """Resize axis 0 or 1 of a picture as it stands in its padded square; `colour` is that of the margins."""
    shape = [1, 1, 1]
    shape[axis] = -1
    total = taps.margin.reshape(shape) * colour.astype(jnp.int32) + (1 << (FRACTION_BITS - 1))
    out_shape = tuple(taps.start.shape[0] if i == axis else picture.shape[i] for i in range(3))
    passes = -(-taps.weight.shape[0] // MOST_TAPS_AT_ONCE)
    at_once = -(-taps.weight.shape[0] // passes)
    weight = jnp.pad(taps.weight, ((0, passes * at_once - taps.weight.shape[0]), (0, 0)))

    def at(index):
        # A picture's rows are named too: with the columns alone XLA would lay the result out column by column.
        return index if axis == 0 else (jnp.arange(picture.shape[0])[:, None], index)

    def add(index, total):
        for tap in range(at_once):
            tap += index * at_once
            row = jax.lax.dynamic_index_in_dim(weight, tap, keepdims=False).reshape(shape)
            # A pixel outside the picture has weight 0, so that any stands for it.
            pixels = jnp.asarray(picture).at[at(taps.start + tap)].get(mode="clip", wrap_negative_indices=False)
            total += row * pixels.astype(jnp.int32)
        return total

    total = jnp.broadcast_to(total, out_shape)
    total = add(0, total) if passes == 1 else jax.lax.fori_loop(0, passes, add, total)
    return jnp.clip(total >> FRACTION_BITS, 0, 255).astype(jnp.uint8)


def view_tiles(
    tile: int, picture: UInt8[Array, "H W 3"], taps: tuple[tuple[Taps, Taps], ...], colour: Int[Array, "3"]
) -> tuple[ViewTiles, ...]:
    """Make every view of a picture and cut it into tiles of side `tile`; equal to `io.views.make_tiles`.

    Args:
      picture: may be larger than what the taps read.
      taps: along the height and along the width, one pair a view.
      colour: of the margins that make the picture square.
    """
    views = []
    for vertical, horizontal in taps:
        # The first pass leaves rows of nothing but margin as they are: weights sum to 1 but for their rounding.
        resized = resize_axis(resize_axis(picture, horizontal, 1, colour), vertical, 0, colour)
        grid = resized.shape[0] // tile
        tiles = resized.reshape(grid, tile, grid, tile, 3).swapaxes(1, 2).reshape(grid * grid, tile, tile, 3)
        views.append(ViewTiles(tiles, jnp.all(tiles == colour.astype(jnp.uint8), axis=(1, 2, 3))))
    return tuple(views)
