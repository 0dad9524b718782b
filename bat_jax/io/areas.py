"""Areas of interest: from a box or polygons on the map to the window of a file that is read; and a window's cells.

area = read_area("fields.geojson")
window, polygon = area.in_file("scene.tif")
source = outside_as_nodata(read_image("scene.tif", window=window), polygon)

rasterio is imported where an area is on the map: most pictures are asked whole.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from bat_jax.io.bands import MIN_SIDE, ImageError, Size, Window
from bat_jax.io.georeference import WGS84, Georeference
from bat_jax.io.images import file_place
from bat_jax.text_files import decode

# Straight lines of one reference system are bent in another: so many points a side of the smaller of area and picture.
_POINTS_A_SIDE = 32
# A border of an area that is this near to a pixel's is the pixel's.
_PIXEL_SLACK = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Area:
    """A part of the map.

    Attributes:
      name: what messages call it, such as the flag that gave it.
      shape: shapely's polygon or polygons. crs: rasterio's, of its coordinates, x before y.
    """

    name: str
    shape: Any
    crs: Any

    def in_file(self, path: str | os.PathLike, page: int = 1) -> tuple[Window, Any]:
        """Return the smallest window of a file that holds the area's part of it, and that part, in the file's pixels.

        Raises:
          ImageError: the file has no place on the map, the area lies outside, or the file cannot be read.
        """
        from rasterio.crs import CRS

        size, place = file_place(path, page)
        if not place.is_on_map or not place.crs:
            what = "names no reference system" if place.is_on_map else "has no place on the map"
            raise ImageError(f"{self.name}: {path} {what}; cut it with --window=COL,ROW,WIDTH,HEIGHT")
        crs = CRS.from_wkt(place.crs)
        # The file's own outline in the area's system first: further out a projection may have no coordinates.
        outline = _projected(_moved(_dense(shapely.box(0, 0, *size)), place.to_map), crs, self.crs)
        shared = shapely.intersection(shapely.make_valid(outline), self.shape)
        if shared.area == 0:
            raise ImageError(f"{self.name}: lies outside of {path}, whose bounds there are {_bounds(outline)}")
        in_file = _moved(_projected(_dense(shared), self.crs, crs), place.from_map)
        return _window(in_file.bounds, size), in_file


def box_area(corners: Iterable[float | int], crs: str = WGS84, name: str = "--bbox") -> Area:
    """Return the area between west, south, east and north.

    Raises:
      ValueError: they are not four numbers in that order, or the reference system is unknown.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    corners = tuple(map(float, corners))
    text = ",".join(f"{corner:.12g}" for corner in corners)
    if len(corners) != 4 or not all(map(math.isfinite, corners)):
        raise ValueError(f"{name}={text}: want four numbers, west, south, east, north")
    west, south, east, north = corners
    if not (west < east and south < north):
        raise ValueError(f"{name}={text}: want west, south, east, north, with west < east and south < north")
    try:
        system = CRS.from_user_input(crs)
    except CRSError:
        raise ValueError(f"{name}_crs={crs}: is no reference system; give one as EPSG:32617") from None
    _check_on_earth(f"{name}={text}", corners, system)
    return Area(name=f"{name}={text}", shape=shapely.box(west, south, east, north), crs=system)


