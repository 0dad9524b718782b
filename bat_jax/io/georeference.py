"""Where a picture's pixels lie in its file and on the map, as the file says it: transform, control points or RPCs.

Pixel coordinates are (x to the right, y down) in pixels; the first pixel reaches from (0, 0) to (1, 1). A picture's are
those of what was read, at full resolution and as displayed; a file's are those of the whole file as stored. Map
coordinates are in the axis order of map software: x (east or longitude), then y (north or latitude).
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from bat_jax.typing import Float

IDENTITY = Affine.identity()
WGS84 = "EPSG:4326"
# Map software puts the place of a PNG or JPEG into one of these beside it.
_SIDECARS = ("{name}.aux.xml", "{stem}.wld", "{name}w", "{stem}.{first}{last}w")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Georeference:
    """How the pixels of a picture become coordinates of its file and of the map.

    Attributes:
      in_file: from the picture's pixel coordinates to the file's; the identity for a whole file as stored.
      crs: of the map coordinates, as WKT; "" where the file does not say.
      transform: from the file's pixel coordinates to map coordinates.
      control_points: (N, 4) of (x, y) in the file and (x, y) on the map, for a file without a transform; a polynomial
        is fitted to them.
      rpcs: rasterio's RPC, for a file with neither; heights are its mean height.
    """

    in_file: Affine = IDENTITY
    crs: str = ""
    transform: Affine | None = None
    control_points: tuple[tuple[float, float, float, float], ...] = ()
    rpcs: Any = None

    @property
    def is_on_map(self) -> bool:
        """Whether there are map coordinates; else `to_map` gives the file's pixels."""
        return self.transform is not None or bool(self.control_points) or self.rpcs is not None

    @property
    def is_on_earth(self) -> bool:
        """Whether the map coordinates can become longitudes and latitudes."""
        if not self.is_on_map or not self.crs:
            return False
        from rasterio.crs import CRS

        crs = CRS.from_wkt(self.crs)
        return crs.is_geographic or crs.is_projected

    @property
    def to_map_affine(self) -> Affine | None:
        """From the picture's pixels to map coordinates, or to the file's pixels; None where that is no affine map."""
        if self.control_points or self.rpcs is not None:
            return None
        return (self.transform or IDENTITY) @ self.in_file

    def to_map(self, points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Return the map coordinates of the picture's pixel coordinates, the file's pixels where there is no map."""
        if (affine := self.to_map_affine) is not None:
            return moved(affine, points)
        with self._transformer() as (transformer, heights):
            x, y = moved(self.in_file, points).T
            return np.stack(transformer.xy(y, x, zs=heights(x), offset="ul"), axis=1)

    def from_map(self, points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Return the picture's pixel coordinates of map coordinates; the inverse of `to_map`."""
        if (affine := self.to_map_affine) is not None:
            return moved(~affine, points)
        with self._transformer() as (transformer, heights):
            x, y = np.asarray(points, np.float64).T
            row, col = transformer.rowcol(x, y, zs=heights(x), op=lambda values: values)
            return moved(~self.in_file, np.stack([col, row], axis=1))

    @contextlib.contextmanager
    def _transformer(self) -> Iterator[tuple[Any, Any]]:
        """Yield GDAL's transformer of control points or RPCs, and the heights that it takes for some points."""
        from rasterio.control import GroundControlPoint
        from rasterio.transform import GCPTransformer, RPCTransformer

        if self.control_points:
            points = [GroundControlPoint(row=row, col=col, x=x, y=y) for col, row, x, y in self.control_points]
            with GCPTransformer(points) as transformer:
                yield transformer, lambda x: None
        else:
            with RPCTransformer(self.rpcs) as transformer:
                yield transformer, lambda x: np.full(x.shape, self.rpcs.height_off)


NOWHERE = Georeference()


def moved(affine: Affine, points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
    """Apply an affine map to points, in float64."""
    matrix = np.array([[affine.a, affine.d], [affine.b, affine.e]])
    return np.asarray(points, np.float64) @ matrix + (affine.c, affine.f)


def unoriented(size: tuple[int, int], orientation: int) -> Affine:
    """Return the way back from a picture as displayed to one as stored, in pixel coordinates.

    Args:
      size: (width, height) as displayed. orientation: as in EXIF; what is not 2 to 8 changes nothing.
    """
    back = IDENTITY
    if orientation in (2, 3, 6, 7):
        back = Affine(-1, 0, size[0], 0, 1, 0)
    if orientation in (3, 4, 7, 8):
        back = Affine(1, 0, 0, 0, -1, size[1]) @ back
    if orientation in (5, 6, 7, 8):
        back = Affine(0, 1, 0, 1, 0, 0) @ back
    return back


def read_georeference(path: Path, driver: str, in_file: Affine, name: str | None = None) -> Georeference:
    """Read what a file, and map software's files beside it, say of its place.

    A transform is taken before control points, these before RPCs; one that maps the picture to a line counts as none.

    Args:
      driver: GDAL's or Pillow's name of the format. in_file: see Georeference.
      name: GDAL's of the page that was read; the path by default.
    """
    nowhere = Georeference(in_file=in_file)
    if driver in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM") and not _has_sidecar(path):
        return nowhere  # without rasterio, which takes its time to import
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(name or str(path.absolute()), driver={"PPM": "PNM"}.get(driver, driver)) as raster:
            transform, crs, rpcs = raster.transform, raster.crs, raster.rpcs
            control_points, control_crs = raster.gcps
    except RasterioError:  # a format that Pillow has and this GDAL has not
        return nowhere
    if _is_a_place(transform):
        return dataclasses.replace(nowhere, crs=crs.to_wkt() if crs else "", transform=transform)
    if control_points:
        points = tuple((point.col, point.row, point.x, point.y) for point in control_points)
        return dataclasses.replace(nowhere, crs=control_crs.to_wkt() if control_crs else "", control_points=points)
    if rpcs:
        return dataclasses.replace(nowhere, crs=rasterio.CRS.from_string(WGS84).to_wkt(), rpcs=rpcs)
    return nowhere


def _is_a_place(transform: Affine) -> bool:
    """Whether a transform is one, and not what GDAL gives for none (the identity, either way up)."""
    if not all(map(math.isfinite, transform)) or transform.is_degenerate:
        return False
    return not (transform.almost_equals(IDENTITY) or transform.almost_equals(Affine.scale(1, -1)))


def _has_sidecar(path: Path) -> bool:
    suffix = path.suffix.removeprefix(".")
    ends = {"first": suffix[:1], "last": suffix[-1:]}
    names = (pattern.format(name=path.name, stem=path.stem, **ends) for pattern in _SIDECARS)
    return any(path.with_name(name).is_file() for name in names)
