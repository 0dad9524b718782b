"""Files by their content: digests of data and weights, kept in the user's cache where hashing takes long."""

import contextlib
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from concurrent import futures

import numpy as np

from bat_jax.io.output_files import write_json
from bat_jax.io.params import PARAMS_FOLDER
from bat_jax.io.safetensors import array_bytes

DIGEST_CACHE = pathlib.Path.home() / ".cache" / "bat_jax" / "sha256"
_CACHED_FROM_BYTES = 2**26
_CHUNK_BYTES = 2**24
# A file written again within its time stamp's resolution looks unchanged.
_SETTLED_AFTER_S = 2


def file_digest(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file's bytes.

    That of a large file (64 MiB) is kept in the user's cache folder beside its path, size and time of change.
    """
    stat = path.stat()
    if stat.st_size < _CACHED_FROM_BYTES:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    known = DIGEST_CACHE / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    facts = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    with contextlib.suppress(OSError, ValueError, KeyError):
        stored = json.loads(known.read_text())
        if stored["file"] == facts:
            return stored["sha256"]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time() - stat.st_mtime > _SETTLED_AFTER_S:
        with contextlib.suppress(OSError):  # a home that cannot be written: hashed anew each time
            write_json(known, {"file": facts, "sha256": digest})
    return digest


def tree_digest(root: pathlib.Path, files: Iterable[pathlib.Path]) -> str:
    """Return a digest of files' names below `root` and of their bytes."""
    files = sorted(path for path in files if path.is_file())
    with futures.ThreadPoolExecutor() as pool:
        lines = zip((path.relative_to(root).as_posix() for path in files), pool.map(file_digest, files), strict=True)
        return hashlib.sha256("".join(f"{digest} {name}\n" for name, digest in lines).encode()).hexdigest()


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a digest of arrays' names, dtypes, shapes and bytes, made by all cores."""
    facts = [[name, str(array.dtype), array.shape] for name, array in arrays.items()]
    parts = (array_bytes(array) for array in arrays.values())
    chunks = [part[start : start + _CHUNK_BYTES] for part in parts for start in range(0, len(part), _CHUNK_BYTES)]
    with futures.ThreadPoolExecutor() as pool:
        digests = pool.map(lambda chunk: hashlib.sha256(chunk).digest(), chunks)
        return hashlib.sha256(json.dumps(facts).encode() + b"".join(digests)).hexdigest()


def checkpoint_digest(checkpoint: pathlib.Path) -> str:
    """Return what tells checkpoints apart wherever they stand: the bytes of config, tokenizer and weight files.

    Weights that are written a second time count as others: Orbax names and packs its files anew.
    """
    parts = (checkpoint / "tokenizer", checkpoint / PARAMS_FOLDER)
    return tree_digest(checkpoint, [checkpoint / "config.json", *(path for part in parts for path in part.rglob("*"))])


def weights_digest(checkpoint: pathlib.Path) -> str:
    """Return what tells weights apart, whatever config and tokenizer stand beside them: the bytes of weight files."""
    return tree_digest(checkpoint, (checkpoint / PARAMS_FOLDER).rglob("*"))


def input_sizes(files: Iterable[pathlib.Path], folder: pathlib.Path) -> dict[str, int | None]:
    """Return name (relative to `folder`) -> bytes of files, None for a missing one.

    Pictures are told apart by name and size: hashing a folder of 100 GB at every start would take minutes.
    """
    sizes: dict[str, int | None] = {}
    for path in files:
        try:
            size = path.stat().st_size
        except OSError:
            size = None
        sizes[pathlib.Path(os.path.relpath(path, folder)).as_posix()] = size
    return sizes
