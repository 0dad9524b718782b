"""Pixels, tokens and the map: against rasterio on the file, the picture's pixels by brute force, and round trips."""

import dataclasses

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from bat_jax.config import VisionConfig
from bat_jax.io.georeference import Georeference, unoriented
from bat_jax.io.images import read_image
from bat_jax.io.token_places import TokenPlaces
from bat_jax.io.views import make_tiles
from bat_jax.ops.token_grid import TokenGrid

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
TOWER = VisionConfig(image_size_px=56, patch_size_px=14)
GRID = TokenGrid(tiles=4, side=4)
UTM = rasterio.CRS.from_epsg(32617)
ROTATED = Affine.translation(403_000, 3_286_000) @ Affine.rotation(31) @ Affine.scale(0.6, -0.5)
RPCS = RPC(
    height_off=120.0,
    height_scale=500.0,
    lat_off=29.7,
    lat_scale=0.05,
    long_off=-82.0,
    long_scale=0.07,
    line_off=90.0,
    line_scale=90.0,
    samp_off=150.0,
    samp_scale=150.0,
    line_num_coeff=[0.0, 0.02, -1.0, 0.01, *[0.0] * 16],
    line_den_coeff=[1.0, *[0.0] * 19],
    samp_num_coeff=[0.0, 1.0, 0.03, -0.02, *[0.0] * 16],
    samp_den_coeff=[1.0, *[0.0] * 19],
)


def _write(path, pixels, **options):
    gcps, rpcs = options.pop("gcps", None), options.pop("rpcs", None)
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": pixels.shape[0], "width": pixels.shape[1]}
    with rasterio.open(path, "w", **profile | options) as raster:
        raster.write(np.moveaxis(pixels, 2, 0))
        if gcps:
            raster.gcps = gcps
        if rpcs:
            raster.rpcs = rpcs
    return path


def _places(source, grid=GRID):
    height, width = source.pixels.shape[:2]
    return TokenPlaces(
        grid=grid, read_size=(width, height), full_size=source.full_size, georeference=source.georeference
    )


def _brightest_token(source, size_px=224):
    """Return the token (tile-major) of a view that holds most light, by looking at the view's pixels."""
    (tiles,) = make_tiles(source.pixels, (size_px,), TOWER)
    bright = np.maximum(tiles.astype(int) - 130, 0)  # more than the margin
    patches = bright.reshape(len(tiles), 4, 14, 4, 14, 3).sum(axis=(2, 4, 5))
    return int(patches.reshape(-1).argmax())


