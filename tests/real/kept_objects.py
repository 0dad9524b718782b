"""How many labelled objects of a picture a selection leaves to the language model.

    python -m tests.real.kept_objects PICTURE OBJECTS

prints, for the small checkpoint's finest view, the share of objects that at least one kept token touches: tokens in
even rows and columns, the best by random scores, and UHR-BAT's rule over K-means regions with the same scores. OBJECTS
are boxes as Pascal VOC (.xml) or CSV with xmin, ymin, xmax, ymax, or a layer (GeoJSON, GeoPackage) in the picture's
reference system, of which the boxes around the polygons count.
"""

import csv
import dataclasses
import pathlib
import sys
import xml.etree.ElementTree as ET

import jax.numpy as jnp
import numpy as np
import pyogrio

from bat_jax.compress.compressor import ScaleTokens, select
from bat_jax.config import BatConfig
from bat_jax.encoding import SceneData
from bat_jax.io.georeference import Georeference
from bat_jax.io.token_places import TokenPlaces
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.pipeline import BatModel

SHARES = (0.05, 0.1, 0.25)
DRAWS = 20
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def read_boxes(path: pathlib.Path, georeference: Georeference) -> np.ndarray:
    """Return (N, 4) xmin, ymin, xmax, ymax of the objects in pixels of the picture."""
    if path.suffix == ".xml":
        found = ET.parse(path).getroot().iter("bndbox")
        return np.array([[float(box.findtext(side, "")) for side in _SIDES] for box in found])
    if path.suffix == ".csv":
        with path.open() as file:
            return np.array([[float(row[side]) for side in _SIDES] for row in csv.DictReader(file)])
    _, bounds = pyogrio.read_bounds(path)
    corners = [georeference.from_map(np.stack(pair, axis=1)) for pair in (bounds[:2], bounds[2:])]
    return np.concatenate([np.minimum(*corners), np.maximum(*corners)], axis=1)


def share_touched(boxes: np.ndarray, places: TokenPlaces, kept: np.ndarray) -> float:
    """Return the share of boxes that kept tokens of a view, indices, touch."""
    is_kept = np.zeros(places.grid.num_tokens, bool)
    is_kept[kept] = True
    is_kept = places.grid.to_grid(is_kept)
    to_grid = ~places.to_picture
    touched = []
    for xmin, ymin, xmax, ymax in boxes:
        (left, top), (right, bottom) = to_grid @ (xmin, ymin), to_grid @ (xmax, ymax)
        rows = slice(max(0, int(np.floor(top))), int(np.ceil(bottom)))
        cols = slice(max(0, int(np.floor(left))), int(np.ceil(right)))
        touched.append(is_kept[rows, cols].any())
    return float(np.mean(touched))


def spread_evenly(grid: TokenGrid, valid: np.ndarray, count: int) -> np.ndarray:
    """Return about `count` tokens of a view in even rows and columns over what has data, less those without data."""
    rows, cols = np.nonzero(grid.to_grid(valid))
    tall, wide = rows.max() + 1 - rows.min(), cols.max() + 1 - cols.min()
    down = round(np.sqrt(count * tall / wide))
    across = round(count / down)
    row = (rows.min() + (np.arange(down) + 0.5) * tall / down).astype(int)
    col = (cols.min() + (np.arange(across) + 0.5) * wide / across).astype(int)
    tokens = grid.to_grid(np.arange(grid.num_tokens))[row[:, None], col].reshape(-1)
    return tokens[valid[tokens]]


def selected(cfg: BatConfig, scene: SceneData, scores: np.ndarray, selection: str, count: int) -> np.ndarray:
    """Return the tokens of the finest view that a selection keeps as they are, by scores of its own tokens."""
    spec = dataclasses.replace(cfg.compressor.scales[-1], budget=count)
    settings = dataclasses.replace(cfg.compressor, selection=selection, scales=(spec,))
    scale = scene.scales[-1]
    tokens = ScaleTokens(scale.tokens, scale.region_id, scale.valid)
    capacity, grid = scene.region_capacity[-1], scene.token_places[-1].grid
    (chosen,) = select(settings, (grid,), (capacity,), (tokens,), jnp.asarray(scores), jnp.array([count]))
    index = np.asarray(chosen.keep_index)[np.asarray(chosen.mask)]
    return index[index >= 0]


def main(picture: str, objects: str) -> None:
    cfg = BatModel.read_config("uhr-bat-mini").with_settings("paper")
    model = BatModel.load("uhr-bat-mini", cfg=cfg)
    scene = model.encode(picture)
    boxes = read_boxes(pathlib.Path(objects), scene.georeference)
    places, valid = scene.token_places[-1], np.asarray(scene.scales[-1].valid)
    print(f"{picture}: {scene.image_size[0]} x {scene.image_size[1]} pixels; {scene.note or 'as it is'}")
    num_valid = int(valid.sum())
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) / places.to_picture.a
    print(f"{len(boxes)} objects, median side {np.median(sides):.2f} tokens; {num_valid} tokens with data")
    random = np.random.default_rng(0)
    draws = random.random((DRAWS, places.grid.num_tokens)).astype(np.float32)
    for share in SHARES:
        count = round(share * num_valid)
        even = spread_evenly(places.grid, valid, count)
        line = [f"{count} tokens ({share:.0%}): even {share_touched(boxes, places, even):.1%} ({len(even)} alone)"]
        for selection in ("topk", "uhr_bat"):
            kept = [selected(cfg, scene, scores, selection, count) for scores in draws]
            found = [share_touched(boxes, places, tokens) for tokens in kept]
            mean_rows = np.mean([len(tokens) for tokens in kept])
            line.append(
                f"{selection} {np.mean(found):.1%} ({min(found):.1%} to {max(found):.1%}, {mean_rows:.0f} alone)"
            )
        print("; ".join(line))


if __name__ == "__main__":
    main(*sys.argv[1:])
