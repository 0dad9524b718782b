"""Read any user's image to RGB bytes.

Two readers, told apart by the file's first bytes, never by its suffix:
  Pillow     PNG (up to 8 bits), JPEG, WebP, AVIF, GIF, BMP, PNM
  rasterio   TIFF, GeoTIFF, COG, JPEG 2000, NITF, HFA, and PNG of 16 bits (Pillow would cut its colours to 8 bits)

What is done to the pixels, in this order; every step that happens is named in `SourceImage.note`:
  1. a very large raster is read at 1/f of its size, if the caller says how large a view it needs
  2. bands are chosen (palettes are expanded to RGB first)
  3. bands of more than 8 bits, and floats, are stretched: per band, percentiles 2..98 of its valid pixels to 0..255
  4. the EXIF or TIFF orientation is applied
  5. pixels without data (nodata value, mask, fully transparent, NaN) get the padding colour

Letters: H, W height and width of the image in pixels, C bands.
"""

import math
import os
import re
import struct
import tempfile
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

from bat_jax.io.views import PAD_COLOR

# A picture without map coordinates is nothing to warn about here. A filter for this one message is set once, because
# warnings.catch_warnings is not safe in the worker threads that read images.
warnings.filterwarnings("ignore", message="Dataset has no geotransform")

# What Pillow and zlib raise on broken files.
DECODE_ERRORS: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)

_MIN_SIDE = 2
_PERCENTILES = (2, 98)
# Percentiles of larger bands are taken over every n-th valid pixel, n the smallest that gives at most this many.
_PERCENTILE_SAMPLES = 1 << 24
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


class ImageError(ValueError):
    """An image that cannot be used; the message names the file and says what to change."""


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """An image as the model's views are cut from it.

    Attributes:
      pixels: (H, W, 3) uint8 RGB; to be read only. PAD_COLOR where there is no data.
      valid: (H, W) bool, False = no data; None where every pixel has data.
      full_size: (width, height) of the file in pixels as displayed: after the orientation, before a decimated read. So
        (W, H) for a full read.
      note: one line on what was done to the pixels, "" if nothing.
    """

    pixels: np.ndarray
    valid: np.ndarray | None
    full_size: tuple[int, int]
    note: str


def read_image(
    path: str | os.PathLike,
    *,
    bands: tuple[int, ...] | None = None,
    max_pixels: int = 300_000_000,
    largest_view: int | None = None,
) -> SourceImage:
    """Read an image file to RGB bytes.

    Images of 8 bits equal `PIL.Image.open(path).convert("RGB")` after the EXIF orientation, except where they are
    transparent: a fully transparent pixel is no data, any other keeps its colour (nothing is blended).

    Decimated reads: with f = floor(long side / (2 * largest_view)) of 2 or more, a raster is read at 1/f by averaging,
    through its overviews if it has some, so that at least twice the largest view remains. A JPEG is decoded at 1/2, 1/4
    or 1/8 instead, the smallest that leaves as much. Other formats cannot, and are read in full.

    Args:
      path: the file.
      bands: 1-based bands for red, green and blue, or one band for grey. Default: the first three, or the first alone
        where there are fewer than three (alpha not counted).
      max_pixels: largest width x height that is decoded, looked up in the header. (A decoded pixel takes 3 bytes, and
        for a moment 5 to 15 more, by band type.)
      largest_view: side of the largest view that will be cut, in pixels; None always reads in full.

    Returns:
      The image; see SourceImage.

    Raises:
      ImageError: missing, empty, broken or unknown file; too many pixels or fewer than 2 x 2; a band that does not
        exist; no valid pixel.
    """
    path = Path(path)
    _check_arguments(path, bands, max_pixels, largest_view)
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
        # Imported where a file needs it: models on arrays run without rasterio.
        from rasterio.errors import RasterioError

        errors, read = (RasterioError, *DECODE_ERRORS), _read_with_rasterio
    try:
        bands_read = read(path, name, bands, max_pixels, largest_view)
    except ImageError:
        raise
    except errors as error:
        # rasterio says little itself; GDAL's words are in the cause.
        reason = one_line(error.__cause__ or error)
        raise ImageError(
            f"{path}: broken or truncated {name.removesuffix('OpenJPEG')} ({reason}): replace the file given to --image"
        ) from error
    return _finish(path, bands_read)


def decode_image(content: bytes, name: str, **options) -> SourceImage:
    """Read an image that stands inside another file.

    Args:
      content: the encoded image. name: what messages call it. options: see `read_image`.

    Raises:
      ImageError: see `read_image`.
    """
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
    """Open an image with Pillow from its header, without Pillow's own limit on pixels.

    The format's class is called directly. `Image.open` would compare with `Image.MAX_IMAGE_PIXELS`, which belongs to
    the whole process: other threads would see it changed.

    Args:
      file: the file, open for reading bytes, at its beginning.
      path: its name.
      file_format: Pillow's name of the format, such as "PNG".

    Returns:
      The image, not yet decoded.

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


@dataclass(kw_only=True)
class _Bands:
    """What a reader hands to `_finish`; `pixels` (H, W, 3) uint8 in the file's own orientation."""

    pixels: np.ndarray
    valid: np.ndarray | None
    size: tuple[int, int]
    orientation: int
    notes: list[str]


