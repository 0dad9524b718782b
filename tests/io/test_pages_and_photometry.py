"""Pages, frames, kinds of colours, and files that end too early: against Pillow and GDAL."""

import io
import struct
import threading

import numpy as np
import pytest
import rasterio
from PIL import Image, ImageCms, ImageFile

from bat_jax.io.bands import ImageError
from bat_jax.io.images import read_image
from bat_jax.io.label_maps import LabelMapError, read_label_map
from tests.io.raster_files import COLS, PICTURE, ROWS, pillow_rgb, stretched, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
RNG = np.random.default_rng(0)
COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}


def _lab():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.applyTransform(Image.fromarray(PICTURE), ImageCms.buildTransform(*profiles, "RGB", "LAB"))


def _as(mode):
    return _lab() if mode == "LAB" else Image.fromarray(PICTURE).convert(mode)


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.tif", "CMYK", {}),
        ("a.tif", "CMYK", {"compression": "tiff_lzw"}),
        ("a.tif", "CMYK", {"compression": "jpeg"}),
        ("a.tif", "YCbCr", {}),
        ("a.tif", "YCbCr", {"compression": "tiff_lzw"}),
        ("a.tif", "LAB", {}),
        ("a.tif", "LAB", {"compression": "tiff_adobe_deflate"}),
        ("a.jp2", "CMYK", {}),
        ("a.jp2", "YCbCr", {}),
    ],
)
def test_other_colours_become_the_rgb_that_pillow_gives(tmp_path, name, mode, options):
    _as(mode).save(tmp_path / name, **options)
    try:
        expected = pillow_rgb(tmp_path / name)
    except ValueError:  # an older Pillow makes no RGB of CIELab
        with pytest.raises(ImageError, match="cannot be shown: convert the picture to RGB"):
            read_image(tmp_path / name)
        return
    source = read_image(tmp_path / name)
    np.testing.assert_array_equal(source.pixels, expected)
    assert source.valid is None and source.note == ""
    np.testing.assert_array_equal(read_image(tmp_path / name, window=(7, 11, 40, 30)).pixels, expected[11:41, 7:47])
    np.testing.assert_array_equal(read_image(tmp_path / name, bands=(3,)).pixels[..., 0], expected[..., 2])


def test_a_jpeg_inside_a_tiff_is_rgb(tmp_path):
    Image.fromarray(PICTURE).convert("YCbCr").save(tmp_path / "a.tif", compression="jpeg", quality=95)
    # GDAL's libjpeg and Pillow's round their conversions by themselves.
    np.testing.assert_allclose(read_image(tmp_path / "a.tif").pixels, pillow_rgb(tmp_path / "a.tif"), atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_other_colours_are_turned_after_the_window_is_cut(tmp_path, orientation):
    Image.fromarray(PICTURE).convert("CMYK").save(tmp_path / "a.tif", tiffinfo={274: orientation})
    Image.fromarray(PICTURE).save(tmp_path / "b.tif", tiffinfo={274: orientation})
    for window in (None, (7, 11, 40, 30)):
        turned, plain = (read_image(tmp_path / name, window=window) for name in ("a.tif", "b.tif"))
        np.testing.assert_array_equal(turned.pixels, plain.pixels)
        assert turned.full_size == plain.full_size and turned.orientation == plain.orientation == orientation


def _with_tag(path, old, new):
    """Write another value into a TIFF's tag of one 16-bit number."""
    content = path.read_bytes()
    before, after = (struct.pack("<HHII", tag, 3, 1, value) for tag, value in (old, new))
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))


@pytest.mark.parametrize("photometry", [9, 10, 32803, 32844, 34892])
def test_colours_that_nothing_here_shows_are_refused(tmp_path, photometry):
    Image.fromarray(PICTURE).save(tmp_path / "a.tif")
    _with_tag(tmp_path / "a.tif", (262, 2), (262, photometry))
    with pytest.raises(ImageError, match=rf"a.tif: colours of TIFF's kind {photometry} cannot be shown"):
        read_image(tmp_path / "a.tif")


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_pillows_own_limit_is_not_asked_for_a_tiff_either(tmp_path, monkeypatch, compression, orientation):
    path = tmp_path / "a.tif"
    Image.fromarray(PICTURE).convert("CMYK").save(path, compression=compression, tiffinfo={274: orientation})
    expected = read_image(path).pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    np.testing.assert_array_equal(read_image(path).pixels, expected)


