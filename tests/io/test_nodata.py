"""What holds no data: values of the file, of the caller, NaN and fill around a picture, in full and decimated reads."""

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp as C

from bat_jax.config import VisionConfig
from bat_jax.io.bands import ImageError
from bat_jax.io.images import read_image
from tests.io.raster_files import COLS, PICTURE, ROWS, stretched, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
RNG = np.random.default_rng(0)
PAD = VisionConfig.pad_colour
SIDE = 96


def _smooth(dtype, low=300, high=3000):
    """Three bands that averages change little."""
    rows, cols = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    return np.stack(
        [low + (high - low) * part for part in ((3 * rows + cols) / 4, (rows + 3 * cols) / 4, cols)]
    ).astype(dtype)


def _cell_means(data, holes, factor):
    """NumPy's twin of a decimated read: means of what has data, and where there is any."""
    blocks = np.where(holes, np.nan, data.astype(np.float64)).reshape(len(data), SIDE // factor, factor, -1, factor)
    has_data = ~holes.reshape(SIDE // factor, factor, -1, factor).all(axis=(1, 3))
    count = np.isfinite(blocks).sum(axis=(2, 4))
    return np.nansum(blocks, axis=(2, 4)) / np.maximum(count, 1), has_data


def _collar():
    """A turned scene: the corners hold nothing."""
    rows, cols = np.mgrid[0:SIDE, 0:SIDE]
    return np.abs(rows - SIDE / 2) + np.abs(cols - SIDE / 2) > 0.72 * SIDE


def _holes(kind):
    if kind == "scattered":
        return RNG.random((SIDE, SIDE)) < 0.03
    if kind == "checkerboard":
        return np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 2 == 0
    if kind == "all but one row":
        return np.broadcast_to(np.arange(SIDE)[:, None] != 37, (SIDE, SIDE))
    return _collar()


@pytest.mark.parametrize("kind", ["scattered", "checkerboard", "all but one row", "corners"])
@pytest.mark.parametrize(
    ("dtype", "value", "tagged"),
    [
        ("float32", np.nan, False),
        ("float32", np.nan, True),
        ("float64", np.nan, False),
        ("float32", np.inf, False),
        ("float32", -9999, True),
        ("float32", -3.4e38, True),
        ("uint16", 0, True),
        ("uint16", 65535, True),
        ("int16", -32768, True),
        ("int32", 7, True),
        ("uint8", 0, True),
        ("uint8", 255, True),
    ],
)
@pytest.mark.parametrize("view", [24, 4])
def test_a_decimated_read_averages_what_has_data_and_nothing_else(tmp_path, kind, dtype, value, tagged, view):
    data = _smooth(dtype, 20, 240) if dtype == "uint8" else _smooth(dtype)
    holes = _holes(kind)
    clean = data.copy()
    data[:, holes] = value
    path = write_raster(tmp_path / "a.tif", data, nodata=value if tagged else None)
    source = read_image(path, largest_view=view)
    means, has_data = _cell_means(clean, holes, SIDE // (2 * view))
    valid = np.ones(has_data.shape, bool) if source.valid is None else source.valid
    np.testing.assert_array_equal(valid, has_data)
    for channel in range(3):
        if dtype == "uint8":
            expected = np.rint(means[channel])
        else:
            rounded = means[channel] if dtype.startswith("float") else np.rint(means[channel])
            expected = stretched(rounded, has_data)
        np.testing.assert_allclose(source.pixels[has_data][:, channel], expected[has_data], atol=1)
    assert (source.pixels[~has_data] == PAD).all()


@pytest.mark.parametrize("mark", ["alpha", "mask"])
@pytest.mark.parametrize("view", [24, 12])
def test_a_decimated_mask_keeps_every_cell_with_data_and_its_colour(tmp_path, mark, view):
    data, holes = _smooth("uint16"), _holes("all but one row") & _holes("scattered") | _collar()
    clean = data.copy()
    data[:, holes] = 40_000
    opaque = np.where(holes, 0, 255)
    if mark == "alpha":
        layers = np.concatenate([data, opaque[None].astype(np.uint16)])
        kinds = [C.red, C.green, C.blue, C.alpha]
        path = write_raster(tmp_path / "a.tif", layers, colorinterp=kinds)
    else:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            path = write_raster(tmp_path / "a.tif", data, mask=opaque.astype(np.uint8))
    source = read_image(path, largest_view=view)
    means, has_data = _cell_means(clean, holes, SIDE // (2 * view))
    np.testing.assert_array_equal(source.valid, has_data)
    expected = stretched(np.rint(means[1]), has_data)
    np.testing.assert_allclose(source.pixels[has_data][:, 1], expected[has_data], atol=1)


def test_cells_that_cut_pixels_take_their_share_of_them(tmp_path):
    band = RNG.normal(500, 90, (1, 50, 70)).astype(np.float32)
    source = read_image(write_raster(tmp_path / "a.tif", band), largest_view=16)
    height, width = source.pixels.shape[:2]
    assert (height, width) == (25, 35)
    uneven = read_image(write_raster(tmp_path / "b.tif", band[:, :47, :67]), largest_view=11)
    height, width = uneven.pixels.shape[:2]
    assert (height, width) == (16, 22)

    def shares(count, length):
        edges = np.arange(count + 1) * length / count
        pixel = np.arange(length)
        return np.clip(np.minimum(pixel + 1, edges[1:, None]) - np.maximum(pixel, edges[:-1, None]), 0, None)

    rows, cols = shares(16, 47), shares(22, 67)
    mean = rows @ band[0, :47, :67].astype(np.float64) @ cols.T / (rows.sum(1)[:, None] * cols.sum(1))
    np.testing.assert_allclose(uneven.pixels[..., 0], stretched(mean), atol=1)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *(("uint16", 0), ("uint16", 65535), ("int16", -9999), ("int16", -32768), ("int16", 0), ("int32", -9999)),
        *(("uint32", 2**32 - 1), ("float32", -9999), ("float32", 0), ("float32", -3.4e38), ("float64", -9999)),
        *(("int16", -32767), ("float32", -99999), ("float32", 1e20), ("float32", 9.96921e36)),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("view", [None, 12])
def test_fill_that_reaches_the_border_is_no_data_and_the_same_value_inside_stays(tmp_path, dtype, value, count, view):
    data = _smooth(dtype)[:count]
    holes = _collar()
    data[:, holes] = value
    data[:, 40:56, 40:56] = value
    path = write_raster(tmp_path / "a.tif", data)
    source = read_image(path, largest_view=view)
    factor = 1 if view is None else SIDE // (2 * view)
    means, has_data = _cell_means(data, holes, factor)
    np.testing.assert_array_equal(source.valid, has_data)
    rounded = means if dtype.startswith("float") else np.rint(means)
    expected = stretched(rounded[0], has_data)
    np.testing.assert_allclose(source.pixels[has_data][:, 0], expected[has_data], atol=1)
    assert f"{value:g} around the picture taken as no data (--nodata=none keeps it)" in source.note
    kept = read_image(path, nodata="none")
    assert kept.valid is None and "around the picture" not in kept.note


def test_fill_is_the_same_value_in_all_bands_at_once_and_touches_by_sides(tmp_path):
    data = _smooth("uint16")
    data[0, :5] = 0  # in one band alone
    data[:, 10, 0] = 0  # reaches the border
    data[:, 11, 1] = 0  # touches that by a corner alone
    source = read_image(write_raster(tmp_path / "a.tif", data))
    assert np.argwhere(~source.valid).tolist() == [[10, 0]]


def test_a_value_that_the_file_names_is_the_only_one(tmp_path):
    data = _smooth("uint16")
    data[:, _collar()] = 0
    assert read_image(write_raster(tmp_path / "a.tif", data, nodata=7)).valid is None
    # One that the type cannot hold names nothing.
    path = tmp_path / "b.tif"
    write_raster(path, data)
    with rasterio.open(path, "r+") as raster:
        raster.update_tags(ns="", TIFFTAG_SOFTWARE="x")
    np.testing.assert_array_equal(read_image(path).valid, ~_collar())


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
def test_black_around_a_picture_of_8_bits_is_a_colour(tmp_path, name):
    picture = PICTURE.copy()
    picture[:, :20] = 0
    Image.fromarray(picture).save(tmp_path / name)
    assert read_image(tmp_path / name).valid is None


def test_fill_of_a_wide_pgm_is_found_too(tmp_path):
    band = RNG.integers(100, 9000, (40, 30)).astype(np.uint16)
    band[:, :6] = 0
    band[20, 20] = 0
    (tmp_path / "a.pgm").write_bytes(b"P5 30 40 65535\n" + band.astype(">u2").tobytes())
    source = read_image(tmp_path / "a.pgm")
    np.testing.assert_array_equal(source.valid, np.broadcast_to(np.arange(30) >= 6, (40, 30)))
    np.testing.assert_array_equal(source.pixels[:, 6:, 0], stretched(band[:, 6:]))


def test_the_callers_value_stands_in_place_of_the_files(tmp_path):
    data = _smooth("uint16")
    data[:, :10] = 500
    data[:, -10:] = 0
    path = write_raster(tmp_path / "a.tif", data, nodata=0)
    rows = np.arange(SIDE)[:, None] * np.ones(SIDE, int)
    np.testing.assert_array_equal(read_image(path).valid, rows < SIDE - 10)
    np.testing.assert_array_equal(read_image(path, nodata=500).valid, rows >= 10)
    assert read_image(path, nodata="none").valid is None
    assert read_image(path, nodata=-9999).valid is None


@pytest.mark.parametrize("name", ["a.png", "a.tif", "palette.png", "palette.tif", "grey.png", "a.bmp"])
def test_the_callers_value_counts_in_every_format(tmp_path, name):
    picture = Image.fromarray(PICTURE)
    hole = np.broadcast_to((ROWS < 9) & (COLS < 9), ROWS.shape)
    if "palette" in name:
        index = np.where(hole, 3, 1 + COLS % 2).astype(np.uint8)
        picture = Image.fromarray(index).convert("P")
        picture.putdata(index.reshape(-1).tolist())
        picture.putpalette([9, 9, 9, 200, 10, 10, 10, 200, 10, 77, 77, 77])
    else:
        array = np.where(hole[..., None], 3, np.maximum(PICTURE, 4)).astype(np.uint8)
        picture = Image.fromarray(array[..., 0] if "grey" in name else array)
    picture.save(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name, nodata=3).valid, ~hole)
    assert read_image(tmp_path / name).valid is None


def test_nan_and_alpha_stay_no_data_whatever_the_caller_says(tmp_path):
    data = _smooth("float32")
    data[:, :9] = np.nan
    for choice in (None, "none", 5.0):
        np.testing.assert_array_equal(
            read_image(write_raster(tmp_path / "a.tif", data), nodata=choice).valid[:, 0], np.arange(SIDE) >= 9
        )
    rgba = np.dstack([PICTURE, np.where(ROWS < 10, 0, 255).astype(np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", nodata="none").valid, ROWS >= 10)


def test_nothing_but_fill_is_an_error(tmp_path):
    for dtype in ("uint16", "float32"):
        with pytest.raises(ImageError, match="no pixel holds data"):
            read_image(write_raster(tmp_path / "a.tif", np.zeros((1, 9, 9), dtype)))
