"""Rows of the files in which benchmarks come, with their images left where they are.

```
  folder with dataset_dict.json   `datasets.save_to_disk`: SPLIT/state.json names Arrow streams
  .parquet                        images as {bytes, path}, bytes or base64
  .json, .jsonl                   a list of objects, or one object a line; images as file names or base64
  .tsv                            VLMEvalKit's table; images as base64
  folder with files of one kind   all of them, in the order of their numbers (part2 before part10)
```

The form is told from the path alone. A number in place of an image is VLMEvalKit's short form for "the image of the row
with this index".
"""

import ast
import csv
import dataclasses
import functools
import io
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from bat_jax.benchmarks.columns import arrow_rows, parquet_rows
from bat_jax.benchmarks.stored_images import IMAGE_FIELDS, StoredImage, decode_base64, is_base64, origin
from bat_jax.data.llava import record_spans
from bat_jax.io.data_paths import leads_out
from bat_jax.io.digests import file_digest
from bat_jax.text_files import decode, read_json, text_start

_SUFFIXES = (".parquet", ".jsonl", ".tsv", ".json")
_FORMS = "a folder with dataset_dict.json (datasets.save_to_disk), or .parquet, .jsonl, .json, .tsv or .arrow files"
_REFERENCE = re.compile(r"\d{1,64}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataRow:
    """A row of a file.

    Attributes:
      place: "FILE: row N" (from 0), for messages.
      number: over all files of the data, from 0.
      fields: by name, without the images.
      images: embedded ones, and names of files as they stand.
    """

    place: str
    number: int
    fields: dict[str, Any]
    images: tuple[StoredImage | str, ...]


def data_files(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Return the files that hold a data set's rows, in order.

    Raises:
      ValueError: the path is none of the forms that can be read, or a folder where several files could be meant.
    """
    if path.is_file() and path.suffix in (*_SUFFIXES, ".arrow"):
        return (path,)
    if not path.is_dir():
        raise ValueError(f"data={path}: {'is none of' if path.exists() else 'does not exist; want'} {_FORMS}")
    if (path / "dataset_dict.json").is_file():
        splits = [path / str(name) for name in _json_list(path / "dataset_dict.json", "splits")]
        outside = next((split for split in splits if leads_out(split, path)), None)
        if outside is not None:
            raise ValueError(f"data={path}: dataset_dict.json names {outside}, which leads out of the folder")
        return tuple(file for split in splits for file in _arrow_files(split))
    if (path / "state.json").is_file():
        return _arrow_files(path)
    for folder in (path, path / "data"):
        kinds = [sorted(folder.glob(f"*{suffix}"), key=_natural) for suffix in _SUFFIXES]
        found = [file for files in kinds for file in files]
        if len(found) == 1 or (found and found in kinds[:2]):
            return tuple(found)
        if found:
            names = ", ".join(file.name for file in found[:4])
            raise ValueError(f"data={path}: holds several files that could be meant ({names}); name one of them")
    raise ValueError(f"data={path}: holds no data; want {_FORMS}")


def data_digests(path: pathlib.Path) -> dict[str, str]:
    """Return name -> SHA-256 of the files that hold a data set's rows; thereby the rows' number and order are known."""
    root = path if path.is_dir() else path.parent
    return {file.relative_to(root).as_posix(): file_digest(file) for file in data_files(path)}


def read_rows(files: Sequence[pathlib.Path]) -> Iterator[DataRow]:
    """Yield the rows of files, one after another.

    Raises:
      ValueError: a file or a row is damaged, or pyarrow is missing; names both.
    """
    by_index: dict[str, tuple[StoredImage | str, ...]] = {}
    number = 0
    for path in files:
        reader = {".arrow": arrow_rows, ".parquet": parquet_rows, ".tsv": _tsv_rows}.get(path.suffix, _json_rows)
        for index, (fields, images) in enumerate(reader(path)):
            place = f"{path}: row {index}"
            if len(images) == 1 and isinstance(images[0], str) and _REFERENCE.fullmatch(images[0]):
                if images[0] not in by_index:
                    raise ValueError(f"{place}: its image is that of index {images[0]}, which no earlier row has")
                images = by_index[images[0]]
            if fields.get("index") is not None:
                by_index[str(fields["index"])] = images
            yield DataRow(place=place, number=number, fields=fields, images=images)
            number += 1


def _natural(path: pathlib.Path) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _json_list(path: pathlib.Path, name: str) -> list[Any]:
    """Return a list that a small JSON file holds under a name."""
    try:
        value = read_json(path)[name]
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: field {name!r} cannot be read ({type(error).__name__})") from None
    if not isinstance(value, list):
        raise ValueError(f"{path}: field {name!r} is no list")
    return value


def _arrow_files(split: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Return the Arrow streams of a saved split in the order of its state.json."""
    entries = _json_list(split / "state.json", "_data_files")
    names = [str(entry.get("filename") if isinstance(entry, dict) else entry) for entry in entries]
    outside = next((name for name in names if leads_out(split / name, split)), None)
    if outside is not None:
        raise ValueError(f"{split}: state.json names {outside}, which leads out of the folder")
    missing = [name for name in names if not (split / name).is_file()]
    if missing:
        raise ValueError(f"{split}: {len(missing)} of {len(names)} files are missing, such as {missing[0]}")
    return tuple(split / name for name in names)


def _json_rows(path: pathlib.Path) -> Iterator[tuple[dict[str, Any], tuple[StoredImage | str, ...]]]:
    # Lines that hold pictures are long: they are split without looking inside.
    spans = _line_spans(path) if path.suffix == ".jsonl" else record_spans(path).tolist()
    for index, (start, end) in enumerate(spans):
        fields = _json_record(path, index, start, end)
        yield _split_images(fields, functools.partial(_json_record, path, index, start, end))


def _line_spans(path: pathlib.Path) -> Iterator[tuple[int, int]]:
    """Yield first byte and end of every line that is not blank."""
    start = text_start(path)
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.strip():
                yield start, start + len(line)
            start += len(line)


def _read_span(path: pathlib.Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(int(end - start))


def _json_record(path: pathlib.Path, index: int, start: int, end: int) -> dict[str, Any]:
    text = decode(_read_span(path, start, end), f"{path}: row {index}")
    try:
        record = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: row {index} is no valid JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}: row {index} is no JSON object")
    return record


def _tsv_rows(path: pathlib.Path) -> Iterator[tuple[dict[str, Any], tuple[StoredImage | str, ...]]]:
    csv.field_size_limit(sys.maxsize)  # the default stops at 128 KiB, pictures are larger
    ends = [text_start(path)]
    with path.open("rb") as file:
        file.seek(ends[0])

        def lines() -> Iterator[str]:
            for number, line in enumerate(file, 1):
                ends.append(ends.pop() + len(line))
                yield decode(line, f"{path}: line {number}")

        rows = csv.reader(lines(), delimiter="\t")
        names = next(rows, [])
        start = ends[-1]
        for index, cells in enumerate(rows):
            if len(cells) != len(names):
                raise ValueError(f"{path}: row {index} has {len(cells)} fields, the head has {len(names)}")
            read = functools.partial(_tsv_record, path, names, start, ends[-1])
            yield _split_images(dict(zip(names, cells, strict=True)), read)
            start = ends[-1]


def _tsv_record(path: pathlib.Path, names: list[str], start: int, end: int) -> dict[str, Any]:
    text = io.StringIO(decode(_read_span(path, start, end), path), newline="")
    return dict(zip(names, next(csv.reader(text, delimiter="\t")), strict=True))


def _split_images(fields: dict[str, Any], read: Any) -> tuple[dict[str, Any], tuple[StoredImage | str, ...]]:
    """Take the images out of a row; `read` returns the row anew, for an embedded image's content."""
    for name in IMAGE_FIELDS:
        found = _image_texts(fields.get(name))
        if found:
            break
    others = {key: value for key, value in fields.items() if key not in IMAGE_FIELDS}
    if not found or not all(is_base64(text) and not _REFERENCE.fullmatch(text) for text in found):
        return others, tuple(found)
    return others, tuple(
        StoredImage(name=origin(others), path=None, read=functools.partial(_nth_image, read, name, number))
        for number in range(len(found))
    )


def _nth_image(read: Any, name: str, number: int) -> bytes:
    return decode_base64(_image_texts(read()[name])[number])


def _image_texts(value: Any) -> list[str]:
    """Return a JSON or TSV cell of images as a list of texts; VLMEvalKit writes several as a Python list's text."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise ValueError(f"image={value[:60]!r}: is no list") from None
    values = value if isinstance(value, list) else [value]
    return [text if isinstance(text, str) else str(text) for text in values if text not in (None, "")]
