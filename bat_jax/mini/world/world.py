"""What a scene of the UHR-Mini world consists of: frozen dataclasses of whole numbers, and the closed lists of kinds.

The world is a square of 1344 m. Every coordinate and length is a whole number of decimetres (dm), x to the right and y
down, so that a scene is the same on every machine and at every picture size; at 1344 pixels a side one pixel is 1 m.

```
  WorldScene ── land (warped Voronoi seeds), river, road, buildings
       └── Site (harbour, airfield, ...: 150-200 m, seen in the anchor view)
             └── SceneObject (ship, plane, ...: 12-18 m, one or two tokens of the finest view)
```

It is a model world, not a map: a car is as long as a ship, and what stands where is drawn by chance, so that neither
the site nor the land around it says anything about an object.
"""

import dataclasses
import hashlib
import json
from typing import Any

SIDE_DM = 13_440

LAND_USES = ("water", "forest", "farmland", "built-up", "industrial", "bare")
SITE_KINDS = ("harbour", "airfield", "parking", "base", "resort", "depot", "quarry", "stadium")
OBJECT_KINDS = ("ship", "plane", "car", "tank", "pool")
MOVING_KINDS = ("ship", "plane", "car")
COLOURS = ("red", "blue", "yellow", "white", "green", "black")
STATES = ("still", "moving")
EVENT_KINDS = ("fire", "flood", "spill", "crater")

NUM_HEADINGS = 16
# Cosine of k * 22.5 degrees, written out: a platform's own cosine may differ in the last bit.
_QUARTER = (1.0, 0.9238795325112867, 0.7071067811865476, 0.3826834323650898)
_HALF = (*_QUARTER, 0.0, *(-cosine for cosine in _QUARTER[::-1]))

Point = tuple[int, int]
Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LandSeed:
    """One cell of the land's Voronoi diagram. `tint` (0-255) and `heading` vary the texture of its cell."""

    x: int
    y: int
    land_use: str
    tint: int
    heading: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Land:
    """The land: seeds, and two square lattices of shifts in dm (rows, columns, (x, y)) that bend the cells' borders."""

    seeds: tuple[LandSeed, ...]
    warp: tuple[tuple[tuple[Point, ...], ...], ...]

    @property
    def uses(self) -> tuple[str, ...]:
        """The land uses present, in the order of LAND_USES."""
        present = {seed.land_use for seed in self.seeds}
        return tuple(use for use in LAND_USES if use in present)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneObject:
    """A small object on a site.

    Attributes:
      object_id: 1, 2, ... over the whole scene.
      x, y: its middle. length: 120-180 dm.
      heading: 0-15, clockwise from "to the right" in steps of 22.5 degrees.
      is_moving: whether a pale trail lies behind it; never for tanks and pools.
    """

    object_id: int
    kind: str
    colour: str
    x: int
    y: int
    length: int
    heading: int
    is_moving: bool

    @property
    def state(self) -> str:
        return STATES[self.is_moving]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """A square pad with its sides along the axes; each kind at most once in a scene.

    Attributes:
      site_id: 1, 2, ...
      half: half its side, 750-1000 dm. mark: which of two ways its inner mark lies.
      land_use: what most of the ring around it is; land_percent: how much of the ring that is.
    """

    site_id: int
    kind: str
    x: int
    y: int
    half: int
    mark: int
    land_use: str
    land_percent: int
    objects: tuple[SceneObject, ...]

    @property
    def box(self) -> Box:
        return square(self.x, self.y, self.half)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """The one thing of a scene that is out of order: a fire, a flood, a spill or a crater on a site."""

    kind: str
    site_id: int
    x: int
    y: int
    radius: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class River:
    points: tuple[Point, ...]
    width: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Road:
    """One road through all sites. site_ids: the order in which it passes them."""

    site_ids: tuple[int, ...]
    points: tuple[Point, ...]
    width: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Building:
    """Scenery: a house or shed, or a court for games. (x, y) is the middle."""

    x: int
    y: int
    width: int
    height: int
    roof: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Marker:
    """A red circle painted into the picture for a question about a place."""

    x: int
    y: int
    radius: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldScene:
    seed: int
    land: Land
    river: River | None
    road: Road
    sites: tuple[Site, ...]
    buildings: tuple[Building, ...]
    event: Event

    @property
    def objects(self) -> tuple[SceneObject, ...]:
        return tuple(obj for site in self.sites for obj in site.objects)


def square(x: int, y: int, half: int) -> Box:
    """Return (left, top, right, bottom) of the square around (x, y), in dm."""
    return x - half, y - half, x + half, y + half


def heading_vector(heading: int) -> tuple[float, float]:
    """Return (cos, sin) of a heading."""
    cos, sin = (
        _HALF[min(turn, NUM_HEADINGS - turn)] for turn in (heading % NUM_HEADINGS, (heading - 4) % NUM_HEADINGS)
    )
    return cos, sin


def canonical_json(content: Any) -> str:
    """Write dataclasses, tuples, whole numbers, strings, booleans and None as the one JSON text of them.

    Raises:
      ValueError: a fraction is among them, whose digits might depend on the machine.
    """

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        if value is None or isinstance(value, str | bool | int):
            return value
        raise ValueError(f"{value!r}: {type(value).__name__} has no canonical JSON; use whole numbers and text")

    return json.dumps(plain(content), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def content_hash(content: Any) -> str:
    """Return the SHA-256 of `canonical_json`, in hexadecimal."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
