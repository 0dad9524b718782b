"""An encoded image of a benchmark, wherever it stands; it is read and decoded when it is asked for."""

import base64
import binascii
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from bat_jax.io.data_paths import leads_out
from bat_jax.io.images import SourceImage, decode_image, read_image

# Fields that hold a row's images, in the order in which they are looked for; the first that is not empty counts.
IMAGE_FIELDS = ("image", "images", "Image", "bytes")
_ORIGIN_FIELDS = ("path", "image_path", "img_path")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredImage:
    """An encoded image, in a file of its own or inside another one.

    Attributes:
      name: what the data calls it: a file's name, or the origin of an embedded image; "" where it says nothing. Two
        embedded images of one name may differ (by a marker that is drawn into one of them).
      path: its file; None where it is embedded.
      read: returns the encoded bytes.
    """

    name: str
    path: pathlib.Path | None
    read: Callable[[], bytes]

    def load(self, **options: Any) -> SourceImage:
        """Decode it; `options` are those of `io.images.read_image`.

        Raises:
          ValueError: it is missing, broken or no image.
        """
        if self.path is not None:
            return read_image(self.path, **options)
        return decode_image(self.read(), self.name or "embedded image", **options)


def image_in(
    folder: pathlib.Path, name: str, *, root: pathlib.Path | None = None, allow_outside: bool = False
) -> StoredImage:
    """Return the image that data names, relative to a folder.

    Args:
      root: what it has to stand in; the folder itself by default. allow_outside: it may stand anywhere.

    Raises:
      ValueError: it stands elsewhere.
    """
    path, root = folder / name, root or folder
    if not allow_outside and leads_out(path, root):
        raise ValueError(f"{name}: leads out of {root}; --allow_outside_paths lets data name files anywhere")
    return StoredImage(name=name, path=path, read=path.read_bytes)


def is_base64(text: str) -> bool:
    """Whether a text holds an image and not the name of one: base64 has no full stop, a file's name has."""
    return "." not in text


def decode_base64(text: str) -> bytes:
    """Return the bytes.

    Raises:
      ValueError: it is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the image is no base64 ({error})") from None


def origin(fields: dict[str, Any]) -> str:
    """Return what a row says its embedded image is called, "" if nothing."""
    named = (fields.get(name) for name in _ORIGIN_FIELDS)
    return next((name for name in named if isinstance(name, str) and name), "")
