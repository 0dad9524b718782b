"""Read any user's image to RGB bytes.

Two readers; the file's first bytes decide which, never its suffix:
  Pillow     PNG (up to 8 bits), JPEG, WebP, AVIF, GIF, BMP, PNM
  rasterio   TIFF, GeoTIFF, COG, JPEG 2000, NITF, HFA, and PNG of 16 bits (Pillow would cut its colours to 8 bits)

What is done to the pixels, in this order; every step that happens is named in `SourceImage.note`:
  1. a very large raster is read at 1/f of its size, if the caller says how large a view it needs
  2. bands are chosen (palettes are expanded to RGB first); what is alpha becomes a mask
  3. bands of more than 8 bits, and floats, are stretched: per band, percentiles 2..98 of its valid pixels to 0..255
  4. the EXIF or TIFF orientation is applied
  5. pixels without data (nodata value, mask, fully transparent, NaN) get the padding colour

Letters: H, W height and width of the image in pixels, C bands.
"""

import dataclasses
import os
import re
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from affine import Affine
from PIL import Image, ImageFile, TiffImagePlugin

from bat_jax.config import VisionConfig
from bat_jax.io.bands import (
    PERCENTILES,
    Bands,
    ImageError,
    ReadOptions,
    Size,
    Window,
    check_bands,
    check_size,
    check_window,
    decimation,
    stretch,
    take_bands,
)
from bat_jax.io.georeference import NOWHERE, Georeference, read_georeference, unoriented
from bat_jax.io.rasters import read_raster

# What Pillow and zlib raise on broken files.
DECODE_ERRORS: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)

_EXIF_ORIENTATION = 0x0112
# How a file begins -> (reader, its name for the format). Formats that refer to other files or to the network (VRT, WMS)
# are left out on purpose.
_SIGNATURES = (
    (rb"\x89PNG\r\n\x1a\n.{16}\x10", ("rasterio", "PNG")),  # the last byte is the bit depth
    (rb"\x89PNG\r\n\x1a\n", ("Pillow", "PNG")),
    (rb"\xff\xd8\xff", ("Pillow", "JPEG")),
    (rb"II[*+]\0|MM\0[*+]", ("rasterio", "GTiff")),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", ("rasterio", "JP2OpenJPEG")),
    (rb"RIFF....WEBP", ("Pillow", "WEBP")),
    (rb"....ftypavi[fs]", ("Pillow", "AVIF")),
    (rb"GIF8[79]a", ("Pillow", "GIF")),
    (rb"BM", ("Pillow", "BMP")),
    (rb"P[1-6]\s", ("Pillow", "PPM")),
    (rb"NITF|NSIF", ("rasterio", "NITF")),
    (rb"EHFA_HEADER_TAG", ("rasterio", "HFA")),
)
_READABLE = "PNG, JPEG, TIFF, GeoTIFF, COG, JPEG 2000, WebP, AVIF, GIF, BMP, PNM, NITF or HFA"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceImage:
    """An image as the model's views are cut from it.

    Attributes:
      pixels: (H, W, 3) uint8 RGB; to be read only. CLIP's pad colour where there is no data (`fill_nodata`).
      valid: (H, W) bool, False = no data; None where every pixel has data.
      full_size: (width, height) of what was read, the file or a window of it, in the file's pixels as displayed: after
        the orientation, before a decimated read. So (W, H) for a full read.
      note: one line on what was done to the pixels, "" if nothing.
      window: (col, row, width, height) of what was read, in the file's pixels as stored; None for an array.
      orientation: how the window was turned to be displayed, as in EXIF, 1 to 8. Undone, the picture covers the window
        evenly: pixel (row, col) of (H, W) begins at window col + col * width / W and row + row * height / H.
      georeference: where those pixels lie in the file, and on the map where the file says so.
    """

    pixels: np.ndarray
    valid: np.ndarray | None
    full_size: Size
    note: str
    window: Window | None = None
    orientation: int = 1
    georeference: Georeference = NOWHERE


