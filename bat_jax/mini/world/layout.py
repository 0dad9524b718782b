"""Lay out a scene from its seed: land, sites, objects, road, river, buildings and the one event.

Only whole numbers are drawn and compared, so a seed gives the same scene on every machine. What is balanced by
construction, so that questions can be (see `bat_jax.mini.world.questions`):

  land      3 or 4 of the 6 land uses, each on at least 7 % of the map, 5 % without what pads hide
  objects   at least one site with 1, one with 2 and one with 3 objects; of the object kinds one is absent, one there
            once, one twice, one three times, and the fifth makes up the rest; which kind is which is drawn
  in a site kinds differ and colours differ; both are independent of the site's kind and of the land
"""

import functools
import itertools
import math

import numpy as np

from bat_jax.mini.world.draws import Draws
from bat_jax.mini.world.world import (
    COLOURS,
    EVENT_KINDS,
    LAND_USES,
    MOVING_KINDS,
    NUM_HEADINGS,
    OBJECT_KINDS,
    SIDE_DM,
    SITE_KINDS,
    Building,
    Event,
    Land,
    LandSeed,
    Point,
    River,
    Road,
    SceneObject,
    Site,
    WorldScene,
)

MAX_SEED = 2**31 - 1
LENGTH_DM = (120, 180)
OBJECT_SPACING_DM = 450
ROADSIDE_DM = 250
ROOFS = ("brick", "slate", "tin", "tan")
_LATTICES = ((6, 1300), (20, 330))  # cells a side, largest shift in dm
_GRID = 96
_MIN_LAND_PERCENT = 7
_MIN_VISIBLE_PERCENT = 5  # what pads leave of it
_TRIES = 200


class _Retry(Exception):
    """A draw that cannot be completed; the caller draws again."""


def generate_scene(seed: int) -> WorldScene:
    """Return the scene of a seed.

    Raises:
      ValueError: the seed is not in 0 .. 2^31 - 1.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed={seed}: must lie in 0 .. {MAX_SEED}")
    attempt = 0
    while True:
        try:
            return _lay_out(seed, Draws(seed, attempt))
        except _Retry:
            attempt += 1


def land_use_number(name: str) -> int:
    """Return the number of a land use in label arrays: 1 + its place in LAND_USES."""
    return 1 + LAND_USES.index(name)


def grid_middles(side: int) -> np.ndarray:
    """Return the middles of `side` equal parts of the world's side, in dm: (side,) int64."""
    return ((2 * np.arange(side, dtype=np.int64) + 1) * SIDE_DM) // (2 * side)


