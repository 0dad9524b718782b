"""Files and folders that are written whole or not at all: made beside their name, then renamed."""

import contextlib
import ctypes
import fnmatch
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def beside(path: pathlib.Path, what: str) -> pathlib.Path:
    """Return `.NAME.what` in the folder that `path` is in."""
    path = path.absolute()
    return path.with_name(f".{path.name}.{what}")


def fits(path: pathlib.Path, patterns: Iterable[str]) -> bool:
    """Whether a file's name is one of some patterns."""
    return any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)


def replace_dir(stage: pathlib.Path, path: pathlib.Path, own: Sequence[str]) -> None:
    """Put a complete directory in the place of `path`; at no moment is there neither.

    Linux swaps the two in one step. Elsewhere there is a moment between two renames in which the earlier one stands as
    `.NAME.old` beside the new one.

    Args:
      own: patterns of the names that belong to what is replaced; everything else in `path` is taken over.
    """
    path, old = path.absolute(), beside(path, "old")
    restore(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        for item in path.iterdir():
            if not fits(item, own):
                if item.is_dir() and not item.is_symlink():
                    shutil.copytree(item, stage / item.name, symlinks=True, dirs_exist_ok=True)
                else:
                    shutil.copy2(item, stage / item.name, follow_symlinks=False)
        if _exchanged(stage, path):
            os.replace(stage, old)
        else:
            os.replace(path, old)
            os.replace(stage, path)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(stage, path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore(path: pathlib.Path) -> None:
    """Give a directory its name back that `replace_dir` was killed over, between two renames."""
    if not path.exists() and (old := beside(path, "old")).exists():
        os.replace(old, path)


def _exchanged(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return not rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE))


def check_output_dir(path: pathlib.Path, overwrite: bool) -> None:
    """Refuse an output directory that cannot be written or holds files already.

    Raises:
      ValueError: names --output_dir and what to do.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"output_dir={path}: is a file")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ValueError(f"output_dir={path}: is not empty; give --overwrite to replace files in it")
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"output_dir={path}: cannot be written below {parent}")


@contextlib.contextmanager
def staged_dir(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a temporary directory beside `path`; at the end its files move into `path`, on an error they vanish.

    Other files in `path` stay as they are.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield stage
        path.mkdir(exist_ok=True)
        for file in sorted(stage.iterdir()):
            os.replace(file, path / file.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def staged_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a temporary name beside `path` that becomes `path` at the end and vanishes on an error."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        yield stage
        with stage.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(stage, path)
    finally:
        stage.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with staged_file(path) as stage:
        stage.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def sync_folder(path: pathlib.Path) -> None:
    """Put the names of a folder's new files on the disk, not their content alone."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