def read_image(
    path: str | os.PathLike,
    *,
    bands: tuple[int, ...] | None = None,
    max_pixels: int = 300_000_000,
    largest_view: int | None = None,
    window: Window | None = None,
) -> SourceImage:
    """Read an image file to RGB bytes.

    Images of 8 bits equal `PIL.Image.open(path).convert("RGB")` after the EXIF orientation, except where they are
    transparent: a fully transparent pixel is no data, any other keeps its colour (nothing is blended).

    Decimated reads: with f = floor(long side / (2 * largest_view)) of 2 or more, a raster is read at 1/f by averaging,
    through its overviews if it has some, so that at least twice the largest view remains. A JPEG is decoded at 1/2, 1/4
    or 1/8 instead, the smallest that leaves as much. Other formats cannot, and are read in full.

    Of a raster only the window is read, decimated as a file of that size would be. Pillow's formats are decoded in full
    and cut.

    Args:
      bands: 1-based bands for red, green and blue, or one band for grey. Default: those that the file says are, by
        colour interpretation or else by name (`io.band_roles`); else the first three, or the first alone where there
        are fewer than three (alpha not counted).
      max_pixels: largest width x height that is decoded, looked up in the header: a raster's window, any other file as
        a whole. (A decoded pixel takes 3 bytes, and for a moment 5 to 15 more, by band type.)
      largest_view: side of the largest view that will be cut, in pixels; None always reads in full.
      window: (col, row, width, height) to read, in pixels of the file as stored, before any orientation; None for all.

    Raises:
      ImageError: missing, empty, broken or unknown file; too many pixels or fewer than 2 x 2; a band or a window that
        the file does not have; no valid pixel.
    """
    path = Path(path)
    options = ReadOptions(bands=bands, max_pixels=max_pixels, largest_view=largest_view, window=window)
    _check_arguments(path, options)
    try:
        with path.open("rb") as file:
            prefix = file.read(32)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({one_line(error)}): check --image") from error
    if not prefix:
        raise ImageError(f"{path}: the file is empty: check --image")
    reader, name = next((r for start, r in _SIGNATURES if re.match(start, prefix, re.DOTALL)), (None, ""))
    if reader is None:
        raise ImageError(f"{path}: not an image ({_READABLE}): replace the file given to --image")
    errors, read = DECODE_ERRORS, _read_with_pillow
    if reader == "rasterio":
        from rasterio.errors import RasterioError

        errors, read = (RasterioError, *DECODE_ERRORS), _read_with_rasterio
    try:
        return _placed(path, name, _finish(path, read(path, name, options)))
    except ImageError:
        raise
    except errors as error:
        # rasterio says little itself; GDAL's words are in the cause.
        reason = one_line(error.__cause__ or error)
        raise ImageError(
            f"{path}: broken or truncated {name.removesuffix('OpenJPEG')} ({reason}): replace the file given to --image"
        ) from error


def fill_nodata(source: SourceImage, colour: tuple[int, ...]) -> SourceImage:
    """Return a read image with a tower's own pad colour where there is no data; a copy only if that is not CLIP's."""
    if source.valid is None or colour == VisionConfig.pad_colour:
        return source
    pixels = source.pixels.copy()
    pixels[~source.valid] = colour
    return dataclasses.replace(source, pixels=pixels)


def decode_image(content: bytes, name: str, **options: Any) -> SourceImage:
    """Read an encoded image that stands inside another file; messages call it `name`. Otherwise as `read_image`."""
    # GDAL and Pillow both take files; writing one is little beside decoding it.
    with tempfile.NamedTemporaryFile(prefix="bat_jax-") as file:
        file.write(content)
        file.flush()
        try:
            return read_image(file.name, **options)
        except ImageError as error:
            raise ImageError(str(error).replace(file.name, name)) from error


def one_line(error: BaseException) -> str:
    """Put an error's text on one line, never empty."""
    return " ".join(str(error).split()) or type(error).__name__


def open_pillow(file: BinaryIO, path: Path, file_format: str) -> ImageFile.ImageFile:
    """Open an image with Pillow from its header, not yet decoded, without Pillow's own limit on pixels.

    The format's class is called directly: `Image.open` would compare with `Image.MAX_IMAGE_PIXELS`, which belongs to
    the whole process. `file_format` is Pillow's name, such as "PNG".

    Raises:
      One of DECODE_ERRORS: not this format, or a broken header.
    """
    if file_format not in Image.OPEN:
        Image.init()
    if file_format not in Image.OPEN:
        raise OSError(f"this Pillow is built without {file_format}")
    factory, accept = Image.OPEN[file_format]
    prefix = file.read(16)
    file.seek(0)
    if accept is not None and accept(prefix) is not True:
        raise SyntaxError(f"the file does not begin as a {file_format} file")
    return factory(file, str(path))


def _check_arguments(path: Path, options: ReadOptions) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"
        raise ImageError(f"{path}: {what}: point --image at one image file")
    bands = options.bands
    if bands is not None and (len(bands) not in (1, 3) or min(bands) < 1):
        raise ImageError(f"{path}: bands {tuple(bands)}, want one or three numbers from 1 up: change --bands")
    if options.max_pixels < 1:
        raise ImageError(f"{path}: limit of {options.max_pixels} pixels, want 1 or more: change --max_pixels")
    if options.largest_view is not None and options.largest_view < 1:
        raise ImageError(f"{path}: largest view of {options.largest_view} pixels, want 1 or more: change scales")


