"""Pictures that requests name: data: URLs, uploads by their id, files below one folder; nothing else is ever opened.

    data:image/png;base64,...    the picture itself
    scene://ID                   uploaded, or named once, before (/v1/scenes)
    file:///data/harbour.tif     a file below the scene root
    harbour.tif                  the same, relative to the scene root

A reader looks at a file's size in pixels before it decodes anything (io/images.py), so that a small file that would
unpack to gigabytes is refused.
"""

import base64
import binascii
import contextlib
import dataclasses
import hashlib
import pathlib
import tempfile
import threading
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO

from bat_jax.io.bands import ImageError
from bat_jax.io.data_paths import leads_out
from bat_jax.io.images import SourceImage, decode_image, read_image
from bat_jax.serving.errors import ApiError

SCENE_SCHEME = "scene://"
_ID_LETTERS = 24
_LONGEST_NAME = 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClientPicture:
    """A picture that can be read.

    Attributes:
      id: equal for the same file, or the same bytes. name: what messages call it.
      path: its file, or None where `content` holds its bytes.
      num_bytes: of the file. created: seconds since 1970 at which it was named. about: what /v1/scenes says.
    """

    id: str
    name: str
    path: pathlib.Path | None
    content: bytes | None = dataclasses.field(default=None, repr=False)
    num_bytes: int = 0
    created: int = 0
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def read(self, **options: Any) -> SourceImage:
        """Read the pixels; options as `io.images.read_image`, whose ImageErrors call the picture by its name."""
        if self.path is None:
            return decode_image(self.content or b"", self.name, **options)
        try:
            return read_image(self.path, **options)
        except ImageError as error:
            raise ImageError(str(error).replace(str(self.path), self.name)) from error


def data_url_picture(url: str) -> ClientPicture:
    """Return the picture that a data: URL holds; what its media type says is not looked at.

    Raises:
      ApiError: it is not base64, or empty.
    """
    head, comma, text = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ApiError(400, "image_url: need data:image/...;base64,...", param="messages", code="invalid_image_url")
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, "image_url: its data is no base64", param="messages", code="invalid_base64_image") from None
    if not content:
        raise ApiError(400, "image_url: holds no data", param="messages", code="invalid_base64_image")
    name = hashlib.sha256(content).hexdigest()[:_ID_LETTERS]
    return ClientPicture(id=name, name="the picture", path=None, content=content, num_bytes=len(content))


