"""Answers on the map: what the language model read, and why, as files that map software opens.

    write_map_files(folder, "scene.tif", scene, asked)

  tokens.geojson     every kept token and every row of merged tokens of every question, as polygons: RFC 7946, WGS 84
  tokens.gpkg        the same as GeoPackage, in the picture's own reference system
  importance_S.tif   of the view of S x S pixels, one value a token, a band for every question: cloud-optimised GeoTIFF
  regions_S.tif      the region of every token, -1 for a token that is a region of its own; the margin has no data

Fields of the first two: question_number (from 1), question, scale (S), fate ("kept", "merged"), importance (of a merged
row the mean), region (null for a token that is a region of its own), tokens (how many the polygon holds). Where the
picture has no place on the map they are in pixels of its file, x to the right and y down, and say so.

rasterio is imported where a file is written: a command that answers starts without it.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import shapely

from bat_jax.compress.partition import ALONE
from bat_jax.compress.preserve_merge import Selection
from bat_jax.encoding import SceneData
from bat_jax.io.georeference import Georeference
from bat_jax.io.token_places import TokenPlaces
from bat_jax.io.vector_files import Features, write_geojson, write_geopackage
from bat_jax.report.answer_page import Asked
from bat_jax.report.layers import FATE_NAMES, KEPT, MERGED, token_fate

NO_REGION = -2
_FIELDS = {
    "question_number": np.int32,
    "question": object,
    "scale": np.int32,
    "fate": object,
    "importance": np.float64,
    "region": np.int64,
    "tokens": np.int32,
}
# A raster without an affine place gets so many control points a side.
_CONTROL_POINTS = 8


def coordinates_of(georeference: Georeference, file: str) -> str:
    """Say in words which coordinates a picture's files are in, but for tokens.geojson's WGS 84."""
    if not georeference.is_on_map:
        return f"pixels of {file} (x to the right, y down), which has no place on the map"
    if not georeference.crs:
        return f"map coordinates of {file}, which names no reference system"
    from rasterio.crs import CRS

    crs = CRS.from_wkt(georeference.crs)
    code = crs.to_authority()
    return f"map coordinates of {':'.join(code) if code else crs.to_wkt().split(chr(34))[1]}"


def region_numbers(scene: SceneData, scale: int) -> np.ndarray:
    """Return (M,) the region of every token of a scale, by the label map's label where there is one; ALONE for none."""
    return _by_label(scene, scale, np.asarray(scene.scales[scale].region_id))


def _by_label(scene: SceneData, scale: int, region: np.ndarray) -> np.ndarray:
    labels = scene.region_labels[scale]
    if labels is None or not labels.size:
        return region
    return np.where(region == ALONE, ALONE, labels[region])


def token_polygons(scene: SceneData, asked: Sequence[Asked], image: int = 0) -> Features:
    """Return a polygon for every row that an image gave to the language model, question by question, scale by scale.

    They are in map coordinates, the fields those of the module.

    Args:
      image: which of the images that were asked about together the scene is.
    """
    shapes, rows = [], []
    for number, item in enumerate(asked, 1):
        for scale, selection in enumerate(item.answer.selections[image]):
            of_scale = list(_rows(scene, scale, jax.tree.map(np.asarray, selection)))
            on_grid = np.array([shape for shape, _ in of_scale], object)
            shapes.append(shapely.transform(on_grid, scene.token_places[scale].to_map))
            about = {"question_number": number, "question": item.ask.prompt, "scale": scene.scales_px[scale]}
            rows += [about | fields for _, fields in of_scale]
    fields = {name: np.array([row[name] for row in rows], kind) for name, kind in _FIELDS.items()}
    return Features(np.concatenate(shapes), fields, {"region": fields["region"] == ALONE})