def _read_with_pillow(path: Path, file_format: str, options: ReadOptions) -> Bands:
    with path.open("rb") as file:
        image = open_pillow(file, path, file_format)
        size = image.size
        check_size(path, size, options.max_pixels)
        col, row, width, height = check_window(path, options.window, size)
        # A JPEG that was decoded at 1/f has no pixel where most windows begin.
        factor = decimation(size, options.largest_view) if (width, height) == size else 1
        if factor > 1:  # only a JPEG follows this call
            image.draft(None, (size[0] // factor, size[1] // factor))
        image.load()
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        # Counting frames may move to another one, so the pixels are taken first.
        part = image if (width, height) == size else image.crop((col, row, col + width, row + height))
        read = _pillow_pixels(path, part, options.bands, (col, row, width, height))
        read.orientation, read.num_frames = orientation, getattr(image, "n_frames", 1)
    return read


def _pillow_pixels(path: Path, image: Image.Image, bands: tuple[int, ...] | None, window: Window) -> Bands:
    is_wide = image.mode == "F" or image.mode.startswith("I")
    is_grey = is_wide or image.mode in ("1", "L", "LA", "La")
    has_alpha = image.has_transparency_data
    check_bands(path, bands, 1 if is_grey else 4 if has_alpha else 3)
    valid, spreads = None, []
    if is_wide:
        grey, spread = stretch(np.asarray(image), None)
        pixels = np.repeat(grey[:, :, None], 3, axis=2)
        spreads.append(spread)
    else:
        mode = "RGBA" if has_alpha else "RGB"
        # convert() would copy an image that has the mode already.
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
        # Alpha that was chosen as a band is a colour.
        if has_alpha and 4 not in (bands or ()):
            valid = pixels[:, :, 3] > 0
    pixels = pixels[:, :, :3] if bands is None else take_bands(pixels, bands)
    choice = "" if bands is None else f"bands {','.join(map(str, bands))}"
    return Bands(pixels=pixels, valid=valid, window=window, choice=choice, spreads=spreads)


def _read_with_rasterio(path: Path, file_format: str, options: ReadOptions) -> Bands:
    read = read_raster(path, file_format, options)
    # rasterio does not tell the orientation.
    with path.open("rb") as file:
        if file_format == "PNG":
            read.orientation = open_pillow(file, path, "PNG").getexif().get(_EXIF_ORIENTATION, 1)
        header = file.read(8)
        # A BigTIFF (+ in place of *) is a product of map software, which writes no orientation.
        if file_format == "GTiff" and b"*" in header[2:4]:
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
            read.orientation = tags.get(_EXIF_ORIENTATION, 1)
    return read


def _orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror (H, W, ...) as an EXIF orientation says; what is not 2 to 8 changes nothing."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def _placed(path: Path, file_format: str, source: SourceImage) -> SourceImage:
    """Say where a picture lies on the map."""
    col, row = source.window[:2] if source.window else (0, 0)
    in_file = Affine.translation(col, row) @ unoriented(source.full_size, source.orientation)
    return dataclasses.replace(source, georeference=read_georeference(path, file_format, in_file))


def _finish(path: Path, read: Bands) -> SourceImage:
    """Apply the orientation, fill the pixels without data and say what was done."""
    notes = [read.choice] if read.choice else []
    if read.spreads:
        ranges = ", ".join(f"{low:.6g}..{high:.6g}" for low, high in read.spreads)
        notes.append(f"stretched percentiles {PERCENTILES[0]}..{PERCENTILES[1]} of each band to 0..255: {ranges}")
    height, width = read.pixels.shape[:2]
    size = read.window[2:]
    if (width, height) != size:
        notes.append(f"read at {width} x {height} of {size[0]} x {size[1]} pixels")
    if read.num_frames > 1:
        notes.append(f"first of {read.num_frames} frames")
    if read.orientation in range(2, 9):
        notes.append(f"orientation {read.orientation} applied")
    pixels = np.ascontiguousarray(_orient(read.pixels, read.orientation))
    valid = None
    if read.valid is not None and not read.valid.all():
        if not read.valid.any():
            raise ImageError(
                f"{path}: no pixel holds data (all nodata, masked or transparent): give another --image or --bands"
            )
        valid = np.ascontiguousarray(_orient(read.valid, read.orientation))
        pixels = pixels if pixels.flags.writeable else pixels.copy()
        pixels[~valid] = VisionConfig.pad_colour
        notes.append(f"{100 * (1 - valid.mean()):.3g} % of the pixels hold no data")
    return SourceImage(
        pixels=pixels,
        valid=valid,
        full_size=size[::-1] if read.orientation in (5, 6, 7, 8) else size,
        note="; ".join(notes),
        window=read.window,
        orientation=read.orientation if read.orientation in range(2, 9) else 1,
    )