def read_area(path: str | os.PathLike, name: str = "--aoi") -> Area:
    """Read polygons of a GeoJSON file as one area; longitudes and latitudes unless it names another system.

    Raises:
      ValueError: the file is no GeoJSON, holds no polygon or a broken one, or its coordinates are not on the earth.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    name = f"{name}={path}"
    text = decode(Path(path).read_bytes(), name)
    try:
        content = json.loads(text)
        shapes = shapely.get_parts(shapely.from_geojson(text))
    except (ValueError, shapely.errors.GEOSException):
        raise ValueError(f"{name}: is no GeoJSON") from None
    polygons = [shape for shape in _flat(shapes) if shape.geom_type == "Polygon" and not shape.is_empty]
    if not polygons:
        raise ValueError(f"{name}: holds no polygon")
    for polygon in polygons:
        if not polygon.is_valid:
            raise ValueError(f"{name}: a polygon is broken ({shapely.is_valid_reason(polygon)})")
    area = shapely.union_all(polygons)
    system = CRS.from_string(WGS84)
    if content.get("crs"):  # of GeoJSON before RFC 7946
        try:
            system = CRS.from_user_input(content["crs"]["properties"]["name"])
        except (CRSError, LookupError, TypeError):
            raise ValueError(f"{name}: its crs {content['crs']!r} is no reference system") from None
    _check_on_earth(name, area.bounds, system)
    return Area(name=name, shape=area, crs=system)


def cells(window: Window, rows: int, cols: int, overlap: float) -> tuple[Window, ...]:
    """Cut a window into rows and columns of equal cells that share a border, row by row; together they cover it.

    Args:
      overlap: of neighbours, as a share of a cell's side if below 1, else in pixels.

    Raises:
      ValueError: a cell would have fewer than two pixels a side, or be no larger than the overlap.
    """
    col, row, width, height = window
    across, down = _spans(width, cols, overlap), _spans(height, rows, overlap)
    return tuple((col + x, row + y, w, h) for y, h in down for x, w in across)


def _spans(length: int, count: int, overlap: float) -> list[tuple[int, int]]:
    """Return start and length of `count` equal parts of a side."""
    if overlap < 1:
        side = length / (count - (count - 1) * overlap)
        step = side * (1 - overlap)
    else:
        side = (length + (count - 1) * overlap) / count
        step = side - overlap
    if side < MIN_SIDE or (count > 1 and step < 1):
        raise ValueError(f"cells of {side:.3g} pixels with an overlap of {overlap:g} do not cut {length} into {count}")
    starts = [round(number * step) for number in range(count)]
    ends = [round(number * step + side) for number in range(count - 1)] + [length]
    return [(start, end - start) for start, end in zip(starts, ends, strict=True)]


def footprint(place: Georeference, window: Window) -> dict[str, Any] | None:
    """Return a window's outline in longitudes and latitudes (WGS 84) as GeoJSON's geometry; None if it has none.

    Args:
      place: a picture's or a file's. window: (col, row, width, height) in its pixels.
    """
    from rasterio.warp import transform_geom

    if not place.is_on_earth:
        return None
    col, row, width, height = window
    outline = shapely.orient_polygons(_moved(_dense(shapely.box(col, row, col + width, row + height)), place.to_map))
    geometry = json.loads(shapely.to_geojson(outline))
    return transform_geom(place.crs, WGS84, geometry, antimeridian_cutting=True, precision=7)


def _check_on_earth(name: str, bounds: tuple[float, ...], crs: Any) -> None:
    if crs.is_geographic and (min(bounds[:2]) < -180 or bounds[2] > 180 or bounds[1] < -90 or bounds[3] > 90):
        raise ValueError(f"{name}: is not in longitudes (-180 to 180) and latitudes (-90 to 90), in this order")


def _flat(shapes: Iterable[Any]) -> list[Any]:
    return [part for shape in shapes for part in shapely.get_parts(shape)]


def _dense(shape: Any) -> Any:
    west, south, east, north = shape.bounds
    return shapely.segmentize(shape, max(min(east - west, north - south) / _POINTS_A_SIDE, 1e-9))


def _moved(shape: Any, function: Any) -> Any:
    return shapely.transform(shape, function)


def _projected(shape: Any, source: Any, target: Any) -> Any:
    def project(points: np.ndarray) -> np.ndarray:
        from rasterio.warp import transform

        return np.stack(transform(source, target, *points.T.tolist()), axis=1)

    return shape if source == target else _moved(shape, project)


def _window(bounds: tuple[float, ...], size: Size) -> Window:
    """Return the window of whole pixels around bounds, inside a file of some size and not smaller than a picture is."""
    found = []
    for low, high, side in zip(bounds[:2], bounds[2:], size, strict=True):
        first = min(max(math.floor(low + _PIXEL_SLACK), 0), side - MIN_SIDE)
        last = min(max(math.ceil(high - _PIXEL_SLACK), first + MIN_SIDE), side)
        found.append((first, last - first))
    (col, width), (row, height) = found
    return col, row, width, height


def _bounds(shape: Any) -> str:
    return ",".join(f"{value:.6g}" for value in shape.bounds)
