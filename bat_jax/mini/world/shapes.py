"""Paint anti-aliased shapes given in decimetres, at any resolution, and say what each thing of a scene looks like.

Everything is a polygon. A polygon is rasterised in its own small window at 8, 4 or 2 times the resolution and averaged,
so the memory is the window's. A canvas may be a strip of the picture: shapes outside it cost next to nothing.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from bat_jax.mini.world.world import SIDE_DM, Building, Event, Marker, SceneObject, Site, heading_vector

Number = int | float
Polygon = Sequence[tuple[Number, Number]]
Colour = tuple[int, int, int]

OBJECT_RGB: dict[str, Colour] = {
    "red": (206, 36, 36),
    "blue": (38, 66, 214),
    "yellow": (238, 212, 40),
    "white": (244, 244, 244),
    "green": (30, 160, 56),
    "black": (22, 22, 24),
}
SITE_RGB: dict[str, Colour] = {
    "harbour": (66, 112, 124),
    "airfield": (130, 134, 136),
    "parking": (92, 88, 98),
    "base": (112, 116, 72),
    "resort": (190, 148, 124),
    "depot": (150, 98, 70),
    "quarry": (164, 152, 144),
    "stadium": (124, 98, 146),
}
ROOF_RGB: dict[str, Colour] = {
    "brick": (146, 92, 78),
    "slate": (88, 92, 100),
    "tin": (164, 170, 176),
    "tan": (176, 154, 124),
    "court": (84, 126, 118),
}
EVENT_RGB: dict[str, Colour] = {
    "fire": (250, 120, 20),
    "flood": (90, 160, 200),
    "spill": (70, 30, 80),
    "crater": (92, 66, 44),
}
MARKER_RGB: Colour = (255, 0, 0)
MARKER_WIDTH_DM = 90
_TRAIL: Colour = (236, 240, 236)


class Shape(NamedTuple):
    polygon: Polygon
    colour: Colour
    alpha: int = 255


class Canvas:
    """Rows `top` to `top + height` of a picture of the world that is `side` pixels wide and high."""

    def __init__(self, side: int, top: int = 0, height: int | None = None, image: Image.Image | None = None):
        self.side, self.top = side, top
        self.height = side if height is None else height
        self.image = image if image is not None else Image.new("RGB", (side, self.height))

    def paint(self, shapes: Sequence[Shape]) -> None:
        for shape in shapes:
            window = self.coverage(shape.polygon)
            if window is not None:
                left, top, mask = window
                if shape.alpha < 255:
                    mask = mask.point([value * shape.alpha // 255 for value in range(256)])
                self.image.paste(shape.colour, (left, top), mask)

    def coverage(self, polygon: Polygon) -> tuple[int, int, Image.Image] | None:
        """Return (left, top, mask): how much of each pixel the polygon covers, 0-255; None if it lies outside."""
        per_dm = self.side / SIDE_DM
        xs, ys = [x * per_dm for x, _ in polygon], [y * per_dm - self.top for _, y in polygon]
        left, top = max(int(min(xs) // 1), 0), max(int(min(ys) // 1), 0)
        right, bottom = min(int(max(xs) // 1) + 1, self.side), min(int(max(ys) // 1) + 1, self.height)
        if left >= right or top >= bottom:
            return None
        width, height = right - left, bottom - top
        # By the whole shape, not by the window: a shape cut by a strip keeps its fineness.
        area = (max(xs) - min(xs)) * (max(ys) - min(ys))
        fine = 8 if area <= 32 * 32 else 4 if area <= 128 * 128 else 2
        mask = Image.new("L", (width * fine, height * fine))
        points = [((x - left) * fine - 0.5, (y - top) * fine - 0.5) for x, y in zip(xs, ys, strict=True)]
        ImageDraw.Draw(mask).polygon(points, fill=255)
        return left, top, mask.reduce(fine)


def disc(x: Number, y: Number, radius: Number, corners: int = 24) -> Polygon:
    """Return a regular polygon with the area of about a circle."""
    angles = np.arange(corners) * (2 * np.pi / corners)
    return list(zip(x + 1.01 * radius * np.cos(angles), y + 1.01 * radius * np.sin(angles), strict=True))


def rectangle(left: Number, top: Number, right: Number, bottom: Number) -> Polygon:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def line(points: Polygon, width: Number) -> Iterator[Polygon]:
    """Yield a broad polyline as one quadrilateral a stretch and one disc a joint."""
    for (ax, ay), (bx, by) in itertools.pairwise(points):
        length = ((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5
        nx, ny = (by - ay) / length * width / 2, (ax - bx) / length * width / 2
        yield [(ax + nx, ay + ny), (bx + nx, by + ny), (bx - nx, by - ny), (ax - nx, ay - ny)]
    for x, y in points[1:-1]:
        yield disc(x, y, width / 2, 32)


def _placed(polygon: Polygon, obj: SceneObject) -> Polygon:
    """Turn a polygon in units of the object's length, x forward, into the world's decimetres."""
    cos, sin = heading_vector(obj.heading)
    size = obj.length
    return [(obj.x + size * (u * cos - v * sin), obj.y + size * (u * sin + v * cos)) for u, v in polygon]


_SHIP = [(0.5, 0.0), (0.28, 0.19), (-0.5, 0.19), (-0.5, -0.19), (0.28, -0.19)]
_PLANE = [
    *((0.5, 0.0), (0.42, 0.09), (0.16, 0.09), (-0.06, 0.48), (-0.2, 0.48), (-0.1, 0.09), (-0.36, 0.08), (-0.5, 0.24)),
    *((-0.5, -0.24), (-0.36, -0.08), (-0.1, -0.09), (-0.2, -0.48), (-0.06, -0.48), (0.16, -0.09), (0.42, -0.09)),
]
_WAKE = [(-0.6, 0.08), (-1.55, 0.26), (-1.55, -0.26), (-0.6, -0.08)]


def object_body(obj: SceneObject) -> Polygon:
    """Return the outline of an object's own pixels: neither trail nor apron."""
    bodies = {
        "ship": _SHIP,
        "plane": _PLANE,
        "car": rectangle(-0.5, -0.27, 0.5, 0.27),
        "tank": disc(0, 0, 0.44),
        "pool": rectangle(-0.5, -0.36, 0.5, 0.36),
    }
    return _placed(bodies[obj.kind], obj)