def land_use_grid(land: Land, river: River | None, side: int) -> np.ndarray:
    """Return the land under everything else, as (side, side) uint8 of `land_use_number`.

    Exact: whole-number arithmetic on the middles of the grid's cells. A river counts as water.
    """
    cell = seed_grid(land, side)
    uses = np.array([land_use_number(seed.land_use) for seed in land.seeds], np.uint8)
    grid = uses[cell]
    if river is not None:
        grid[_near_polyline(river.points, river.width // 2, side)] = land_use_number("water")
    return grid


# A picture, its labels of every view and its questions ask for the same few grids.
@functools.lru_cache(maxsize=8)
def seed_grid(land: Land, side: int) -> np.ndarray:
    """Return which seed's cell every point of a grid lies in, (side, side) uint8, read-only."""
    middles = grid_middles(side)
    x = np.broadcast_to(middles[None, :], (side, side)).astype(np.int32)
    y = np.broadcast_to(middles[:, None], (side, side)).astype(np.int32)
    for lattice in land.warp:
        shift = _interpolate_lattice(np.asarray(lattice, np.int32), middles)
        x, y = x + shift[..., 0], y + shift[..., 1]
    best = np.full((side, side), np.iinfo(np.int32).max, np.int32)
    cell = np.zeros((side, side), np.uint8)
    for index, seed in enumerate(land.seeds):
        distance = (x - seed.x) ** 2 + (y - seed.y) ** 2
        closer = distance < best
        best = np.where(closer, distance, best)
        cell[closer] = index
    cell.flags.writeable = False
    return cell


def _interpolate_lattice(lattice: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """Smooth steps between lattice values, in fixed point: (n + 1, n + 1, 2) -> (side, side, 2)."""
    position = middles * (lattice.shape[0] - 1) * 256 // SIDE_DM
    index, t = position // 256, position % 256
    t = (t * t * (768 - 2 * t)) >> 16
    rows = lattice[index] * (256 - t)[:, None, None] + lattice[index + 1] * t[:, None, None]
    columns = rows[:, index] * (256 - t)[None, :, None] + rows[:, index + 1] * t[None, :, None]
    return (columns >> 16).astype(np.int32)


def _near_polyline(points: tuple[Point, ...], reach: int, side: int) -> np.ndarray:
    """Mark grid points within `reach` dm of a polyline, by exact comparisons of whole numbers."""
    middles = grid_middles(side)
    near = np.zeros((side, side), bool)
    for (ax, ay), (bx, by) in itertools.pairwise(points):
        columns = np.flatnonzero((middles >= min(ax, bx) - reach) & (middles <= max(ax, bx) + reach))
        rows = np.flatnonzero((middles >= min(ay, by) - reach) & (middles <= max(ay, by) + reach))
        if not len(columns) or not len(rows):
            continue
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        px, py = middles[columns][None, :] - ax, middles[rows][:, None] - ay
        dx, dy = bx - ax, by - ay
        length2 = dx * dx + dy * dy
        along, across = px * dx + py * dy, px * dy - py * dx
        inside = (along >= 0) & (along <= length2) & (across * across <= reach * reach * length2)
        ends = (px * px + py * py <= reach * reach) | ((px - dx) ** 2 + (py - dy) ** 2 <= reach * reach)
        near[window] |= inside | ends
    return near


def _lay_out(seed: int, draws: Draws) -> WorldScene:
    land = _draw_land(draws)
    river = _draw_river(draws) if "water" in land.uses and draws.percent(60) else None
    grid = land_use_grid(land, river, _GRID)
    shares = np.bincount(grid.reshape(-1), minlength=len(LAND_USES) + 1)[1:]
    if any(shares[LAND_USES.index(use)] * 100 < _MIN_LAND_PERCENT * _GRID**2 for use in land.uses):
        raise _Retry
    sites = _draw_sites(draws, grid)
    if any(_visible_percent(grid, sites, use) < _MIN_VISIBLE_PERCENT for use in land.uses):
        raise _Retry
    road = _draw_road(draws, sites)
    return WorldScene(
        seed=seed,
        land=land,
        river=river,
        road=road,
        sites=sites,
        buildings=_draw_buildings(draws, grid, sites, road),
        event=_draw_event(draws, sites),
    )


def _draw_land(draws: Draws) -> Land:
    uses = draws.sample(LAND_USES, 3 + draws.below(2))
    num = draws.between(7, 11)
    kinds = uses + [draws.choice(uses) for _ in range(num - len(uses))]
    points: list[Point] = []
    while len(points) < num:
        point = (draws.below(SIDE_DM), draws.below(SIDE_DM))
        if all((point[0] - x) ** 2 + (point[1] - y) ** 2 > 2400**2 for x, y in points):
            points.append(point)
        elif draws.percent(1):
            raise _Retry
    seeds = tuple(
        LandSeed(x=x, y=y, land_use=use, tint=draws.below(256), heading=draws.below(NUM_HEADINGS))
        for (x, y), use in zip(points, kinds, strict=True)
    )
    warp = tuple(
        tuple(
            tuple((draws.between(-most, most), draws.between(-most, most)) for _ in range(cells + 1))
            for _ in range(cells + 1)
        )
        for cells, most in _LATTICES
    )
    return Land(seeds=seeds, warp=warp)


def _smooth(points: list[Point], times: int) -> tuple[Point, ...]:
    """Cut the corners of a polyline (Chaikin), in whole numbers; the ends stay."""
    for _ in range(times):
        cut = [points[0]]
        for (ax, ay), (bx, by) in itertools.pairwise(points):
            cut += [((3 * ax + bx) // 4, (3 * ay + by) // 4), ((ax + 3 * bx) // 4, (ay + 3 * by) // 4)]
        points = [*cut, points[-1]]
    return tuple(points)


def _draw_river(draws: Draws) -> River:
    start, end = draws.between(1500, SIDE_DM - 1500), draws.between(1500, SIDE_DM - 1500)
    upright = draws.percent(50)
    points = []
    for i in range(8):
        along = -600 + i * (SIDE_DM + 1200) // 7
        across = start + (end - start) * i // 7 + draws.between(-1100, 1100)
        points.append((across, along) if upright else (along, across))
    return River(points=_smooth(points, 2), width=draws.between(320, 520))


def _draw_sites(draws: Draws, grid: np.ndarray) -> tuple[Site, ...]:
    num = draws.between(4, 6)
    squares: list[tuple[int, int, int]] = []
    for _ in range(_TRIES):
        half = draws.between(750, 1000)
        x, y = draws.between(half + 200, SIDE_DM - half - 200), draws.between(half + 200, SIDE_DM - half - 200)
        if all(max(abs(x - u), abs(y - v)) > half + other + 700 for u, v, other in squares):
            squares.append((x, y, half))
        if len(squares) == num:
            break
    else:
        raise _Retry
    counts = draws.shuffled([1, 2, 3] + [1 if draws.percent(80) else 2 for _ in range(num - 3)])
    kinds_of_site = _share_out_kinds(draws, counts)
    kinds = draws.sample(SITE_KINDS, num)
    sites = []
    next_id = 1
    for i, (x, y, half) in enumerate(squares):
        objects = _draw_objects(draws, (x, y, half), kinds_of_site[i], next_id)
        next_id += len(objects)
        use, percent = _ring(grid, x, y, half)
        sites.append(
            Site(
                site_id=i + 1,
                kind=kinds[i],
                x=x,
                y=y,
                half=half,
                mark=draws.below(2),
                land_use=use,
                land_percent=percent,
                objects=objects,
            )
        )
    return tuple(sites)


def _share_out_kinds(draws: Draws, counts: list[int]) -> list[list[str]]:
    """Give each site as many different kinds as it has objects: 0, 1, 2, 3 of four kinds, the rest of the fifth."""
    order = draws.shuffled(OBJECT_KINDS)
    amounts = dict(zip(order, (0, 1, 2, 3, sum(counts) - 6), strict=True))
    shares: list[list[str]] = [[] for _ in counts]
    for kind in sorted(order, key=lambda kind: -amounts[kind]):
        open_sites = [i for i in draws.shuffled(range(len(counts))) if len(shares[i]) < counts[i]]
        # Sites with most places left come first; otherwise a site could end with one kind twice.
        open_sites.sort(key=lambda i: len(shares[i]) - counts[i])
        if len(open_sites) < amounts[kind]:
            raise _Retry
        for i in open_sites[: amounts[kind]]:
            shares[i].append(kind)
    return [draws.shuffled(share) for share in shares]


def _draw_objects(
    draws: Draws, square: tuple[int, int, int], kinds: list[str], first_id: int
) -> tuple[SceneObject, ...]:
    x, y, half = square
    colours = draws.sample(COLOURS, len(kinds))
    reach = half - 320
    places: list[Point] = []
    for _ in range(_TRIES):
        place = (x + draws.between(-reach, reach), y + draws.between(-reach, reach))
        if all((place[0] - u) ** 2 + (place[1] - v) ** 2 >= OBJECT_SPACING_DM**2 for u, v in places):
            places.append(place)
        if len(places) == len(kinds):
            break
    else:
        raise _Retry
    return tuple(
        SceneObject(
            object_id=first_id + i,
            kind=kind,
            colour=colours[i],
            x=places[i][0],
            y=places[i][1],
            length=draws.between(*LENGTH_DM),
            heading=draws.below(NUM_HEADINGS),
            is_moving=draws.percent(50) and kind in MOVING_KINDS,
        )
        for i, kind in enumerate(kinds)
    )


def _ring(grid: np.ndarray, x: int, y: int, half: int) -> tuple[str, int]:
    """Return the land use that holds most of the 60 m around a pad, and its percentage (the first of equals)."""
    middles = grid_middles(_GRID)
    away = np.maximum(abs(middles - x)[None, :], abs(middles - y)[:, None])
    counts = np.bincount(grid[(away > half) & (away < half + 600)], minlength=len(LAND_USES) + 1)[1:]
    return LAND_USES[int(counts.argmax())], int(counts.max() * 100 // counts.sum())


def _visible_percent(grid: np.ndarray, sites: tuple[Site, ...], use: str) -> int:
    middles = grid_middles(_GRID)
    seen = grid == land_use_number(use)
    for site in sites:
        seen &= (abs(middles - site.x) > site.half)[None, :] | (abs(middles - site.y) > site.half)[:, None]
    return int(seen.sum()) * 100 // _GRID**2


def _draw_road(draws: Draws, sites: tuple[Site, ...]) -> Road:
    """Join the sites in the order of the shortest way past all of them (which never crosses itself), lightly bent."""

    def length(order: tuple[Site, ...]) -> int:
        return sum(math.isqrt((a.x - b.x) ** 2 + (a.y - b.y) ** 2) for a, b in itertools.pairwise(order))

    order = min(itertools.permutations(sites), key=lambda order: (length(order), [s.site_id for s in order]))
    if draws.percent(50):
        order = order[::-1]
    points: list[Point] = []
    for a, b in itertools.pairwise(order):
        distance = math.isqrt((a.x - b.x) ** 2 + (a.y - b.y) ** 2)
        bend = draws.between(-80, 80) * distance // 1000
        knee = ((a.x + b.x) // 2 - bend * (b.y - a.y) // distance, (a.y + b.y) // 2 + bend * (b.x - a.x) // distance)
        for piece in itertools.pairwise(((a.x, a.y), knee, (b.x, b.y))):
            if any(_touches(piece, site) for site in sites if site not in (a, b)):
                raise _Retry
        points += [(a.x, a.y), knee]
    points.append((order[-1].x, order[-1].y))
    return Road(site_ids=tuple(site.site_id for site in order), points=tuple(points), width=draws.between(100, 130))


def _touches(piece: tuple[Point, Point], site: Site) -> bool:
    """Return whether a stretch of road comes too near a pad (tested at 33 points of it)."""
    (ax, ay), (bx, by) = piece
    reach = site.half + ROADSIDE_DM
    return any(
        abs(ax + (bx - ax) * i // 32 - site.x) < reach and abs(ay + (by - ay) * i // 32 - site.y) < reach
        for i in range(33)
    )


def _draw_event(draws: Draws, sites: tuple[Site, ...]) -> Event:
    site = draws.choice(sites)
    reach = site.half - 250
    for _ in range(_TRIES):
        x, y = site.x + draws.between(-reach, reach), site.y + draws.between(-reach, reach)
        if all((x - obj.x) ** 2 + (y - obj.y) ** 2 >= OBJECT_SPACING_DM**2 for obj in site.objects):
            return Event(kind=draws.choice(EVENT_KINDS), site_id=site.site_id, x=x, y=y, radius=draws.between(100, 140))
    raise _Retry


def _draw_buildings(draws: Draws, grid: np.ndarray, sites: tuple[Site, ...], road: Road) -> tuple[Building, ...]:
    """Scatter houses over built-up land, sheds over industrial land, and a few courts for games among the houses."""
    street = _near_polyline(road.points, 400, _GRID)
    buildings = []
    spacing = 560
    for row, column in itertools.product(range(SIDE_DM // spacing), repeat=2):
        shift = draws.below(160 * 160)
        x, y = column * spacing + 200 + shift // 160, row * spacing + 200 + shift % 160
        corners = [(x + u, y + v) for u in (-150, 150) for v in (-150, 150)]
        under = {int(grid[v * _GRID // SIDE_DM, u * _GRID // SIDE_DM]) for u, v in corners}
        use = LAND_USES[under.pop() - 1] if len(under) == 1 else ""
        if use not in ("built-up", "industrial") or street[y * _GRID // SIDE_DM, x * _GRID // SIDE_DM]:
            continue
        if any(max(abs(x - site.x), abs(y - site.y)) < site.half + 420 for site in sites):
            continue
        wide, high, court, roof = draws.below(1000), draws.below(1000), draws.percent(6), draws.choice(ROOFS)
        if use == "industrial":
            width, height, roof = 320 + wide * 180 // 1000, 260 + high * 200 // 1000, "tin" if wide % 2 else "slate"
        elif court:
            width, height, roof = 300, 160, "court"
        else:
            width, height = 200 + wide * 140 // 1000, 200 + high * 140 // 1000
        buildings.append(Building(x=x, y=y, width=width, height=height, roof=roof))
    return tuple(buildings)
