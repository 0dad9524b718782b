"""Real aerial pictures with labelled trees (deepforest's wheel, MIT): read as Pillow and rasterio have them."""

import numpy as np
import pytest
import rasterio
from PIL import Image

from bat_jax.io.images import read_image
from bat_jax.io.token_places import TokenPlaces
from bat_jax.ops.token_grid import TokenGrid
from tests.real.kept_objects import read_boxes, share_touched
from tests.real.wheel_files import wheel_file

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
LARGE = "data/2019_YELL_2_528000_4978000_image_crop2"
TREES = {f"{LARGE}.png": 574, "data/2019_YELL_2_541000_4977000_image_crop.png": 279, "data/OSBS_029.png": 61}
# The small checkpoint's finest view.
VIEW_PX, TILE_TOKENS, TILES = 1344, 8, 12


def _places(source):
    read_size = (source.pixels.shape[1], source.pixels.shape[0])
    grid = TokenGrid(TILES, TILE_TOKENS)
    return TokenPlaces(grid=grid, read_size=read_size, full_size=source.full_size, georeference=source.georeference)


@pytest.mark.parametrize("name", [*TREES, "data/AWPE Pigeon Lake 2020 DJI_0005.JPG"])
def test_aerial_pictures_are_read_as_pillow_reads_them(name):
    path = wheel_file("deepforest", name)
    source = read_image(path)
    np.testing.assert_array_equal(source.pixels, np.asarray(Image.open(path).convert("RGB")))
    assert source.valid is None and source.note == ""


def test_the_geotiffs_white_is_no_data_and_its_trees_lie_where_its_transform_says():
    path = wheel_file("deepforest", "data/OSBS_029.tif")
    source = read_image(path)
    with rasterio.open(path) as raster:
        data, transform, crs = raster.read(), raster.transform, raster.crs
    np.testing.assert_array_equal(source.valid, (data != 255).any(axis=0))
    np.testing.assert_array_equal(source.pixels[source.valid], np.moveaxis(data, 0, 2)[source.valid])
    assert crs.to_epsg() == 32617 and rasterio.CRS.from_wkt(source.georeference.crs) == crs
    boxes = read_boxes(path.with_suffix(".csv"), source.georeference)
    assert len(boxes) == 61
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    eastings, northings = rasterio.transform.xy(transform, centres[:, 1], centres[:, 0], offset="ul")
    places = _places(source)
    tokens = places.tokens_at(np.stack([eastings, northings], axis=1))
    side = 400 / places.grid.full_side
    middles = places.grid.rows_and_cols()[tokens][:, ::-1] + 0.5
    # A centre may lie on an edge between two tokens.
    assert np.abs(middles - centres / side).max() <= 0.5 + 1e-6


def test_a_large_picture_as_a_geotiff_is_decimated_to_what_its_blocks_average_to(tmp_path):
    pixels = np.asarray(Image.open(wheel_file("deepforest", f"{LARGE}.png")).convert("RGB"))[:2472, :2296]
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": 2472, "width": 2296, "compress": "jpeg"}
    # JPEG inside, tiled: what orthophotos come as.
    layout = {"photometric": "YCbCr", "tiled": True, "blockxsize": 256, "blockysize": 256, "JPEG_QUALITY": "95"}
    with rasterio.open(tmp_path / "a.tif", "w", **profile, **layout) as raster:
        raster.write(np.moveaxis(pixels, 2, 0))
    full = read_image(tmp_path / "a.tif").pixels
    source = read_image(tmp_path / "a.tif", largest_view=309)
    assert source.pixels.shape == (618, 574, 3)
    means = full.reshape(618, 4, 574, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(source.pixels, means, atol=0.51)


@pytest.mark.parametrize("name", TREES)
def test_the_share_of_trees_that_tokens_touch_equals_painting_them(name):
    path = wheel_file("deepforest", name)
    source = read_image(path, max_pixels=10**7)
    boxes = read_boxes(path.with_suffix(".xml"), source.georeference)
    assert len(boxes) == TREES[name]
    places = _places(source)
    kept = np.random.default_rng(0).choice(places.grid.num_tokens, 300, replace=False)
    width, height = source.full_size
    side = max(width, height)
    painted = np.zeros((side, side), bool)
    rows, cols = places.grid.rows_and_cols()[kept].T
    edges = np.arange(places.grid.full_side + 1) * side / places.grid.full_side
    for row, col in zip(rows, cols, strict=True):
        down, across = ((int(np.floor(edges[at])), int(np.ceil(edges[at + 1]))) for at in (row, col))
        painted[slice(*down), slice(*across)] = True
    top, left = (side - height) // 2, (side - width) // 2
    xmin, ymin, xmax, ymax = boxes.astype(int).T + np.array([[left], [top], [left], [top]])
    touched = [painted[b:d, a:c].any() for a, b, c, d in zip(xmin, ymin, xmax, ymax, strict=True)]
    # A pixel that a token's edge cuts is painted whole.
    assert share_touched(boxes, places, kept) == pytest.approx(np.mean(touched), abs=0.02)
