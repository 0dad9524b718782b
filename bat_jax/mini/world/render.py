"""Paint a scene at any size from 224 to 16,384 pixels a side.

The ground (land, textures) is painted once at 1344 pixels and enlarged; roads, river, sites, objects and buildings are
painted on it at the wanted resolution; a fine grain lies over all. Large pictures are painted in strips of rows, so the
memory beyond the result is small. Pictures below 1344 are painted at the next multiple of their size and averaged, so a
pixel of the 224 view is what a camera would see there.

On one machine with one version of Pillow and NumPy the pixels are the same at every call. Across machines they may
differ by a level or so here and there (sines, cosines, resampling), so pictures are compared by `render_signature` with
a tolerance of one level. Scene parameters and questions are exact on every machine (`content_hash`).
"""

import functools

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from bat_jax.mini.world.layout import land_use_grid, land_use_number, seed_grid
from bat_jax.mini.world.shapes import (
    Canvas,
    Colour,
    Shape,
    building_shapes,
    event_shapes,
    line,
    marker_shapes,
    object_shapes,
    site_shapes,
)
from bat_jax.mini.world.world import SIDE_DM, Marker, WorldScene, heading_vector

MIN_SIDE_PX, MAX_SIDE_PX = 224, 16_384
NATIVE_PX = 1344
_GROUND_PX = NATIVE_PX // 2
_STRIP_ROWS = 1024
_GRAIN_STD = 2.5

LAND_RGB: dict[str, Colour] = {
    "water": (44, 80, 114),
    "forest": (46, 78, 46),
    "farmland": (142, 138, 80),
    "built-up": (136, 128, 122),
    "industrial": (108, 112, 124),
    "bare": (186, 160, 122),
}
# How strongly the noise field shows, in levels (standard deviation).
_ROUGHNESS = {"water": 4, "forest": 15, "farmland": 7, "built-up": 9, "industrial": 6, "bare": 10}
_SHORE = (196, 178, 140)
_ROAD: Colour = (66, 64, 64)
_ROAD_EDGE: Colour = (204, 200, 186)