def object_shapes(obj: SceneObject) -> list[Shape]:
    """Return what an object looks like from above, bottom first.

    Each kind carries a second tone that shows its kind where the outline is no more than two tokens: ships a pale cyan
    stern deck, planes an orange apron below, cars a dark window (pale on black cars), tanks a violet lid, pools a broad
    sandy rim. A moving object has a pale trail behind it, the same for all kinds.
    """
    colour = OBJECT_RGB[obj.colour]
    shapes = [Shape(_placed(_WAKE, obj), _TRAIL, 215)] if obj.is_moving else []
    body = Shape(object_body(obj), colour)
    if obj.kind == "ship":
        shapes += [body, Shape(_placed(rectangle(-0.46, -0.16, -0.18, 0.16), obj), (140, 236, 236))]
    elif obj.kind == "plane":
        shapes += [Shape(_placed(disc(-0.05, 0, 0.47), obj), (240, 140, 40)), body]
    elif obj.kind == "car":
        window = (168, 176, 188) if obj.colour == "black" else (28, 28, 34)
        shapes += [body, Shape(_placed(rectangle(0.02, -0.21, 0.26, 0.21), obj), window)]
    elif obj.kind == "tank":
        shapes += [body, Shape(_placed(disc(0, 0, 0.2), obj), (150, 50, 210))]
    else:
        water = Shape(_placed(rectangle(-0.38, -0.24, 0.38, 0.24), obj), colour)
        shapes += [Shape(body.polygon, (226, 206, 158)), water]
    return shapes