def test_cmyk_with_alpha_is_refused_as_what_it_is(tmp_path):
    data = np.full((5, 9, 9), 200, np.uint8)
    path = write_raster(tmp_path / "a.tif", data, photometric="CMYK", ALPHA="YES")
    with pytest.raises(ImageError, match="cannot be shown: convert the picture to RGB"):
        read_image(path)


def test_a_colour_space_of_jpeg_2000_that_nothing_here_shows_is_refused(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.jp2")
    content = (tmp_path / "a.jp2").read_bytes()
    place = content.index(b"colr\x01") + 7
    (tmp_path / "a.jp2").write_bytes(content[:place] + struct.pack(">I", 14) + content[place + 4 :])
    with pytest.raises(ImageError, match="colours of JPEG 2000's kind 14 cannot be shown"):
        read_image(tmp_path / "a.jp2")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("gdal", [False, True])
def test_greys_in_which_0_is_white_are_turned_in_8_bits_or_fewer(tmp_path, bits, gdal):
    data = RNG.integers(0, 2**bits, (1, 20, 30)).astype(np.uint8)
    write_raster(tmp_path / "a.tif", data, photometric="MINISWHITE", **({"NBITS": bits} if bits < 8 else {}))
    if not gdal:  # GDAL keeps notes of its own in what it writes
        Image.open(tmp_path / "a.tif").save(tmp_path / "a.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, pillow_rgb(tmp_path / "a.tif"))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "float32"])
def test_greys_in_which_0_is_white_are_turned_after_the_stretch(tmp_path, dtype):
    data = RNG.normal(600, 90, (1, 20, 30)).astype(dtype)
    source = read_image(write_raster(tmp_path / "a.tif", data, photometric="MINISWHITE"))
    np.testing.assert_array_equal(source.pixels[..., 0], 255 - stretched(data[0]))


def _frames(path, **options):
    frames = [Image.new("RGB", (24, 16), colour) for colour in COLOURS.values()]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.tif", {}),
        ("big.tif", {"big_tiff": True}),
        ("a.gif", {}),
        ("a.webp", {"lossless": True}),
        ("a.png", {}),
        ("a.avif", {"quality": 100, "subsampling": "4:4:4"}),
        ("a.mpo", {"quality": 100, "subsampling": 0}),
    ],
)
def test_pages_and_frames_are_chosen_from_1_and_said_in_every_format(tmp_path, name, options):
    path = _frames(tmp_path / name, **options)
    np.testing.assert_array_equal(read_image(path).pixels, read_image(path, page=1).pixels)
    for page, colour in enumerate(COLOURS.values(), 1):
        source = read_image(path, page=page)
        assert source.pixels.shape == (16, 24, 3) and source.note == f"page {page} of 3"
        np.testing.assert_allclose(source.pixels, np.broadcast_to(np.array(colour), (16, 24, 3)), atol=3)
    with pytest.raises(ImageError, match="page 4 asked for, the file has pages 1 to 3: change --page"):
        read_image(path, page=4)
    with pytest.raises(ImageError, match="page 0, want 1 or more: change --page"):
        read_image(path, page=0)


def test_a_page_has_its_own_size_and_orientation(tmp_path):
    small, large = Image.fromarray(PICTURE[:20, :30]), Image.fromarray(PICTURE)
    small.encoderinfo, large.encoderinfo = {}, {"tiffinfo": {274: 6}}
    small.save(tmp_path / "a.tif", save_all=True, append_images=[large])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, PICTURE[:20, :30])
    second = read_image(tmp_path / "a.tif", page=2)
    np.testing.assert_array_equal(second.pixels, np.rot90(PICTURE, -1))
    assert second.note == "page 2 of 2; orientation 6 applied"


def test_images_of_a_nitf_are_pages(tmp_path):
    path = tmp_path / "a.ntf"
    data = np.moveaxis(PICTURE, 2, 0)
    write_raster(path, data, driver="NITF", NUMI=2)
    write_raster(path, 255 - data, driver="NITF", APPEND_SUBDATASET="YES")
    np.testing.assert_array_equal(read_image(path).pixels, PICTURE)
    second = read_image(path, page=2)
    np.testing.assert_array_equal(second.pixels, 255 - PICTURE)
    assert second.note == "page 2 of 2"
    with pytest.raises(ImageError, match="pages 1 to 2"):
        read_image(path, page=3)