def render(scene: WorldScene, side: int, marker: Marker | None = None) -> np.ndarray:
    """Return the picture of a scene as (side, side, 3) uint8, with a question's red circle over it if there is one.

    Raises:
      ValueError: the side is not 224 to 16,384.
    """
    if not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
        raise ValueError(f"side={side}: a scene is rendered at {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels a side")
    native = side * -(-NATIVE_PX // side)
    ground = Image.fromarray(_paint_ground(scene))
    shapes = _shapes(scene, marker)
    out = np.empty((native, native, 3), np.uint8)
    for top in range(0, native, _STRIP_ROWS):
        rows = min(_STRIP_ROWS, native - top)
        out[top : top + rows] = _paint_strip(ground, shapes, native, top, rows)
    if native == side:
        return out
    return np.asarray(Image.fromarray(out).reduce(native // side))


def render_signature(scene: WorldScene) -> str:
    """Return the picture's mean levels over 8 x 8 squares of its 224-pixel view, in hexadecimal (384 digits).

    Squares, row by row; red, green and blue of each, two digits. Compare with `signature_distance`.
    """
    picture = render(scene, MIN_SIDE_PX).astype(np.int64)
    size = MIN_SIDE_PX // 8
    sums = picture.reshape(8, size, 8, size, 3).sum(axis=(1, 3))
    return ((2 * sums + size**2) // (2 * size**2)).astype(np.uint8).tobytes().hex()


def signature_distance(a: str, b: str) -> int:
    """Return by how many levels two signatures differ at most; machines that render alike differ by 0 or 1.

    Raises:
      ValueError: they are not signatures of the same length.
    """
    if len(a) != len(b):
        raise ValueError(f"signatures have {len(a)} and {len(b)} digits")
    left, right = (np.frombuffer(bytes.fromhex(text), np.uint8).astype(int) for text in (a, b))
    return int(np.abs(left - right).max())


def _shapes(scene: WorldScene, marker: Marker | None) -> list[Shape]:
    """Everything with an outline, bottom first."""
    shapes: list[Shape] = []
    for building in scene.buildings:
        shapes += building_shapes(building)
    shapes += [Shape(part, _ROAD_EDGE) for part in line(scene.road.points, scene.road.width + 70)]
    shapes += [Shape(part, _ROAD) for part in line(scene.road.points, scene.road.width)]
    for site in scene.sites:
        shapes += site_shapes(site)
    shapes += event_shapes(scene.event)
    for obj in scene.objects:
        shapes += object_shapes(obj)
    return shapes + (marker_shapes(marker) if marker is not None else [])


def _paint_strip(ground: Image.Image, shapes: list[Shape], side: int, top: int, rows: int) -> np.ndarray:
    if side == NATIVE_PX:
        image = ground.crop((0, top, side, top + rows))
    else:
        box = (0, top * NATIVE_PX / side, NATIVE_PX, (top + rows) * NATIVE_PX / side)
        image = ground.resize((side, rows), Image.Resampling.BICUBIC, box=box)
    canvas = Canvas(side, top, rows, image)
    canvas.paint(shapes)
    grain = _grain()
    size = len(grain)
    lines = np.take(grain, np.arange(top, top + rows) % size, axis=0)
    tiled = np.tile(lines, (1, -(-side // size)))[:, :side, None]
    pixels = np.asarray(canvas.image).astype(np.int16)
    pixels += tiled
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def _paint_ground(scene: WorldScene) -> np.ndarray:
    """Return the land with its textures, (1344, 1344, 3) uint8."""
    cell = seed_grid(scene.land, _GROUND_PX)
    colours = np.empty((len(scene.land.seeds), 3), np.float32)
    rough = np.empty(len(scene.land.seeds), np.float32)
    for i, seed in enumerate(scene.land.seeds):
        tint = (seed.tint - 128) / 128
        colours[i] = np.array(LAND_RGB[seed.land_use], np.float32) * (1 + 0.07 * tint)
        rough[i] = _ROUGHNESS[seed.land_use] * (1 + 0.3 * tint)
    shade = np.zeros(cell.shape, np.float32)
    for i, seed in enumerate(scene.land.seeds):
        if seed.land_use in ("farmland", "built-up", "industrial", "bare"):
            inside = cell == i
            shade[inside] = _pattern(seed.land_use, seed.heading, seed.tint)[inside]
    colours, rough = colours[cell] + shade[..., None], rough[cell]
    is_water = land_use_grid(scene.land, scene.river, _GROUND_PX) == land_use_number("water")
    is_shore = ndimage.binary_dilation(is_water, iterations=3) & ~is_water
    for mask, name in ((is_water, "water"), (is_shore, "bare")):
        rough[mask] = _ROUGHNESS[name]
        colours[mask] = LAND_RGB[name] if name == "water" else _SHORE
    small = np.clip(colours, 0, 255).astype(np.uint8)
    # Softened by a fraction of a point, so that shores enlarge without steps.
    large = Image.fromarray(small).filter(ImageFilter.GaussianBlur(0.8))
    large = large.resize((NATIVE_PX, NATIVE_PX), Image.Resampling.BICUBIC)
    strength = Image.fromarray(rough).resize((NATIVE_PX, NATIVE_PX), Image.Resampling.BILINEAR)
    # The noise field is rolled by the seed, so that no two scenes near each other show the same stretch of it.
    shift = (scene.seed * 389 % NATIVE_PX, scene.seed * 577 % NATIVE_PX)
    noise = np.roll(_noise_field(), shift, (0, 1))
    painted = np.asarray(large, np.float32)
    painted = painted + (noise * np.asarray(strength))[..., None]
    return np.clip(painted, 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def _pattern(land_use: str, heading: int, tint: int) -> np.ndarray:
    """Return what people and wind did to the ground, in levels: fields and furrows, streets, slabs, ripples."""
    middles = (np.arange(_GROUND_PX, dtype=np.float32) + 0.5) * (SIDE_DM / _GROUND_PX)
    cos, sin = heading_vector(heading)
    if land_use in ("built-up", "industrial"):
        cos, sin = (1.0, 0.0)
    u = middles[None, :] * cos + middles[:, None] * sin
    v = middles[:, None] * cos - middles[None, :] * sin
    if land_use == "farmland":
        column, row = np.floor(u / (900 + 3 * tint)).astype(np.int64), np.floor(v / 700).astype(np.int64)
        field = ((column * 7919 + row * 104729) % 97).astype(np.float32) / 97 - 0.5
        furrows = np.sin(np.where((column + row) % 2, u, v) * (2 * np.pi / 160))
        return 34 * field + 7 * furrows
    if land_use == "built-up":
        return np.where((u % 1120 < 110) | (v % 1120 < 110), -26, 0).astype(np.float32)
    if land_use == "industrial":
        return np.where((u % 1680 < 140) | (v % 1680 < 140), 18, 0).astype(np.float32)
    return 6 * np.sin(u * (2 * np.pi / 420) + 1.5 * np.sin(v * (2 * np.pi / 2600)))


@functools.cache
def _noise_field() -> np.ndarray:
    """Return noise of many sizes (2 to 168 m) that continues over its edges: (1344, 1344) float32, mean 0, std 1."""
    rng = np.random.Generator(np.random.PCG64(20_260_413))
    field = np.zeros((NATIVE_PX, NATIVE_PX), np.float32)
    for cell, weight in ((168, 1.0), (56, 0.8), (21, 0.8), (7, 0.8), (2, 0.5)):
        num = NATIVE_PX // cell
        values = rng.uniform(-1, 1, (num, num)).astype(np.float32)
        # One more period around, so that the enlarged middle joins itself.
        border = min(num, 4)
        padded = np.pad(values, border, mode="wrap")
        large = Image.fromarray(padded).resize((len(padded) * cell,) * 2, Image.Resampling.BICUBIC)
        start = border * cell
        field += weight * np.asarray(large)[start : start + NATIVE_PX, start : start + NATIVE_PX]
    field -= field.mean()
    return field / field.std()


@functools.cache
def _grain() -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(20_260_414))
    return np.rint(rng.normal(0, _GRAIN_STD, (509, 509))).astype(np.int16)