def site_shapes(site: Site) -> list[Shape]:
    """Return the pad and the inner mark of a site."""
    x, y, half = site.x, site.y, site.half
    pad = SITE_RGB[site.kind]
    shapes = [Shape(rectangle(*site.box), pad)]

    def box(left: Number, top: Number, right: Number, bottom: Number, colour: Colour) -> Shape:
        """In halves of the pad, -1 to 1, turned by a quarter where the mark lies the other way."""
        if site.mark:
            left, top, right, bottom = top, left, bottom, right
        return Shape(rectangle(x + left * half, y + top * half, x + right * half, y + bottom * half), colour)

    def ring(u: Number, v: Number, radius: Number, colour: Colour) -> Shape:
        return Shape(disc(x + u * half, y + v * half, radius * half, 96), colour)

    if site.kind == "harbour":
        pier = (150, 146, 132)
        shapes += [box(-1, -1, 1, -0.76, pier), *(box(u, -0.8, u + 0.12, 0.6, pier) for u in (-0.72, -0.06, 0.6))]
    elif site.kind == "airfield":
        shapes += [box(-0.96, -0.2, 0.96, 0.2, (64, 64, 70))]
        shapes += [box(u, -0.03, u + 0.14, 0.03, (216, 216, 210)) for u in (-0.85, -0.5, -0.15, 0.2, 0.55)]
    elif site.kind == "parking":
        stalls = [-0.88 + 0.176 * i for i in range(11)]
        shapes += [box(u, v, u + 0.03, v + 0.42, (158, 156, 160)) for v in (-0.9, -0.21, 0.48) for u in stalls]
    elif site.kind == "base":
        wall = (62, 68, 40)
        shapes += [box(-0.92, -0.92, 0.92, 0.92, wall), box(-0.8, -0.8, 0.8, 0.8, pad)]
        shapes += [box(-0.8, -0.06, 0.8, 0.06, (146, 144, 104)), box(-0.06, -0.8, 0.06, 0.8, (146, 144, 104))]
    elif site.kind == "resort":
        shapes += [ring(0, 0, 0.62, (206, 112, 112)), ring(0, 0, 0.4, pad)]
    elif site.kind == "depot":
        shapes += [ring(u, v, 0.15, (98, 62, 46)) for u in (-0.66, 0, 0.66) for v in (-0.66, 0, 0.66)]
    elif site.kind == "quarry":
        shapes += [ring(0.04, 0, 0.86, (134, 120, 112)), ring(0.1, 0.06, 0.6, (104, 92, 86))]
        shapes += [ring(0.16, 0.1, 0.32, (80, 70, 66))]
    else:
        shapes += [box(-0.86, -0.62, 0.86, 0.62, (176, 104, 84)), box(-0.66, -0.42, 0.66, 0.42, (108, 130, 104))]
    return shapes


def event_shapes(event: Event) -> list[Shape]:
    """Return the mark of an event: some 24 m wide, two tones each."""
    x, y, r = event.x, event.y, event.radius
    colour = EVENT_RGB[event.kind]
    if event.kind == "fire":
        plume = [Shape(disc(x + r * 0.7 * k, y - r * 0.8 * k, r * (0.6 + 0.2 * k)), (60, 58, 58), 190) for k in (1, 2)]
        return [*plume, Shape(disc(x, y, r * 0.75), colour), Shape(disc(x, y, r * 0.35), (255, 226, 90))]
    if event.kind == "crater":
        return [Shape(disc(x, y, 1.1 * r), (206, 178, 140)), Shape(disc(x, y, 0.75 * r), colour)]
    if event.kind == "flood":
        pools, middle = [(0, 0, 1.0), (0.9, 0.4, 0.7), (-0.8, 0.5, 0.6)], Shape(disc(x, y, 0.5 * r), (176, 222, 240))
    else:
        pools = [(0, 0, 0.9), (0.8, -0.6, 0.5), (-0.7, -0.7, 0.45), (-0.3, 0.9, 0.45)]
        middle = Shape(disc(x, y, 0.35 * r), (190, 90, 200))
    return [*(Shape(disc(x + u * r, y + v * r, s * r), colour) for u, v, s in pools), middle]


def building_shapes(building: Building) -> list[Shape]:
    """Return a roof with its shadow, or a court with its middle line."""
    x, y, half_w, half_h = building.x, building.y, building.width / 2, building.height / 2
    roof = Shape(rectangle(x - half_w, y - half_h, x + half_w, y + half_h), ROOF_RGB[building.roof])
    if building.roof == "court":
        return [roof, Shape(rectangle(x - 5, y - half_h, x + 5, y + half_h), (206, 210, 204))]
    shadow = rectangle(x - half_w + 30, y - half_h + 30, x + half_w + 30, y + half_h + 30)
    darker = (roof.colour[0] * 7 // 8, roof.colour[1] * 7 // 8, roof.colour[2] * 7 // 8)
    return [Shape(shadow, (40, 42, 46), 150), roof, Shape(rectangle(x - half_w, y, x + half_w, y + half_h), darker)]


def marker_shapes(marker: Marker) -> list[Shape]:
    """Return a red ring; it is drawn as a band of quadrilaterals, so that its inside stays untouched."""
    outer = list(disc(marker.x, marker.y, marker.radius, 96))
    inner = list(disc(marker.x, marker.y, marker.radius - MARKER_WIDTH_DM, 96))
    return [Shape([outer[i - 1], outer[i], inner[i], inner[i - 1]], MARKER_RGB) for i in range(len(outer))]