def _check_arguments(path: Path, bands, max_pixels: int, largest_view: int | None) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"
        raise ImageError(f"{path}: {what}: point --image at one image file")
    if bands is not None and (len(bands) not in (1, 3) or min(bands) < 1):
        raise ImageError(f"{path}: bands {tuple(bands)}, want one or three numbers from 1 up: change --bands")
    if max_pixels < 1:
        raise ImageError(f"{path}: limit of {max_pixels} pixels, want 1 or more: change --max_pixels")
    if largest_view is not None and largest_view < 1:
        raise ImageError(f"{path}: largest view of {largest_view} pixels, want 1 or more: change scales")


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if min(size) < _MIN_SIDE:
        raise ImageError(
            f"{path}: {width} x {height} pixels, the smallest image is {_MIN_SIDE} x {_MIN_SIDE}: give a larger --image"
        )
    if width * height > max_pixels:
        raise ImageError(
            f"{path}: {width} x {height} = {width * height} pixels, the limit is {max_pixels}:"
            " raise --max_pixels or cut the image into parts"
        )


def _check_bands(path: Path, bands: tuple[int, ...] | None, count: int) -> None:
    if bands is not None and max(bands) > count:
        raise ImageError(f"{path}: band {max(bands)} asked for, the file has bands 1 to {count}: change --bands")


