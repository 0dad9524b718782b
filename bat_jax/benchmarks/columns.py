"""Rows of Arrow streams and Parquet files, without reading the pictures inside them.

A stream is mapped into memory, so that the bytes of a picture come from the disk when they are asked for. Of a Parquet
file the `bytes` inside image structures are left out until then; images that are plain columns are read once, to see
whether they are names or content, and again when one is asked for.
"""

import functools
import itertools
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from bat_jax.benchmarks.stored_images import IMAGE_FIELDS, StoredImage, decode_base64, is_base64, origin

# Rows of a Parquet file in memory at a time.
_BATCH_ROWS = 8


def arrow_rows(path: pathlib.Path) -> Iterator[tuple[dict[str, Any], tuple[StoredImage | str, ...]]]:
    """Yield (fields, images) of an Arrow IPC stream.

    Raises:
      ValueError: pyarrow is missing, or the file is no such stream.
    """
    pa = _pyarrow(path)
    try:
        batches = list(pa.ipc.open_stream(pa.memory_map(str(path))))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: is no whole Arrow stream ({_first_line(error)})") from None
    for batch in batches:
        yield from _batch_rows(path, batch, batch.column)


def parquet_rows(path: pathlib.Path) -> Iterator[tuple[dict[str, Any], tuple[StoredImage | str, ...]]]:
    """Yield (fields, images) of a Parquet file.

    Raises:
      ValueError: pyarrow is missing, or the file is no Parquet.
    """
    pa = _pyarrow(path)
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: is no Parquet file ({_first_line(error)})") from None
    leaves = [file.schema.column(index).path for index in range(len(file.schema))]
    light = [leaf for leaf in leaves if not (leaf.split(".")[0] in IMAGE_FIELDS and leaf.endswith(".bytes"))]
    lock = threading.Lock()

    @functools.lru_cache(maxsize=1)
    def read(group: int, number: int, name: str) -> Any:
        batches = file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[name])
        return next(itertools.islice(batches, number, None)).column(0)

    def column(group: int, number: int, name: str) -> Any:
        with lock:
            return read(group, number, name)

    for group in range(file.num_row_groups):
        for number, batch in enumerate(file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=light)):
            yield from _batch_rows(path, batch, functools.partial(column, group, number))


def _pyarrow(path: pathlib.Path) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ValueError(f"{path}: reading it needs pyarrow; pip install 'bat_jax[benchmarks]'") from None
    return pyarrow


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _batch_rows(
    path: pathlib.Path, batch: Any, column: Callable[[str], Any]
) -> Iterator[tuple[dict[str, Any], tuple[StoredImage | str, ...]]]:
    """Yield the rows of a record batch.

    Args:
      batch: pyarrow.RecordBatch; its images may lack their bytes.
      column: reads an image column of the same rows with its bytes.
    """
    image_fields = [name for name in IMAGE_FIELDS if name in batch.schema.names]
    others = batch.select([name for name in batch.schema.names if name not in image_fields])
    for index, fields in enumerate(others.to_pylist()):
        found: tuple[StoredImage | str, ...] = ()
        for name in image_fields:
            items = _items(batch.column(name), index)
            found = _images(path, name, items, fields, functools.partial(column, name), index)
            if found:
                break
        yield fields, found


def _items(column: Any, index: int) -> Any:
    """Return the images of a cell as an array of structures, bytes or texts, without a copy."""
    cell = column.slice(index, 1)
    if cell.null_count:
        return cell.slice(0, 0)
    return cell.flatten() if _is_list(cell.type) else cell


def _is_list(kind: Any) -> bool:
    return str(kind).startswith(("list<", "large_list<"))


def _images(
    path: pathlib.Path, name: str, items: Any, fields: dict[str, Any], column: Callable[[], Any], index: int
) -> tuple[StoredImage | str, ...]:
    """Return the images of a cell: embedded ones by where they stand, file names as they are."""
    kind = str(items.type)
    if kind.startswith("struct<") and "path: " in kind:
        names = items.field("path").to_pylist()
    elif kind in ("string", "large_string"):
        texts = items.to_pylist()
        if not any(text and is_base64(text) for text in texts):
            return tuple(text for text in texts if text)
        names = [None] * len(texts)
    elif kind in ("binary", "large_binary"):
        names = [None] * len(items)
    else:
        raise ValueError(f"{path}: field {name!r} has type {kind}; want {{bytes, path}}, bytes or text")
    return tuple(
        StoredImage(
            name=text or origin(fields),
            path=None,
            read=functools.partial(_content, path, name, column, index, number),
        )
        for number, text in enumerate(names)
    )


def _content(path: pathlib.Path, name: str, column: Callable[[], Any], index: int, number: int) -> bytes:
    """Return the bytes of image `number` of a cell."""
    items = _items(column(), index)
    if str(items.type).startswith("struct<"):
        items = items.field("bytes")
    value = items[number].as_py()
    if value is None:
        raise ValueError(f"{path}: field {name!r} holds a name and no bytes; save the data with its images embedded")
    return decode_base64(value) if isinstance(value, str) else value
