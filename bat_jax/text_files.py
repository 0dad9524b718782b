"""Text that comes from outside: UTF-8 in any script, with or without a byte order mark, whatever its line ends.

Anything else is refused in one line that names the file; so is a Git LFS pointer, which stands where a file was not
fetched.
"""

import json
import os
import pathlib
from typing import Any

_MARK = b"\xef\xbb\xbf"
_OTHERS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_LFS = b"version https://git-lfs.github.com/spec/"
# What a file's encoding is told from, before it is read piece by piece.
_HEAD_BYTES = 4096


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file that begins so is the pointer that Git LFS leaves where it did not fetch the file."""
    return head.startswith(_LFS)


def lfs_problem(path: object) -> str:
    """Return what to say of such a file."""
    return f"{path}: is a Git LFS pointer and not the file itself; fetch it with `git lfs pull`, or download it again"


def text_start(path: str | os.PathLike[str]) -> int:
    """Return the byte at which a file's text begins: behind the byte order mark, if there is one.

    Raises:
      ValueError: the file's first bytes say that it is in another encoding, or a Git LFS pointer.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    _check_head(head, path)
    return len(_MARK) if head.startswith(_MARK) else 0


def decode(data: bytes, where: object) -> str:
    """Return text of a file, or of a part of it, without its byte order mark.

    Args:
      where: what to call it, for messages.

    Raises:
      ValueError: it is no UTF-8.
    """
    _check_head(data[:_HEAD_BYTES], where)
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{where}: {not_utf8(f'byte 0x{data[error.start]:02x} in line {line}')}") from None


def read_text(path: str | os.PathLike[str]) -> str:
    """Return a text file whole, its line ends as "\\n".

    Raises:
      ValueError: see `decode`. OSError: it cannot be read.
    """
    return decode(pathlib.Path(path).read_bytes(), path).replace("\r\n", "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the value in a JSON file.

    Raises:
      ValueError: it is no JSON in UTF-8; names the file. OSError: it cannot be read.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no valid JSON ({error})") from None


def _check_head(head: bytes, where: object) -> None:
    if is_lfs_pointer(head):
        raise ValueError(lfs_problem(where))
    named = next((name for mark, name in _OTHERS.items() if head.startswith(mark)), None)
    if named is not None or b"\0" in head:
        raise ValueError(f"{where}: {not_utf8(named or 'a byte of 0, as in UTF-16')}")


def not_utf8(found: str) -> str:
    """Return what to say of text in which something was found that UTF-8 has not."""
    return f"is no text in UTF-8 ({found}); save it as UTF-8"
