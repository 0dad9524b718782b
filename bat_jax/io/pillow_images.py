"""Read pictures with Pillow: PNG (up to 8 bits), JPEG, WebP, AVIF, GIF, BMP, PNM, and TIFF that is not RGB or grey."""

import functools
import struct
import types
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin

from bat_jax.io.bands import (
    Bands,
    ImageError,
    ReadOptions,
    Window,
    check_bands,
    check_page,
    check_size,
    check_window,
    decimation,
    inside_mask,
    stretch,
    take_bands,
)
from bat_jax.io.nodata import all_of, any_of, border_of, differs, fill_remark, fill_values, is_fill, reaching_the_border

# What Pillow and zlib raise on broken files.
DECODE_ERRORS: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
EXIF_ORIENTATION = 0x0112
# How Pillow's turning of a TIFF is undone.
_UNTURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    7: Image.Transpose.TRANSVERSE,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


class _Whole(ImageFile.ImageFile):
    """Pillow's loading as it is when ImageFile.LOAD_TRUNCATED_IMAGES is False, whatever it is.

    The flag belongs to the whole process, and other libraries set it; the same code runs here over globals of its own.
    """

    load = types.FunctionType(
        ImageFile.ImageFile.load.__code__, {**vars(ImageFile), "LOAD_TRUNCATED_IMAGES": False}, "load"
    )


def _read_jpeg(self: Any, read_bytes: int) -> bytes:
    """Read on without the end that Pillow's own method makes up for a truncated JPEG under the flag."""
    return self.fp.read(read_bytes)


@functools.cache
def _whole(kind: type) -> type:
    """Return Pillow's class of a format with `_Whole`'s loading."""
    own = {"load_read": _read_jpeg} if issubclass(kind, JpegImagePlugin.JpegImageFile) else {}
    return type(kind.__name__, (kind, _Whole), own)


def open_pillow(file: BinaryIO, path: Path, file_format: str) -> ImageFile.ImageFile:
    """Open an image with Pillow from its header, not yet decoded, without Pillow's own limit on pixels.

    The format's class is called directly: `Image.open` would compare with `Image.MAX_IMAGE_PIXELS`, which belongs to
    the whole process. A truncated file is refused as it is loaded. `file_format` is Pillow's name, such as "PNG".

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
    # Without a name no memory is mapped, which Pillow does with the wrong sides for a TIFF that is to be turned.
    image = factory(file, "" if file_format == "TIFF" else str(path))
    image.__class__ = _whole(type(image))
    return image


def read_pillow(path: Path, file_format: str, options: ReadOptions) -> Bands:
    """Read a file, or the wanted page of it, as `io.images.read_image` says.

    Raises:
      ImageError, or one of DECODE_ERRORS for a broken file.
    """
    with path.open("rb") as file:
        image = open_pillow(file, path, file_format)
        # Counting pages may move to another one, so the first is taken before.
        if options.page > 1:
            check_page(path, options.page, getattr(image, "n_frames", 1))
            image.seek(options.page - 1)
        read = _read_frame(path, image, options)
        read.num_pages = getattr(image, "n_frames", 1)
    return read


def read_pillow_tiff(path: Path, directory: int, orientation: int, options: ReadOptions) -> Bands:
    """Read one directory of a TIFF, counted from 1, as `io.images.read_image` says; errors as `read_pillow`."""
    with path.open("rb") as file:
        try:
            image: Image.Image = open_pillow(file, path, "TIFF")
        except SyntaxError as error:
            if not isinstance(error.__cause__, KeyError):
                raise
            # Pillow looks up the kind, bits and number of samples.
            raise ImageError(
                f"{path}: samples as {error.__cause__} cannot be shown: convert the picture to RGB"
            ) from error
        image.seek(directory - 1)
        check_size(path, image.size, options.max_pixels)
        # Where there is room for the pixels already, Pillow does not compare their number with its own limit.
        stored = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
        image.im = Image.core.new(image.mode, stored)
        image.load()
        if orientation in _UNTURNED:
            image = image.transpose(_UNTURNED[orientation])
        return _read_frame(path, image, options)


def _read_frame(path: Path, image: Image.Image, options: ReadOptions) -> Bands:
    size = image.size
    check_size(path, size, options.max_pixels)
    col, row, width, height = check_window(path, options.window, size)
    # A JPEG that was decoded at 1/f has no pixel where most windows begin, and no value that means no data.
    is_whole = (width, height) == size and options.nodata in (None, "none")
    factor = decimation(size, options.largest_view) if is_whole else 1
    if factor > 1:  # only a JPEG follows this call
        image.draft(None, (size[0] // factor, size[1] // factor))
    image.load()
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    part = image if (width, height) == size else image.crop((col, row, col + width, row + height))
    read = _pixels(path, part, options, (col, row, width, height))
    read.orientation = orientation
    return read


def _pixels(path: Path, image: Image.Image, options: ReadOptions, window: Window) -> Bands:
    bands = options.bands
    is_wide = image.mode == "F" or image.mode.startswith("I")
    is_grey = is_wide or image.mode in ("1", "L", "LA", "La")
    has_alpha = image.has_transparency_data
    check_bands(path, bands, 1 if is_grey else 4 if has_alpha else 3)
    value = None if options.nodata == "none" else options.nodata
    choice = "" if bands is None else f"bands {','.join(map(str, bands))}"
    if is_wide:
        return _wide_pixels(np.asarray(image), options, window, choice)
    mode = "RGBA" if has_alpha else "RGB"
    try:
        # convert() would copy an image that has the mode already.
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except ValueError as error:
        raise ImageError(f"{path}: {image.mode} cannot be shown: convert the picture to RGB") from error
    # Alpha that was chosen as a band is a colour.
    opaque = pixels[:, :, 3] > 0 if has_alpha and 4 not in (bands or ()) else None
    pixels = pixels[:, :, :3] if bands is None else take_bands(pixels, bands)
    if image.mode == "P":
        differing = differs(np.asarray(image), value)
    else:
        differing = any_of([differs(pixels[:, :, c], value) for c in range(3)])
    return Bands(pixels=pixels, valid=all_of((opaque, differing)), window=window, choice=choice)


def _wide_pixels(grey: np.ndarray, options: ReadOptions, window: Window, choice: str) -> Bands:
    masks = [np.isfinite(grey) if grey.dtype.kind == "f" else None]
    remarks = []
    if options.nodata is None:
        for value in fill_values(border_of(grey[None])):
            masks.append(~reaching_the_border(is_fill(grey[None], value)))
            remarks.append(fill_remark(value))
    elif options.nodata != "none":
        masks.append(differs(grey, options.nodata))
    valid = all_of(masks)
    pixels, spread = stretch(grey, all_of((valid, inside_mask(options, window, grey.shape))))
    pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return Bands(pixels=pixels, valid=valid, window=window, choice=choice, spreads=[spread], remarks=remarks)