def _rows(scene: SceneData, scale: int, selection: Selection) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the shape, in grid coordinates, and the fields of every row of a scale."""
    tokens = scene.scales[scale]
    group = np.asarray(tokens.region_id) if selection.group is None else selection.group
    is_merged = token_fate(tokens, selection).fate == MERGED
    x, y = scene.token_places[scale].corners().T
    boxes = shapely.box(x, y, x + 1, y + 1)
    for row in np.flatnonzero(selection.mask):
        index, region = int(selection.keep_index[row]), int(selection.region[row])
        if index >= 0:
            fate, shape, count = KEPT, boxes[index], 1
        else:
            members = is_merged & (group == region)
            fate, shape, count = MERGED, shapely.coverage_union_all(boxes[members]), int(members.sum())
        if selection.group is None:
            region = int(_by_label(scene, scale, np.array(region)))
        importance = float(selection.importance[row])
        yield shape, {"fate": FATE_NAMES[fate], "importance": importance, "region": region, "tokens": count}


def write_map_files(
    folder: pathlib.Path, file: str, scene: SceneData, asked: Sequence[Asked], *, image: int = 0, suffix: str = ""
) -> None:
    """Write a picture's files into a folder; see the module.

    Args:
      file: the picture's name. image, suffix: which of several pictures it is, and what its files' names end in.
    """
    asked = [item for item in asked if image < len(item.answer.selections)]  # the release uses the first image only
    words = coordinates_of(scene.georeference, file)
    if asked:
        polygons = token_polygons(scene, asked, image)
        write_geojson(folder / f"tokens{suffix}.geojson", "tokens", polygons, scene.georeference, words)
        write_geopackage(folder / f"tokens{suffix}.gpkg", "tokens", polygons, scene.georeference.crs, words)
    for scale, (size, places) in enumerate(zip(scene.scales_px, scene.token_places, strict=True)):
        valid = np.asarray(scene.scales[scale].valid)
        regions = np.where(valid, region_numbers(scene, scale), NO_REGION).astype(np.int32)
        _write_raster(folder / f"regions{suffix}_{size}.tif", [regions], NO_REGION, places, words, ["region"])
        if asked:
            layers = [np.where(valid, item.answer.importance[image][scale], np.nan) for item in asked]
            names = [item.ask.prompt for item in asked]
            _write_raster(folder / f"importance{suffix}_{size}.tif", layers, np.nan, places, words, names)


def _write_raster(
    path: pathlib.Path,
    layers: Sequence[np.ndarray],
    nodata: float | int,
    places: TokenPlaces,
    words: str,
    names: Sequence[str],
) -> None:
    """Write layers of tile-major tokens as the bands of a raster on the view's grid of tokens."""
    import rasterio

    side, crs = places.grid.full_side, places.georeference.crs or None
    affine = places.to_map_affine
    place = {} if affine is None else {"transform": affine, "crs": crs}
    dtype = "int32" if np.issubdtype(layers[0].dtype, np.integer) else "float32"
    shape = {"width": side, "height": side, "count": len(layers), "dtype": dtype, "nodata": nodata}
    with rasterio.open(path, "w", driver="COG", compress="DEFLATE", **shape, **place) as raster:
        if affine is None:
            raster.gcps = (_control_points(places), rasterio.CRS.from_wkt(crs) if crs else None)
        raster.update_tags(COORDINATES=words)
        for band, (layer, name) in enumerate(zip(layers, names, strict=True), 1):
            raster.write(places.grid.to_grid(layer).astype(dtype), band)
            raster.set_band_description(band, name)


def _control_points(places: TokenPlaces) -> list[Any]:
    from rasterio.control import GroundControlPoint

    ends = np.linspace(0, places.grid.full_side, _CONTROL_POINTS)
    grid = np.stack(np.meshgrid(ends, ends), axis=-1).reshape(-1, 2)
    on_map = places.to_map(grid)
    return [GroundControlPoint(row=y, col=x, x=e, y=n) for (x, y), (e, n) in zip(grid, on_map, strict=True)]