@pytest.mark.parametrize("name", ["a.jpg", "a.jp2", "a.img"])
def test_a_file_of_one_picture_has_one_page(tmp_path, name):
    if name == "a.img":
        write_raster(tmp_path / name, np.moveaxis(PICTURE, 2, 0), driver="HFA")
    else:
        Image.fromarray(PICTURE).save(tmp_path / name)
    with pytest.raises(ImageError, match="page 2 asked for, the file has pages 1 to 1"):
        read_image(tmp_path / name, page=2)


@pytest.mark.parametrize("kind", [1, 4, 5])
def test_reduced_pages_and_masks_are_no_pages(tmp_path, kind):
    thumbnail, full = Image.new("RGB", (8, 8), "red"), Image.fromarray(PICTURE)
    thumbnail.encoderinfo = {"tiffinfo": {254: kind}}
    thumbnail.save(tmp_path / "a.tif", save_all=True, append_images=[full], tiffinfo={254: kind})
    content = (tmp_path / "a.tif").read_bytes()
    # Pillow gives every page the first one's tags.
    entry = struct.pack("<HHII", 254, 4, 1, kind)
    last = content.rindex(entry)
    if content.count(entry) == 2:
        (tmp_path / "a.tif").write_bytes(content[:last] + struct.pack("<HHII", 254, 4, 1, 0) + content[last + 12 :])
    source = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(source.pixels, PICTURE)
    assert source.note == ""


def test_overviews_and_the_mask_of_a_cog_are_no_pages(tmp_path):
    data = RNG.integers(0, 255, (3, 512, 512)).astype(np.uint8)
    path = write_raster(tmp_path / "a.tif", data, driver="COG", BLOCKSIZE=128)
    with rasterio.open(path) as raster:
        assert raster.overviews(1)
    assert read_image(path).note == ""
    with pytest.raises(ImageError, match="pages 1 to 1"):
        read_image(path, page=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_bigtiff_is_applied(tmp_path, orientation):
    Image.fromarray(PICTURE).save(tmp_path / "a.tif", big_tiff=True, tiffinfo={274: orientation})
    assert (tmp_path / "a.tif").read_bytes()[2] == 43
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, pillow_rgb(tmp_path / "a.tif"))


def test_a_list_of_pages_that_runs_in_a_circle_is_refused(tmp_path):
    path = _frames(tmp_path / "a.tif")
    content = bytearray(path.read_bytes())
    first = struct.unpack("<I", content[4:8])[0]
    (count,) = struct.unpack("<H", content[first : first + 2])
    content[first + 2 + 12 * count :][:4] = content[4:8]
    end = first + 2 + 12 * count
    content[end : end + 4] = content[4:8]
    path.write_bytes(content)
    with pytest.raises(ImageError, match="runs in a circle"):
        read_image(path)


def _halves(folder):
    noise = Image.fromarray(RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8))
    for form in ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "AVIF", "TIFF", "JPEG2000"):
        file = io.BytesIO()
        noise.save(file, form)
        for share in (0.3, 0.7, 0.95):
            (folder / f"{form}_{share}").write_bytes(file.getvalue()[: int(len(file.getvalue()) * share)])
    file = io.BytesIO()
    noise.convert("CMYK").save(file, "TIFF")
    (folder / "CMYK").write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    damaged = io.BytesIO()
    noise.save(damaged, "PNG")
    content = bytearray(damaged.getvalue())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    (folder / "damaged").write_bytes(content)
    return sorted(folder.iterdir())


def test_truncated_files_are_refused_whatever_pillows_flag_says_and_the_flag_stays(tmp_path, monkeypatch):
    paths = _halves(tmp_path)
    labels = tmp_path / "labels.png"
    Image.fromarray((ROWS * COLS % 251).astype(np.uint8)).save(labels)
    labels.write_bytes(labels.read_bytes()[:300])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for path in paths:
        with pytest.raises(ImageError, match="broken or truncated"):
            read_image(path)
    with pytest.raises(LabelMapError):
        read_label_map(labels, (83, 61))
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_reading_under_the_flag_changes_nothing_for_other_threads(tmp_path, monkeypatch):
    Image.fromarray(PICTURE).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) * 2 // 3])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    refused = []

    def other():
        for _ in range(30):
            try:
                Image.open(tmp_path / "cut.jpg").load()
            except OSError as error:
                refused.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    for _ in range(30):
        with pytest.raises(ImageError):
            read_image(tmp_path / "cut.jpg")
        np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").pixels, pillow_rgb(tmp_path / "a.jpg"))
    thread.join()
    assert refused == []