class ClientPictures:
    """Uploaded files, in a temporary folder of at most `max_bytes`, and files below `root`; safe for threads.

    The least recently used uploads go when another needs the room.
    """

    def __init__(self, *, max_bytes: int, root: pathlib.Path | None = None):
        """Make the folder; `close` removes it.

        Raises:
          ValueError: the root is no folder.
        """
        if root is not None and not root.is_dir():
            raise ValueError(f"scene_root={root}: is no folder")
        self.root = root.resolve() if root else None
        self.max_bytes = max_bytes
        self._temporary = tempfile.TemporaryDirectory(prefix="bat_jax-serve-")
        self.folder = pathlib.Path(self._temporary.name)
        self._pictures: OrderedDict[str, ClientPicture] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Remove everything that was uploaded."""
        self._temporary.cleanup()

    def resolve(self, reference: str) -> ClientPicture:
        """Return the picture that a request's URL or file name stands for.

        Raises:
          ApiError: it is none of the forms above, unknown, or stands outside of the root.
        """
        if reference.startswith("data:"):
            return data_url_picture(reference)
        if reference.startswith(SCENE_SCHEME):
            return self.get(reference.removeprefix(SCENE_SCHEME))
        if reference.startswith(("http://", "https://")):
            raise ApiError(
                400,
                "image_url: this server fetches nothing from the network; send a data: URL or upload to /v1/scenes",
                param="messages",
                code="unsupported_image_url",
            )
        return self.file(reference)

    def file(self, name: str) -> ClientPicture:
        """Return the picture of a file below the root, by a name relative to it or a file: URL.

        Raises:
          ApiError: there is no root, no such file, or the name leads out, by "..", an absolute name or a link.
        """
        if self.root is None:
            raise ApiError(
                400, "files: this server was started without --scene_root", param="messages", code="files_not_served"
            )
        try:
            if name.startswith("file://"):
                parts = urllib.parse.urlsplit(name)
                name = urllib.parse.unquote(parts.path) if parts.netloc in ("", "localhost") else "\0"
            path = (self.root / name).resolve()
            is_out = leads_out(path, self.root)
            stat = None if is_out or not path.is_file() else path.stat()
        except (OSError, ValueError):  # a name too long, or with a zero byte
            is_out, stat = False, None
        shown = name[:_LONGEST_NAME].replace("\0", "")
        if is_out:
            raise ApiError(400, f"{shown!r}: stands outside of the scene root", param="messages", code="outside_root")
        if stat is None:
            raise ApiError(400, f"{shown!r}: no such file below the scene root", param="messages", code="no_such_file")
        facts = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ino}"
        return ClientPicture(
            id=hashlib.sha256(facts.encode("utf-8", "surrogateescape")).hexdigest()[:_ID_LETTERS],
            name=path.relative_to(self.root).as_posix(),
            path=path,
            num_bytes=stat.st_size,
            created=int(time.time()),
        )

    def upload(self, file: BinaryIO, name: str) -> ClientPicture:
        """Keep a copy of a file that a client sends, and return its picture, for `remember` or `discard`.

        Raises:
          ApiError: it is empty, or larger than everything that may be kept.
        """
        digest, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as copy:
            path = pathlib.Path(copy.name)
            try:
                while chunk := file.read(2**20):
                    size += len(chunk)
                    if size > self.max_bytes:
                        raise ApiError(413, f"file: is above the limit of {self.max_bytes:,} bytes", param="file")
                    digest.update(chunk)
                    copy.write(chunk)
                if not size:
                    raise ApiError(400, "file: is empty", param="file")
            except BaseException:
                path.unlink()
                raise
        picture = ClientPicture(
            id=digest.hexdigest()[:_ID_LETTERS],
            name=pathlib.PurePath(name.replace("\0", "")).name[:_LONGEST_NAME] or "upload",
            path=self.folder / digest.hexdigest()[:_ID_LETTERS],
            num_bytes=size,
            created=int(time.time()),
        )
        path.rename(self.folder / picture.id)
        return picture

    def discard(self, picture: ClientPicture) -> None:
        """Remove the file of an upload that nobody has made known."""
        with self._lock:
            if picture.id not in self._pictures:
                self._forget(picture)

    def remember(self, picture: ClientPicture) -> None:
        """Make a picture known by its id; files that are too many go."""
        with self._lock:
            self._pictures[picture.id] = picture
            self._pictures.move_to_end(picture.id)
        self.make_room(picture)

    def make_room(self, keep: ClientPicture) -> None:
        """Forget the least recently used pictures whose files take room that there is not, all but one."""
        with self._lock:
            for old in list(self._pictures.values()):
                if self._num_bytes() <= self.max_bytes:
                    break
                if old.id != keep.id and self._files(old):
                    self._forget(old)

    def get(self, name: str) -> ClientPicture:
        """Return a picture by its id.

        Raises:
          ApiError: it is not known, or not any more.
        """
        with self._lock:
            if name not in self._pictures:
                raise ApiError(404, f"scene {name[:_LONGEST_NAME]!r}: is not known; upload it", code="scene_not_found")
            self._pictures.move_to_end(name)
            return self._pictures[name]

    def remove(self, name: str) -> None:
        """Forget a picture, and remove its upload and tiles.

        Raises:
          ApiError: it is not known.
        """
        picture = self.get(name)
        with self._lock:
            self._forget(picture)

    @property
    def pictures(self) -> tuple[ClientPicture, ...]:
        """Those known, the least recently used first."""
        with self._lock:
            return tuple(self._pictures.values())

    def _num_bytes(self) -> int:
        total = 0
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # renamed meanwhile, or removed
                total += path.stat().st_size
        return total

    def _files(self, picture: ClientPicture) -> list[pathlib.Path]:
        """Return what the folder holds of a picture: the upload, the tiles."""
        return list(self.folder.glob(f"{picture.id}*"))

    def _forget(self, picture: ClientPicture) -> None:
        self._pictures.pop(picture.id, None)
        for path in self._files(picture):
            path.unlink(missing_ok=True)
