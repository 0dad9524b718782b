"""Rasters beyond what is held at once: read in parts and through overviews that show the data, in bounded memory."""

import subprocess
import sys

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.windows import Window

from bat_jax.io import overviews, raster_bands, rasters
from bat_jax.io.bands import ImageError
from bat_jax.io.images import read_image
from tests.io.raster_files import write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
RNG = np.random.default_rng(0)
PASSED_BY = "overviews passed by, they do not show the data"


def _scene(dtype="uint8", side=512):
    """Coarse noise: fields of 32 pixels with grain on them."""
    fields = RNG.integers(40, 200, (3, side // 32, side // 32)).repeat(32, axis=1).repeat(32, axis=2)
    return (fields + RNG.integers(0, 20, fields.shape)).astype(dtype)


def _means(data, factor):
    height, width = data.shape[1] // factor, data.shape[2] // factor
    return np.moveaxis(data.reshape(3, height, factor, width, factor).mean(axis=(2, 4)), 0, 2)


def test_a_raster_beyond_the_limit_is_read_straight_to_the_view(tmp_path):
    data = _scene()
    path = write_raster(tmp_path / "a.tif", data)
    source = read_image(path, max_pixels=128 * 128, largest_view=64)
    np.testing.assert_allclose(source.pixels, _means(data, 4), atol=1)
    assert source.full_size == (512, 512)
    for options, held in (({}, "512 x 512 = 262144"), ({"largest_view": 128}, "256 x 256 = 65536")):
        with pytest.raises(ImageError, match=f"{held} pixels, the limit is 16384: raise --max_pixels"):
            read_image(path, max_pixels=128 * 128, **options)


@pytest.mark.parametrize("numbers", [6_000, 60_000])
@pytest.mark.parametrize("options", [{}, {"tiled": True, "blockxsize": 64, "blockysize": 64}])
def test_reading_in_parts_gives_what_reading_at_once_gives(tmp_path, monkeypatch, numbers, options):
    data = _scene("uint16")[:, :500, :470]
    data[:, :100, :70] = 0
    path = write_raster(tmp_path / "a.tif", data, **options)
    expected = read_image(path, largest_view=70, window=(3, 5, 460, 490))
    monkeypatch.setattr(raster_bands, "_TILE_NUMBERS", numbers)
    source = read_image(path, largest_view=70, window=(3, 5, 460, 490))
    np.testing.assert_array_equal(source.pixels, expected.pixels)
    np.testing.assert_array_equal(source.valid, expected.valid)


@pytest.mark.parametrize("resampling", [Resampling.average, Resampling.nearest, Resampling.cubic])
def test_a_large_raster_is_read_from_its_overview(tmp_path, monkeypatch, resampling):
    monkeypatch.setattr(rasters, "OVERVIEWS_FROM", 1000)
    data = _scene()
    path = write_raster(tmp_path / "a.tif", data, tiled=True, blockxsize=64, blockysize=64)
    with rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4, 8], resampling)
    with rasterio.open(path, "r+", OVERVIEW_LEVEL=1) as overview:
        # A mark that is in the overview alone and too small for a sample to notice.
        overview.write(np.full((3, 2, 2), 255, np.uint8), window=Window(126, 126, 2, 2))
    source = read_image(path, largest_view=64)
    assert PASSED_BY not in source.note and source.pixels.shape == (128, 128, 3)
    assert (source.pixels[126:, 126:] == 255).all()
    noise = {Resampling.average: 1, Resampling.nearest: 16, Resampling.cubic: 45}[resampling]
    np.testing.assert_allclose(source.pixels[:120, :120], _means(data, 4)[:120, :120], atol=noise)


