"""Files for map software: opened by rasterio and pyogrio, with an object whose coordinates are known."""

import dataclasses
import json
import pathlib

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.transform import GCPTransformer
from rasterio.warp import transform as project

from bat_jax.compress.partition import ALONE
from bat_jax.io.georeference import Georeference
from bat_jax.io.vector_files import Features, write_geojson
from bat_jax.io.views import make_tiles
from bat_jax.report.answer_page import Ask, Asked
from bat_jax.report.layers import token_fate
from bat_jax.report.map_files import NO_REGION, region_numbers, write_map_files
from tests.tiny_model import load_tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:'crs' was not provided"),
]
UTM = rasterio.CRS.from_epsg(32617)
PLACES = {
    "map": Affine(0.6, 0, 403_000, 0, -0.6, 3_286_000),
    "turned": Affine.translation(403_000, 3_286_000) @ Affine.rotation(31) @ Affine.scale(0.6, -0.5),
    "gcps": Affine.translation(403_000, 3_286_000) @ Affine.rotation(-12) @ Affine.scale(0.6, -0.5),
    "pixels": Affine.identity(),
}
WIDTH, HEIGHT = 300, 180
LIGHT = (271, 44)  # col, row of a white thing in a black picture
QUESTIONS = ("How many ships are there?", "Is there a bridge?")


def _write_picture(path, kind):
    pixels = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    pixels[:, LIGHT[1] - 5 : LIGHT[1] + 5, LIGHT[0] - 5 : LIGHT[0] + 5] = 255
    place = {"crs": UTM, "transform": PLACES[kind]} if kind in ("map", "turned") else {}
    with rasterio.open(
        path, "w", driver="GTiff", count=3, dtype="uint8", width=WIDTH, height=HEIGHT, **place
    ) as raster:
        raster.write(pixels)
        if kind == "gcps":
            corners = [(col, row) for col in (0, 150, WIDTH) for row in (0, 90, HEIGHT)]
            places = [(PLACES[kind] @ corner, corner) for corner in corners]
            raster.gcps = ([GroundControlPoint(row=r, col=c, x=x, y=y) for (x, y), (c, r) in places], UTM)


def _light_in_tokens(scene, model, scale):
    """Return (M,) how much light the view shows in each token, by looking at it, and the token with most."""
    (tiles,) = make_tiles(scene.pixels, (scene.scales_px[scale],), model.cfg.vision)
    light = np.maximum(tiles.astype(np.float32) - 130, 0).reshape(len(tiles), 4, 14, 4, 14, 3).sum(axis=(2, 4, 5))
    return light.reshape(-1), int(light.argmax())


