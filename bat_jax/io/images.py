"""Read any user's image to RGB bytes.

Two readers; the file's first bytes decide which, never its suffix:
  Pillow     PNG (up to 8 bits), JPEG, WebP, AVIF, GIF, BMP, PNM; TIFF and JPEG 2000 in colours other than RGB and grey
  rasterio   TIFF, GeoTIFF, COG, JPEG 2000, NITF, HFA, and PNG of 16 bits (Pillow would cut its colours to 8 bits)

What is done to the pixels, in this order; every step that happens is named in `SourceImage.note`:
  1. a very large raster is read at 1/f of its size, if the caller says how large a view it needs
  2. bands are chosen (palettes are expanded to RGB first); what is alpha becomes a mask
  3. bands of more than 8 bits, and floats, are stretched: per band, percentiles 2..98 of its valid pixels to 0..255
  4. the EXIF or TIFF orientation is applied
  5. pixels without data (nodata value, mask, fully transparent, NaN) get the padding colour

Letters: H, W height and width of the image in pixels, C bands.
"""

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from bat_jax.config import VisionConfig
from bat_jax.io.bands import (
    PERCENTILES,
    Bands,
    ImageError,
    NoDataError,
    ReadOptions,
    Size,
    Window,
    check_page,
    inside_mask,
)
from bat_jax.io.file_headers import is_jp2_for_pillow, tiff_pages
from bat_jax.io.georeference import IDENTITY, NOWHERE, Georeference, read_georeference, unoriented
from bat_jax.io.nodata import NoDataValue, all_of
from bat_jax.io.pillow_images import DECODE_ERRORS, EXIF_ORIENTATION, open_pillow, read_pillow, read_pillow_tiff
from bat_jax.io.rasters import raster_name, raster_size, read_raster

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
      note: one line on what was done to the pixels, "" if nothing. is_stretched: whether their values were, by what was
        read; another window of the file would come out otherwise.
      window: (col, row, width, height) of what was read, in the file's pixels as stored; None for an array.
      orientation: how the window was turned to be displayed, as in EXIF, 1 to 8. Undone, the picture covers the window
        evenly: pixel (row, col) of (H, W) begins at window col + col * width / W and row + row * height / H.
      georeference: where those pixels lie in the file, and on the map where the file says so.
    """

    pixels: np.ndarray
    valid: np.ndarray | None
    full_size: Size
    note: str
    is_stretched: bool = False
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
    page: int = 1,
    nodata: NoDataValue = None,
    inside: Any = None,
) -> SourceImage:
    """Read an image file to RGB bytes.

    Images of 8 bits equal `PIL.Image.open(path).convert("RGB")` after the EXIF orientation, except where they are
    transparent: a fully transparent pixel is no data, any other keeps its colour (nothing is blended).

    Decimated reads: with f = floor(long side / (2 * largest_view)) of 2 or more, a raster is read at 1/f, so that at
    least twice the largest view remains: averaged over what holds data, a part at a time, a large one from an overview
    if it has some that show the same. Where any of the area holds data, the pixel does. A JPEG is decoded at 1/2, 1/4
    or 1/8 instead, the smallest that leaves as much. Other formats cannot, and are read in full.

    Of a raster only the window is read, decimated as a file of that size would be. Pillow's formats are decoded in full
    and cut.

    Args:
      bands: 1-based bands for red, green and blue, or one band for grey. Default: those that the file says are, by
        colour interpretation or else by name (`io.band_roles`); else the first three, or the first alone where there
        are fewer than three (alpha not counted).
      max_pixels: largest width x height that is held at once: a raster's window as it is read, decimated or not, any
        other file as a whole. (A pixel takes 3 bytes, and for a moment 5 to 25 more, by band type.)
      largest_view: side of the largest view that will be cut, in pixels; None always reads in full.
      window: (col, row, width, height) to read, in pixels of the file as stored, before any orientation; None for all.
      page: which page or frame is read, from 1; reduced pages and masks of a TIFF do not count.
      nodata: a value that is no data, in place of the file's; "none": no value is. Alpha, masks and NaN stay. Default:
        the file's value; where it says nothing, 0, -9999, -99999, -32767, -32768, 65535, an integer's least or greatest
        value or one beyond 1e19 that reaches the border of a raster of more than 8 bits, in all bands at once.
      inside: a shape (shapely's) in pixels of the file as stored: a pixel whose middle is outside holds no data.

    Raises:
      ImageError: missing, empty, broken or unknown file; too many pixels or fewer than 2 x 2; a band, page or
        window that the file does not have; no valid pixel.
    """
    path = Path(path)
    options = ReadOptions(
        bands=bands,
        max_pixels=max_pixels,
        largest_view=largest_view,
        window=window,
        page=page,
        nodata=nodata,
        inside=inside,
    )
    _check_arguments(path, options)
    reader, name = _format(path)
    with _explained(path, reader, name):
        return _finish(path, name, _read(path, reader, name, options), options)


def file_place(path: str | os.PathLike, page: int = 1) -> tuple[Size, Georeference]:
    """Return the (width, height) of a file as stored and where it lies on the map, from its header.

    Raises:
      ImageError: as `read_image`, of what a header shows.
    """
    path = Path(path)
    _check_arguments(path, ReadOptions(page=page))
    reader, file_format = _format(path)
    with _explained(path, reader, file_format):
        if reader == "Pillow":
            with path.open("rb") as file:
                return open_pillow(file, path, file_format).size, read_georeference(path, file_format, IDENTITY)
        if file_format == "GTiff":
            pages = tiff_pages(path)
            check_page(path, page, len(pages))
            page = pages[page - 1].directory
        name = raster_name(path, file_format, page)
        return raster_size(name, file_format), read_georeference(path, file_format, IDENTITY, name)


def is_image(path: str | os.PathLike) -> bool:
    """Return whether a file begins as a picture does that can be read."""
    try:
        _format(Path(path))
    except ImageError:
        return False
    return True


def _format(path: Path) -> tuple[str, str]:
    """Return which library reads a file, and its name for the format."""
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
    return reader, name


@contextlib.contextmanager
def _explained(path: Path, reader: str, name: str) -> Iterator[None]:
    """Turn what a library raises on a broken file into an ImageError."""
    errors = DECODE_ERRORS
    if reader == "rasterio":
        from rasterio.errors import RasterioError

        errors = (RasterioError, *DECODE_ERRORS)
    try:
        yield
    except ImageError as error:
        # The files' headers are read without their names.
        raise error if str(error).startswith(str(path)) else ImageError(f"{path}: {error}") from error
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


def _check_arguments(path: Path, options: ReadOptions) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"
        raise ImageError(f"{path}: {what}: point --image at one image file")
    bands = options.bands
    if bands is not None and (len(bands) not in (1, 3) or min(bands) < 1):
        raise ImageError(f"{path}: bands {tuple(bands)}, want one or three numbers from 1 up: change --bands")
    if options.max_pixels < 1:
        raise ImageError(f"{path}: limit of {options.max_pixels} pixels, want 1 or more: change --max_pixels")
    if options.page < 1:
        raise ImageError(f"{path}: page {options.page}, want 1 or more: change --page")
    if options.largest_view is not None and options.largest_view < 1:
        raise ImageError(f"{path}: largest view of {options.largest_view} pixels, want 1 or more: change scales")


def _read(path: Path, reader: str, file_format: str, options: ReadOptions) -> Bands:
    """Read a file with what makes its colours RGB; the formats' names are those of `_SIGNATURES`."""
    if file_format == "GTiff":
        pages = tiff_pages(path)
        check_page(path, options.page, len(pages))
        page = pages[options.page - 1]
        if page.is_for_pillow:
            read = read_pillow_tiff(path, page.directory, page.orientation, options)
        else:
            read = read_raster(path, file_format, page.directory, options)
        read.orientation, read.num_pages = page.orientation, len(pages)
        read.name = raster_name(path, file_format, page.directory)
        return read
    with path.open("rb") as file:
        if file_format == "JP2OpenJPEG" and is_jp2_for_pillow(file):
            return read_pillow(path, "JPEG2000", options)
    if reader == "Pillow":
        return read_pillow(path, file_format, options)
    read = read_raster(path, file_format, options.page, options)
    if file_format == "PNG":
        # rasterio does not tell the orientation.
        with path.open("rb") as file:
            image = open_pillow(file, path, "PNG")
            read.orientation, read.num_pages = image.getexif().get(EXIF_ORIENTATION, 1), getattr(image, "n_frames", 1)
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


def _finish(path: Path, file_format: str, read: Bands, options: ReadOptions) -> SourceImage:
    """Apply the orientation, fill the pixels without data and say what was done and where the picture lies."""
    notes = [read.choice] if read.choice else []
    if read.spreads:
        ranges = ", ".join(f"{low:.6g}..{high:.6g}" for low, high in read.spreads)
        notes.append(f"stretched percentiles {PERCENTILES[0]}..{PERCENTILES[1]} of each band to 0..255: {ranges}")
    height, width = read.pixels.shape[:2]
    size = read.window[2:]
    if (width, height) != size:
        notes.append(f"read at {width} x {height} of {size[0]} x {size[1]} pixels")
    notes += read.remarks
    if read.num_pages > 1:
        notes.append(f"page {options.page} of {read.num_pages}")
    if read.orientation in range(2, 9):
        notes.append(f"orientation {read.orientation} applied")
    pixels = np.ascontiguousarray(_orient(read.pixels, read.orientation))
    inside = inside_mask(options, read.window, (height, width))
    if inside is not None:
        notes.append(f"{100 * (1 - inside.mean()):.3g} % of the window lie outside of the area")
    if read.valid is not None and not read.valid.all():
        notes.append(f"{100 * (1 - read.valid.mean()):.3g} % of the pixels hold no data")
    valid = all_of((read.valid, inside))
    valid = None if valid is None or valid.all() else np.ascontiguousarray(_orient(valid, read.orientation))
    if valid is not None:
        if not valid.any():
            where = "" if inside is None else " in the area (--aoi)"
            why = "all nodata, masked or transparent"
            raise NoDataError(f"{path}: no pixel{where} holds data ({why}): give another --image or --bands")
        pixels = pixels if pixels.flags.writeable else pixels.copy()
        # A mask as an index would be made a list of many pixels' places.
        np.copyto(pixels, np.array(VisionConfig.pad_colour, np.uint8), where=~valid[:, :, None])
    full_size = size[::-1] if read.orientation in (5, 6, 7, 8) else size
    in_file = Affine.translation(*read.window[:2]) @ unoriented(full_size, read.orientation)
    return SourceImage(
        pixels=pixels,
        valid=valid,
        full_size=full_size,
        note="; ".join(notes),
        is_stretched=bool(read.spreads),
        window=read.window,
        orientation=read.orientation if read.orientation in range(2, 9) else 1,
        georeference=read_georeference(path, file_format, in_file, read.name),
    )
