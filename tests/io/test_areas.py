"""Areas of interest: windows against rasterio's own, masks by brute force, and one line for what does not fit."""

import json

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rasterio.warp import transform as project

from bat_jax.config import VisionConfig
from bat_jax.io.areas import box_area, cells, read_area
from bat_jax.io.bands import ImageError, NoDataError
from bat_jax.io.images import read_image

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
UTM = rasterio.CRS.from_epsg(32617)
NORTH_UP = Affine(10, 0, 403_000, 0, -10, 3_286_000)
TURNED = Affine.translation(403_000, 3_286_000) @ Affine.rotation(31) @ Affine.scale(10, -10)
WIDTH, HEIGHT = 90, 60


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("areas")
    pixels = np.random.default_rng(0).integers(1, 256, (3, HEIGHT, WIDTH), dtype=np.uint8)
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "width": WIDTH, "height": HEIGHT}
    for name, place in {
        "north_up": {"crs": UTM, "transform": NORTH_UP},
        "turned": {"crs": UTM, "transform": TURNED},
        "nameless": {"transform": NORTH_UP},
        "nowhere": {},
    }.items():
        with rasterio.open(folder / f"{name}.tif", "w", **profile, **place) as raster:
            raster.write(pixels)
    Image.fromarray(np.moveaxis(pixels, 0, 2)).save(folder / "nowhere.png")
    return folder


def _geojson(path, *shapes, **members):
    features = [{"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(s))} for s in shapes]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features} | members), encoding="utf-8-sig")
    return path


def _lonlat(shape):
    return shapely.transform(shape, lambda p: np.stack(project(UTM, "EPSG:4326", *p.T.tolist()), axis=1))


def test_a_box_in_the_files_own_system_is_the_pixels_under_it(files):
    box = box_area([403_100, 3_285_600, 403_250, 3_285_900], "EPSG:32617")
    window, _ = box.in_file(files / "north_up.tif")
    assert window == (10, 10, 15, 30)
    with rasterio.open(files / "north_up.tif") as raster:
        expected = raster.read(window=raster.window(403_100, 3_285_600, 403_250, 3_285_900))
    np.testing.assert_array_equal(read_image(files / "north_up.tif", window=window).pixels, np.moveaxis(expected, 0, 2))


@pytest.mark.parametrize("name", ["north_up", "turned"])
def test_a_box_of_longitudes_and_latitudes_holds_every_pixel_inside_and_no_row_too_many(files, name):
    affine = {"north_up": NORTH_UP, "turned": TURNED}[name]
    lon, lat = _centres(affine)
    west, east = np.quantile(lon, [0.3, 0.6])
    south, north = np.quantile(lat, [0.35, 0.7])
    col, row, width, height = box_area([west, south, east, north]).in_file(files / f"{name}.tif")[0]
    inside = np.argwhere((lon >= west) & (lon <= east) & (lat >= south) & (lat <= north))
    (top, left), (bottom, right) = inside.min(0), inside.max(0)
    assert row <= top and col <= left and row + height > bottom and col + width > right
    assert top - row <= 1 and left - col <= 1 and row + height - 1 - bottom <= 1 and col + width - 1 - right <= 1


def _centres(affine):
    """Return longitude and latitude of every pixel's middle, (H, W) each."""
    places = [affine @ (col + 0.5, row + 0.5) for row in range(HEIGHT) for col in range(WIDTH)]
    lon, lat = project(UTM, "EPSG:4326", *zip(*places, strict=True))
    return np.reshape(lon, (HEIGHT, WIDTH)), np.reshape(lat, (HEIGHT, WIDTH))


@pytest.mark.parametrize("name", ["north_up", "turned"])
@pytest.mark.parametrize("largest_view", [None, 12])
def test_outside_of_polygons_there_is_no_data(files, tmp_path, name, largest_view):
    affine = {"north_up": NORTH_UP, "turned": TURNED}[name]
    corners = [(10, 8), (70, 20), (50, 52)], [(72, 40), (84, 40), (84, 55), (72, 55)]
    on_map = [_lonlat(shapely.Polygon([affine @ corner for corner in ring])) for ring in corners]
    window, shape = read_area(_geojson(tmp_path / "a.geojson", *on_map)).in_file(files / f"{name}.tif")
    assert window == (10, 8, 74, 47)
    options = {"window": window, "largest_view": largest_view}
    full, source = (read_image(files / f"{name}.tif", inside=inside, **options) for inside in (None, shape))
    height, width = source.pixels.shape[:2]
    assert (height, width) == ((47, 74) if largest_view is None else (16, 25))
    rings = [shapely.Polygon(ring) for ring in corners]
    for row, col in np.ndindex(height, width):
        middle = shapely.Point(10 + (col + 0.5) * 74 / width, 8 + (row + 0.5) * 47 / height)
        if min(ring.boundary.distance(middle) for ring in rings) > 1e-3:
            assert source.valid[row, col] == any(ring.contains(middle) for ring in rings)
    np.testing.assert_array_equal(source.pixels[source.valid], full.pixels[source.valid])
    assert (source.pixels[~source.valid] == VisionConfig.pad_colour).all()
    assert f"{100 * (1 - source.valid.mean()):.3g} % of the window lie outside of the area" in source.note


def test_an_area_with_a_system_of_its_own_and_one_larger_than_the_picture_are_read(files, tmp_path):
    shape = shapely.box(403_100, 3_285_600, 403_250, 3_285_900)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32617"}}
    assert read_area(_geojson(tmp_path / "a.geojson", shape, crs=crs)).in_file(files / "north_up.tif")[0] == (
        10,
        10,
        15,
        30,
    )
    assert box_area([-180, -90, 180, 90]).in_file(files / "turned.tif")[0] == (0, 0, WIDTH, HEIGHT)
    # Smaller than a pixel: the two pixels that a picture has at least.
    assert box_area([403_899, 3_285_401, 403_899.5, 3_285_401.5], "EPSG:32617").in_file(files / "north_up.tif")[0] == (
        88,
        58,
        2,
        2,
    )


@pytest.mark.parametrize(
    ("corners", "crs", "message"),
    [
        ([1, 2, 3], "EPSG:4326", "--bbox=1,2,3: want four numbers"),
        ([4, 2, 3, 5], "EPSG:4326", "--bbox=4,2,3,5: want west, south, east, north"),
        ([1, 5, 3, 2], "EPSG:4326", "--bbox=1,5,3,2: want west, south, east, north"),
        ([1, 2, float("nan"), 5], "EPSG:4326", "want four numbers"),
        ([10, 95, 11, 96], "EPSG:4326", "latitudes (-90 to 90), in this order"),
        ([1, 2, 3, 4], "EPSG:0", "--bbox_crs=EPSG:0: is no reference system"),
    ],
)
def test_a_bad_box_is_named(corners, crs, message):
    with pytest.raises(ValueError) as error:
        box_area(corners, crs)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "is no GeoJSON"),
        ('{"type": "Topology"}', "is no GeoJSON"),
        ('{"type": "Point", "coordinates": [1, 2]}', "holds no polygon"),
        ('{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        (
            '{"type": "Polygon", "coordinates": [[[0,0],[2,2],[2,0],[0,2],[0,0]]]}',
            "a polygon is broken (Self-intersection",
        ),
        ('{"type": "Polygon", "coordinates": [[[29,95],[30,95],[30,96],[29,95]]]}', "in this order"),
        (
            '{"type": "Polygon", "coordinates": [[[0,0],[1,0],[1,1],[0,0]]], "crs": {"name": 3}}',
            "is no reference system",
        ),
    ],
)
def test_a_bad_file_of_polygons_is_named(tmp_path, text, message):
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(ValueError) as error:
        read_area(tmp_path / "a.geojson")
    assert str(error.value).startswith(f"--aoi={tmp_path}/a.geojson: ") and message in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("north_up.tif", "lies outside of"),
        ("nameless.tif", "names no reference system; cut it with --window"),
        ("nowhere.tif", "has no place on the map; cut it with --window"),
        ("nowhere.png", "has no place on the map; cut it with --window"),
    ],
)
def test_an_area_that_a_file_has_not_is_named(files, name, message):
    with pytest.raises(ImageError) as error:
        box_area([10, 20, 11, 21]).in_file(files / name)
    assert (
        str(error.value).startswith("--bbox=10,20,11,21: ") and message in str(error.value) and name in str(error.value)
    )


