"""Images of every kind users have, against Pillow, literals and brute force."""

import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp

from bat_jax.config import VisionConfig
from bat_jax.io import bands
from bat_jax.io.bands import ImageError
from bat_jax.io.images import SourceImage, fill_nodata, read_image
from tests.io.raster_files import COLS, PICTURE, ROWS, large_raster, pillow_rgb, stretched, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
CLIP = VisionConfig()
RNG = np.random.default_rng(0)
RGBA = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]


def test_a_towers_own_colour_fills_what_has_no_data():
    valid = np.arange(6).reshape(2, 3) > 1
    source = SourceImage(pixels=np.full((2, 3, 3), 9, np.uint8), valid=valid, full_size=(3, 2), note="")
    filled = fill_nodata(source, (1, 2, 3))
    assert (filled.pixels[~valid] == (1, 2, 3)).all() and (filled.pixels[valid] == 9).all()
    assert (source.pixels == 9).all() and fill_nodata(source, CLIP.pad_colour) is source


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("rgb.png", "RGB", {}),
        ("grey.png", "L", {}),
        ("palette.png", "P", {}),
        ("bits.png", "1", {}),
        ("rgb.jpg", "RGB", {"quality": 80}),
        ("grey.jpg", "L", {}),
        ("cmyk.jpg", "CMYK", {}),
        ("rgb.webp", "RGB", {}),
        ("rgb.bmp", "RGB", {}),
        ("rgb.gif", "P", {}),
        ("rgb.ppm", "RGB", {}),
        ("rgb.tif", "RGB", {}),
        ("grey.tif", "L", {}),
        ("palette.tif", "P", {}),
        ("bits.tif", "1", {}),
        ("deflate.tif", "RGB", {"compression": "tiff_deflate"}),
        ("inverted.tif", "L", {"tiffinfo": {262: 0}}),
        ("lossless.jp2", "RGB", {}),
        ("lossy.jp2", "RGB", {"quality_mode": "rates", "quality_layers": [8], "irreversible": True}),
        ("grey.jp2", "L", {}),
        ("stream.j2k", "RGB", {}),
    ],
)
def test_8_bit_images_equal_pillow_and_need_no_note(tmp_path, name, mode, options):
    Image.fromarray(PICTURE).convert(mode).save(tmp_path / name, **options)
    source = read_image(tmp_path / name)
    assert source.pixels.dtype == np.uint8 and source.pixels.flags.c_contiguous
    np.testing.assert_array_equal(source.pixels, pillow_rgb(tmp_path / name))
    assert source.valid is None and source.note == "" and source.full_size == (83, 61)


