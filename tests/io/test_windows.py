"""A window of a file against the same pixels of the whole."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from bat_jax.io.bands import ImageError
from bat_jax.io.images import read_image
from tests.io.raster_files import PICTURE, large_raster, stretched, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.tif", "a.jp2", "palette.tif", "wide.tif", "wide.png"]
)
def test_a_window_holds_the_pixels_that_the_full_read_holds_there(tmp_path, name):
    if name.startswith("wide"):
        write_raster(
            tmp_path / name,
            np.moveaxis(PICTURE, 2, 0).astype(np.uint16) * 9,
            driver="GTiff" if name.endswith("tif") else "PNG",
        )
    else:
        picture = Image.fromarray(PICTURE)
        (picture.convert("P") if "palette" in name else picture).save(tmp_path / name)
    source = read_image(tmp_path / name, window=(7, 11, 40, 30))
    full = read_image(tmp_path / name)
    if name.startswith("wide"):
        expected = np.dstack([stretched(PICTURE[11:41, 7:47, c] * 9.0) for c in range(3)])
    else:
        expected = full.pixels[11:41, 7:47]
    np.testing.assert_array_equal(source.pixels, expected)
    assert source.window == (7, 11, 40, 30) and source.full_size == (40, 30) and source.orientation == 1
    assert full.window == (0, 0, 83, 61)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_a_window_is_taken_before_the_orientation_which_the_picture_tells(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PICTURE).save(
        tmp_path / name, **({"tiffinfo": {274: orientation}} if name == "a.tif" else {"exif": exif})
    )
    source = read_image(tmp_path / name, window=(7, 11, 40, 30))
    # Pillow turns a TIFF as it opens it.
    stored = PICTURE if name == "a.tif" else np.asarray(Image.open(tmp_path / name))
    tagged = Image.fromarray(stored[11:41, 7:47])
    tagged.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(source.pixels, np.asarray(ImageOps.exif_transpose(tagged)))
    assert source.orientation == orientation and source.window == (7, 11, 40, 30)
    assert source.full_size == ((30, 40) if orientation >= 5 else (40, 30))


def test_a_window_is_decimated_as_a_file_of_its_size(tmp_path):
    data = large_raster()
    path = write_raster(tmp_path / "a.tif", data)
    source = read_image(path, window=(100, 40, 200, 320), largest_view=40)
    expected = data[:, 40:360, 100:300].reshape(3, 80, 4, 50, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(source.pixels, np.moveaxis(expected, 0, 2), atol=1)
    assert source.full_size == (200, 320) and source.note == "read at 50 x 80 of 200 x 320 pixels"


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize(
    "window", [(-1, 0, 5, 5), (0, -1, 5, 5), (80, 0, 5, 5), (0, 60, 5, 5), (0, 0, 1, 5), (0, 0, 5, -5)]
)
def test_a_window_that_the_file_does_not_have_is_refused(tmp_path, name, window):
    Image.fromarray(PICTURE).save(tmp_path / name)
    with pytest.raises(ImageError, match=r"of the file's 83 x 61 pixels: change --window"):
        read_image(tmp_path / name, window=window)


def test_the_limit_counts_a_rasters_window_and_any_other_file_as_a_whole(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.tif")
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.tif", window=(0, 0, 10, 10), max_pixels=100).pixels.shape == (10, 10, 3)
    with pytest.raises(ImageError, match="11 x 10 = 110 pixels, the limit is 100"):
        read_image(tmp_path / "a.tif", window=(0, 0, 11, 10), max_pixels=100)
    with pytest.raises(ImageError, match="83 x 61 = 5063 pixels, the limit is 100"):
        read_image(tmp_path / "a.png", window=(0, 0, 10, 10), max_pixels=100)