def _looking_at_the_light(answer, scene, model):
    """Return the answer as if importance were light and the only row of every scale the token with most of it."""
    (compression,) = answer.arrays.compressions
    light = [_light_in_tokens(scene, model, scale) for scale in range(len(scene.grids))]
    selections = tuple(
        chosen._replace(keep_index=np.full_like(chosen.keep_index, brightest), mask=np.arange(chosen.mask.size) == 0)
        for chosen, (_, brightest) in zip(compression.selections, light, strict=True)
    )
    changed = compression._replace(importance=tuple(values for values, _ in light), selections=selections)
    return dataclasses.replace(answer, arrays=answer.arrays._replace(compressions=(changed,)))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return kind -> (folder of files, scene, asked) for pictures with every kind of place."""
    folder = tmp_path_factory.mktemp("map")
    model = load_tiny(folder / "checkpoint")
    found = {}
    for kind in PLACES:
        _write_picture(folder / f"{kind}.tif", kind)
        scene = model.encode(folder / f"{kind}.tif")
        answers = [scene.ask(question, max_new_tokens=2) for question in QUESTIONS]
        answers[0] = _looking_at_the_light(answers[0], scene, model)
        asked = [Asked(ask=Ask(text), answer=answer) for text, answer in zip(QUESTIONS, answers, strict=True)]
        (folder / kind).mkdir()
        write_map_files(folder / kind, f"{kind}.tif", scene, asked)
        found[kind] = (folder / kind, scene, asked)
    return found


def _features(path):
    """Return (shape, properties) of every feature of a GeoJSON file."""
    features = json.loads(path.read_text())["features"]
    return [(shapely.from_geojson(json.dumps(item["geometry"])), item["properties"]) for item in features]


@pytest.mark.parametrize("kind", PLACES)
def test_a_known_object_lies_in_its_token_on_the_map(written, kind):
    folder, scene, _ = written[kind]
    x, y = PLACES[kind] @ LIGHT
    spot = (x, y)
    if kind != "pixels":
        (lon,), (lat,) = project(UTM, "EPSG:4326", [x], [y])
        spot = (lon, lat)
    seen = [(shape, fields) for shape, fields in _features(folder / "tokens.geojson") if fields["question_number"] == 1]
    assert [fields["scale"] for _, fields in seen] == list(scene.scales_px)
    assert all(shape.contains(shapely.Point(spot)) for shape, _ in seen)
    _, _, geometry, _ = pyogrio.raw.read(folder / "tokens.gpkg", where="question_number = 1")
    assert shapely.contains(shapely.from_wkb(geometry), shapely.Point(x, y)).tolist() == [True] * len(seen)
    for size in scene.scales_px:
        with rasterio.open(folder / f"importance_{size}.tif") as raster:
            values = raster.read(1)
            row, col = np.unravel_index(np.nanargmax(values), values.shape)
            if raster.gcps[0]:
                with GCPTransformer(raster.gcps[0]) as transformer:
                    found = transformer.rowcol([x], [y], op=np.floor)
            else:
                found = raster.index(x, y)
            assert (int(np.ravel(found[0])[0]), int(np.ravel(found[1])[0])) == (row, col)
            assert raster.crs == (UTM if kind in ("map", "turned") else None)
            assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


@pytest.mark.parametrize("kind", PLACES)
def test_the_files_say_which_coordinates_they_are_in(written, kind):
    folder, _, _ = written[kind]
    said = json.loads((folder / "tokens.geojson").read_text())
    info = pyogrio.read_info(folder / "tokens.gpkg")
    words = info["layer_metadata"]["DESCRIPTION"]
    if kind == "pixels":
        assert (
            said["description"]
            == words
            == "pixels of pixels.tif (x to the right, y down), which has no place on the map"
        )
        assert info["crs"] is None
    else:
        assert said["description"] == "longitude and latitude (WGS 84)" and "crs" not in said
        assert words == "map coordinates of EPSG:32617" and info["crs"] == "EPSG:32617"
    with rasterio.open(folder / "regions_112.tif") as raster:
        assert raster.tags()["COORDINATES"] == words


def test_every_row_that_was_read_is_a_polygon_of_as_many_tokens(written):
    folder, scene, asked = written["turned"]
    meta, _, geometry, fields = pyogrio.raw.read(folder / "tokens.gpkg")
    rows = dict(zip(meta["fields"], fields, strict=True))
    shapes = shapely.from_wkb(geometry)
    assert shapely.is_valid(shapes).all() and set(rows["fate"]) == {"kept", "merged"}
    token_px = {size: WIDTH / grid.full_side for size, grid in zip(scene.scales_px, scene.grids, strict=True)}
    areas = (
        np.array([token_px[size] ** 2 for size in rows["scale"]]) * rows["tokens"] * abs(PLACES["turned"].determinant)
    )
    np.testing.assert_allclose(shapely.area(shapes), areas, rtol=1e-6)
    for number, item in enumerate(asked, 1):
        for size, tokens, chosen in zip(scene.scales_px, scene.scales, item.answer.selections[0], strict=True):
            if number == 1:  # whose first row was put elsewhere
                continue
            fate = token_fate(tokens, chosen)
            own = (rows["question_number"] == number) & (rows["scale"] == size)
            assert (rows["tokens"][own & (rows["fate"] == "kept")].sum(), own.sum()) == (
                fate.counts[0],
                chosen.mask.sum(),
            )
            assert rows["tokens"][own & (rows["fate"] == "merged")].sum() == fate.counts[1]
            np.testing.assert_allclose(rows["importance"][own], chosen.importance[chosen.mask], rtol=1e-6)
            np.testing.assert_array_equal(rows["region"][own], chosen.region[chosen.mask])
    assert set(rows["question"]) == set(QUESTIONS)


def test_rasters_hold_every_question_and_region_on_the_grid_of_tokens(written):
    folder, scene, asked = written["map"]
    for scale, (size, grid) in enumerate(zip(scene.scales_px, scene.grids, strict=True)):
        with rasterio.open(folder / f"importance_{size}.tif") as raster:
            assert raster.descriptions == QUESTIONS
            expected = grid.to_grid(np.asarray(asked[1].answer.importance[0][scale]))
            np.testing.assert_array_equal(raster.read(2), expected)
        with rasterio.open(folder / f"regions_{size}.tif") as raster:
            np.testing.assert_array_equal(raster.read(1), grid.to_grid(region_numbers(scene, scale)))
            assert raster.nodata == NO_REGION and raster.shape == (grid.full_side,) * 2


def _polygons(*shapes, region=0):
    fields = {"region": np.full(len(shapes), region, np.int64), "scale": np.arange(len(shapes), dtype=np.int32)}
    return Features(np.array(shapes, object), fields, {"region": fields["region"] == ALONE})


def test_a_token_across_the_antimeridian_is_cut_in_two(tmp_path):
    here = Georeference(crs=rasterio.CRS.from_epsg(32701).to_wkt(), transform=Affine.identity())
    # UTM zone 1 south begins at 180 degrees: 166,021 m east at the equator, and further east nearer to the pole.
    write_geojson(tmp_path / "a.geojson", "a", _polygons(shapely.box(150_000, 9_990_000, 180_000, 9_999_000)), here, "")
    ((shape, _),) = _features(tmp_path / "a.geojson")
    west, east = sorted(shape.geoms, key=lambda part: part.bounds[0])
    assert west.bounds[0] == -180 and west.bounds[2] < -179 and east.bounds[2] == 180 and east.bounds[0] > 179


def test_rings_run_as_rfc_7946_asks_and_a_token_alone_has_no_region(tmp_path):
    here = Georeference(crs=UTM.to_wkt(), transform=Affine.identity())
    clockwise = shapely.box(403_000, 3_286_000, 403_100, 3_286_100, ccw=False)
    write_geojson(tmp_path / "a.geojson", "a", _polygons(clockwise, region=ALONE), here, "")
    ((shape, fields),) = _features(tmp_path / "a.geojson")
    assert shape.exterior.is_ccw and fields["region"] is None


def test_a_grid_that_is_not_of_the_earth_is_written_as_it_is(tmp_path):
    local = rasterio.CRS.from_wkt('LOCAL_CS["site grid",UNIT["metre",1]]').to_wkt()
    here = Georeference(crs=local, transform=Affine.identity())
    assert not here.is_on_earth
    write_geojson(tmp_path / "a.geojson", "a", _polygons(shapely.box(0, 0, 5000, 10)), here, "a grid")
    found = json.loads((tmp_path / "a.geojson").read_text())
    assert found["description"] == "a grid" and shapely.from_geojson(json.dumps(found)).bounds == (0, 0, 5000, 10)


def test_nothing_is_left_beside_the_files(written):
    for folder, scene, _ in written.values():
        rasters = {f"{name}_{size}.tif" for name in ("importance", "regions") for size in scene.scales_px}
        assert {path.name for path in pathlib.Path(folder).iterdir()} == rasters | {"tokens.geojson", "tokens.gpkg"}