@pytest.mark.parametrize("stale", ["black", "white", "nodata", "other"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("large", [False, True])
def test_overviews_that_do_not_show_the_data_are_passed_by_and_it_is_said(tmp_path, monkeypatch, stale, dtype, large):
    if large:
        monkeypatch.setattr(rasters, "OVERVIEWS_FROM", 1000)
    data = _scene(dtype)
    first = {"black": np.ones_like(data), "white": np.full_like(data, 255), "nodata": np.zeros_like(data)}
    path = write_raster(
        tmp_path / "a.tif",
        first.get(stale, data[:, ::-1, ::-1]),
        overviews=[2, 4, 8],
        nodata=0 if stale == "nodata" else None,
    )
    with rasterio.open(path, "r+") as raster:
        raster.write(data)
    source = read_image(path, largest_view=64)
    assert PASSED_BY in source.note
    means = _means(data, 4)
    if dtype == "uint8":
        np.testing.assert_allclose(source.pixels, means, atol=1)
    else:
        low, high = np.percentile(np.rint(means[..., 0]) if dtype == "uint16" else means[..., 0], (2, 98))
        expected = ((means[..., 0] - low) / (high - low)).clip(0, 1) * 255
        np.testing.assert_allclose(source.pixels[..., 0], expected, atol=3)


def test_a_palettes_overviews_are_not_looked_at(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.zeros((1, 256, 256), np.uint8), photometric="palette", overviews=[2, 4])
    index = RNG.integers(1, 3, (64, 64)).repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)
    colours = {0: (0, 0, 0, 255), 1: (10, 200, 30, 255), 2: (220, 20, 10, 255)}
    with rasterio.open(path, "r+") as raster:
        raster.write_colormap(1, colours)
        raster.write(index, 1)
    source = read_image(path, largest_view=32)
    table = np.array([colours[i][:3] for i in range(3)], np.uint8)
    np.testing.assert_array_equal(source.pixels, table[index[::4, ::4]])


def test_overviews_that_are_transparent_over_data_are_passed_by(tmp_path, monkeypatch):
    monkeypatch.setattr(rasters, "OVERVIEWS_FROM", 1000)
    data = np.concatenate([_scene(), np.full((1, 512, 512), 255, np.uint8)])
    path = write_raster(tmp_path / "a.tif", np.zeros_like(data), photometric="RGB", ALPHA="YES", overviews=[2, 4])
    with rasterio.open(path, "r+") as raster:
        raster.write(data)
    source = read_image(path, largest_view=64)
    assert PASSED_BY in source.note and source.valid is None
    np.testing.assert_allclose(source.pixels, _means(data[:3], 4), atol=1)


def test_overviews_that_have_more_nan_than_the_data_are_passed_by(tmp_path, monkeypatch):
    monkeypatch.setattr(rasters, "OVERVIEWS_FROM", 1000)
    data = _scene("float32")
    data[:, ::7, ::5] = np.nan
    path = write_raster(tmp_path / "a.tif", data, overviews=[2, 4])
    source = read_image(path, largest_view=64)
    assert source.valid is None


def test_the_blocks_that_hold_something_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(rasters, "OVERVIEWS_FROM", 1000)
    monkeypatch.setattr(overviews, "_BLOCKS_COMPARED", 2)
    options = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    path = write_raster(tmp_path / "a.tif", np.zeros((3, 2048, 2048), np.uint8), overviews=[2, 4], **options)
    patch = _scene(side=64)
    with rasterio.open(path, "r+") as raster:
        raster.write(patch, window=Window(1024, 512, 64, 64))
    source = read_image(path, largest_view=256)
    assert PASSED_BY in source.note
    np.testing.assert_allclose(source.pixels[128:144, 256:272], _means(patch, 4), atol=1)


_PEAK = """
import sys
from bat_jax.engine.stages import peak_host_bytes
from bat_jax.io.images import read_image
source = read_image(sys.argv[1], largest_view=int(sys.argv[2]))
print(peak_host_bytes() // 2**20, *source.pixels.shape, *source.pixels[343, 681])
"""


def test_a_raster_of_any_size_takes_bounded_memory(tmp_path):
    side, left, top = 60_000, 29_696, 14_848
    patch = np.full((3, 512, 512), 90, np.uint8)
    patch[1] = 130
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "photometric": "RGB"}
    size = {"driver": "GTiff", "count": 3, "dtype": "uint8", "width": side, "height": side}
    with rasterio.open(tmp_path / "a.tif", "w", SPARSE_OK=True, **size, **layout) as raster:
        raster.write(patch, window=Window(left, top, 512, 512))
    small = side // 32
    shown = np.zeros((3, small, small), np.uint8)
    shown[:, top // 32 : top // 32 + 16, left // 32 : left // 32 + 16] = patch[:, :16, :16]
    # What GDAL builds beside a file; building it would take longer than all the rest.
    layout = size | layout | {"width": small, "height": small}
    with rasterio.open(tmp_path / "a.tif.ovr", "w", **layout) as overview:
        overview.write(shown)
    command = [sys.executable, "-c", _PEAK, str(tmp_path / "a.tif"), "672"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    peak_mib, height, width, _, *colour = map(int, run.stdout.split())
    # The pixels are 10,800 million bytes.
    assert peak_mib < 1000 and 1344 <= height == width < 1400
    assert colour == [90, 130, 90]