def test_an_area_without_a_pixels_middle_is_an_error(files):
    area = box_area([403_101, 3_285_601, 403_102, 3_285_602], "EPSG:32617")
    window, shape = area.in_file(files / "north_up.tif")
    with pytest.raises(NoDataError, match=r"north_up.tif: no pixel in the area \(--aoi\) holds data"):
        read_image(files / "north_up.tif", window=window, inside=shape)


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (2, 3), (7, 5)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 3.0])
def test_cells_cover_a_window_evenly_and_share_what_they_should(rows, cols, overlap):
    found = np.reshape(cells((100, 50, 211, 97), rows, cols, overlap), (rows, cols, 4))
    covered = np.zeros((97, 211), int)
    for col, row, width, height in found.reshape(-1, 4) - (100, 50, 0, 0):
        assert min(col, row) >= 0
        covered[row : row + height, col : col + width] += 1
    assert covered.min() == 1 and covered.max() <= (1 if overlap == 0 else 4)
    for axis, count, side in ((0, cols, found[0, :, 2]), (1, rows, found[:, 0, 3])):
        start = found[0, :, 0] if axis == 0 else found[:, 0, 1]
        assert side.max() - side.min() <= 1
        shared = (start + side)[:-1] - start[1:]
        wanted = overlap * side[:-1] if overlap < 1 else overlap
        assert np.all(np.abs(shared - wanted) <= 1), (count, shared)


@pytest.mark.parametrize(("rows", "cols", "overlap"), [(60, 1, 0.0), (1, 2, 80.0), (2, 2, 0.999)])
def test_cells_too_small_for_a_picture_are_refused(rows, cols, overlap):
    with pytest.raises(ValueError, match="do not cut"):
        cells((0, 0, 60, 60), rows, cols, overlap)


@pytest.mark.parametrize("name", ["wide.tif", "wide.pgm"])
@pytest.mark.parametrize("largest_view", [None, 10])
def test_wide_bands_are_stretched_by_what_lies_inside(tmp_path, name, largest_view):
    values = np.random.default_rng(0).integers(100, 900, (40, 60), dtype=np.uint16)
    values[:, 30:] = 60_000  # a cloud beside the field
    if name == "wide.tif":
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", count=1, dtype="uint16", width=60, height=40
        ) as raster:
            raster.write(values, 1)
    else:
        (tmp_path / name).write_bytes(b"P5 60 40 65535\n" + values.astype(">u2").tobytes())
    source = read_image(tmp_path / name, inside=shapely.box(0, 0, 30, 40), largest_view=largest_view)
    assert "50 % of the window lie outside of the area" in source.note
    if source.pixels.shape[1] < 60:  # averaged
        assert source.pixels[:, : source.pixels.shape[1] // 2].std() > 40
        return
    low, high = np.percentile(values[:, :30], (2, 98))
    expected = np.rint(((values[:, :30].astype(float) - low) / (high - low)).clip(0, 1) * 255)
    np.testing.assert_array_equal(source.pixels[:, :30, 0], expected)
