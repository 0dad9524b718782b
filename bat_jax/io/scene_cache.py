"""A folder of encoded images: arrays under a key, checksummed; the least recently used go first.

    DIR/scene-KEY.safetensors       an entry; its metadata holds the checksum of the rest
    DIR/scene-KEY.RANDOM.new        one that is being written, locked by its writer and as long as it will be
    DIR/.lock                       held while entries are counted, removed or begun, not while one is written or read

Processes share a folder wherever flock works. A cache never ends a run: what cannot be read or written is one line on
stderr, and the image is encoded. Entries are read, not mapped: a mapped file that fails, or that another host removes
on NFS, would end the process.
"""

import contextlib
import fcntl
import os
import pathlib
import secrets
import sys
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import BinaryIO

import numpy as np

from bat_jax.io.digests import arrays_digest
from bat_jax.io.images import one_line
from bat_jax.io.output_files import sync_folder
from bat_jax.io.safetensors import TensorSpec, array_bytes, header_bytes, parse_header

_CHECKSUM = "sha256"
_CHUNK_BYTES = 2**24
_ENTRIES, _UNFINISHED = "scene-*.safetensors", "scene-*.new"


class SceneCache:
    """Entries of at most `max_bytes` together, those that are being written included."""

    def __init__(self, directory: str | pathlib.Path, max_bytes: int):
        """Open a folder that need not exist, and remove what a killed process has left half-written.

        Raises:
          ValueError: the name is a file's, or the limit is none.
        """
        self.directory, self.max_bytes = pathlib.Path(directory).absolute(), max_bytes
        if self.directory.exists() and not self.directory.is_dir():
            raise ValueError(f"scene_cache={directory}: is a file")
        if max_bytes < 1:
            raise ValueError(f"scene_cache={directory}: a limit of {max_bytes} bytes keeps nothing")
        self._is_writing, self._said_too_large = True, False
        if self.directory.is_dir():
            with contextlib.suppress(OSError), self._lock():
                self._remove_unfinished()

    def read(self, key: str) -> dict[str, np.ndarray] | None:
        """Return an entry's arrays, or None where there is none or it is damaged; a damaged one is removed."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                infos, metadata = parse_header(file, path)
                start = file.tell()
                data = _read_from(file, start)
            arrays = {
                name: np.ndarray(info.shape, info.dtype, buffer=data, offset=info.start - start)
                for name, info in infos.items()
            }
            if metadata.get(_CHECKSUM) != arrays_digest(arrays):
                raise ValueError(f"{path}: its bytes are not those that its checksum is of")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            reason = f"{path}: {error.strerror}" if isinstance(error, OSError) else one_line(error)
            _warn(f"{reason}; the image is encoded again")
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # by which the least recently used are told; a folder may be read that cannot be written
        return arrays

    def write(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays, unless another process has or does, or they are too large; others go to make room."""
        if not self._is_writing:
            return
        specs = [TensorSpec(name, array.shape, array.dtype) for name, array in arrays.items()]
        header = header_bytes(specs, {_CHECKSUM: arrays_digest(arrays)})
        num_bytes = len(header) + sum(spec.num_bytes for spec in specs)
        if num_bytes > self.max_bytes:
            if not self._said_too_large:
                _warn(f"{self.directory}: an image of {num_bytes:,} bytes is above the limit of {self.max_bytes:,}")
            self._said_too_large = True
            return
        path = self._path(key)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                file = self._begin(path, num_bytes, stack)
                if file is None:
                    return
                file.write(header)
                for array in arrays.values():
                    file.write(array_bytes(array))
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            sync_folder(self.directory)
        except OSError as error:
            self._is_writing = False
            _warn(f"{self.directory}: {error.strerror or error}; images are encoded without keeping them")

    def _begin(self, path: pathlib.Path, num_bytes: int, stack: contextlib.ExitStack) -> BinaryIO | None:
        """Return a locked file to write, None where nothing is to be; `stack` closes it and removes its name."""
        with self._lock():
            self._remove_unfinished()
            if path.exists() or any(self.directory.glob(f"{path.stem}.*.new")) or not self._make_room(num_bytes):
                return None
            new = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.new")
            stack.callback(new.unlink, missing_ok=True)
            file = stack.enter_context(new.open("xb"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(num_bytes)
        return file

    def _make_room(self, num_bytes: int) -> bool:
        entries = sorted(self._stats(_ENTRIES), key=lambda item: item[1].st_mtime_ns)
        total = num_bytes + sum(stat.st_size for _, stat in [*entries, *self._stats(_UNFINISHED)])
        for path, stat in entries:
            if total <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= stat.st_size
        return total <= self.max_bytes

    def _stats(self, pattern: str) -> Iterator[tuple[pathlib.Path, os.stat_result]]:
        for path in self.directory.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()

    def _remove_unfinished(self) -> None:
        """Remove what no process has locked; under the folder's lock, where none is between making and locking."""
        for path in self.directory.glob(_UNFINISHED):
            with contextlib.suppress(OSError), path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.directory / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, key: str) -> pathlib.Path:
        return self.directory / f"scene-{key}.safetensors"


def _read_from(file: BinaryIO, start: int) -> np.ndarray:
    """Return a file's bytes from `start` on, read by several threads; what is missing is noticed by the checksum."""
    data = np.empty(os.fstat(file.fileno()).st_size - start, np.uint8)

    def read(offset: int) -> None:
        os.preadv(file.fileno(), [data[offset : offset + _CHUNK_BYTES].data], start + offset)

    with futures.ThreadPoolExecutor() as pool:
        list(pool.map(read, range(0, data.size, _CHUNK_BYTES)))
    return data


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