def _with_a_light(width, height, col, row, side=8):
    """Return a black picture with a white square around (col, row)."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[row - side // 2 : row + side // 2, col - side // 2 : col + side // 2] = 255
    return pixels


LIGHTS = [(300, 180, 31, 22), (300, 180, 270, 155), (120, 200, 66, 190), (301, 179, 157, 60)]


@pytest.mark.parametrize("options", [{"transform": ROTATED}, {"transform": Affine(30, 0, 5e5, 0, -30, 4e6)}])
@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("largest_view", [None, 40])
def test_a_light_on_the_map_is_in_the_token_that_shows_it(tmp_path, options, light, largest_view):
    width, height, col, row = light
    path = _write(tmp_path / "a.tif", _with_a_light(*light), crs=UTM, **options)
    with rasterio.open(path) as raster:
        on_map = np.array([raster.transform @ (col, row)])
    source = read_image(path, largest_view=largest_view)
    assert (source.pixels.shape[1] < width) == (largest_view is not None)
    assert _places(source).tokens_at(on_map) == [_brightest_token(source)]
    assert source.georeference.is_on_earth and source.full_size == (width, height)


@pytest.mark.parametrize("light", LIGHTS)
def test_a_light_in_a_window_is_in_the_token_that_shows_it(tmp_path, light):
    width, height, col, row = light
    path = _write(tmp_path / "a.tif", _with_a_light(*light), crs=UTM, transform=ROTATED)
    window = (max(col - 60, 0), max(row - 30, 0), min(90, width - max(col - 60, 0)), min(70, height - max(row - 30, 0)))
    places = _places(source := read_image(path, window=window))
    assert places.tokens_at(np.array([ROTATED @ (col, row)])) == [_brightest_token(source)]
    # Brute force: the window's first pixel, wherever it stands in the square.
    token = places.from_map(np.array([ROTATED @ window[:2]]))[0]
    side = max(window[2:])
    margin = [(side - length) // 2 for length in window[2:]]
    np.testing.assert_allclose(token, [16 * share / side for share in margin], atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_finds_its_light_in_the_file_as_stored(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(_with_a_light(300, 180, 31, 22)).save(tmp_path / "a.png", exif=exif)
    source = read_image(tmp_path / "a.png")
    assert source.full_size == ImageOps.exif_transpose(Image.open(tmp_path / "a.png")).size
    assert _places(source).tokens_at(np.array([[31.0, 22.0]])) == [_brightest_token(source)]
    assert not source.georeference.is_on_map


@pytest.mark.parametrize("orientation", range(10))
def test_unoriented_is_where_pillow_took_each_pixel_from(orientation):
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(numbers)
    image.getexif()[0x0112] = orientation
    shown = np.asarray(ImageOps.exif_transpose(image))
    back = unoriented((shown.shape[1], shown.shape[0]), orientation)
    for row, col in np.ndindex(shown.shape):
        x, y = back @ (col + 0.5, row + 0.5)
        assert numbers[int(y), int(x)] == shown[row, col]


@pytest.mark.parametrize("name", ["gcps", "rpcs"])
def test_control_points_and_rpcs_put_a_light_into_its_token(tmp_path, name):
    col, row = 270, 155
    if name == "gcps":
        places = [(c, r, *(ROTATED @ (c, r))) for c in (0, 150, 300) for r in (0, 90, 180)]
        points = [GroundControlPoint(row=r, col=c, x=x, y=y) for c, r, x, y in places]
        path = _write(tmp_path / "a.tif", _with_a_light(300, 180, col, row), gcps=(points, UTM))
        on_map = np.array([ROTATED @ (col, row)])
    else:
        path = _write(tmp_path / "a.tif", _with_a_light(300, 180, col, row), rpcs=RPCS)
        # RPCS by hand, at the mean height: sample and line, of pixels' middles, are affine in longitude and latitude.
        sample, line = (col - 0.5 - 150) / 150, (row - 0.5 - 90) / 90
        lon, lat = np.linalg.solve([[1.0, 0.03], [0.02, -1.0]], [sample, line])
        on_map = np.array([[-82.0 + 0.07 * lon, 29.7 + 0.05 * lat]])
    source = read_image(path)
    places = _places(source)
    assert source.georeference.is_on_earth and places.to_map_affine is None
    assert places.tokens_at(on_map) == [_brightest_token(source)]
    np.testing.assert_allclose(source.georeference.to_map(np.array([[col, row]], float)), on_map, rtol=1e-9)
    grid = np.array([[0.5, 3.25], [15.0, 12.0]])
    np.testing.assert_allclose(places.from_map(places.to_map(grid)), grid, atol=1e-3)


def test_a_world_file_places_a_png_and_without_one_there_are_only_pixels(tmp_path):
    Image.fromarray(_with_a_light(300, 180, 31, 22)).save(tmp_path / "a.png")
    assert not read_image(tmp_path / "a.png").georeference.is_on_map
    # A world file names the middle of the first pixel.
    (tmp_path / "a.pgw").write_text("2\n0\n0\n-2\n1001\n1999\n")
    source = read_image(tmp_path / "a.png")
    assert source.georeference.is_on_map and not source.georeference.is_on_earth
    np.testing.assert_allclose(
        source.georeference.to_map(np.array([[0.0, 0.0], [10, 20]])), [[1000, 2000], [1020, 1960]]
    )


def test_a_transform_of_nothing_is_no_place(tmp_path):
    for number, transform in enumerate((Affine.identity(), Affine.scale(1, -1), Affine(1, 1, 0, 1, 1, 0))):
        path = _write(tmp_path / f"{number}.tif", _with_a_light(30, 18, 9, 9), crs=UTM, transform=transform)
        assert not read_image(path).georeference.is_on_map


TRANSFORMS = st.builds(
    lambda angle, sx, sy, x, y: Affine.translation(x, y) @ Affine.rotation(angle) @ Affine.scale(sx, -sy),
    *(st.floats(-180, 180), st.floats(0.01, 100), st.floats(0.01, 100), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)),
)


@settings(deadline=None, max_examples=60)
@given(
    transform=TRANSFORMS,
    size=st.tuples(st.integers(2, 900), st.integers(2, 900)),
    factor=st.integers(1, 5),
    orientation=st.integers(1, 8),
    corner=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    grid=st.sampled_from([TokenGrid(tiles=1, side=4), TokenGrid(tiles=3, side=4), TokenGrid(tiles=2, side=24)]),
    data=st.data(),
)
def test_every_token_comes_back_from_the_map_and_shows_its_own_pixels(
    transform, size, factor, orientation, corner, grid, data
):
    full = tuple(side * factor for side in size)
    in_file = Affine.translation(*corner) @ unoriented(full, orientation)
    on_map = Georeference(in_file=in_file, crs="x", transform=transform)
    places = TokenPlaces(grid=grid, read_size=size, full_size=full, georeference=on_map)
    centres = places.corners() + 0.5
    np.testing.assert_array_equal(places.tokens_at(places.to_map(centres)), np.arange(grid.num_tokens))
    np.testing.assert_allclose(places.from_map(places.to_map(centres)), centres, atol=1e-4)
    outside = np.array([[-0.01, 1.0], [1.0, grid.full_side + 0.01]])
    np.testing.assert_array_equal(places.tokens_at(places.to_map(outside)), [-1, -1])
    # A pixel that was read, by brute force: padded, scaled, then counted in tiles.
    width, height = size
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    side = max(size)
    col = int((x + (side - width) // 2 + 0.5) * grid.full_side / side)
    row = int((y + (side - height) // 2 + 0.5) * grid.full_side / side)
    tile, inside = (row // grid.side) * grid.tiles + col // grid.side, (row % grid.side) * grid.side + col % grid.side
    pixel = np.array([[(x + 0.5) * factor, (y + 0.5) * factor]])
    found = places.tokens_at(on_map.to_map(pixel))
    # On a border between tokens rounding decides.
    if np.abs(places.from_map(on_map.to_map(pixel)) % 1 - 0.5).max() < 0.4999:
        assert found == [tile * grid.side**2 + inside]
    plain = dataclasses.replace(places, georeference=Georeference(in_file=in_file))
    assert not plain.georeference.is_on_map
    in_file_px = [~transform @ tuple(point) for point in places.to_map(centres)]
    np.testing.assert_allclose(plain.to_map(centres), in_file_px, atol=1e-3)
