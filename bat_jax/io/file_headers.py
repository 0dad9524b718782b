"""What is to be known of a TIFF or JPEG 2000 file before it is decoded: its pages, orientation and kind of colours."""

import dataclasses
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import TiffImagePlugin

from bat_jax.io.bands import ImageError

# A list of pages that ends too early is an error that says so itself. Set once: see io/rasters.py.
warnings.filterwarnings("ignore", message="Corrupt EXIF data|Truncated File Read")

# Numbers of TIFF's tags.
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 254, 255, 259, 262, 274
_REDUCED, _MASK = 1, 4
_OLD_REDUCED = 2
_JPEG = (6, 7)
_RGB_PHOTOMETRY = (0, 1, 2, 3, 4)  # white is zero, black is zero, RGB, palette, mask
# Colours that Pillow makes RGB, and GDAL not or not so exactly.
_PILLOW_PHOTOMETRY = {5: "CMYK", 6: "YCbCr", 8: "CIELab"}
_JP2_RGB, _JP2_PILLOW = (16, 17), (12, 18)  # sRGB, grey; CMYK, YCbCr


@dataclasses.dataclass(frozen=True, kw_only=True)
class TiffPage:
    """A page of a TIFF in full resolution.

    Attributes:
      directory: its number among all that the file holds, reduced pages and masks too, from 1.
      orientation: as in EXIF, 1 to 8.
      photometry: of its colours, TIFF's number. compression: likewise.
    """

    directory: int
    orientation: int
    photometry: int
    compression: int

    @property
    def is_for_pillow(self) -> bool:
        """Whether Pillow makes its colours RGB, and rasterio does not.

        Raises:
          ImageError: neither does.
        """
        if self.photometry in _RGB_PHOTOMETRY or (self.photometry == 6 and self.compression in _JPEG):
            return False
        if self.photometry not in _PILLOW_PHOTOMETRY:
            raise ImageError(f"colours of TIFF's kind {self.photometry} cannot be shown: convert the picture to RGB")
        return True


def tiff_pages(path: Path) -> tuple[TiffPage, ...]:
    """Return the pages of a TIFF or BigTIFF that are neither reduced versions nor masks of others; all if all are.

    Raises:
      OSError, or one of Pillow's errors: a broken header or list of pages.
    """
    pages, all_pages = [], []
    with path.open("rb") as file:
        header = file.read(8)
        if header[2:3] == b"+" or header[3:4] == b"+":
            header += file.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        seen = set()
        while tags.next:
            if tags.next in seen:
                raise OSError("its list of pages ends too early or runs in a circle")
            seen.add(tags.next)
            file.seek(tags.next)
            tags.load(file)
            page = TiffPage(
                directory=len(seen),
                orientation=tags.get(_ORIENTATION, 1),
                photometry=tags.get(_PHOTOMETRIC, 1),
                compression=tags.get(_COMPRESSION, 1),
            )
            all_pages.append(page)
            is_part = tags.get(_NEW_SUBFILE_TYPE, 0) & (_REDUCED | _MASK)
            if not is_part and tags.get(_SUBFILE_TYPE, 0) != _OLD_REDUCED:
                pages.append(page)
    if not all_pages:
        raise OSError("it holds no page")
    return tuple(pages or all_pages)


def is_jp2_for_pillow(file: BinaryIO) -> bool:
    """Whether Pillow makes the colours of a JPEG 2000 file RGB, and rasterio does not.

    Raises:
      ImageError: neither does.
    """
    header = file.read(1 << 16).partition(b"jp2c")[0]
    if b"pclr" in header:
        return True
    # The box "colr" of method 1 holds, after two bytes more, the number of a colour space.
    _, found, rest = header.partition(b"colr\x01")
    space = int.from_bytes(rest[2:6])
    if not found or space in _JP2_RGB:
        return False
    if space not in _JP2_PILLOW:
        raise ImageError(f"colours of JPEG 2000's kind {space} cannot be shown: convert the picture to RGB")
    return True
