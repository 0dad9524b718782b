"""Ground truth of a scene per pixel and per token: what lies where, for training and as stand-ins for SAM masks.

Numbers in all label arrays: 0 none; land use, site kind, object kind, colour, state and event each 1 + their place in
the lists of `bat_jax.mini.world.world`.
"""

from typing import NamedTuple

import numpy as np

from bat_jax.io.views import tokens_per_side
from bat_jax.mini.world.layout import land_use_grid, seed_grid
from bat_jax.mini.world.render import MAX_SIDE_PX
from bat_jax.mini.world.shapes import Canvas, Polygon, disc, object_body, rectangle
from bat_jax.mini.world.world import (
    COLOURS,
    EVENT_KINDS,
    LAND_USES,
    OBJECT_KINDS,
    SIDE_DM,
    SITE_KINDS,
    STATES,
    WorldScene,
)

# A token belongs to an object that covers a fifth of the token, or that has a third of itself in it.
_TOKEN_PERCENT, _OBJECT_PERCENT = 20, 33
_FINE = 16
_LAND_PX = 672


class TokenLabels(NamedTuple):
    """What each token of a view shows, each (n, n) uint8, 0 where none; laid out as the image, row by row.

    land_use is 0 on pads. object_id is the id of the object that the kind, colour and state belong to.
    """

    land_use: np.ndarray
    site_kind: np.ndarray
    object_kind: np.ndarray
    colour: np.ndarray
    state: np.ndarray
    event: np.ndarray
    site_id: np.ndarray
    object_id: np.ndarray


def label_tokens(scene: WorldScene, scale_px: int, patch: int) -> TokenLabels:
    """Label the tokens of a view of `scale_px` pixels in patches of `patch` pixels.

    Land use: the most frequent of 16 points of the token (of equals the first in the list). Site: the pad that covers
    half of the token. Object and event: the one that covers most of the token, if it covers a fifth of it or a third of
    the object lies in it; so an object below one pixel still labels the token it falls into.

    Raises:
      ValueError: `scale_px` is not a positive multiple of `patch`.
    """
    n = tokens_per_side(scale_px, patch)
    site_id = np.zeros((n, n), np.uint8)
    edges = np.arange(n + 1, dtype=np.float64) * (SIDE_DM / n)
    for site in scene.sites:
        left, top, right, bottom = site.box
        columns = np.clip(np.minimum(edges[1:], right) - np.maximum(edges[:-1], left), 0, None)
        rows = np.clip(np.minimum(edges[1:], bottom) - np.maximum(edges[:-1], top), 0, None)
        site_id[2 * rows[:, None] * columns[None, :] * n * n >= SIDE_DM**2] = site.site_id
    site_kind = _look_up(site_id, [1 + SITE_KINDS.index(site.kind) for site in scene.sites])

    land = land_use_grid(scene.land, scene.river, _LAND_PX)
    points = ((2 * np.arange(4 * n) + 1) * _LAND_PX) // (8 * n)
    samples = land[np.ix_(points, points)].reshape(n, 4, n, 4)
    counts = np.stack([(samples == 1 + i).sum(axis=(1, 3)) for i in range(len(LAND_USES))])
    land_use = (1 + counts.argmax(axis=0)).astype(np.uint8)
    land_use[site_id > 0] = 0

    objects = scene.objects
    object_id = _owner(n, [object_body(obj) for obj in objects])
    event = _owner(n, [disc(scene.event.x, scene.event.y, scene.event.radius)])
    return TokenLabels(
        land_use=land_use,
        site_kind=site_kind,
        object_kind=_look_up(object_id, [1 + OBJECT_KINDS.index(obj.kind) for obj in objects]),
        colour=_look_up(object_id, [1 + COLOURS.index(obj.colour) for obj in objects]),
        state=_look_up(object_id, [1 + STATES.index(obj.state) for obj in objects]),
        event=_look_up(event, [1 + EVENT_KINDS.index(scene.event.kind)]),
        site_id=site_id,
        object_id=object_id,
    )


def instance_map(scene: WorldScene, side: int) -> np.ndarray:
    """Return ids of everything per pixel, (side, side) int32: a label map for the partition "sam".

    Smaller things lie on larger ones. Ids are distinct and never 0, since land is everywhere:
      1 ..              land-use regions, one a cell of the land's diagram, and then the river
      100 + site_id     pads
      200 + object_id   objects
      300               the event

    Raises:
      ValueError: the side is out of range.
    """
    if not 1 <= side <= MAX_SIDE_PX:
        raise ValueError(f"side={side}: must lie in 1 .. {MAX_SIDE_PX}")
    grid = 1 + seed_grid(scene.land, _LAND_PX).astype(np.int32)
    if scene.river is not None:
        dry = land_use_grid(scene.land, None, _LAND_PX)
        grid[land_use_grid(scene.land, scene.river, _LAND_PX) != dry] = len(scene.land.seeds) + 1
    points = ((2 * np.arange(side) + 1) * _LAND_PX) // (2 * side)
    ids = grid[np.ix_(points, points)]
    canvas = Canvas(side, height=side, image=_NO_IMAGE)
    for site in scene.sites:
        _paint(ids, canvas, rectangle(*site.box), 100 + site.site_id)
    _paint(ids, canvas, disc(scene.event.x, scene.event.y, scene.event.radius), 300)
    for obj in scene.objects:
        _paint(ids, canvas, object_body(obj), 200 + obj.object_id)
    return ids


# Coverage needs a canvas' geometry, never its pixels.
_NO_IMAGE = Canvas(1).image


def _paint(ids: np.ndarray, canvas: Canvas, polygon: Polygon, value: int) -> None:
    window = canvas.coverage(polygon)
    if window is None:
        return
    left, top, mask = window
    covered = np.asarray(mask)
    part = ids[top : top + covered.shape[0], left : left + covered.shape[1]]
    # Below one pixel nothing is half covered: the best pixel then stands for the thing.
    part[covered >= min(128, max(int(covered.max()), 1))] = value


def _look_up(ids: np.ndarray, values: list[int]) -> np.ndarray:
    return np.array([0, *values], np.uint8)[ids]


def _owner(n: int, bodies: list[Polygon]) -> np.ndarray:
    """Return 1 + the index of the body that a token belongs to, 0 for none: (n, n) uint8."""
    canvas = Canvas(n * _FINE, image=_NO_IMAGE)
    owner, most = np.zeros((n, n), np.uint8), np.zeros((n, n), np.int64)
    for number, body in enumerate(bodies, start=1):
        window = canvas.coverage(body)
        if window is None:
            continue
        left, top, mask = window
        coverage = np.asarray(mask, np.int64)
        rows, columns = np.nonzero(coverage)
        amount = coverage[rows, columns]
        rows, columns = (rows + top) // _FINE, (columns + left) // _FINE
        row0, column0 = rows.min(), columns.min()
        covered = np.zeros((rows.max() - row0 + 1, columns.max() - column0 + 1), np.int64)
        np.add.at(covered, (rows - row0, columns - column0), amount)
        is_enough = covered * 100 >= 255 * _FINE**2 * _TOKEN_PERCENT
        is_enough |= covered * 100 >= amount.sum() * _OBJECT_PERCENT
        # A body spread over four tokens in equal parts would have none: the fullest one always counts.
        is_enough |= covered == covered.max()
        window_of = np.s_[row0 : row0 + covered.shape[0], column0 : column0 + covered.shape[1]]
        wins = is_enough & (covered > most[window_of])
        owner[window_of][wins] = number
        most[window_of][wins] = covered[wins]
    return owner