def test_the_suffix_does_not_matter(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.tif")
    (tmp_path / "a.tif").rename(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, PICTURE)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")).pixels, PICTURE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_every_orientation_is_applied_as_pillow_does(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {"tiffinfo": {274: orientation}} if name == "a.tif" else {"exif": exif}
    Image.fromarray(PICTURE).save(tmp_path / name, **more)
    source = read_image(tmp_path / name)
    np.testing.assert_array_equal(source.pixels, pillow_rgb(tmp_path / name))
    assert source.full_size == ((61, 83) if orientation >= 5 else (83, 61))
    assert source.note == ("" if orientation == 1 else f"orientation {orientation} applied")


def test_orientation_turns_the_mask_with_the_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = np.dstack([PICTURE, np.where(ROWS < 10, 0, 255).astype(np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png", exif=exif)
    source = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(source.valid, np.rot90(ROWS >= 10, -1))
    np.testing.assert_array_equal(source.pixels[~source.valid], np.tile(CLIP.pad_colour, (10 * 83, 1)))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_transparent_pixels_are_no_data_and_others_keep_their_colour(tmp_path, name):
    alpha = RNG.choice([0, 1, 128, 255], (61, 83)).astype(np.uint8)
    options = {"lossless": True, "exact": True} if name == "a.webp" else {}
    Image.fromarray(np.dstack([PICTURE, alpha])).save(tmp_path / name, **options)
    source = read_image(tmp_path / name)
    np.testing.assert_array_equal(source.valid, alpha > 0)
    np.testing.assert_array_equal(source.pixels[alpha > 0], PICTURE[alpha > 0])
    assert (source.pixels[alpha == 0] == CLIP.pad_colour).all()
    assert "% of the pixels hold no data" in source.note


def test_opaque_alpha_leaves_no_mask(tmp_path):
    Image.fromarray(PICTURE).convert("RGBA").save(tmp_path / "a.png")
    source = read_image(tmp_path / "a.png")
    assert source.valid is None and source.note == ""
    np.testing.assert_array_equal(source.pixels, PICTURE)


def test_transparent_palette_entry_and_colour_key_are_no_data(tmp_path):
    palette = Image.fromarray((COLS % 4).astype(np.uint8)).convert("P")
    palette.putdata((COLS % 4).reshape(-1).tolist())
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    palette.save(tmp_path / "palette.png", transparency=2)
    source = read_image(tmp_path / "palette.png")
    np.testing.assert_array_equal(source.valid, COLS % 4 != 2)
    assert source.pixels[0, :4].tolist() == [[10, 20, 30], [40, 50, 60], list(CLIP.pad_colour), [1, 2, 3]]
    Image.fromarray((COLS % 4).astype(np.uint8)).save(tmp_path / "key.png", transparency=1)
    source = read_image(tmp_path / "key.png")
    np.testing.assert_array_equal(source.valid, COLS % 4 != 1)


def test_alpha_asked_for_as_a_band_is_a_colour(tmp_path):
    nir = np.where(ROWS < 5, 0, 77).astype(np.uint8)
    for name in ("a.png", "a.tif"):
        Image.fromarray(np.dstack([PICTURE, nir])).save(tmp_path / name)
        source = read_image(tmp_path / name, bands=(4, 1, 2))
        np.testing.assert_array_equal(source.pixels, np.dstack([nir, PICTURE[:, :, 0], PICTURE[:, :, 1]]))
        assert source.valid is None and source.note.startswith("bands 4,1,2")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jp2"])
def test_chosen_bands_are_reordered_or_repeated(tmp_path, name):
    Image.fromarray(PICTURE).save(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name, bands=(3, 2, 1)).pixels, PICTURE[:, :, ::-1])
    grey = read_image(tmp_path / name, bands=(2,)).pixels
    np.testing.assert_array_equal(grey, np.repeat(PICTURE[:, :, 1:2], 3, axis=2))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_palette_is_expanded_before_bands_are_chosen(tmp_path, name):
    Image.fromarray(PICTURE).convert("P").save(tmp_path / name)
    np.testing.assert_array_equal(
        read_image(tmp_path / name, bands=(3, 1, 1)).pixels, pillow_rgb(tmp_path / name)[:, :, [2, 0, 0]]
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"interleave": "pixel"},
        {"driver": "COG"},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
    ],
)
def test_the_first_three_of_five_bands_of_16_bits_are_stretched_each_by_itself(tmp_path, options):
    data = RNG.integers(300, 4000, (5, 40, 30)).astype(np.uint16) * np.array([1, 2, 3, 4, 5], np.uint16)[:, None, None]
    source = read_image(write_raster(tmp_path / "a.tif", data, **options))
    for channel in range(3):
        np.testing.assert_array_equal(source.pixels[:, :, channel], stretched(data[channel]))
    low, high = np.percentile(data[0], (2, 98))
    assert "bands 1,2,3 of 5" in source.note and f"{low:.6g}..{high:.6g}" in source.note
    chosen = read_image(tmp_path / "a.tif", bands=(5, 4, 4)).pixels
    np.testing.assert_array_equal(chosen[:, :, 0], stretched(data[4]))
    np.testing.assert_array_equal(chosen[:, :, 2], stretched(data[3]))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int8", "uint32", "int32", "float32", "float64"])
def test_every_real_type_is_stretched_alike(tmp_path, dtype):
    band = RNG.normal(60, 12, (40, 30)).clip(0, 120).astype(dtype)
    source = read_image(write_raster(tmp_path / "a.tif", band[None]))
    np.testing.assert_array_equal(source.pixels, np.repeat(stretched(band)[:, :, None], 3, axis=2))
    assert source.note.startswith("stretched percentiles 2..98")


def test_16_bit_png_is_stretched_in_colour_and_grey(tmp_path):
    data = RNG.integers(0, 2000, (3, 40, 30)).astype(np.uint16)
    source = read_image(write_raster(tmp_path / "rgb.png", data, driver="PNG"))
    np.testing.assert_array_equal(source.pixels[:, :, 1], stretched(data[1]))
    Image.fromarray(data[0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png").pixels[:, :, 2], stretched(data[0]))


def test_16_bit_pgm_is_stretched(tmp_path):
    band = RNG.integers(0, 9000, (40, 30)).astype(np.uint16)
    (tmp_path / "a.pgm").write_bytes(b"P5 30 40 65535\n" + band.astype(">u2").tobytes())
    source = read_image(tmp_path / "a.pgm")
    np.testing.assert_array_equal(source.pixels[:, :, 0], stretched(band))
    assert "0..255" in source.note


def test_16_bit_jpeg_2000_is_stretched(tmp_path):
    data = RNG.integers(0, 4000, (3, 40, 50)).astype(np.uint16)
    path = write_raster(tmp_path / "a.jp2", data, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    np.testing.assert_array_equal(read_image(path).pixels[:, :, 0], stretched(data[0]))


def test_8_bit_values_are_never_stretched(tmp_path):
    data = RNG.integers(100, 110, (4, 20, 30)).astype(np.uint8)
    source = read_image(write_raster(tmp_path / "a.tif", data, photometric="RGB", ALPHA="NO"))
    np.testing.assert_array_equal(source.pixels, np.moveaxis(data[:3], 0, 2))
    assert source.note == "bands 1,2,3 of 4 by colour interpretation"


@pytest.mark.parametrize("bits", [2, 4])
def test_fewer_than_8_bits_span_black_to_white(tmp_path, bits):
    data = RNG.integers(0, 2**bits, (1, 20, 30)).astype(np.uint8)
    source = read_image(write_raster(tmp_path / "a.tif", data, NBITS=bits))
    np.testing.assert_array_equal(source.pixels[:, :, 0], data[0] * (255 // (2**bits - 1)))


@pytest.mark.parametrize(("name", "driver"), [("a.img", "HFA"), ("a.ntf", "NITF")])
def test_other_rasters_of_map_software_are_read(tmp_path, name, driver):
    data = np.moveaxis(PICTURE, 2, 0)
    source = read_image(write_raster(tmp_path / name, data, driver=driver))
    np.testing.assert_array_equal(source.pixels, PICTURE)


def test_two_bands_show_the_first(tmp_path):
    data = RNG.integers(0, 255, (2, 20, 30)).astype(np.uint8)
    source = read_image(write_raster(tmp_path / "a.tif", data))
    np.testing.assert_array_equal(source.pixels[:, :, 1], data[0])
    assert source.note == "bands 1 of 2"


def test_constant_band_becomes_mid_grey_and_nearly_constant_its_full_range(tmp_path):
    assert (read_image(write_raster(tmp_path / "a.tif", np.full((1, 9, 9), 700, np.uint16))).pixels == 128).all()
    band = np.full((1, 20, 20), 700, np.uint16)
    band[0, 0, 0] = 900
    pixels = read_image(write_raster(tmp_path / "b.tif", band)).pixels
    assert pixels[0, 0, 0] == 255 and pixels[1, 1, 1] == 0


def test_nan_and_infinity_are_no_data_and_do_not_move_the_stretch(tmp_path):
    data = RNG.normal(5, 1, (3, 40, 30)).astype(np.float32)
    holes = RNG.random((40, 30)) < 0.3
    data[:, holes] = np.nan
    data[:, 0, 0] = np.inf
    holes[0, 0] = True
    source = read_image(write_raster(tmp_path / "a.tif", data))
    np.testing.assert_array_equal(source.valid, ~holes)
    assert (source.pixels[holes] == CLIP.pad_colour).all()
    np.testing.assert_array_equal(source.pixels[~holes][:, 2], stretched(data[2], ~holes)[~holes])


def test_nan_in_one_band_alone_becomes_its_zero(tmp_path):
    data = RNG.normal(5, 1, (3, 40, 30)).astype(np.float32)
    data[1, 3, 4] = np.nan
    source = read_image(write_raster(tmp_path / "a.tif", data))
    assert source.valid is None and source.pixels[3, 4, 1] == 0
    assert source.pixels[3, 4, 0] == stretched(data[0])[3, 4]


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 0), ("uint16", 0), ("int16", -9999), ("float32", -3.4e38), ("float32", np.nan)]
)
def test_nodata_value_is_no_data_and_does_not_move_the_stretch(tmp_path, dtype, nodata):
    data = RNG.integers(20, 90, (3, 40, 30)).astype(dtype)
    holes = COLS[:40, :30] < 7
    data[:, holes] = nodata
    source = read_image(write_raster(tmp_path / "a.tif", data, nodata=nodata))
    np.testing.assert_array_equal(source.valid, ~holes)
    assert (source.pixels[holes] == CLIP.pad_colour).all()
    expected = data[1] if dtype == "uint8" else stretched(data[1], ~holes)
    np.testing.assert_array_equal(source.pixels[~holes][:, 1], expected[~holes])


def test_a_colour_with_nodata_in_one_band_stays_a_colour(tmp_path):
    data = np.full((3, 4, 4), 9, np.uint8)
    data[:, 0, 0] = (200, 0, 0)
    data[:, 1, 1] = 0
    source = read_image(write_raster(tmp_path / "a.tif", data, nodata=0))
    assert source.pixels[0, 0].tolist() == [200, 0, 0]
    assert np.argwhere(~source.valid).tolist() == [[1, 1]]


def test_mask_of_the_file_is_no_data(tmp_path):
    data = RNG.integers(0, 255, (3, 40, 30)).astype(np.uint8)
    mask = (ROWS[:40, :30] > 4).astype(np.uint8) * 255
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write_raster(tmp_path / "a.tif", data, photometric="RGB", mask=mask)
    source = read_image(path)
    np.testing.assert_array_equal(source.valid, mask > 0)
    np.testing.assert_array_equal(source.pixels[mask > 0], np.moveaxis(data, 0, 2)[mask > 0])


def test_all_nodata_is_an_error(tmp_path):
    Image.new("RGBA", (9, 9)).save(tmp_path / "a.png")
    write_raster(tmp_path / "b.tif", np.zeros((3, 9, 9), np.uint8), nodata=0)
    write_raster(tmp_path / "c.tif", np.full((1, 9, 9), np.nan, np.float32))
    for name in ("a.png", "b.tif", "c.tif"):
        with pytest.raises(ImageError, match="no pixel holds data"):
            read_image(tmp_path / name)


def test_reads_are_decimated_from_four_times_the_largest_view_on(tmp_path):
    data = large_raster()
    path = write_raster(tmp_path / "a.tif", data, overviews=[2, 4], tiled=True, blockxsize=64, blockysize=64)
    full = read_image(path, largest_view=101)
    assert full.pixels.shape == (400, 300, 3) and full.note == ""
    np.testing.assert_array_equal(full.pixels, np.moveaxis(data, 0, 2))
    half = read_image(path, largest_view=100)
    assert half.pixels.shape == (200, 150, 3) and half.full_size == (300, 400)
    assert half.note == "read at 150 x 200 of 300 x 400 pixels"
    blocks = data.reshape(3, 200, 2, 150, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(half.pixels, np.moveaxis(blocks, 0, 2), atol=1)
    assert read_image(path, largest_view=41).pixels.shape == (100, 75, 3)
    assert read_image(path).pixels.shape == (400, 300, 3)


@pytest.mark.parametrize("size", [(400, 300), (401, 307), (999, 14), (777, 776)])
@pytest.mark.parametrize("view", [10, 33, 64])
def test_a_decimated_read_leaves_twice_the_largest_view(tmp_path, size, view):
    path = write_raster(tmp_path / "a.tif", large_raster(*size))
    shape = read_image(path, largest_view=view).pixels.shape
    assert max(shape) >= min(2 * view, max(size)) and min(shape[:2]) >= 2
    assert max(shape) < max(4 * view + 2, max(size) if max(size) < 4 * view else 0)


def test_cog_is_decimated_and_keeps_its_mask(tmp_path):
    data = np.concatenate([large_raster(512, 512), np.full((1, 512, 512), 255, np.uint8)])
    data[:, :256] = 0
    path = write_raster(tmp_path / "cog.tif", data, driver="COG", BLOCKSIZE=128, colorinterp=RGBA)
    source = read_image(path, largest_view=64)
    assert source.pixels.shape == (128, 128, 3)
    np.testing.assert_array_equal(source.valid, np.arange(128)[:, None].repeat(128, 1) >= 64)


def test_decimated_nodata_is_averaged_out(tmp_path):
    data = np.full((1, 64, 64), 1000, np.int16)
    data[0, :, ::2] = -9999
    data[0, :32] = -9999
    source = read_image(write_raster(tmp_path / "a.tif", data, nodata=-9999), largest_view=8)
    np.testing.assert_array_equal(source.valid, np.arange(16)[:, None].repeat(16, 1) >= 8)
    assert "1000..1000" in source.note


def test_decimated_palette_keeps_its_colours(tmp_path):
    image = Image.fromarray((COLS % 2 * 3).astype(np.uint8)).convert("P")
    image.putdata((COLS % 2 * 3).reshape(-1).tolist())
    image.putpalette([10, 20, 30, 0, 0, 0, 0, 0, 0, 200, 210, 220])
    image.save(tmp_path / "a.tif")
    colors = np.unique(read_image(tmp_path / "a.tif", largest_view=10).pixels.reshape(-1, 3), axis=0)
    assert {tuple(color) for color in colors.tolist()} <= {(10, 20, 30), (200, 210, 220)}


@pytest.mark.parametrize(
    ("view", "size"), [(101, (300, 400)), (100, (150, 200)), (60, (100, 134)), (50, (75, 100)), (20, (38, 50))]
)
def test_jpeg_is_decoded_at_the_power_of_two_that_leaves_enough(tmp_path, view, size):
    picture = Image.fromarray(np.moveaxis(large_raster(), 0, 2))
    picture.save(tmp_path / "a.jpg", quality=95)
    source = read_image(tmp_path / "a.jpg", largest_view=view)
    height, width = source.pixels.shape[:2]
    expected = {101: 1, 100: 2, 60: 2, 50: 4, 20: 8}[view]
    assert (width, height) == (-(-300 // expected), -(-400 // expected))
    assert max(width, height) >= min(400, 2 * view) and source.full_size == (300, 400)
    assert source.note == ("" if expected == 1 else f"read at {width} x {height} of 300 x 400 pixels")
    np.testing.assert_allclose(
        source.pixels[..., :2], np.asarray(picture.resize((width, height), Image.Resampling.BOX))[..., :2], atol=12
    )


def test_png_cannot_be_decimated_and_is_read_in_full(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", largest_view=4).pixels, PICTURE)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.tif"])
def test_pillows_own_limit_neither_stops_nor_warns_nor_changes(tmp_path, monkeypatch, name):
    Image.fromarray(PICTURE).save(tmp_path / name)
    expected = pillow_rgb(tmp_path / name)
    # WebP compares with the limit inside Pillow, twice of which is allowed.
    limit = 3000 if name == "a.webp" else 100
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        np.testing.assert_array_equal(read_image(tmp_path / name).pixels, expected)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_our_limit_is_exact_and_counts_the_full_image(tmp_path, name):
    Image.fromarray(PICTURE).save(tmp_path / name)
    assert read_image(tmp_path / name, max_pixels=61 * 83).pixels.shape == PICTURE.shape
    with pytest.raises(ImageError, match=r"83 x 61 = 5063 pixels, the limit is 5062: raise --max_pixels"):
        read_image(tmp_path / name, max_pixels=61 * 83 - 1, largest_view=4)


def _png_header(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_too_many_pixels_are_refused_from_the_header(tmp_path):
    (tmp_path / "a.png").write_bytes(_png_header(100_000, 100_000))
    with pytest.raises(ImageError, match="--max_pixels"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_images_below_2_x_2_are_refused(tmp_path, name, size):
    Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(ImageError, match="smallest image is 2 x 2"):
        read_image(tmp_path / name)
    Image.new("RGB", (2, 2)).save(tmp_path / name)
    assert read_image(tmp_path / name).pixels.shape == (2, 2, 3)


def _bad_files(folder):
    noise = Image.fromarray(RNG.integers(0, 256, (61, 83, 3), dtype=np.uint8))
    cut = []
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.ppm", "a.tif", "deflate.tif", "a.jp2", "a.j2k"):
        noise.save(folder / name, **({"compression": "tiff_deflate"} if name == "deflate.tif" else {}))
        whole = (folder / name).read_bytes()
        for share in (0.04, 0.5, 0.9):
            path = folder / f"{share}_{name}"
            path.write_bytes(whole[: int(len(whole) * share)])
            cut.append(path)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("this is no picture")
    (folder / "text.tif").write_text("this is no picture either")
    (folder / "short.tif").write_bytes(b"II*\0")
    (folder / "zero.png").write_bytes(_png_header(0, 9))
    (folder / "nothing.png").write_bytes(_png_header(9, 9))
    (folder / "vrt.tif").write_text("<VRTDataset rasterXSize='9' rasterYSize='9'></VRTDataset>")
    os.mkfifo(folder / "pipe.png")
    cases = [("broken or truncated", path) for path in cut]
    return [
        *cases,
        ("does not exist", folder / "missing.png"),
        ("is a folder", folder),
        ("not a regular file", folder / "pipe.png"),
        ("is empty", folder / "empty.png"),
        ("not an image", folder / "text.png"),
        ("not an image", folder / "text.tif"),
        ("not an image", folder / "vrt.tif"),
        ("broken or truncated GTiff", folder / "short.tif"),
        ("broken or truncated PNG", folder / "zero.png"),
        ("broken or truncated PNG", folder / "nothing.png"),
    ]


def test_unusable_files_are_refused_in_one_line_that_names_file_and_flag(tmp_path):
    for expected, path in _bad_files(tmp_path):
        with pytest.raises(ImageError, match=expected) as caught:
            read_image(path)
        message = str(caught.value)
        assert str(path) in message and "--image" in message and "\n" not in message


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("bands", [(0,), (1, 2), (), (1, 2, 3, 4), (-1, 1, 1)])
def test_other_than_one_or_three_bands_from_1_up_are_refused(tmp_path, name, bands):
    Image.fromarray(PICTURE).save(tmp_path / name)
    with pytest.raises(ImageError, match="want one or three numbers from 1 up: change --bands"):
        read_image(tmp_path / name, bands=bands)


@pytest.mark.parametrize(
    ("name", "mode", "count"), [("a.png", "RGB", 3), ("a.tif", "RGB", 3), ("a.png", "L", 1), ("a.tif", "P", 3)]
)
def test_bands_beyond_the_last_are_refused(tmp_path, name, mode, count):
    Image.fromarray(PICTURE).convert(mode).save(tmp_path / name)
    with pytest.raises(
        ImageError, match=f"band {count + 1} asked for, the file has bands 1 to {count}: change --bands"
    ):
        read_image(tmp_path / name, bands=(count + 1,))


def test_complex_bands_are_refused(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.ones((1, 9, 9), np.complex64))
    with pytest.raises(ImageError, match=r"complex64.*--bands"):
        read_image(path)


def test_wrong_limits_are_refused(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="--max_pixels"):
        read_image(tmp_path / "a.png", max_pixels=0)
    with pytest.raises(ImageError, match="change scales"):
        read_image(tmp_path / "a.png", largest_view=0)


def test_the_first_frame_of_an_animation_is_read_and_said(tmp_path):
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    source = read_image(tmp_path / "a.gif")
    assert (source.pixels == (255, 0, 0)).all()
    assert source.note == "page 1 of 3"


def test_large_bands_are_stretched_from_a_regular_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(bands, "PERCENTILE_SAMPLES", 500)
    band = RNG.normal(1000, 100, (1, 60, 50)).astype(np.uint16)
    source = read_image(write_raster(tmp_path / "a.tif", band))
    low, high = np.percentile(band.reshape(-1)[::6], (2, 98))
    assert f"{low:.6g}..{high:.6g}" in source.note


def test_many_threads_read_what_one_reads(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    write_raster(tmp_path / "b.tif", RNG.integers(0, 5000, (4, 50, 60)).astype(np.uint16))
    expected = {name: read_image(tmp_path / name).pixels for name in ("a.png", "b.tif")}
    wrong = []

    def work(name):
        for _ in range(5):
            if not np.array_equal(read_image(tmp_path / name).pixels, expected[name]):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a.png", "b.tif") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
