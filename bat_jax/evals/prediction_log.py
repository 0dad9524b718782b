"""The files of a run's answers, one JSON line a question: open for appending by one writer, and read as a whole."""

import json
import os
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

from bat_jax.io.output_files import sync_folder
from bat_jax.runs import claim

PREDICTIONS = "predictions"


def read_predictions(directory: pathlib.Path, name: str = PREDICTIONS) -> dict[str, dict[str, Any]]:
    """Return the last line of every question in the files of predictions of a results directory, by id.

    Args:
      name: which files these are: NAME*.jsonl.

    Raises:
      ValueError: a line is no JSON object with an id, or a question was asked again that had not failed.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(directory.glob(f"{name}*.jsonl")):
        for id, record in _last_lines(path, path.read_bytes()).items():
            if id in found:
                raise _twice(path, id)
            found[id] = record
    return found


def _twice(path: pathlib.Path, id: str) -> ValueError:
    return ValueError(f"{path}: id {id!r} occurs twice; start anew with --overwrite")


def _last_lines(path: pathlib.Path, content: bytes) -> dict[str, dict[str, Any]]:
    """Return the last whole line of each id; what stands behind the last line break was being written."""
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or "id" not in record:
            raise ValueError(f"{path}: line {number} is no prediction; start anew with --overwrite")
        if record["id"] in found and not _is_failed(found[record["id"]]):
            raise _twice(path, record["id"])
        found[record["id"]] = record
    return found


def _is_failed(record: Mapping[str, Any]) -> bool:
    return record.get("status") == "error"


class PredictionLog:
    """A predictions file open for appending, by one writer; a torn last line is cut off.

    Attributes:
      ids: of what was answered before, or asked since the file was opened. failed: of what had failed before.
    """

    def __init__(self, path: pathlib.Path):
        """Open or make the file.

        Raises:
          ValueError: another process writes it, or a line is damaged.
        """
        is_new = not path.exists()
        self._file = path.open("a+b", buffering=0)
        self._lock = threading.Lock()
        try:
            claim(self._file, path)
            self._file.seek(0)
            content = self._file.read()
            lines = _last_lines(path, content)
            self.failed = frozenset(id for id, record in lines.items() if _is_failed(record))
            self.ids = set(lines) - self.failed
            self._file.truncate(content.rfind(b"\n") + 1)
        except BaseException:
            self._file.close()
            raise
        if is_new:
            sync_folder(path.parent)

    def append(self, *records: Mapping[str, Any]) -> None:
        """Write a line each; they are on the disk when this returns. Threads may share the file."""
        lines = b"".join(json.dumps(one, ensure_ascii=False, allow_nan=False).encode() + b"\n" for one in records)
        with self._lock:
            while lines:
                lines = lines[self._file.write(lines) :]
            os.fsync(self._file.fileno())
            self.ids.update(record["id"] for record in records)

    def close(self) -> None:
        """Close the file and let another process write it."""
        self._file.close()

    def __enter__(self) -> "PredictionLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
