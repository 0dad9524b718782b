"""Shapes with fields as files that map software opens: GeoJSON as RFC 7946 asks, and GeoPackage."""

import pathlib
import warnings
from typing import Any, NamedTuple

import numpy as np
import shapely

from bat_jax.io.georeference import Georeference

# Coordinates without a reference system are said to be that in the file.
warnings.filterwarnings("ignore", message="'crs' was not provided")


class Features(NamedTuple):
    """geometry (N,) of shapely, None for none; fields by name, (N,) each; absent: where a field has no value, (N,)."""

    geometry: np.ndarray
    fields: dict[str, np.ndarray]
    absent: dict[str, np.ndarray]


def write_geojson(path: pathlib.Path, layer: str, features: Features, georeference: Georeference, words: str) -> None:
    """Write features as RFC 7946 asks: longitudes and latitudes of WGS 84, cut where they cross the antimeridian.

    Where they are in no known reference system they are written as they are.

    Args:
      layer: the name that the features have together.
      georeference: whose map coordinates they are in. words: say which coordinates these are, where they stay.
    """
    is_on_earth = georeference.is_on_earth
    words = "longitude and latitude (WGS 84)" if is_on_earth else words
    options = {"DESCRIPTION": words} | ({"RFC7946": "YES"} if is_on_earth else {})
    crs = georeference.crs if is_on_earth else ""
    _write(path, layer, features, crs, driver="GeoJSON", geometry_type="Unknown", layer_options=options)


def write_geopackage(path: pathlib.Path, layer: str, features: Features, crs: str, words: str) -> None:
    """Write polygons, all as several, in the reference system of a WKT, "" for an unknown one; `words` describe it."""
    kind = {"driver": "GPKG", "geometry_type": "MultiPolygon", "promote_to_multi": True}
    _write(path, layer, features, crs, layer_options={"DESCRIPTION": words}, **kind)


def _write(path: pathlib.Path, layer: str, features: Features, crs: str, **options: Any) -> None:
    import pyogrio.raw  # which imports pandas where that is installed: a second that only a writer waits

    pyogrio.raw.write(
        path,
        shapely.to_wkb(features.geometry),
        list(features.fields.values()),
        list(features.fields),
        field_mask=[features.absent.get(name) for name in features.fields],
        layer=layer,
        crs=crs or None,
        **options,
    )