def _factor(size: tuple[int, int], largest_view: int | None) -> int:
    return 1 if largest_view is None else max(1, max(size) // (2 * largest_view))


def _read_with_pillow(path, file_format, bands, max_pixels, largest_view) -> _Bands:
    with path.open("rb") as file:
        image = open_pillow(file, path, file_format)
        size = image.size
        _check_size(path, size, max_pixels)
        factor = _factor(size, largest_view)
        if factor > 1:  # only a JPEG follows this call
            image.draft(None, (size[0] // factor, size[1] // factor))
        image.load()
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        # Looking for more frames may move to another one, so the pixels are taken first.
        bands_read = _pillow_bands(path, image, size, orientation, bands)
        frames = getattr(image, "n_frames", 1)
    if frames > 1:
        bands_read.notes.append(f"first of {frames} frames")
    return bands_read


def _pillow_bands(path, image, size, orientation, bands) -> _Bands:
    notes, valid, is_grey = [], None, image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    has_alpha = image.has_transparency_data
    _check_bands(path, bands, 1 if is_grey else 4 if has_alpha else 3)
    if image.mode == "F" or image.mode.startswith("I"):
        grey, spread = _stretch(np.asarray(image), None)
        pixels = np.repeat(grey[:, :, None], 3, axis=2)
        notes.append(_spread_text([spread]))
    else:
        mode = "RGBA" if has_alpha else "RGB"
        # convert() would copy an image that has the mode already.
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
        # Alpha that was asked for as a colour is a colour.
        if has_alpha and 4 not in (bands or ()):
            valid = pixels[:, :, 3] > 0
    if bands is None:
        pixels = pixels[:, :, :3]
    else:
        pixels = _three(pixels, bands)
        notes.append(f"bands {','.join(map(str, bands))}")
    if image.size != size:
        notes.append(_decimation_text(image.size, size))
    return _Bands(pixels=pixels, valid=valid, size=size, orientation=orientation, notes=notes)


def _three(pixels: np.ndarray, bands: tuple[int, ...]) -> np.ndarray:
    """Take one band three times, or three bands, of (H, W, C)."""
    return pixels[:, :, [band - 1 for band in (bands if len(bands) == 3 else bands * 3)]]


def _read_with_rasterio(path, file_format, bands, max_pixels, largest_view) -> _Bands:
    import rasterio
    from rasterio.enums import ColorInterp

    with rasterio.open(str(path.absolute()), driver=file_format) as raster:
        size = (raster.width, raster.height)
        if raster.count == 0:
            raise ImageError(f"{path}: the file holds no bands of its own: extract one image and give that to --image")
        _check_size(path, size, max_pixels)
        factor = _factor(size, largest_view)
        shape = tuple(max(_MIN_SIDE, round(side / factor)) for side in (raster.height, raster.width))
        is_palette = raster.count == 1 and raster.colorinterp[0] == ColorInterp.palette
        count = 3 if is_palette else raster.count
        _check_bands(path, bands, count)
        chosen, notes = bands or _default_bands(raster), []
        if is_palette:
            pixels, valid = _read_palette(raster, shape)
            pixels = pixels if bands is None else _three(pixels, bands)
        else:
            pixels, valid, spreads = _read_bands(path, raster, chosen, shape, factor)
            notes += [_spread_text(spreads)] if spreads else []
            num_colors = sum(kind != ColorInterp.alpha for kind in raster.colorinterp)
        if bands is not None or (not is_palette and len(chosen) < num_colors):
            notes.insert(0, f"bands {','.join(map(str, chosen))} of {count}")
    if factor > 1:
        notes.append(_decimation_text((shape[1], shape[0]), size))
    orientation = _stored_orientation(path, file_format)
    return _Bands(pixels=pixels, valid=valid, size=size, orientation=orientation, notes=notes)


def _default_bands(raster) -> tuple[int, ...]:
    from rasterio.enums import ColorInterp

    colors = [i for i in raster.indexes if raster.colorinterp[i - 1] != ColorInterp.alpha]
    # A file of nothing but alpha still has something to show.
    colors = colors or list(raster.indexes)
    return tuple(colors[:3] if len(colors) >= 3 else colors[:1])


def _read_palette(raster, shape) -> tuple[np.ndarray, np.ndarray | None]:
    from rasterio.enums import Resampling

    colors = np.zeros((1 << 16, 4), np.uint8)
    for index, color in raster.colormap(1).items():
        colors[index] = color
    # Indices cannot be averaged, so a decimated read takes the nearest.
    indices = raster.read(1, out_shape=shape, resampling=Resampling.nearest)
    valid = _merge_valid([_band_valid(raster, 1, indices, Resampling.nearest)])
    if np.any(colors[:, 3] == 0):
        opaque = (colors[:, 3] > 0)[indices]
        valid = opaque if valid is None else valid & opaque
    return colors[:, :3][indices], valid


def _read_bands(path, raster, chosen, shape, factor):
    """Read one or three bands: (H, W, 3) uint8, (H, W) bool or None, and what each band was stretched from."""
    from rasterio.enums import Resampling

    height, width = shape
    resampling = Resampling.nearest if factor == 1 else Resampling.average
    dtypes = {np.dtype(raster.dtypes[i - 1]) for i in chosen}
    if any(dtype.kind not in "uif" for dtype in dtypes):
        raise ImageError(f"{path}: bands {chosen} are {sorted(map(str, dtypes))}, want real numbers: change --bands")
    if dtypes == {np.dtype(np.uint8)}:
        interleaved = np.empty((height, width, len(chosen)), np.uint8)
        # Reading straight into the interleaved array saves a pass over a large image.
        raster.read(list(chosen), out=np.moveaxis(interleaved, 2, 0), resampling=resampling)
        data = [interleaved[:, :, c] for c in range(len(chosen))]
    else:
        data = list(raster.read(list(chosen), out_shape=(len(chosen), *shape), resampling=resampling))
    band_valid = [_band_valid(raster, i, band, resampling) for i, band in zip(chosen, data, strict=True)]
    valid = _merge_valid(band_valid)
    if dtypes == {np.dtype(np.uint8)}:
        bits = int(raster.tags(chosen[0], ns="IMAGE_STRUCTURE").get("NBITS", 8))
        if bits < 8:
            interleaved = (interleaved.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
        pixels = interleaved if len(chosen) == 3 else np.repeat(interleaved, 3, axis=2)
        return pixels, valid, []
    pixels, spreads = np.empty((height, width, 3), np.uint8), []
    for c, (band, mask) in enumerate(zip(data, band_valid, strict=True)):
        stretched, spread = _stretch(band, mask)
        spreads.append(spread)
        pixels[:, :, c if len(chosen) == 3 else slice(None)] = stretched if len(chosen) == 3 else stretched[:, :, None]
    return pixels, valid, spreads


def _band_valid(raster, index: int, band: np.ndarray, resampling) -> np.ndarray | None:
    """Mark the pixels of one band that hold data: (H, W) bool, or None for all."""
    from rasterio.enums import MaskFlags

    flags, nodata = raster.mask_flag_enums[index - 1], raster.nodatavals[index - 1]
    valid = None
    if MaskFlags.nodata in flags and nodata is not None and not math.isnan(nodata):
        if band.dtype.kind == "f":
            valid = band != band.dtype.type(nodata)
        elif float(nodata).is_integer():
            # A value that the type cannot hold, such as -9999 in bytes, equals nothing.
            valid = band != int(nodata)
    elif MaskFlags.per_dataset in flags:
        mask = raster.read_masks(index, out_shape=band.shape, resampling=resampling)
        valid = mask > 0
    if band.dtype.kind == "f":
        finite = np.isfinite(band)
        valid = finite if valid is None else valid & finite
    return None if valid is None or valid.all() else valid


def _merge_valid(band_valid: list[np.ndarray | None]) -> np.ndarray | None:
    """Join the bands' masks. One band with data is enough: with nodata 0, pure red stays a colour."""
    masks = [valid for valid in band_valid if valid is not None]
    return np.logical_or.reduce(masks) if len(masks) == len(band_valid) else None


def _stretch(band: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, tuple[float, float]]:
    """Map percentiles 2 and 98 of the valid pixels to 0 and 255, in a straight line, clipped.

    A band whose percentiles coincide is stretched from its minimum to its maximum, a constant one becomes 128. A pixel
    that is NaN in this band alone becomes 0. Returns (H, W) uint8 and the two values that became 0 and 255.
    """
    if valid is None and band.dtype.kind == "f":
        valid = np.isfinite(band)
    values = band.reshape(-1) if valid is None else band[valid]
    if values.size == 0:
        return np.zeros(band.shape, np.uint8), (0.0, 0.0)
    sample = values[:: math.ceil(values.size / _PERCENTILE_SAMPLES)]
    low, high = (float(value) for value in np.percentile(sample.astype(np.float64), _PERCENTILES))
    if low >= high:
        low, high = float(values.min()), float(values.max())

    def render(numbers: np.ndarray) -> np.ndarray:
        if low == high:
            return np.full_like(numbers, 128, np.uint8)
        share = np.nan_to_num((numbers.astype(np.float64) - low) / (high - low), nan=0.0)
        return np.rint(share.clip(0, 1) * 255).astype(np.uint8)

    if band.dtype.kind in "ui" and band.dtype.itemsize <= 2:
        # Every value the type can hold, once: a gather is many times faster than arithmetic on every pixel.
        codes = np.dtype(f"=u{band.dtype.itemsize}")
        native = band.astype(band.dtype.newbyteorder("="), copy=False)
        every_value = np.arange(2 ** (8 * codes.itemsize), dtype=codes).view(native.dtype)
        return render(every_value)[native.view(codes)], (low, high)
    stretched = np.empty(band.shape, np.uint8)
    rows = max(1, (1 << 20) // band.shape[1])
    for start in range(0, band.shape[0], rows):
        stretched[start : start + rows] = render(band[start : start + rows])
    return stretched, (low, high)


def _stored_orientation(path: Path, driver: str) -> int:
    """Read the orientation (1 to 8) that rasterio does not tell; 1 where there is none."""
    with path.open("rb") as file:
        if driver == "PNG":
            return open_pillow(file, path, "PNG").getexif().get(_EXIF_ORIENTATION, 1)
        header = file.read(8)
        endian = "<" if header[:2] == b"II" else ">"
        # A BigTIFF (43 in place of 42) is a product of map software, which writes no orientation.
        if driver != "GTiff" or struct.unpack(endian + "H", header[2:4])[0] != 42:
            return 1
        file.seek(struct.unpack(endian + "L", header[4:])[0])
        entries = file.read(12 * struct.unpack(endian + "H", file.read(2))[0])
    for tag, _, _, value, _ in struct.iter_unpack(endian + "HHLHH", entries[: len(entries) // 12 * 12]):
        if tag == _EXIF_ORIENTATION:
            return value
    return 1


def _orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror (H, W, ...) as an EXIF orientation says; what is not 2 to 8 changes nothing."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def _spread_text(spreads: list[tuple[float, float]]) -> str:
    ranges = ", ".join(f"{low:.6g}..{high:.6g}" for low, high in spreads)
    return f"stretched percentiles {_PERCENTILES[0]}..{_PERCENTILES[1]} of each band to 0..255: {ranges}"


def _decimation_text(size: tuple[int, int], full_size: tuple[int, int]) -> str:
    return f"read at {size[0]} x {size[1]} of {full_size[0]} x {full_size[1]} pixels"


def _finish(path: Path, read: _Bands) -> SourceImage:
    """Apply the orientation and fill the pixels without data."""
    pixels = np.ascontiguousarray(_orient(read.pixels, read.orientation))
    valid, notes, size = read.valid, read.notes, read.size
    if read.orientation in range(2, 9):
        notes.append(f"orientation {read.orientation} applied")
        size = size[::-1] if read.orientation >= 5 else size
    if valid is not None and valid.all():
        valid = None
    if valid is not None:
        if not valid.any():
            raise ImageError(
                f"{path}: no pixel holds data (all nodata, masked or transparent): give another --image or --bands"
            )
        valid = np.ascontiguousarray(_orient(valid, read.orientation))
        pixels = pixels if pixels.flags.writeable else pixels.copy()
        pixels[~valid] = PAD_COLOR
        notes.append(f"{100 * (1 - valid.mean()):.3g} % of the pixels hold no data")
    return SourceImage(pixels=pixels, valid=valid, full_size=size, note="; ".join(notes))
