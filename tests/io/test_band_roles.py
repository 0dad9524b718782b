"""Which bands a raster's colours are taken from, and which is its mask."""

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp as C

from bat_jax.io.bands import ImageError
from bat_jax.io.images import read_image
from tests.io.raster_files import COLS, PICTURE, pillow_rgb, stretched, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("interpretations", "names", "expected", "how"),
    [
        ([C.blue, C.green, C.red], None, (3, 2, 1), "by colour interpretation"),
        ([C.blue, C.green, C.red, C.nir, C.alpha], None, (3, 2, 1), "by colour interpretation"),
        ([C.nir, C.red, C.green, C.blue], ["B02", "B03", "B04", "B08"], (2, 3, 4), "by colour interpretation"),
        (None, ["B02", "B03", "B04", "B08"], (3, 2, 1), "by name"),
        (None, ["b4", "b3", "b2"], None, ""),
        (None, ["SR_B2", "SR_B3", "SR_B4", "SR_B5"], (3, 2, 1), "by name"),
        (None, ["LC09_SR_B5", "LC09_SR_B4", "LC09_SR_B3", "LC09_SR_B2"], (2, 3, 4), "by name"),
        (None, ["Blue", "Green", "RED", "Red Edge 1", "NIR"], (3, 2, 1), "by name"),
        (None, ["near infra-red", "red edge", "Band 4 (red)", "green", "blue"], (3, 4, 5), "by name"),
        (None, ["B", "G", "R", "N"], (3, 2, 1), "by name"),
        (None, ["Band 1", "Band 2", "Band 3", "Band 4"], (1, 2, 3), ""),
        (None, ["B02", "B03", None, "B08"], (1, 2, 3), ""),
    ],
)
def test_bands_are_red_green_and_blue_by_interpretation_then_by_name_then_by_order(
    tmp_path, interpretations, names, expected, how
):
    count = len(interpretations or names)
    data = np.stack([np.full((9, 9), 40 + 10 * i, np.uint8) for i in range(count)])
    path = write_raster(tmp_path / "a.tif", data, photometric="MINISBLACK", ALPHA="NO")
    with rasterio.open(path, "r+") as raster:
        raster.colorinterp = interpretations or [C.gray, *[C.undefined] * (count - 1)]
        if names:
            raster.descriptions = names
    source = read_image(path)
    wanted = expected or (1, 2, 3)
    assert source.pixels[0, 0].tolist() == [30 + 10 * band for band in wanted]
    said = f"bands {','.join(map(str, wanted))} of {count}{how and ' ' + how}"
    assert source.note == ("" if expected is None else said)
    # --bands wins.
    assert read_image(path, bands=(2, 2, 1)).pixels[0, 0].tolist() == [50, 50, 40]


@pytest.mark.parametrize("others", [[], [C.undefined], [C.nir, C.undefined, C.undefined]])
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_alpha_is_a_mask_wherever_it_stands_and_does_not_move_the_stretch(tmp_path, others, place, dtype):
    colours = RNG.integers(300, 4000, (3 + len(others), 30, 40)).astype(dtype)
    alpha = np.where(COLS[:30, :40] < 13, 0, np.iinfo(dtype).max).astype(dtype)
    roles = [C.blue, C.green, C.red, *others]
    index = 0 if place == 0 else len(roles)
    data = np.insert(colours, index, alpha, axis=0)
    kinds = [*roles[:index], C.alpha, *roles[index:]]
    path = write_raster(tmp_path / "a.tif", data, photometric="MINISBLACK", ALPHA="NO", colorinterp=kinds)
    source = read_image(path)
    np.testing.assert_array_equal(source.valid, alpha > 0)
    red = colours[2] if dtype == "uint8" else stretched(colours[2], alpha > 0)
    np.testing.assert_array_equal(source.pixels[alpha > 0][:, 0], red[alpha > 0])


def test_a_palette_with_alpha_shows_its_colours(tmp_path):
    image = Image.fromarray(PICTURE).convert("P").convert("PA")
    alpha = np.where(COLS < 20, 0, 255).astype(np.uint8)
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "a.tif")
    source = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(source.valid, alpha > 0)
    np.testing.assert_array_equal(source.pixels[alpha > 0], pillow_rgb(tmp_path / "a.tif")[alpha > 0])


def test_bands_of_another_kind_of_colour_are_refused_unless_they_are_chosen(tmp_path):
    data = np.full((4, 9, 9), 7, np.uint8)
    kinds = [C.cyan, C.magenta, C.yellow, C.black]
    path = write_raster(tmp_path / "a.tif", data, photometric="MINISBLACK", ALPHA="NO", colorinterp=kinds)
    with pytest.raises(ImageError, match=r"the bands are cyan, magenta, yellow, black.*--bands"):
        read_image(path)
    assert (read_image(path, bands=(1,)).pixels == 7).all()
